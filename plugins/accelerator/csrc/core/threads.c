/* The team of threads.h: start gate, barrier, bounded spin then futex. */
#define _GNU_SOURCE
#include "threads.h"

#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NS 80000u
#define STACK_BYTES (512u << 10)
#define STOP_BIT 1u

uint64_t claw_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void gate_open(gate *g, uint32_t value)
{
    atomic_store(&g->word, value);
    if (atomic_load(&g->sleepers)) syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

/* Returns the first value other than `seen`. */
static uint32_t gate_wait(gate *g, uint32_t seen)
{
    uint32_t value;
    const uint64_t end = claw_now() + SPIN_NS;
    do {
        for (int i = 0; i < 128; i++) {
            value = atomic_load_explicit(&g->word, memory_order_acquire);
            if (value != seen) return value;
            relax();
        }
    } while (claw_now() < end);
    atomic_fetch_add(&g->sleepers, 1);
    while ((value = atomic_load(&g->word)) == seen)
        syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
    return value;
}

int team_barrier(team *t, uint32_t step)
{
    const uint32_t seen = atomic_load_explicit(&t->phase.word, memory_order_relaxed);
    if (atomic_fetch_add(&t->arrived, 1) + 1 < t->size) return gate_wait(&t->phase, seen) & STOP_BIT;
    atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
    const uint32_t stop = t->between(t->state, step) ? STOP_BIT : 0;
    gate_open(&t->phase, ((seen & ~STOP_BIT) + 2) | stop);
    return (int)stop;
}

typedef struct {
    team *team;
    uint32_t thread;
} seat;

static void *member(void *arg)
{
    const seat s = *(seat *)arg;
    team *t = s.team;
    uint32_t seen = 0;
    atomic_fetch_add(&t->arrived, 1); /* the seat is copied */
    for (;;) {
        seen = gate_wait(&t->start, seen);
        if (atomic_load(&t->quit)) return NULL;
        t->work(t->state, s.thread);
    }
}

void team_run(team *t)
{
    if (t->size > 1) gate_open(&t->start, atomic_load_explicit(&t->start.word, memory_order_relaxed) + 1);
    t->work(t->state, 0);
}

int team_start(team *t, uint32_t size, team_work work, team_between between, void *state)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int failed = 0;
    memset(t, 0, sizeof *t);
    t->size = 1;
    t->work = work;
    t->between = between;
    t->state = state;
    if (size == 1) return 0;
    if (pthread_attr_init(&attr)) return -1;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals stay with the caller's threads */
    for (uint32_t i = 1; i < size && !failed; i++) {
        seat s = {t, i};
        const uint32_t before = atomic_load(&t->arrived);
        failed = pthread_create(&t->threads[i], &attr, member, &s);
        if (failed) break;
        t->size++;
        while (atomic_load(&t->arrived) == before) sched_yield();
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    atomic_store(&t->arrived, 0);
    if (failed) team_end(t);
    return failed ? -1 : 0;
}

void team_end(team *t)
{
    if (t->size < 2) return;
    atomic_store(&t->quit, 1);
    gate_open(&t->start, atomic_load(&t->start.word) + 1);
    for (uint32_t i = 1; i < t->size; i++) pthread_join(t->threads[i], NULL);
    t->size = 1;
}
