/* The team of threads.h: tickets, bounded spin then futex, start and end of the threads. */
#define _GNU_SOURCE
#include "threads.h"

#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NS 80000u
#define IDLE 1u /* this bit of the generation: no run is on */
#define STACK_BYTES (512u << 10)

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

static inline uint32_t get(atomic_uint *a) { return atomic_load_explicit(a, memory_order_acquire); }
static inline void set(atomic_uint *a, uint32_t v) { atomic_store_explicit(a, v, memory_order_release); }

/* Everything written before is seen by the threads that see the new generation. */
static void new_generation(team *t, uint32_t generation)
{
    atomic_store(&t->generation, generation);
    if (atomic_load(&t->sleepers)) syscall(SYS_futex, &t->generation, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

static void wait_generation(team *t, uint32_t seen)
{
    const uint64_t end = claw_now() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&t->generation, memory_order_acquire) != seen) return;
            relax();
        }
    } while (claw_now() < end);
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->generation) == seen)
        syscall(SYS_futex, &t->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&t->sleepers, 1);
}

/* Alone: from the next generation on so many threads take part. */
static void set_active(team *t, uint32_t wanted)
{
    const uint32_t now = wanted && wanted < t->size ? wanted : t->size, before = team_active(t);
    if (now == before) return;
    atomic_store(&t->active, now);
    if (now > before) syscall(SYS_futex, &t->active, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

/* Sleeps, without spinning, while this thread takes no part. */
static void park(team *t, uint32_t thread)
{
    for (uint32_t active; (active = atomic_load(&t->active)) <= thread;)
        syscall(SYS_futex, &t->active, FUTEX_WAIT_PRIVATE, active, NULL, NULL, 0);
}

/* Alone: no unit is held by anyone. The ticket is closed while the numbers that go with it change:
 * a thread that reads a mix of old and new ones then fails to take anything. */
static void advance(team *t, uint32_t finished)
{
    team_step s = {0, 0};
    uint32_t grab = 1, units = 0;
    const int on = t->calls.next(t->calls.state, finished, &s);
    if (on) {
        set_active(t, s.threads);
        units = t->calls.units(t->calls.state, s.step, &grab);
    }
    const uint32_t generation = ((get(&t->generation) | IDLE) + 1) | (on ? 0 : IDLE);
    atomic_store(&t->ticket, (uint64_t)generation << 32 | UINT32_MAX);
    set(&t->step, s.step);
    set(&t->units, units);
    set(&t->grab, grab);
    set(&t->done, 0);
    atomic_store(&t->ticket, (uint64_t)generation << 32);
    new_generation(t, generation);
}

/* Takes units of this generation while there are any. */
static void take_units(team *t, uint32_t generation, uint32_t thread)
{
    const uint32_t step = get(&t->step), units = get(&t->units), grab = get(&t->grab), active = team_active(t);
    uint64_t ticket = atomic_load(&t->ticket);
    for (int fresh = 1;;) {
        const uint32_t first = (uint32_t)ticket;
        /* Another generation's ticket: what was read above may be of either, so look again. */
        if (ticket >> 32 != generation || first >= units) return;
        /* Long runs first, short ones towards the end: streams stay long and threads end together. */
        const uint32_t left = units - first, share = left / (2 * active);
        const uint32_t least = share > grab ? share : grab, n = least < left ? least : left;
        if (!atomic_compare_exchange_weak(&t->ticket, &ticket, ticket + n)) continue;
        t->calls.work(t->calls.state, step, first, first + n, thread, fresh);
        fresh = 0;
        if (atomic_fetch_add(&t->done, n) + n == units) {
            advance(t, step);
            return;
        }
        ticket = atomic_load(&t->ticket);
    }
}

void team_run(team *t)
{
    advance(t, TEAM_NONE);
    for (uint32_t generation; !((generation = atomic_load(&t->generation)) & IDLE);) {
        take_units(t, generation, 0);
        if (atomic_load(&t->generation) == generation) wait_generation(t, generation);
    }
}

static void *member(void *arg)
{
    const team_seat s = *(const team_seat *)arg;
    team *t = s.team;
    for (;;) {
        const uint32_t generation = atomic_load(&t->generation);
        if (atomic_load(&t->quit)) return NULL;
        if (team_active(t) <= s.thread) {
            park(t, s.thread);
            continue;
        }
        take_units(t, generation, s.thread);
        if (atomic_load(&t->generation) == generation) wait_generation(t, generation);
    }
}

int team_start(team *t, uint32_t size, team_calls calls)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int failed = 0;
    memset(t, 0, sizeof *t);
    t->size = size;
    t->started = 1;
    t->calls = calls;
    set(&t->active, size);
    set(&t->generation, IDLE);
    atomic_store(&t->ticket, (uint64_t)IDLE << 32);
    if (size == 1) return 0;
    if (pthread_attr_init(&attr)) return -1;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals stay with the caller's threads */
    for (uint32_t i = 1; i < size && !failed; i++) {
        t->seats[i] = (team_seat){t, i};
        failed = pthread_create(&t->threads[i], &attr, member, &t->seats[i]);
        if (failed) break;
        t->started++; /* one that comes late takes part in the step that is on then */
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    if (failed) team_end(t);
    return failed ? -1 : 0;
}

void team_end(team *t)
{
    atomic_store(&t->quit, 1);
    atomic_store(&t->active, UINT32_MAX); /* nobody stays parked */
    syscall(SYS_futex, &t->active, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
    new_generation(t, get(&t->generation) + 2);
    for (uint32_t i = 1; i < t->started; i++) pthread_join(t->threads[i], NULL);
    t->started = 1;
}
