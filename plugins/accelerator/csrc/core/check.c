/* Bounds of a plan. The compiler in Python builds the steps; this file trusts none of them: every
 * extent that steps.c can reach is computed here, in 64 bits, from limited sizes, before any thread
 * sees the plan. What it does not promise is that the numbers mean anything. */
#include "plan.h"

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }
static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

scratch scratch_layout(const claw_step *steps, uint32_t n, uint32_t chunk)
{
    size_t k = 0, gemm = 0, hd = 0;
    for (uint32_t i = 0; i < n; i++) {
        const claw_step *s = steps + i;
        k = max_size(k, s->k);
        if (s->code == CLAW_MATMUL && claw_is_int(s->format)) gemm = max_size(gemm, CLAW_GEMM_SCRATCH(s->k));
        if (s->code == CLAW_ATTEND) hd = max_size(hd, s->head_dim);
    }
    const size_t rows = hd ? CLAW_ATTENTION_ROWS : 0, groups = k / CLAW_GROUP * sizeof(float);
    const size_t sizes[] = {k * sizeof(float), k, groups, groups, gemm, (size_t)chunk * CLAW_PANEL * sizeof(float),
                            (size_t)chunk * 32 * sizeof(float), rows * hd * sizeof(float), 2 * rows * sizeof(int32_t),
                            CLAW_ATTENTION8_SCRATCH(rows, hd) * sizeof(float), rows * hd * sizeof(float),
                            CLAW_MAX_SEQUENCES * sizeof(best)};
    scratch l;
    size_t *const parts[] = {&l.norm, &l.q, &l.d, &l.s, &l.gemm, &l.tile, &l.folded, &l.query, &l.limit, &l.work, &l.attend, &l.bests};
    l.total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *parts[i] = l.total;
        l.total += align64(sizes[i]);
    }
    l.total += 64; /* two threads never share a cache line */
    return l;
}

uint64_t claw_scratch_bytes(const claw_step *steps, uint32_t n, uint32_t chunk, uint32_t threads)
{
    return scratch_layout(steps, n, chunk).total * threads;
}

static int within(uint64_t offset, uint64_t bytes, uint64_t size, uint64_t alignment)
{
    return offset % alignment == 0 && bytes <= size && offset <= size - bytes;
}

/* Rows of `width` floats for a whole chunk. */
static int view_ok(const claw_spec *spec, const claw_step *s, const claw_view *v, uint64_t width)
{
    if (!width || width > v->stride || v->stride > CLAW_MAX_ROWS) return 0;
    if (v->base == CLAW_IN_OUT) return s->flags & CLAW_ROWS && v->stride == spec->vocabulary;
    const uint64_t bytes = ((uint64_t)(spec->chunk - 1) * v->stride + width) * sizeof(float);
    return v->base == CLAW_IN_ARENA && within(v->offset, bytes, spec->arena_bytes, sizeof(float));
}

static int q8_ok(const claw_spec *spec, uint64_t offset, uint64_t k)
{
    return k && k % CLAW_GROUP == 0 && k <= CLAW_MAX_WIDTH && within(offset, q8_bytes(spec->chunk, k), spec->arena_bytes, 64);
}

static int outputs_ok(const claw_spec *spec, const claw_step *s, uint64_t width)
{
    if (!(s->flags & (CLAW_TO_F32 | CLAW_TO_Q8))) return 0;
    if (s->flags & CLAW_TO_F32 && !view_ok(spec, s, &s->y, width)) return 0;
    return !(s->flags & CLAW_TO_Q8) || q8_ok(spec, s->q8, width);
}

static int weight_ok(const claw_spec *spec, uint64_t offset, uint64_t bytes) { return within(offset, bytes, spec->weights_bytes, 64); }

static int packed_ok(const claw_spec *spec, const claw_step *s, uint64_t blocks)
{
    if (s->format >= CLAW_FORMATS || !s->k || s->k > CLAW_MAX_WIDTH || !s->rows || s->rows > CLAW_MAX_ROWS) return 0;
    if (claw_is_int(s->format) && s->k % CLAW_GROUP) return 0;
    return weight_ok(spec, s->weight, blocks * claw_block_bytes(s->format, s->k));
}

static int heads_ok(const claw_step *s)
{
    return s->head_dim && s->head_dim <= CLAW_MAX_HEAD_DIM && s->head_dim % 8 == 0 && s->heads && s->heads <= 4096
        && s->kv_heads && s->kv_heads <= s->heads && s->heads % s->kv_heads == 0
        && (uint64_t)s->heads * s->head_dim <= CLAW_MAX_WIDTH;
}

static int table_ok(const claw_spec *spec, const claw_step *s)
{
    const uint64_t row = (s->flags & CLAW_INTERLEAVED ? 2 : 1) * (uint64_t)s->rot_dim;
    return s->rot_dim && s->rot_dim % 2 == 0 && s->rot_dim <= s->head_dim
        && within(s->extra, spec->context * row * sizeof(float), spec->tables_bytes, 64);
}

/* The layer's keys and values within one block of positions, and all blocks within the memory. */
static int cache_ok(const claw_spec *spec, const claw_step *s)
{
    const uint64_t bytes = head_cache_bytes(s) * s->kv_heads * 2;
    const uint64_t blocks = ((uint64_t)spec->context + CLAW_POSITIONS - 1) / CLAW_POSITIONS;
    return within(s->cache, bytes, spec->kv_block, 64) && spec->kv_block % 64 == 0 && spec->kv_block <= spec->kv_bytes / blocks;
}

static int matmul_ok(const claw_spec *spec, const claw_step *steps, uint32_t i)
{
    const claw_step *s = steps + i, *f = steps + s->folds - 1;
    if (!packed_ok(spec, s, matmul_blocks(s))) return 0;
    /* Its input is read from row to row, and the logits of a batch do not lie so. */
    if (claw_is_int(s->format) ? !q8_ok(spec, s->in_q8, s->k) : s->a.base != CLAW_IN_ARENA || !view_ok(spec, s, &s->a, s->k))
        return 0;
    if (s->folds && (s->folds > i || !(f->flags & CLAW_FOLDED) || f->k != s->k || (f->flags ^ s->flags) & CLAW_ROWS || !claw_is_int(s->format))) return 0;
    if (s->flags & CLAW_BIAS && !weight_ok(spec, s->extra, (uint64_t)s->rows * sizeof(float))) return 0;
    if (s->flags & CLAW_PLUS && !view_ok(spec, s, &s->b, s->rows)) return 0;
    if (s->flags & CLAW_SILU) return !(s->flags & (CLAW_BIAS | CLAW_PLUS)) && outputs_ok(spec, s, s->rows);
    return s->flags & CLAW_TO_F32 && !(s->flags & CLAW_TO_Q8) && view_ok(spec, s, &s->y, s->rows);
}

static int step_ok(const claw_spec *spec, const claw_step *steps, uint32_t i)
{
    const claw_step *s = steps + i;
    const uint64_t width = (uint64_t)s->heads * s->head_dim, kv_width = (uint64_t)s->kv_heads * s->head_dim;
    if (s->flags & CLAW_FOLDED && (s->flags & CLAW_TO_F32 || (s->code != CLAW_NORM && s->code != CLAW_QUANT))) return 0;
    switch (s->code) {
    case CLAW_EMBED:
        return !(s->flags & CLAW_ROWS) && s->rows == spec->vocabulary && packed_ok(spec, s, ((uint64_t)s->rows + 7) / 8)
            && view_ok(spec, s, &s->y, s->k);
    case CLAW_NORM:
        return s->k <= CLAW_MAX_WIDTH && view_ok(spec, s, &s->a, s->k) && outputs_ok(spec, s, s->k)
            && weight_ok(spec, s->weight, (uint64_t)s->k * sizeof(float));
    case CLAW_QUANT:
        return view_ok(spec, s, &s->a, s->k) && s->flags & CLAW_TO_Q8 && q8_ok(spec, s->q8, s->k);
    case CLAW_MATMUL:
        return matmul_ok(spec, steps, i);
    case CLAW_ROPE:
        return !(s->flags & CLAW_ROWS) && heads_ok(s) && table_ok(spec, s) && view_ok(spec, s, &s->a, width)
            && view_ok(spec, s, &s->y, width);
    case CLAW_KV:
        return !(s->flags & CLAW_ROWS) && heads_ok(s) && cache_ok(spec, s)
            && (!(s->flags & (CLAW_ROPE_Q | CLAW_ROPE_K)) || table_ok(spec, s)) && view_ok(spec, s, &s->a, width)
            && view_ok(spec, s, &s->b, kv_width) && view_ok(spec, s, &s->c, kv_width);
    case CLAW_ATTEND:
        return !(s->flags & CLAW_ROWS) && heads_ok(s) && cache_ok(spec, s) && view_ok(spec, s, &s->a, width)
            && outputs_ok(spec, s, width) && (!(s->flags & CLAW_TO_Q8) || s->head_dim % CLAW_GROUP == 0);
    case CLAW_HEAD_NORM:
        return !(s->flags & CLAW_ROWS) && heads_ok(s) && view_ok(spec, s, &s->a, width) && view_ok(spec, s, &s->y, width)
            && weight_ok(spec, s->weight, (uint64_t)s->head_dim * sizeof(float));
    case CLAW_SOFTCAP:
        return s->k <= CLAW_MAX_ROWS && view_ok(spec, s, &s->a, s->k) && view_ok(spec, s, &s->y, s->k);
    case CLAW_SILU_MUL:
    case CLAW_GELU_MUL:
    case CLAW_ADD:
        return s->k <= CLAW_MAX_WIDTH && view_ok(spec, s, &s->a, s->k) && view_ok(spec, s, &s->b, s->k)
            && view_ok(spec, s, &s->y, s->k);
    case CLAW_LAST: /* reads a row for each token, writes the wanted ones */
        return s->flags & CLAW_ROWS && s->k <= CLAW_MAX_WIDTH && s->a.base == CLAW_IN_ARENA
            && view_ok(spec, s, &s->a, s->k) && view_ok(spec, s, &s->y, s->k);
    default:
        return 0;
    }
}

int32_t step_check(const claw_spec *spec, const claw_step *steps, uint32_t i, uint64_t scratch_bytes)
{
    const uintptr_t starts = (uintptr_t)spec->arena | (uintptr_t)spec->weights | (uintptr_t)spec->kv
        | (uintptr_t)spec->tables | (uintptr_t)spec->work;
    if ((starts | spec->arena_bytes | spec->kv_bytes) % 64 || scratch_bytes > spec->work_bytes) return CLAW_BAD_PLAN;
    return step_ok(spec, steps, i) ? CLAW_OK : CLAW_BAD_PLAN;
}
