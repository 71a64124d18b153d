/* The life of a plan: create (check, copy, start threads), run in chunks, rewind, free.
 *
 * A chunk is a token, or up to spec.chunk tokens of a prompt. All threads walk the steps in order;
 * inside a step they take units from a shared counter, and no unit's result depends on who ran it or
 * when, so numbers do not depend on the number of threads. After each step one thread, alone,
 * stamps the time and looks at the control word. A stopped chunk is as if it had never begun. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"

static void walk(void *state, uint32_t thread)
{
    claw_plan *p = state;
    for (uint32_t i = 0; i < p->n; i++) {
        const claw_step *s = p->steps + i;
        uint32_t grab;
        if (step_skipped(p, s)) continue;
        const uint32_t units = step_units(p, s, &grab);
        for (int fresh = 1;; fresh = 0) {
            const uint32_t first = atomic_fetch_add_explicit(&p->next[i], grab, memory_order_relaxed);
            if (first >= units) break;
            step_run(p, s, first, units - first < grab ? units : first + grab, thread, fresh);
        }
        if (team_barrier(&p->team, i)) return;
    }
}

static int stop_asked(const claw_plan *p)
{
    return p->spec.control && __atomic_load_n(p->spec.control, __ATOMIC_ACQUIRE) != 0;
}

static int between(void *state, uint32_t step)
{
    claw_plan *p = state;
    const uint64_t now = claw_now();
    p->times[p->stamped++ % CLAW_TIMES] = (claw_time){step, p->count, now - p->stamp};
    p->stamp = now;
    atomic_store_explicit(&p->next[step], 0, memory_order_relaxed);
    return step + 1 < p->n && stop_asked(p);
}

/* True if the chunk reached its last step. */
static int run_chunk(claw_plan *p)
{
    const uint32_t phase = atomic_load(&p->team.phase.word);
    atomic_store(&p->team.phase.word, phase & ~1u); /* an earlier stop is over */
    p->stamp = claw_now();
    team_run(&p->team);
    return !(atomic_load(&p->team.phase.word) & 1u);
}

static int32_t run_tokens(claw_plan *p, const int32_t *tokens, uint32_t n, float *out, int32_t all)
{
    uint32_t done = 0;
    p->stamped = 0;
    while (done < n) {
        if (stop_asked(p)) return CLAW_STOPPED;
        const uint32_t left = n - done;
        p->count = left < p->spec.chunk ? left : p->spec.chunk;
        p->tokens = tokens + done;
        p->rows = all ? p->count : left <= p->spec.chunk;
        p->out = out + (all ? (size_t)done * p->spec.vocabulary : 0);
        if (!run_chunk(p)) return CLAW_STOPPED;
        done += p->count;
        p->position += p->count;
    }
    return CLAW_OK;
}

int32_t claw_plan_run(claw_plan *p, const int32_t *tokens, uint32_t n, float *out, int32_t all)
{
    if (!n || n > p->spec.context - p->position) return CLAW_NO_ROOM;
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= p->spec.vocabulary) return CLAW_BAD_TOKEN;
    return run_tokens(p, tokens, n, out, all);
}

claw_plan *claw_plan_new(const claw_spec *spec, const claw_step *steps, uint32_t n, int32_t *code, uint32_t *bad)
{
    const claw_ops *ops = claw_ops_named(spec->isa);
    *bad = 0;
    *code = CLAW_BAD_PLAN;
    if (!ops || !n || n > CLAW_MAX_STEPS || !spec->context || spec->context > CLAW_MAX_CONTEXT || !spec->chunk
        || spec->chunk > CLAW_MAX_CHUNK || !spec->threads || spec->threads > CLAW_MAX_THREADS || !spec->vocabulary
        || spec->vocabulary > CLAW_MAX_ROWS)
        return NULL;
    for (uint32_t i = 0; i < n; i++)
        if ((*code = step_check(spec, steps, i, claw_scratch_bytes(steps, n, spec->chunk, spec->threads)))) {
            *bad = i;
            return NULL;
        }
    *code = CLAW_NO_MEMORY;
    claw_plan *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) return NULL;
    memset(p, 0, sizeof *p);
    p->steps = calloc(n, sizeof *steps);
    p->next = calloc(n, sizeof *p->next);
    p->spec = *spec;
    p->ops = ops;
    p->n = n;
    if (p->steps && p->next) {
        memcpy(p->steps, steps, n * sizeof *steps);
        p->layout = scratch_layout(steps, n, spec->chunk);
        *code = team_start(&p->team, spec->threads, walk, between, p) ? CLAW_NO_THREAD : CLAW_OK;
    }
    if (*code == CLAW_OK) return p;
    free(p->steps);
    free(p->next);
    free(p);
    return NULL;
}

void claw_plan_free(claw_plan *p)
{
    if (!p) return;
    team_end(&p->team);
    free(p->steps);
    free(p->next);
    free(p);
}

uint32_t claw_plan_position(const claw_plan *p) { return p->position; }

int32_t claw_plan_rewind(claw_plan *p, uint32_t position)
{
    if (position > p->position) return CLAW_NO_ROOM;
    p->position = position;
    return CLAW_OK;
}

uint32_t claw_plan_times(const claw_plan *p, claw_time *out, uint32_t n)
{
    const uint32_t kept = p->stamped < CLAW_TIMES ? p->stamped : CLAW_TIMES, m = kept < n ? kept : n;
    for (uint32_t i = 0; i < m; i++) out[i] = p->times[(p->stamped - m + i) % CLAW_TIMES];
    return m;
}
