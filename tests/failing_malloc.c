/* Preloaded by test_memory.py: scratch memory that can be told to fail, at the n-th allocation from now on, in the thread that told it. NumPy's arrays ask
 * `fail_now` too, by an allocator that the test installs; malloc is left alone, whose failures NumPy and Python do not survive everywhere. */
#include <errno.h>
#include <stddef.h>

extern void *__libc_memalign(size_t, size_t);

static __thread long countdown; /* 0: never fail */
static __thread long failures;

void fail_at(long call) {
    countdown = call;
    failures = 0;
}

long failed(void) {
    countdown = 0;
    return failures;
}

int fail_now(void) { return countdown > 0 && --countdown == 0 && ++failures; }

int posix_memalign(void **block, size_t alignment, size_t n) {
    void *const found = fail_now() ? NULL : __libc_memalign(alignment, n);
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}

/* NumPy's allocator (PyDataMem_Handler): in C, because arrays are given back while an exception is on its way, which Python code would clear. */
#include <stdlib.h>

static void *array_malloc(void *context, size_t n) { return (void)context, fail_now() ? NULL : malloc(n ? n : 1); }
static void *array_calloc(void *context, size_t n, size_t each) { return (void)context, fail_now() ? NULL : calloc(n ? n : 1, each ? each : 1); }
static void *array_realloc(void *context, void *old, size_t n) { return (void)context, fail_now() ? NULL : realloc(old, n ? n : 1); }
static void array_free(void *context, void *old, size_t n) { (void)context, (void)n, free(old); }

struct {
    char name[127];
    unsigned char version;
    struct {
        void *context;
        void *(*malloc)(void *, size_t), *(*calloc)(void *, size_t, size_t), *(*realloc)(void *, void *, size_t);
        void (*free)(void *, void *, size_t);
    } allocator;
} array_handler = {"failing", 1, {NULL, array_malloc, array_calloc, array_realloc, array_free}};
