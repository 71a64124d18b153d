/* The executor's own view of a plan; steps.c runs one step, plan.c the sequence of them. */
#ifndef CLAW_PLAN_H
#define CLAW_PLAN_H
#include "../api.h"
#include "../layout.h"
#include "threads.h"

/* Scratch of one thread: offsets in bytes, from the largest sizes of all steps. */
typedef struct scratch {
    size_t norm, q, d, s;              /* one row: f32, int8, scales, sums */
    size_t gemm, tile, folded;         /* unpacked panel; its output; gated outputs of 4 panels */
    size_t query, limit, work, attend; /* attention: queries, limits and firsts, scratch, output */
    size_t bests;                      /* of each row that wants logits, see best */
    size_t total;
} scratch;

/* The largest of the logits of a row that a thread has computed, and where. */
enum { NOT_A_NUMBER = -2, NONE = -1 };
typedef struct best {
    float value;
    int32_t at; /* a row of the weights, NONE, or NOT_A_NUMBER if there was one */
} best;

struct claw_plan {
    team team;
    claw_spec spec;
    const claw_ops *ops;
    claw_step *steps;
    uint32_t n;
    scratch layout;
    uint32_t preempted; /* atomic: leave at the next step */
    /* The run that is on, and its chunk: set by the caller's thread while no unit is out. A row is a
     * token of the chunk, or of a batch that of one sequence; then `run` is NULL. */
    claw_run *run;
    claw_batch *batch; /* NULL if a run is on */
    uint8_t *kv;       /* of the run's sequence */
    uint8_t *arena;    /* of the run's sequence, or of the batch */
    claw_time *times;
    uint32_t *stamped;
    const int32_t *tokens;
    uint32_t count, rows; /* tokens, and how many of them (the last ones) want logits */
    float *out;
    uint32_t position;
    uint32_t complete; /* the chunk reached its last step */
    uint64_t stamp;    /* when the last step ended */
};

static inline int row_gone(const claw_plan *p, uint32_t t) { return p->batch && p->batch->rows[t].gone; }
static inline uint32_t row_position(const claw_plan *p, uint32_t t) { return p->batch ? p->batch->rows[t].position : p->position + t; }
static inline int32_t row_token(const claw_plan *p, uint32_t t) { return p->batch ? p->batch->rows[t].token : p->tokens[t]; }
static inline uint8_t *row_kv(const claw_plan *p, uint32_t t)
{
    return p->batch ? p->spec.kv + p->batch->rows[t].sequence * p->spec.kv_bytes : p->kv;
}

/* Units of work of a step for the current chunk, and how many a thread takes at once. */
uint32_t step_units(const claw_plan *p, const claw_step *s, uint32_t *grab);
/* fresh: the first call for this step on this thread. */
void step_run(claw_plan *p, const claw_step *s, uint32_t first, uint32_t last, uint32_t thread, int fresh);
int step_skipped(const claw_plan *p, const claw_step *s);
/* Asks for a piece of the weights with which a thread will begin a product of one token; 0: there is no more. */
int step_ahead(const claw_plan *p, const claw_step *s, uint32_t thread, uint32_t piece);
/* CLAW_OK, or CLAW_BAD_PLAN if the step reads or writes outside of the areas of the plan. */
int32_t step_check(const claw_spec *spec, const claw_step *steps, uint32_t i, uint64_t scratch_bytes);
/* Whether threads note the largest logits in a step: it is the last one, a product of one row or of a batch. */
int step_notes(const claw_plan *p, const claw_step *s);
/* What a thread has noted, a best for each row. */
best *step_bests(const claw_plan *p, uint32_t thread);
scratch scratch_layout(const claw_step *steps, uint32_t n, uint32_t chunk);

/* Bytes of the keys or values of one head in a block of positions. */
static inline uint64_t head_cache_bytes(const claw_step *s)
{
    return s->flags & CLAW_KV_Q8 ? CLAW_CACHE8_BYTES(s->head_dim) : (uint64_t)CLAW_POSITIONS * s->head_dim * sizeof(uint16_t);
}
/* Query heads that one attention call takes together, and tokens. */
static inline uint32_t attend_heads(const claw_step *s)
{
    const uint32_t group = s->heads / s->kv_heads;
    return group < 16 ? group : 16;
}
/* Rows of a batch have a cache each. */
static inline uint32_t attend_tokens(const claw_plan *p, const claw_step *s) { return p->batch ? 1 : CLAW_ATTENTION_ROWS / attend_heads(s); }
static inline uint32_t matmul_blocks(const claw_step *s) { return (s->rows + 7) / 8 * (s->flags & CLAW_SILU ? 2 : 1); }
/* Bytes of quantized activations of n tokens of width k: codes, scales, sums. */
static inline uint64_t q8_bytes(uint64_t n, uint64_t k) { return n * k + n * (k / CLAW_GROUP) * 8; }
#endif
