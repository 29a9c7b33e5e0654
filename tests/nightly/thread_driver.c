/* The pool of threads and the kernels under a race detector, without Python: built and run by test_sanitizers.py.
 *
 * Several threads at once run parallel loops (one of them has the pool, the others do their loops themselves), by fc_parallel and by the entry points that GCC
 * calls for an OpenMP loop; the loops run kernels of every instruction set into parts of one array. Then the same on a borrowed team of threads, and in a child
 * that was forked while all of that was going on. Prints "done"; anything wrong ends the process. */
#include "../../fastcnn/backends/cpu/threads.h"
#include "fastcnn.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLERS 4
#define PARTS 7
#define PIECE 1000

void GOMP_parallel(void (*body)(void *), void *data, unsigned count, unsigned flags);
bool GOMP_loop_nonmonotonic_dynamic_start(long from, long to, long by, long chunk, long *start, long *end);
bool GOMP_loop_nonmonotonic_dynamic_next(long *start, long *end);
void GOMP_loop_end_nowait(void);

static int rounds;

typedef struct {
    const fc_isa *kernels;
    float x[PARTS * PIECE], y[PARTS * PIECE];
    double sums[PARTS];
} work;

static void check(bool right, const char *what) {
    if (!right) {
        fprintf(stderr, "wrong: %s\n", what);
        _exit(3);
    }
}

static void part(void *context, int index) {
    work *const w = context;
    const float *const x = w->x + index * PIECE;
    w->kernels->f32.eltwise(FC_RELU, x, w->y + index * PIECE, PIECE, 0, 0);
    w->kernels->f32.add_scaled(x, 2, w->y + index * PIECE, PIECE);
    w->sums[index] = w->kernels->f32.sum(w->y + index * PIECE, PIECE);
}

/* As GCC compiles a loop with schedule(dynamic). */
static void body(void *context) {
    long from, to;
    if (GOMP_loop_nonmonotonic_dynamic_start(0, PARTS, 1, 1, &from, &to)) do
            for (long i = from; i < to; i++) part(context, (int)i);
        while (GOMP_loop_nonmonotonic_dynamic_next(&from, &to));
    GOMP_loop_end_nowait();
}

static void *call(void *argument) {
    work *const w = malloc(sizeof *w);
    (void)argument;
    for (int i = 0; i < PARTS * PIECE; i++) w->x[i] = (float)(i % 7 - 3);
    for (int r = 0; r < rounds; r++) {
        w->kernels = fc_active();
        memset(w->y, 0, sizeof w->y);
        memset(w->sums, 0, sizeof w->sums);
        if (r % 2) fc_parallel(part, w, PARTS);
        else GOMP_parallel(body, w, 1 + r % 5, 0);
        double sum = 0, expected = 0;
        for (int i = 0; i < PARTS; i++) sum += w->sums[i];
        for (int i = 0; i < PARTS * PIECE; i++) expected += (w->x[i] > 0 ? w->x[i] : 0) + 2 * w->x[i];
        check(sum == expected, "a sum");
    }
    free(w);
    return NULL;
}

static void everybody(void) {
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) check(pthread_create(&callers[i], NULL, call, NULL) == 0, "pthread_create");
    for (int i = 0; i < CALLERS; i++) check(pthread_join(callers[i], NULL) == 0, "pthread_join");
}

/* Another library's way to run a function on its threads. */
typedef struct {
    void (*body)(void *);
    void *data;
} member;

static void *run_member(void *argument) {
    const member *const m = argument;
    m->body(m->data);
    return NULL;
}

static void team(void (*run)(void *), void *data, unsigned count, unsigned flags) {
    pthread_t threads[8];
    member m = {run, data};
    (void)flags;
    check(count >= 1 && count <= 8, "the number of threads of the team");
    for (unsigned i = 1; i < count; i++) check(pthread_create(&threads[i], NULL, run_member, &m) == 0, "pthread_create");
    run(data);
    for (unsigned i = 1; i < count; i++) pthread_join(threads[i], NULL);
}

static void fork_in_the_middle(void) {
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) check(pthread_create(&callers[i], NULL, call, NULL) == 0, "pthread_create");
    for (int i = 0; i < 20; i++) {
        usleep(300 * (i % 5));
        const pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0) {
            fc_forget_threads();
            rounds = 20;
            call(NULL);
            _exit(0);
        }
        int status;
        check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child");
    }
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
}

static int plain;

static void *race(void *nothing) {
    for (int i = 0; i < 100000; i++) plain++;
    return nothing;
}

/* Does the detector detect? */
static int race_on_purpose(void) {
    pthread_t one, other;
    check(pthread_create(&one, NULL, race, NULL) == 0 && pthread_create(&other, NULL, race, NULL) == 0, "pthread_create");
    pthread_join(one, NULL);
    pthread_join(other, NULL);
    puts("done");
    return 0;
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "race") == 0) return race_on_purpose();
    rounds = count > 1 ? atoi(arguments[1]) : 300;
    fc_use_pool(fc_parallel);
    for (int i = 0; fc_isa_name(i); i++)
        if (fc_isa_supported(i)) {
            check(fc_select(fc_isa_name(i)) == 0, "fc_select");
            everybody();
        }
    fc_borrow_threads(team, 3);
    everybody();
    fc_borrow_threads(NULL, 0);
    if (count > 2) fork_in_the_middle();
    puts("done");
    return 0;
}
