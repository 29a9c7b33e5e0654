/* The pool of threads; threads.h says what for. Linux: a waiting thread sleeps on a futex. */
#define _GNU_SOURCE
#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long to spin before sleeping. A worker: as long as Python needs between two loops of a training step, since waking it costs 5 us and more. The caller, waiting for
 * the last parts: less, because a part that is late belongs to a thread that has lost its CPU, and sleeping gives it this one. */
#define WORKER_SPIN_NS 100000
#define CALLER_SPIN_NS 30000
#define FC_MOST_WORKERS 1024

/* The job and who takes which of its parts, in one word, so that a thread that comes late cannot take a part of the wrong job: generation << 32 | count << 16 | next. */
static _Atomic uint64_t board;
static _Atomic uint32_t generation;  /* what sleeping workers wait for */
static _Atomic uint32_t unfinished;  /* parts of the present job */
static _Atomic int sleepers, caller_sleeps, busy;
static fc_task job_task;
static void *job_context;
static int workers; /* touched only by the thread that holds `busy`, as is all of the next line */
static int avoided = -1, moved; /* the CPU that the first `moved` workers may not run on */
static pthread_t threads[FC_MOST_WORKERS];
static __thread int inside;

static void futex_wait(_Atomic uint32_t *word, uint32_t value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }
static void futex_wake(_Atomic uint32_t *word, int count) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0); }

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Take parts of the job on the board and do them until none is left. */
static void take_parts(void) {
    uint64_t seen = atomic_load_explicit(&board, memory_order_acquire);
    for (;;) {
        const int next = (int)(seen & 0xffff), count = (int)(seen >> 16 & 0xffff);
        if (next >= count) return;
        if (!atomic_compare_exchange_weak_explicit(&board, &seen, seen + 1, memory_order_acq_rel, memory_order_acquire)) continue;
        job_task(job_context, next); /* the job stays until this part is reported */
        if (atomic_fetch_sub(&unfinished, 1) == 1 && atomic_load(&caller_sleeps)) futex_wake(&unfinished, 1);
        seen = atomic_load_explicit(&board, memory_order_acquire);
    }
}

static void *work(void *nothing) {
    uint32_t seen = 0;
    (void)nothing;
    inside = 1;
    for (;;) {
        const int64_t start = now_ns();
        uint32_t current;
        for (int i = 0; (current = atomic_load_explicit(&generation, memory_order_acquire)) == seen; i++) {
            pause_cpu();
            if (i % 32 == 31 && now_ns() - start > WORKER_SPIN_NS) {
                atomic_fetch_add(&sleepers, 1);
                futex_wait(&generation, seen);
                atomic_fetch_sub(&sleepers, 1);
            }
        }
        seen = current;
        take_parts();
    }
    return NULL;
}

static void start_workers(int wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's threads */
    for (; workers < wanted && workers < FC_MOST_WORKERS; workers++) {
        if (pthread_create(&threads[workers], NULL, work, NULL) != 0) break; /* the caller does what they would have done */
        pthread_detach(threads[workers]); /* it never ends, so its name stays good */
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Keep the workers off this CPU. A scheduler that saves energy or packs virtual machines wakes a worker on the CPU of the caller, behind the caller, which then does
 * the whole job alone, this one and the next. They may run wherever the caller may, but there. */
static void spread(void) {
    const int here = sched_getcpu();
    cpu_set_t allowed;
    if (here < 0 || (here == avoided && moved == workers)) return;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
    CPU_CLR(here, &allowed);
    for (int i = 0; i < workers; i++) pthread_setaffinity_np(threads[i], sizeof allowed, &allowed);
    avoided = here;
    moved = workers;
}

/* The caller is about to leave its CPU to them. */
static void gather(void) {
    cpu_set_t allowed;
    if (avoided < 0 || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    for (int i = 0; i < moved; i++) pthread_setaffinity_np(threads[i], sizeof allowed, &allowed);
    avoided = -1;
}

/* The other library's way to run a function on its threads, and how many it has; NULL: our own pool. */
static _Atomic(fc_team_function) lender;
static _Atomic unsigned lent;

typedef struct {
    fc_task task;
    void *context;
    int count;
    _Atomic int next;
} shared_job;

/* What each thread of the other library's team does. Which of them takes a part does not matter, as in take_parts. */
static void take_shared_parts(void *data) {
    shared_job *const job = data;
    const int outer = inside;
    inside = 1;
    for (int i; (i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed)) < job->count;) job->task(job->context, i);
    inside = outer;
}

void fc_borrow_threads(fc_team_function team, unsigned count) {
    atomic_store(&lent, count);
    atomic_store(&lender, team);
}

void fc_parallel(fc_task task, void *context, int count) {
    if (count <= 1 || inside || atomic_exchange(&busy, 1)) { /* one job at a time: a second thread's loop runs on that thread */
        for (int i = 0; i < count; i++) task(context, i);
        return;
    }
    const fc_team_function team = atomic_load(&lender);
    if (team) { /* always as many threads as that library uses for its own loops: teams of changing size are taken down and set up again */
        shared_job job = {task, context, count, 0};
        team(take_shared_parts, &job, atomic_load(&lent), 0);
        atomic_store(&busy, 0);
        return;
    }
    if (workers < count - 1) start_workers(count - 1);
    job_task = task;
    job_context = context;
    atomic_store_explicit(&unfinished, (uint32_t)count, memory_order_relaxed);
    const uint32_t number = atomic_load(&generation) + 1;
    atomic_store_explicit(&board, (uint64_t)number << 32 | (uint64_t)count << 16, memory_order_release);
    atomic_store(&generation, number);
    const int asleep = atomic_load(&sleepers);
    if (asleep || moved < workers) spread();
    if (asleep) futex_wake(&generation, count - 1);
    inside = 1;
    take_parts();
    inside = 0;
    uint32_t left;
    const int64_t start = now_ns();
    for (int i = 0; (left = atomic_load_explicit(&unfinished, memory_order_acquire)) != 0; i++) {
        pause_cpu();
        if (i % 32 == 31 && now_ns() - start > CALLER_SPIN_NS) {
            gather();
            atomic_store(&caller_sleeps, 1);
            futex_wait(&unfinished, left);
            atomic_store(&caller_sleeps, 0);
        }
    }
    atomic_store(&busy, 0);
}

void fc_forget_threads(void) {
    atomic_store(&lender, NULL); /* its threads are not here either, and it would wait for them */
    workers = moved = 0;
    avoided = -1;
    atomic_store(&board, 0); /* a job that another thread was at: a new worker must not take a part of it */
    atomic_store(&sleepers, 0);
    atomic_store(&caller_sleeps, 0);
    atomic_store(&busy, 0);
    inside = 0;
}
