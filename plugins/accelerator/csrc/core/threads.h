/* A team of threads that walks through the steps of a plan together.
 *
 * A step is over when its units of work are done, not when every thread has arrived: a thread that
 * the system has put aside holds up the others only if it holds a unit. Each thread begins with
 * a part of the units of its own, which lie side by side, so that it reads memory in one stream, and
 * the same part whenever the step comes again. When that is done it takes from the others' parts.
 * Units are taken from tickets that carry the step's generation, so a thread that wakes late can never
 * take one of an older step. Whoever finishes the last unit prepares the next step, alone; those that
 * find none left can ask for what they will read next, before they wait.
 *
 * Waiting spins for at most SPIN_NS, then sleeps on a futex: spinning alone collapses when other
 * processes want the cores. How many threads take part may change with each step; those beyond that
 * number sleep on a futex of their own and are not woken by steps. */
#ifndef CLAW_THREADS_H
#define CLAW_THREADS_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "../bounds.h"

#define TEAM_NONE UINT32_MAX

typedef struct team_step { /* what the team works on */
    uint32_t step;
    uint32_t threads; /* that take part, the caller's included; 0 or too many: all */
} team_step;

typedef struct team_calls {
    /* Units first..last-1 of a step. fresh: the first call for this step on this thread. */
    void (*work)(void *state, uint32_t step, uint32_t first, uint32_t last, uint32_t thread, int fresh);
    /* Called alone when `finished` is over (TEAM_NONE: to begin); fills in the step to do next and
     * returns 1, or returns 0 to end the run. */
    int (*next)(void *state, uint32_t finished, team_step *next);
    /* Called alone before a step: its units, not 0, how many of them are worth a turn, and the step that
     * `ahead` is told by those that find no unit left (TEAM_NONE: it is not called). */
    uint32_t (*units)(void *state, uint32_t step, uint32_t *grab, uint32_t *next);
    /* Called while others may work, or already be elsewhere: reads what never changes. Again and again, with
     * piece 0, 1, ... while the thread waits, until it returns 0: there is nothing more to ask for. */
    int (*ahead)(void *state, uint32_t step, uint32_t thread, uint32_t piece);
    void *state;
    /* If not NULL, called first by each thread but the caller's, whatever the others do meanwhile. */
    void (*begin)(void *state, uint32_t thread);
} team_calls;

typedef struct team_seat { /* what a thread is told when it is started */
    struct team *team;
    uint32_t thread;
} team_seat;

typedef struct team {
    _Alignas(64) atomic_uint generation; /* changes with each step: what waiting threads watch */
    atomic_uint sleepers;
    atomic_uint step, units, grab, next; /* of this generation; no units while no run is on */
    atomic_uint quit;
    _Alignas(64) atomic_uint active; /* threads that take part: what the others watch */
    struct {
        _Alignas(64) _Atomic uint64_t ticket; /* generation << 32 | first unit that nobody has taken */
    } parts[CLAW_MAX_THREADS];                /* of the units, one of each thread */
    _Alignas(64) atomic_uint done;            /* units finished */
    uint32_t size;                        /* threads, the caller's included */
    uint32_t started;
    team_calls calls;
    pthread_t threads[CLAW_MAX_THREADS];
    team_seat seats[CLAW_MAX_THREADS];
} team;

int team_start(team *t, uint32_t size, team_calls calls);
void team_end(team *t);
/* Runs steps until `next` returns 0; the calling thread is thread 0. */
void team_run(team *t);
uint64_t claw_now(void);
static inline uint32_t team_active(const team *t) { return atomic_load_explicit(&t->active, memory_order_relaxed); }
/* Where the part of thread i of n begins; that of thread n is the end. */
static inline uint32_t team_part(uint32_t units, uint32_t i, uint32_t n) { return (uint32_t)(((uint64_t)units * i + n - 1) / n); }
#endif
