/* A pool of threads, and how the drivers' OpenMP loops reach it.
 *
 * threads.c  the pool: fc_parallel(task, context, n). Lives in the module _runtime, once per process.
 * openmp.c   the entry points that GCC's -fopenmp calls for a loop, on top of the pool. Linked into every driver, hidden, so that libgomp is neither needed nor disturbed.
 *
 * Why not libgomp: at the end of each loop it waits for every thread of the team, also for one that has not begun because another program has its CPU. With one of two
 * CPUs busy elsewhere each loop then costs a time slice, 3 to 4 ms: a 0.9 ms training step of LeNet took 13 ms. Here whoever has begun a loop does whatever part of it
 * nobody else has begun, and waits only for parts that somebody has.
 *
 * Where FC_OWN_POOL is not defined (Clang, or no Linux futex) the loops are the OpenMP runtime's, or serial without OpenMP. */
#ifndef FASTCNN_THREADS_H
#define FASTCNN_THREADS_H

typedef void (*fc_task)(void *context, int index);
typedef void (*fc_parallel_function)(fc_task task, void *context, int count);
typedef void (*fc_team_function)(void (*body)(void *), void *data, unsigned count, unsigned flags); /* GOMP_parallel of an OpenMP runtime */

#ifdef FC_OWN_POOL
/* task(context, 0) ... task(context, count - 1), each once, on the calling thread and those of the pool, in any order; returns when all are done. */
void fc_parallel(fc_task task, void *context, int count) __attribute__((visibility("hidden")));
void fc_forget_threads(void) __attribute__((visibility("hidden"))); /* in a forked child, where the pool's threads do not exist */
/* From now on run jobs on `count` threads of an OpenMP runtime that is loaded already, by its GOMP_parallel; NULL: on the pool's own. For a process where another library
 * computes in turns with this one: two sets of threads, each spinning for a while after its last loop, take the CPUs from each other. */
void fc_borrow_threads(fc_team_function team, unsigned count) __attribute__((visibility("hidden")));
/* Which pool this module's loops use; none: they run on the calling thread. */
void fc_use_pool(fc_parallel_function parallel) __attribute__((visibility("hidden")));
#else
static inline void fc_use_pool(fc_parallel_function parallel) { (void)parallel; }
#endif

#endif
