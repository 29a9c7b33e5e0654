/* Which kernel set runs. Compiled with baseline flags: this file itself must run on any CPU of the architecture. */
#include "fastcnn.h"

#include <string.h>

extern const fc_isa fc_isa_scalar;
#if defined(__x86_64__)
extern const fc_isa fc_isa_avx2, fc_isa_avx512;
static const fc_isa *const sets[] = {&fc_isa_avx512, &fc_isa_avx2, &fc_isa_scalar};
#elif defined(__aarch64__)
extern const fc_isa fc_isa_neon;
static const fc_isa *const sets[] = {&fc_isa_neon, &fc_isa_scalar};
#else
static const fc_isa *const sets[] = {&fc_isa_scalar};
#endif
enum { COUNT = sizeof sets / sizeof sets[0] };

/* __builtin_cpu_supports asks cpuid and, for the wide sets, xgetbv: whether the operating system saves those registers too. */
static int supported(const fc_isa *set) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (set == &fc_isa_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
    if (set == &fc_isa_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#endif
    (void)set;
    return 1;
}

static const fc_isa *active;

const fc_isa *fc_active(void) {
    if (!active)
        for (int i = 0; i < COUNT && !active; i++)
            if (supported(sets[i])) active = sets[i];
    return active;
}

int fc_select(const char *name) {
    for (int i = 0; i < COUNT; i++)
        if (strcmp(sets[i]->name, name) == 0) {
            if (!supported(sets[i])) return -2;
            active = sets[i];
            return 0;
        }
    return -1;
}

const char *fc_isa_name(int i) { return i >= 0 && i < COUNT ? sets[i]->name : NULL; }

int fc_isa_supported(int i) { return i >= 0 && i < COUNT && supported(sets[i]); }

const char *fc_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown compiler";
#endif
}
