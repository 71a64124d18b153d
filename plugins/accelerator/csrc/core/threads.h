/* A team of threads that walks through the steps of a plan together.
 *
 * Waiting spins for at most SPIN_NS, then sleeps on a futex: spinning alone collapses when other
 * processes want the cores. The word that barriers wait on carries the stop bit, so that every
 * thread takes the same turn however late it wakes. */
#ifndef CLAW_THREADS_H
#define CLAW_THREADS_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "../bounds.h"

typedef struct gate { /* a word that threads wait to see change */
    _Alignas(64) atomic_uint word;
    atomic_uint sleepers;
} gate;

typedef struct team team;
typedef void (*team_work)(void *state, uint32_t thread);
/* Runs alone between two steps; a true result stops the team. */
typedef int (*team_between)(void *state, uint32_t step);

struct team {
    gate start, phase;
    _Alignas(64) atomic_uint arrived;
    atomic_uint quit;
    uint32_t size; /* threads, the caller's included */
    team_work work;
    team_between between;
    void *state;
    pthread_t threads[CLAW_MAX_THREADS];
};

int team_start(team *t, uint32_t size, team_work work, team_between between, void *state);
void team_end(team *t);
/* Runs work on every thread; the calling one is thread 0. Work ends with a barrier. */
void team_run(team *t);
/* All threads meet after a step. True: stop. */
int team_barrier(team *t, uint32_t step);
uint64_t claw_now(void);
#endif
