/* What GCC makes of `#pragma omp parallel` and `#pragma omp for` calls these functions, by the names that libgomp has for them; here they lead to the pool of threads.c.
 *
 * The threads of a team are the parts of one job. They may run one after another on one thread, so nothing in a loop's body may wait for another part; a barrier, which
 * OpenMP puts at the end of a loop, is nothing here, because our loops end their parallel region, and that waits for all parts. */
#include "threads.h"

#include <stdatomic.h>
#include <stdbool.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define LOOPS 4 /* dynamic loops in one region */

typedef struct {
    void (*body)(void *);
    void *data;
    int count;
    _Atomic long taken[LOOPS]; /* iterations handed out */
} region;

static fc_parallel_function pool;

/* Of the part that runs on this thread. */
static __thread region *current;
static __thread int number, loop;
static __thread long first, last, step, piece;

HIDDEN void fc_use_pool(fc_parallel_function parallel) { pool = parallel; }

static void run_part(void *context, int index) {
    region *const outer = current;
    const int outer_number = number;
    current = context;
    number = index;
    loop = -1;
    current->body(current->data);
    current = outer;
    number = outer_number;
}

HIDDEN void GOMP_parallel(void (*body)(void *), void *data, unsigned count, unsigned flags) {
    region r = {body, data, count ? (int)count : 1, {0}};
    (void)flags;
    if (pool) pool(run_part, &r, r.count);
    else
        for (int i = 0; i < r.count; i++) run_part(&r, i);
}

HIDDEN bool GOMP_loop_nonmonotonic_dynamic_next(long *start, long *end) {
    const long count = (last - first + step - (step > 0 ? 1 : -1)) / step;
    const long at = atomic_fetch_add_explicit(&current->taken[loop], piece, memory_order_relaxed);
    if (at >= count) return false;
    *start = first + at * step;
    *end = at + piece < count ? *start + piece * step : last;
    return true;
}

HIDDEN bool GOMP_loop_nonmonotonic_dynamic_start(long from, long to, long by, long chunk, long *start, long *end) {
    if (++loop >= LOOPS) __builtin_trap();
    first = from;
    last = to;
    step = by;
    piece = chunk;
    return GOMP_loop_nonmonotonic_dynamic_next(start, end);
}

HIDDEN void GOMP_loop_end_nowait(void) {}
HIDDEN void GOMP_loop_end(void) {}
HIDDEN void GOMP_barrier(void) {}
HIDDEN int omp_get_thread_num(void) { return current ? number : 0; }
HIDDEN int omp_get_num_threads(void) { return current ? current->count : 1; }
HIDDEN int omp_get_max_threads(void) { return 1; }
