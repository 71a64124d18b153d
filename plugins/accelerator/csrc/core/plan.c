/* The life of a plan: create (check, copy, start threads), run in chunks, rewind, free.
 *
 * A chunk is a token, or up to spec.chunk tokens of a prompt. All threads walk the steps in order
 * and share the units of each; no unit's result depends on who ran it or when, so numbers do not
 * depend on the number of threads. After each step one thread, alone, stamps the time and looks at
 * the control word. A stopped chunk is as if it had never begun. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"

static void work(void *state, uint32_t step, uint32_t first, uint32_t last, uint32_t thread, int fresh)
{
    claw_plan *p = state;
    step_run(p, p->steps + step, first, last, thread, fresh);
}

static int stop_asked(const claw_plan *p)
{
    return p->spec.control && __atomic_load_n(p->spec.control, __ATOMIC_ACQUIRE) != 0;
}

/* Between two steps, alone: the stamp of the one that ended, the control word, the next one. */
static int next_step(void *state, uint32_t finished, team_step *next)
{
    claw_plan *p = state;
    const uint64_t now = claw_now();
    uint32_t i = finished == TEAM_NONE ? 0 : finished + 1;
    if (i) p->times[p->stamped++ % CLAW_TIMES] = (claw_time){finished, p->count, now - p->stamp};
    p->stamp = now;
    while (i < p->n && step_skipped(p, p->steps + i)) i++;
    p->complete = i == p->n;
    if (p->complete || stop_asked(p)) return 0;
    next->step = i;
    next->units = step_units(p, p->steps + i, &next->grab);
    return 1;
}

static int32_t run_tokens(claw_plan *p, const int32_t *tokens, uint32_t n, float *out, int32_t all)
{
    uint32_t done = 0;
    p->stamped = 0;
    while (done < n) {
        const uint32_t left = n - done;
        p->count = left < p->spec.chunk ? left : p->spec.chunk;
        p->tokens = tokens + done;
        p->rows = all ? p->count : left <= p->spec.chunk;
        p->out = out + (all ? (size_t)done * p->spec.vocabulary : 0);
        p->complete = 0;
        team_run(&p->team);
        if (!p->complete) return CLAW_STOPPED;
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
    p->spec = *spec;
    p->ops = ops;
    p->n = n;
    if (p->steps) {
        memcpy(p->steps, steps, n * sizeof *steps);
        p->layout = scratch_layout(steps, n, spec->chunk);
        *code = team_start(&p->team, spec->threads, work, next_step, p) ? CLAW_NO_THREAD : CLAW_OK;
    }
    if (*code == CLAW_OK) return p;
    free(p->steps);
    free(p);
    return NULL;
}

void claw_plan_free(claw_plan *p)
{
    if (!p) return;
    team_end(&p->team);
    free(p->steps);
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
