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

static void close_tickets(team *t)
{
    for (uint32_t i = 0; i < t->size; i++) atomic_store_explicit(&t->parts[i].ticket, UINT32_MAX, memory_order_release);
}

static void open_tickets(team *t, uint32_t generation, uint32_t units)
{
    const uint32_t active = team_active(t);
    for (uint32_t i = 0; i < active; i++)
        atomic_store_explicit(&t->parts[i].ticket, (uint64_t)generation << 32 | team_part(units, i, active), memory_order_release);
}

/* Alone: no unit is held by anyone. Tickets are closed while the numbers that go with them change:
 * a thread that reads a mix of old and new ones then fails to take anything. */
static void advance(team *t, uint32_t finished)
{
    team_step s = {0, 0};
    uint32_t grab = 1, units = 0, ahead = TEAM_NONE;
    close_tickets(t);
    const int on = t->calls.next(t->calls.state, finished, &s);
    if (on) {
        set_active(t, s.threads);
        units = t->calls.units(t->calls.state, s.step, &grab, &ahead);
    }
    const uint32_t generation = ((get(&t->generation) | IDLE) + 1) | (on ? 0 : IDLE);
    set(&t->step, s.step);
    set(&t->units, units);
    set(&t->grab, grab);
    set(&t->next, ahead);
    set(&t->done, 0);
    open_tickets(t, generation, units);
    new_generation(t, generation);
}

/* The numbers of a step, as a thread has read them: of one step if a ticket then fits. */
typedef struct {
    uint32_t generation, step, units, grab, active;
} turn;

/* Takes some units of a part, long runs first: streams stay long, and threads end together. */
static uint32_t take(team *t, const turn *s, uint32_t part, uint32_t *first)
{
    const uint32_t end = team_part(s->units, part + 1, s->active);
    uint64_t ticket = atomic_load(&t->parts[part].ticket);
    for (;;) {
        /* Another generation's ticket: what was read before may be of either. */
        *first = (uint32_t)ticket;
        if (ticket >> 32 != s->generation || *first >= end) return 0;
        const uint32_t left = end - *first, least = left / 2 > s->grab ? left / 2 : s->grab, n = least < left ? least : left;
        if (atomic_compare_exchange_weak(&t->parts[part].ticket, &ticket, ticket + n)) return n;
    }
}

/* Takes units of this generation while there are any, of its own part first. */
static void take_units(team *t, uint32_t generation, uint32_t thread)
{
    const uint32_t active = get(&t->active); /* more than there are: the team ends */
    const turn s = {generation, get(&t->step), get(&t->units), get(&t->grab), active < t->size ? active : t->size};
    const uint32_t next = get(&t->next);
    int fresh = 1;
    for (uint32_t i = 0; i < s.active; i++) {
        const uint32_t part = (thread + i) % s.active;
        for (uint32_t first, n; (n = take(t, &s, part, &first)); fresh = 0) {
            t->calls.work(t->calls.state, s.step, first, first + n, thread, fresh);
            if (atomic_fetch_add(&t->done, n) + n == s.units) {
                advance(t, s.step);
                return;
            }
        }
    }
    if (next == TEAM_NONE) return;
    for (uint32_t piece = 0; t->calls.ahead(t->calls.state, next, thread, piece); piece++)
        if (get(&t->generation) != generation) return;
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
    if (t->calls.begin) t->calls.begin(t->calls.state, s.thread);
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
    set(&t->next, TEAM_NONE); /* a thread that is there before the first run finds nothing to ask for */
    close_tickets(t);
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
