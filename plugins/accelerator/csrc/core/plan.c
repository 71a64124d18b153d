/* The life of a plan: create (check, copy, start threads), run in chunks, free.
 *
 * A chunk is a token, or up to spec.chunk tokens of a prompt. All threads walk the steps in order
 * and share the units of each; no unit's result depends on who ran it or when, so numbers do not
 * depend on the number of threads, which the control word may change at each step. After each step
 * one thread, alone, stamps the time and looks whether to leave. Sequences share weights and scratch
 * but neither cache nor activations: a run that was left goes on at its step, whatever ran between.
 * A batch is a chunk whose rows are tokens of different sequences; its activations have an arena of
 * their own, so that it can be left too, and what a row computes is what it would compute alone.
 *
 * Nobody else can run while a step does, so steps are kept short: a prompt's chunk is halved when a
 * step of it took longer than CLAW_STEP_NS, and grows again when four times as many tokens fit. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plan.h"

static void work(void *state, uint32_t step, uint32_t first, uint32_t last, uint32_t thread, int fresh)
{
    claw_plan *p = state;
    step_run(p, p->steps + step, first, last, thread, fresh);
}

/* The control word: low byte a command (clawai.sdk.wire), second byte how many threads, 0 for all. */
enum { STOP = 1, HOLD = 2 };

static uint32_t load_word(const uint32_t *control) { return control ? __atomic_load_n(control, __ATOMIC_ACQUIRE) : 0; }

/* The word of a batch is that of its first row that goes on. Those that are to stop are taken out, and
 * those that are to wait if others go on; if none does, it is HOLD, or STOP if nobody is left. */
static uint32_t batch_word(claw_batch *batch)
{
    uint64_t held = 0, going = 0;
    uint32_t first = 0;
    for (uint32_t t = 0; t < batch->n; t++) {
        claw_row *row = batch->rows + t;
        const uint32_t word = row->gone ? STOP : load_word(row->control), command = word & 0xff;
        if (command == STOP) row->gone = 1;
        else if (command == HOLD) held |= (uint64_t)1 << t;
        else if (!going++) first = word;
    }
    if (!going) return held ? HOLD : STOP;
    for (uint32_t t = 0; t < batch->n; t++)
        if (held >> t & 1) batch->rows[t].gone = 1;
    return first;
}

/* begun: this call has run a step; to be preempted at once, again and again, would be no progress. */
static int must_leave(const claw_plan *p, uint32_t word, int begun)
{
    const uint32_t command = word & 0xff;
    return command == STOP || command == HOLD || (begun && __atomic_load_n(&p->preempted, __ATOMIC_ACQUIRE));
}

static void stamp(claw_plan *p, uint32_t finished)
{
    const uint64_t now = claw_now(), ns = now - p->stamp;
    if (finished != TEAM_NONE) {
        p->times[(*p->stamped)++ % CLAW_TIMES] = (claw_time){finished, p->count, ns};
        if (p->run && ns > p->run->longest) p->run->longest = ns;
    }
    p->stamp = now;
}

/* How many threads take part: those that are granted, and no more than the box's profile found to
 * pay. The same for all steps of a chunk: to park a thread and wake it costs more than a step. */
static uint32_t threads_of(const claw_plan *p, uint32_t word)
{
    const uint32_t granted = word >> 8 & 0xff, most = p->count == 1 ? claw_tune.one : claw_tune.many;
    return !most || (granted && granted < most) ? granted : most;
}

static void forget_bests(claw_plan *p)
{
    if (!step_notes(p, p->steps + p->n - 1)) return;
    for (uint32_t i = 0; i < p->team.size; i++)
        for (uint32_t t = 0; t < p->rows; t++) step_bests(p, i)[t] = (best){-INFINITY, NONE};
}

/* What the threads have noted of row t, together. NONE also for a row with a NaN, or without a finite number. */
static int32_t likeliest(const claw_plan *p, uint32_t t)
{
    best found = {-INFINITY, NONE};
    if (!step_notes(p, p->steps + p->n - 1)) return NONE;
    for (uint32_t i = 0; i < p->team.size; i++) {
        const best *b = step_bests(p, i) + t;
        if (b->at == NOT_A_NUMBER) return NONE;
        if (b->at != NONE && (found.at == NONE || b->value > found.value || (b->value == found.value && b->at < found.at))) found = *b;
    }
    return found.at;
}

/* Between two steps, alone: the stamp of the one that ended, the control word, the next one. */
static int next_step(void *state, uint32_t finished, team_step *next)
{
    claw_plan *p = state;
    uint32_t *at = p->batch ? &p->batch->step : &p->run->step;
    uint32_t i = finished == TEAM_NONE ? *at : finished + 1;
    stamp(p, finished);
    while (i < p->n && step_skipped(p, p->steps + i)) i++;
    *at = i;
    p->complete = i == p->n;
    if (p->complete) return 0;
    const uint32_t word = p->batch ? batch_word(p->batch) : load_word(p->run->control);
    if (must_leave(p, word, finished != TEAM_NONE)) return 0;
    if (i == p->n - 1) forget_bests(p);
    next->step = i;
    next->threads = threads_of(p, word);
    return 1;
}

static uint32_t units_of(void *state, uint32_t step, uint32_t *grab, uint32_t *next)
{
    claw_plan *p = state;
    uint32_t i = step + 1;
    /* What comes before the next product takes so short that its weights are still there then. */
    while (i < p->n && (step_skipped(p, p->steps + i) || p->steps[i].code == CLAW_KV || p->steps[i].code == CLAW_ATTEND)) i++;
    if (p->count == 1 && i < p->n && p->steps[i].code == CLAW_MATMUL) *next = i;
    return step_units(p, p->steps + step, grab);
}

static int ahead(void *state, uint32_t step, uint32_t thread, uint32_t piece)
{
    const claw_plan *p = state;
    return step_ahead(p, p->steps + step, thread, piece);
}

/* To make the first block of the cache, zeros in pages that may be huge, takes as long as a layer: one
 * thread does that while the caller's still prepares the first prompt. */
static void begin(void *state, uint32_t thread)
{
#if defined(MADV_POPULATE_WRITE)
    const claw_plan *p = state;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)p->spec.kv & ~(page - 1);
    const uint64_t bytes = p->spec.kv_block < p->spec.kv_bytes ? p->spec.kv_block : p->spec.kv_bytes;
    if (thread == 1) (void)madvise((void *)first, ((uintptr_t)p->spec.kv + bytes - first) & ~(page - 1), MADV_POPULATE_WRITE);
#else
    (void)state, (void)thread;
#endif
}

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* The chunk that the run is in, or its next one, becomes the plan's. */
static void begin_chunk(claw_plan *p, claw_run *run)
{
    if (!run->step) {
        run->count = min_u32(run->n - run->done, run->chunk);
        run->longest = 0;
    }
    p->count = run->count;
    p->tokens = run->tokens + run->done;
    p->rows = run->all ? run->count : run->done + run->count == run->n;
    p->out = run->out + (run->all ? (size_t)run->done * p->spec.vocabulary : 0);
    p->position = run->position;
    p->complete = 0;
    run->likeliest = NONE;
}

static void end_chunk(const claw_plan *p, claw_run *run)
{
    run->done += run->count;
    run->position += run->count;
    run->step = 0;
    if (run->count < run->chunk) return; /* what was left over: too few tokens to learn from */
    if (run->longest > CLAW_STEP_NS && run->chunk / 2 >= CLAW_LEAST_CHUNK) run->chunk /= 2;
    else if (run->longest < CLAW_STEP_NS / 4) run->chunk = min_u32(run->chunk * 2, p->spec.chunk);
}

/* Whether a run is one that this plan can go on with: its numbers come from outside. */
static int32_t run_check(const claw_plan *p, const claw_run *run)
{
    if (run->sequence >= p->spec.sequences || run->step > p->n || !run->chunk || run->chunk > p->spec.chunk) return CLAW_NO_ROOM;
    if (run->done >= run->n || run->position > p->spec.context || run->n - run->done > p->spec.context - run->position) return CLAW_NO_ROOM;
    if (run->step && (!run->count || run->count > run->n - run->done || run->count > p->spec.chunk)) return CLAW_NO_ROOM;
    for (uint32_t i = run->done; i < run->n; i++)
        if (run->tokens[i] < 0 || (uint32_t)run->tokens[i] >= p->spec.vocabulary) return CLAW_BAD_TOKEN;
    return CLAW_OK;
}

int32_t claw_plan_run(claw_plan *p, claw_run *run)
{
    const int32_t code = run_check(p, run);
    if (code) return code;
    p->run = run;
    p->batch = NULL;
    p->times = run->times;
    p->stamped = &run->stamped;
    p->kv = p->spec.kv + run->sequence * p->spec.kv_bytes;
    p->arena = p->spec.arena + run->sequence * p->spec.arena_bytes;
    while (run->done < run->n) {
        begin_chunk(p, run);
        team_run(&p->team);
        if (!p->complete) return CLAW_LEFT;
        run->likeliest = likeliest(p, 0);
        end_chunk(p, run);
    }
    return CLAW_OK;
}

static int32_t batch_check(const claw_plan *p, const claw_batch *batch)
{
    uint64_t seen = 0;
    if (!batch->n || batch->n > p->spec.chunk || batch->n > p->spec.sequences || batch->arena >= p->spec.batches || batch->step > p->n)
        return CLAW_NO_ROOM;
    for (uint32_t t = 0; t < batch->n; t++) {
        const claw_row *row = batch->rows + t;
        if (row->sequence >= p->spec.sequences || row->position >= p->spec.context || seen >> row->sequence & 1) return CLAW_NO_ROOM;
        if (row->token < 0 || (uint32_t)row->token >= p->spec.vocabulary) return CLAW_BAD_TOKEN;
        seen |= (uint64_t)1 << row->sequence;
    }
    return CLAW_OK;
}

static int any_row(const claw_batch *batch)
{
    for (uint32_t t = 0; t < batch->n; t++)
        if (!batch->rows[t].gone) return 1;
    return 0;
}

int32_t claw_plan_decode(claw_plan *p, claw_batch *batch)
{
    const int32_t code = batch_check(p, batch);
    if (code) return code;
    p->run = NULL;
    p->batch = batch;
    p->times = batch->times;
    p->stamped = &batch->stamped;
    p->arena = p->spec.arena + (p->spec.sequences + batch->arena) * p->spec.arena_bytes;
    p->count = p->rows = batch->n;
    p->complete = 0;
    team_run(&p->team);
    if (!p->complete && any_row(batch)) return CLAW_LEFT;
    batch->step = 0;
    for (uint32_t t = 0; t < batch->n; t++) batch->rows[t].likeliest = p->complete && !batch->rows[t].gone ? likeliest(p, t) : NONE;
    return CLAW_OK;
}

void claw_plan_preempt(claw_plan *p, uint32_t on) { __atomic_store_n(&p->preempted, on, __ATOMIC_RELEASE); }

claw_plan *claw_plan_new(const claw_spec *spec, const claw_step *steps, uint32_t n, int32_t *code, uint32_t *bad)
{
    const claw_ops *ops = spec->ops ? spec->ops : claw_ops_named(spec->isa);
    *bad = 0;
    *code = CLAW_BAD_PLAN;
    if (!ops || !n || n > CLAW_MAX_STEPS || !spec->context || spec->context > CLAW_MAX_CONTEXT || !spec->chunk
        || spec->chunk > CLAW_MAX_CHUNK || !spec->threads || spec->threads > CLAW_MAX_THREADS || !spec->vocabulary
        || spec->vocabulary > CLAW_MAX_ROWS || !spec->sequences || spec->sequences > CLAW_MAX_SEQUENCES
        || spec->batches > CLAW_MAX_BATCHES)
        return NULL;
    const uint64_t scratch_bytes = claw_scratch_bytes(steps, n, spec->chunk, spec->threads);
    for (uint32_t i = 0; i < n; i++)
        if ((*code = step_check(spec, steps, i, scratch_bytes))) {
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
        *code = team_start(&p->team, spec->threads, (team_calls){work, next_step, units_of, ahead, p, begin}) ? CLAW_NO_THREAD : CLAW_OK;
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
