/* One step of a plan: how many units of work it has, and how to run some of them.
 *
 * Reads and writes stay inside of what check.c has checked. Activations of shape (tokens, width)
 * are f32 views, or quantized: codes, then scales, then scaled sums, for `chunk` tokens. Views of a
 * hostile plan may overlap in any way: copies are memmove. */
#include <string.h>

#include "plan.h"

static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t up_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

static float *at(const claw_plan *p, const claw_view *v, uint32_t t)
{
    if (v->base == CLAW_IN_OUT && p->batch) return p->batch->rows[t].out;
    uint8_t *base = v->base == CLAW_IN_OUT ? (uint8_t *)p->out : p->arena + v->offset;
    return (float *)(void *)base + (size_t)t * v->stride;
}

static void *mine(const claw_plan *p, uint32_t thread, size_t part)
{
    return p->spec.work + thread * p->layout.total + part;
}

/* Where the quantized activations of row t lie. */
typedef struct {
    int8_t *q;
    float *d, *s;
} q8;

static q8 q8_at(const claw_plan *p, uint64_t offset, uint32_t k, uint32_t t)
{
    const size_t chunk = p->spec.chunk, groups = k / CLAW_GROUP;
    uint8_t *base = p->arena + offset;
    float *d = (float *)(void *)(base + chunk * k);
    return (q8){(int8_t *)base + (size_t)t * k, d + t * groups, d + (chunk + t) * groups};
}

static const float *constant(const claw_plan *p, uint64_t offset)
{
    return (const float *)(const void *)(p->spec.weights + offset);
}

static uint32_t count_of(const claw_plan *p, const claw_step *s) { return s->flags & CLAW_ROWS ? p->rows : p->count; }

int step_skipped(const claw_plan *p, const claw_step *s)
{
    const uint32_t n = count_of(p, s);
    return !n || (n == 1 && s->flags & CLAW_FOLDED);
}

/* ---- embedding, normalisation, element by element: a unit is a token ---- */

static void run_embed(claw_plan *p, const claw_step *s, uint32_t t)
{
    const claw_ops *o = p->ops;
    void (*const row[CLAW_FORMATS])(const uint8_t *, int32_t, int32_t, float *) = {
        o->row_q4a, o->row_q4s, o->row_q8a, o->row_q8s, o->row_f16, o->row_bf16, o->row_f32};
    const uint32_t id = (uint32_t)row_token(p, t);
    const uint8_t *w = p->spec.weights + s->weight + (size_t)(id / 8) * claw_block_bytes(s->format, s->k);
    float *y = at(p, &s->y, t);
    row[s->format](w, (int32_t)s->k, (int32_t)(id % 8), y);
    if (s->scale != 1.0f)
        for (uint32_t i = 0; i < s->k; i++) y[i] *= s->scale;
}

static void run_head_norm(claw_plan *p, const claw_step *s, uint32_t t)
{
    const float *x = at(p, &s->a, t);
    float *y = at(p, &s->y, t);
    for (uint32_t h = 0; h < s->heads; h++, x += s->head_dim, y += s->head_dim)
        p->ops->rmsnorm(x, constant(p, s->weight), (int32_t)s->head_dim, s->eps, y);
}

/* A unit is SOFTCAP_COLUMNS of a row: rows may be as long as a vocabulary. */
#define SOFTCAP_COLUMNS 4096u

static void run_softcap(claw_plan *p, const claw_step *s, uint32_t unit)
{
    const uint32_t parts = up_div(s->k, SOFTCAP_COLUMNS), t = unit / parts, first = unit % parts * SOFTCAP_COLUMNS;
    if (row_gone(p, t)) return;
    const float *x = at(p, &s->a, t) + first;
    p->ops->softcap_f32(x, (int32_t)min_u32(SOFTCAP_COLUMNS, s->k - first), s->cap, at(p, &s->y, t) + first);
}

/* x to normalised f32 in y (may be x's copy) and on to q8 if wanted. */
static void run_norm(claw_plan *p, const claw_step *s, uint32_t t, uint32_t thread)
{
    const float *x = at(p, &s->a, t);
    if (s->code == CLAW_NORM) {
        float *y = s->flags & CLAW_TO_F32 ? at(p, &s->y, t) : mine(p, thread, p->layout.norm);
        p->ops->rmsnorm(x, constant(p, s->weight), (int32_t)s->k, s->eps, y);
        x = y;
    }
    if (s->flags & CLAW_TO_Q8) {
        q8 a = q8_at(p, s->q8, s->k, t);
        p->ops->quantize_q8(x, (int32_t)s->k, a.q, a.d, a.s);
    }
}

static void rotate(const claw_plan *p, const claw_step *s, const float *x, uint32_t position, float *y)
{
    const size_t row = s->flags & CLAW_INTERLEAVED ? 2 * (size_t)s->rot_dim : s->rot_dim;
    const float *table = (const float *)(const void *)(p->spec.tables + s->extra) + position * row;
    if (s->flags & CLAW_INTERLEAVED) p->ops->rope_interleaved(x, table, (int32_t)s->head_dim, (int32_t)s->rot_dim, y);
    else p->ops->rope_split(x, table, (int32_t)s->head_dim, (int32_t)s->rot_dim, y);
}

static void run_rope(claw_plan *p, const claw_step *s, uint32_t t)
{
    const float *x = at(p, &s->a, t);
    float *y = at(p, &s->y, t);
    for (uint32_t h = 0; h < s->heads; h++) rotate(p, s, x + h * s->head_dim, row_position(p, t), y + h * s->head_dim);
}

/* ---- KV: units are (token, head), query heads first ---- */

/* Keys or values of a head of row t in the first block of 64 positions; the next one is kv_block away. */
static uint8_t *cache_of(const claw_plan *p, const claw_step *s, uint32_t t, uint32_t head, int values)
{
    return row_kv(p, t) + s->cache + ((values ? s->kv_heads : 0) + head) * head_cache_bytes(s);
}

static uint16_t *halves(uint8_t *cache) { return (uint16_t *)(void *)cache; }
static int64_t stride_halves(const claw_plan *p) { return (int64_t)(p->spec.kv_block / sizeof(uint16_t)); }

static void run_kv(claw_plan *p, const claw_step *s, uint32_t unit)
{
    const uint32_t queries = s->flags & CLAW_ROPE_Q ? s->heads : 0, per = queries + s->kv_heads;
    const uint32_t t = unit / per, h = unit % per, position = row_position(p, t);
    float turned[CLAW_MAX_HEAD_DIM];
    if (row_gone(p, t)) return;
    if (h < queries) {
        float *q = at(p, &s->a, t) + h * s->head_dim;
        rotate(p, s, q, position, q);
        return;
    }
    const float *key = at(p, &s->b, t) + (h - queries) * s->head_dim;
    const float *value = at(p, &s->c, t) + (h - queries) * s->head_dim;
    if (s->flags & CLAW_ROPE_K) {
        rotate(p, s, key, position, turned);
        key = turned;
    }
    const int32_t hd = (int32_t)s->head_dim, to = (int32_t)position;
    uint8_t *k = cache_of(p, s, t, h - queries, 0), *v = cache_of(p, s, t, h - queries, 1);
    if (s->flags & CLAW_KV_Q8) p->ops->kv_append_q8(key, value, hd, to, (int64_t)p->spec.kv_block, k, v);
    else p->ops->kv_append(key, value, hd, to, stride_halves(p), halves(k), halves(v));
}

/* ---- attention: units are (block of tokens, subgroup of heads) ---- */

/* Queries [rows][head_dim] of a KV head that row t0 belongs to; each sees the positions first..limit - 1. */
static void attend(claw_plan *p, const claw_step *s, uint32_t t0, uint32_t kv, const float *query, uint32_t rows, const int32_t *first,
                   const int32_t *limit, float *work, float *y)
{
    const int32_t n = (int32_t)rows, hd = (int32_t)s->head_dim;
    const uint8_t *k = cache_of(p, s, t0, kv, 0), *v = cache_of(p, s, t0, kv, 1);
    const uint16_t *kh = (const uint16_t *)(const void *)k, *vh = (const uint16_t *)(const void *)v;
    if (s->flags & CLAW_KV_Q8)
        p->ops->attention_q8(query, n, hd, s->scale, s->cap, first, limit, (int64_t)p->spec.kv_block, k, v, work, y);
    else if (s->window || s->cap != 0.0f)
        p->ops->attention_window_f16(query, n, hd, s->scale, s->cap, first, limit, stride_halves(p), kh, vh, work, y);
    else
        p->ops->attention_f16(query, n, hd, s->scale, limit, stride_halves(p), kh, vh, work, y);
}

static uint32_t first_seen(const claw_step *s, uint32_t end) { return s->window && s->window < end ? end - s->window : 0; }

/* Rows of a batch lie far apart: a row's units ask, each for its part, for what the next row begins with. */
static void ask_row(const claw_plan *p, const claw_step *s, uint32_t t, uint32_t unit, uint32_t units)
{
    if (!p->batch || t >= p->count || row_gone(p, t)) return;
    const uint32_t end = row_position(p, t) + 1, block = first_seen(s, end) / CLAW_POSITIONS;
    const uint8_t *keys = cache_of(p, s, t, 0, 0) + block * p->spec.kv_block, *values = cache_of(p, s, t, 0, 1) + block * p->spec.kv_block;
    const size_t bytes = head_cache_bytes(s) * min_u32(end - block * CLAW_POSITIONS, CLAW_POSITIONS) / CLAW_POSITIONS;
    for (size_t i = bytes * unit / units; i < bytes * (unit + 1) / units; i += 64) {
        __builtin_prefetch(keys + i, 0, 2);
        __builtin_prefetch(values + i, 0, 2);
    }
}

static void run_attend(claw_plan *p, const claw_step *s, uint32_t unit, uint32_t thread)
{
    const uint32_t group = s->heads / s->kv_heads, take = attend_heads(s), subs = up_div(group, take);
    const uint32_t sub = unit % (s->kv_heads * subs), t0 = unit / (s->kv_heads * subs) * attend_tokens(p, s);
    const uint32_t kv = sub / subs, h0 = kv * group + sub % subs * take;
    const uint32_t heads = min_u32(take, (kv + 1) * group - h0), tokens = min_u32(attend_tokens(p, s), p->count - t0);
    const size_t hd = s->head_dim;
    float *query = mine(p, thread, p->layout.query), *y = mine(p, thread, p->layout.attend);
    int32_t *limit = mine(p, thread, p->layout.limit), *first = limit + CLAW_ATTENTION_ROWS;
    ask_row(p, s, t0 + 1, sub, s->kv_heads * subs);
    if (row_gone(p, t0)) return;
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t h = 0; h < heads; h++) {
            memmove(query + (t * heads + h) * hd, at(p, &s->a, t0 + t) + (h0 + h) * hd, hd * sizeof *query);
            const uint32_t end = row_position(p, t0 + t) + 1;
            limit[t * heads + h] = (int32_t)end;
            first[t * heads + h] = (int32_t)first_seen(s, end);
        }
    attend(p, s, t0, kv, query, tokens * heads, first, limit, mine(p, thread, p->layout.work), y);
    for (uint32_t t = 0; t < tokens; t++) {
        const float *row = y + (size_t)t * heads * hd;
        if (s->flags & CLAW_TO_F32) memmove(at(p, &s->y, t0 + t) + h0 * hd, row, heads * hd * sizeof *row);
        if (s->flags & CLAW_TO_Q8) {
            q8 a = q8_at(p, s->q8, s->heads * s->head_dim, t0 + t);
            const size_t g = h0 * hd / CLAW_GROUP;
            p->ops->quantize_q8(row, (int32_t)(heads * hd), a.q + h0 * hd, a.d + g, a.s + g);
        }
    }
}

/* ---- matrix products: a unit is a panel of 16 rows, or 4 panels if gated (32 outputs) or long ---- */

#define RUN_BLOCKS 8u
#define LONG_ROWS 8192u

/* Of few tokens and many rows (logits): what is made of the activations for each call (few.c) then serves more rows. A
 * tile has room for a panel of all tokens of a chunk. */
static int is_long(const claw_plan *p, const claw_step *s)
{
    const uint32_t n = count_of(p, s);
    return claw_is_int(s->format) && !(s->flags & CLAW_SILU) && s->rows >= LONG_ROWS && n > 1 && n * (RUN_BLOCKS / 2) <= p->spec.chunk;
}

static uint32_t unit_blocks(const claw_plan *p, const claw_step *s) { return s->flags & CLAW_SILU || is_long(p, s) ? RUN_BLOCKS : 2; }

/* n finished sums of one token, from output column `column` on, go where the step wants them. */
static void finish(claw_plan *p, const claw_step *s, uint32_t t, uint32_t column, uint32_t n, float *sums)
{
    if (column >= s->rows) return;
    n = min_u32(n, s->rows - column);
    if (s->flags & CLAW_BIAS) p->ops->add(sums, constant(p, s->extra) + column, (int32_t)n, sums);
    if (s->flags & CLAW_PLUS) {
        const float *b = at(p, &s->b, t) + column;
        float *y = at(p, &s->y, t) + column;
        for (uint32_t i = 0; i < n; i++) y[i] = sums[i] + b[i]; /* so few that a call would cost more */
    } else memmove(at(p, &s->y, t) + column, sums, n * sizeof *sums);
}

/* The same for all tokens of a tile. Whole panels without a bias are most of a model's: done here, in line. */
static void finish_tile(claw_plan *p, const claw_step *s, uint32_t column, uint32_t n, float *tile, uint32_t stride)
{
    const uint32_t count = count_of(p, s);
    if (n != CLAW_PANEL || stride != CLAW_PANEL || column + n > s->rows || (s->flags & (CLAW_PLUS | CLAW_BIAS)) != CLAW_PLUS || s->y.base != CLAW_IN_ARENA
        || s->b.base != CLAW_IN_ARENA) {
        for (uint32_t t = 0; t < count; t++) finish(p, s, t, column, n, tile + (size_t)t * stride);
        return;
    }
    const float *b = at(p, &s->b, 0) + column;
    float *y = at(p, &s->y, 0) + column;
    for (uint32_t t = 0; t < count; t++, tile += CLAW_PANEL, b += s->b.stride, y += s->y.stride) {
        /* b may be y: read before it is written. */
        float sums[CLAW_PANEL];
        memcpy(sums, b, sizeof sums);
        for (uint32_t i = 0; i < CLAW_PANEL; i++) sums[i] = tile[i] + sums[i];
        memcpy(y, sums, sizeof sums);
    }
}

static void finish_gated(claw_plan *p, const claw_step *s, uint32_t t, uint32_t column, uint32_t n, const float *y)
{
    if (column >= s->rows || row_gone(p, t)) return;
    n = min_u32(n, s->rows - column);
    if (s->flags & CLAW_TO_F32) memmove(at(p, &s->y, t) + column, y, n * sizeof *y);
    if (s->flags & CLAW_TO_Q8) {
        q8 a = q8_at(p, s->q8, s->rows, t);
        p->ops->quantize_q8(y, (int32_t)n, a.q + column, a.d + column / CLAW_GROUP, a.s + column / CLAW_GROUP);
    }
}

static void gemv(claw_plan *p, const claw_step *s, const uint8_t *w, uint32_t blocks, const q8 *a, const float *x, float *y)
{
    const claw_ops *o = p->ops;
    const int32_t n = (int32_t)blocks, k = (int32_t)s->k;
    switch (s->format) {
    case CLAW_Q4A: o->gemv_q4a(w, n, k, a->q, a->d, a->s, y); break;
    case CLAW_Q4S: o->gemv_q4s(w, n, k, a->q, a->d, a->s, y); break;
    case CLAW_Q8A: o->gemv_q8a(w, n, k, a->q, a->d, a->s, y); break;
    case CLAW_Q8S: o->gemv_q8s(w, n, k, a->q, a->d, a->s, y); break;
    case CLAW_F16: o->gemv_f16(w, n, k, x, y); break;
    case CLAW_BF16: o->gemv_bf16(w, n, k, x, y); break;
    default: o->gemv_f32(w, n, k, x, y);
    }
}

static void gemm(claw_plan *p, const claw_step *s, const uint8_t *w, uint32_t blocks, const q8 *a, const float *x,
                 uint32_t tokens, uint8_t *work, float *y, uint32_t stride)
{
    const claw_ops *o = p->ops;
    const int32_t n = (int32_t)blocks, k = (int32_t)s->k, m = (int32_t)tokens, xs = (int32_t)s->a.stride, ys = (int32_t)stride;
    switch (s->format) {
    case CLAW_Q4A: o->gemm_q4a(w, n, k, a->q, a->d, a->s, m, work, y, ys); break;
    case CLAW_Q4S: o->gemm_q4s(w, n, k, a->q, a->d, a->s, m, work, y, ys); break;
    case CLAW_Q8A: o->gemm_q8a(w, n, k, a->q, a->d, a->s, m, work, y, ys); break;
    case CLAW_Q8S: o->gemm_q8s(w, n, k, a->q, a->d, a->s, m, work, y, ys); break;
    case CLAW_F16: o->gemm_f16(w, n, k, x, xs, m, y, ys); break;
    case CLAW_BF16: o->gemm_bf16(w, n, k, x, xs, m, y, ys); break;
    default: o->gemm_f32(w, n, k, x, xs, m, y, ys);
    }
}

/* The input of a product of one token: made here, once a thread (`fresh`), if its step was folded. */
static q8 input_of_one(claw_plan *p, const claw_step *s, uint32_t thread, int fresh)
{
    if (!s->folds) return q8_at(p, s->in_q8, s->k, 0);
    const claw_step *f = p->steps + s->folds - 1;
    const float *x = at(p, &f->a, 0);
    q8 a = {mine(p, thread, p->layout.q), mine(p, thread, p->layout.d), mine(p, thread, p->layout.s)};
    if (!fresh) return a;
    if (f->code == CLAW_NORM) {
        float *y = mine(p, thread, p->layout.norm);
        p->ops->rmsnorm(x, constant(p, f->weight), (int32_t)f->k, f->eps, y);
        x = y;
    }
    p->ops->quantize_q8(x, (int32_t)f->k, a.q, a.d, a.s);
    return a;
}

int step_notes(const claw_plan *p, const claw_step *s)
{
    return s == p->steps + p->n - 1 && s->code == CLAW_MATMUL && s->y.base == CLAW_IN_OUT && (p->batch || count_of(p, s) == 1)
        && !(s->flags & (CLAW_SILU | CLAW_PLUS));
}

best *step_bests(const claw_plan *p, uint32_t thread) { return mine(p, thread, p->layout.bests); }

/* n logits of row t, from `row` of the weights on: whoever wants the likeliest token need not read them all again. */
static void note(claw_plan *p, const claw_step *s, uint32_t t, uint32_t row, uint32_t n, uint32_t thread, const float *y)
{
    best *b = step_bests(p, thread) + t;
    float top;
    if (row >= s->rows) return;
    n = min_u32(n, s->rows - row);
    int nan = 0;
    for (uint32_t i = 0; i < n; i++) nan |= y[i] != y[i];
    if (nan) b->at = NOT_A_NUMBER;
    p->ops->max_of_f32(y, (int32_t)n, &top);
    if (b->at == NOT_A_NUMBER || top < b->value || (top == b->value && (int32_t)row > b->at)) return;
    uint32_t i = 0;
    while (i < n && y[i] != top) i++;
    if (i < n) *b = (best){top, (int32_t)(row + i)};
}

static void run_matmul_one(claw_plan *p, const claw_step *s, uint32_t first, uint32_t last, uint32_t thread, int fresh)
{
    const uint32_t blocks = matmul_blocks(s);
    const uint8_t *w = p->spec.weights + s->weight;
    const q8 a = claw_is_int(s->format) ? input_of_one(p, s, thread, fresh) : (q8){0};
    const float *x = claw_is_int(s->format) ? NULL : at(p, &s->a, 0);
    float y[RUN_BLOCKS * 8];
    const int notes = step_notes(p, s);
    const uint32_t end = min_u32(last * unit_blocks(p, s), blocks);
    for (uint32_t b = first * unit_blocks(p, s), n; b < end; b += n) {
        n = min_u32(RUN_BLOCKS, end - b);
        gemv(p, s, w + (size_t)b * claw_block_bytes(s->format, s->k), n, &a, x, y);
        if (s->flags & CLAW_SILU) {
            (s->flags & CLAW_GELU ? p->ops->gelu_mul_tile : p->ops->silu_mul_tile)(y, (int32_t)n / 2, y, 8);
            finish_gated(p, s, 0, b * 4, n * 4, y);
        } else {
            finish(p, s, 0, b * 8, n * 8, y);
            if (notes) note(p, s, 0, b * 8, n * 8, thread, y);
        }
    }
}

static void run_matmul_many(claw_plan *p, const claw_step *s, uint32_t unit, uint32_t thread)
{
    const uint32_t blocks = matmul_blocks(s), b0 = unit * unit_blocks(p, s);
    const uint32_t end = min_u32(b0 + unit_blocks(p, s), blocks);
    const uint32_t count = count_of(p, s), gated = s->flags & CLAW_SILU;
    const q8 a = claw_is_int(s->format) ? q8_at(p, s->in_q8, s->k, 0) : (q8){0};
    const float *x = claw_is_int(s->format) ? NULL : at(p, &s->a, 0);
    float *tile = mine(p, thread, p->layout.tile), *outs = mine(p, thread, p->layout.folded);
    const int straight = !(s->flags & (CLAW_SILU | CLAW_BIAS | CLAW_PLUS)) && s->y.base == CLAW_IN_ARENA;
    const uint32_t most = is_long(p, s) ? RUN_BLOCKS : 2;
    const int notes = step_notes(p, s);
    for (uint32_t b = b0, n; b < end; b += n) {
        n = min_u32(most, end - b);
        const int last = straight && (b + n) * 8 <= s->rows; /* nothing is left to do to its results */
        gemm(p, s, p->spec.weights + s->weight + (size_t)b * claw_block_bytes(s->format, s->k), n, &a, x, count,
             mine(p, thread, p->layout.gemm), last ? at(p, &s->y, 0) + b * 8 : tile, last ? s->y.stride : most * 8);
        if (last) continue;
        if (gated) (s->flags & CLAW_GELU ? p->ops->gelu_mul_tile : p->ops->silu_mul_tile)(tile, (int32_t)count, outs + (b - b0) * 4, 32);
        else
            finish_tile(p, s, b * 8, n * 8, tile, most * 8);
        for (uint32_t t = 0; notes && t < count; t++) note(p, s, t, b * 8, n * 8, thread, tile + (size_t)t * most * 8);
    }
    for (uint32_t t = 0; gated && t < count; t++) finish_gated(p, s, t, b0 * 4, (end - b0) * 4, outs + (size_t)t * 32);
}

/* First as much as the product itself does not ask for, because it begins so far ahead of itself (gemv.c). Then,
 * if it reads one stream, what follows, for memory would be idle: up to a part of the second-level cache. */
#define AHEAD_PIECE 2048u
#define AHEAD_MOST (128u << 10)

int step_ahead(const claw_plan *p, const claw_step *s, uint32_t thread, uint32_t piece)
{
    const uint32_t units = up_div(matmul_blocks(s), unit_blocks(p, s)), active = team_active(&p->team);
    const size_t first = team_part(units, thread, active), last = team_part(units, thread + 1, active);
    const size_t block = claw_block_bytes(s->format, s->k);
    const uint8_t *w = p->spec.weights + s->weight + first * unit_blocks(p, s) * block;
    if (claw_streams(s->k) == 1) {
        const size_t part = (last - first) * unit_blocks(p, s) * block, most = part < AHEAD_MOST ? part : AHEAD_MOST;
        const size_t from = (size_t)piece * AHEAD_PIECE, to = from + AHEAD_PIECE < most ? from + AHEAD_PIECE : most;
        for (size_t at = from; at < to; at += 64) __builtin_prefetch(w + at, 0, 2);
        return to < most;
    }
    const size_t most = claw_tune.ahead / CLAW_STREAMS;
    for (size_t at = 0; at < (most < block ? most : block); at += 64)
        for (size_t b = 0; b < CLAW_STREAMS; b++) __builtin_prefetch(w + b * block + at, 0, 2);
    return 0;
}

/* ---- dispatch ---- */

uint32_t step_units(const claw_plan *p, const claw_step *s, uint32_t *grab)
{
    const uint32_t n = count_of(p, s), threads = team_active(&p->team);
    uint32_t units = n, per;
    switch (s->code) {
    case CLAW_MATMUL:
        *grab = 1;
        return up_div(matmul_blocks(s), unit_blocks(p, s));
    case CLAW_KV:
        per = (s->flags & CLAW_ROPE_Q ? s->heads : 0) + s->kv_heads;
        *grab = n < 2 * threads ? up_div(n * per, threads) : n < 16 ? per : per * 8;
        return n * per;
    case CLAW_ATTEND:
        *grab = 1;
        return up_div(n, attend_tokens(p, s)) * s->kv_heads * up_div(s->heads / s->kv_heads, attend_heads(s));
    case CLAW_SOFTCAP:
        *grab = 1;
        return n * up_div(s->k, SOFTCAP_COLUMNS);
    default:
        break;
    }
    *grab = units < 16 ? 1 : 8;
    return units;
}

/* t is a row, or a unit of KV, ATTEND and SOFTCAP, which find their rows themselves. */
static void run_token(claw_plan *p, const claw_step *s, uint32_t t, uint32_t thread)
{
    const int32_t k = (int32_t)s->k;
    if (s->code == CLAW_SOFTCAP) {
        run_softcap(p, s, t);
        return;
    }
    if (s->code != CLAW_KV && s->code != CLAW_ATTEND && row_gone(p, t)) return;
    switch (s->code) {
    case CLAW_EMBED: run_embed(p, s, t); break;
    case CLAW_NORM:
    case CLAW_QUANT: run_norm(p, s, t, thread); break;
    case CLAW_ROPE: run_rope(p, s, t); break;
    case CLAW_KV: run_kv(p, s, t); break;
    case CLAW_ATTEND: run_attend(p, s, t, thread); break;
    case CLAW_SILU_MUL: p->ops->silu_mul(at(p, &s->a, t), at(p, &s->b, t), k, at(p, &s->y, t)); break;
    case CLAW_GELU_MUL: p->ops->geglu_f32(at(p, &s->a, t), at(p, &s->b, t), k, at(p, &s->y, t)); break;
    case CLAW_HEAD_NORM: run_head_norm(p, s, t); break;
    case CLAW_ADD: p->ops->add(at(p, &s->a, t), at(p, &s->b, t), k, at(p, &s->y, t)); break;
    default: memmove(at(p, &s->y, t), at(p, &s->a, p->count - p->rows + t), s->k * sizeof(float));
    }
}

void step_run(claw_plan *p, const claw_step *s, uint32_t first, uint32_t last, uint32_t thread, int fresh)
{
    if (s->code == CLAW_MATMUL && count_of(p, s) == 1) {
        run_matmul_one(p, s, first, last, thread, fresh);
        return;
    }
    for (uint32_t u = first; u < last; u++)
        if (s->code == CLAW_MATMUL) run_matmul_many(p, s, u, thread);
        else run_token(p, s, u, thread);
}
