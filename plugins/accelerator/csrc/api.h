/* The C interface of the library. The part between the two marks is also what Python sees: cffi
 * reads it as is, so it holds plain declarations only. */
#ifndef CLAW_API_H
#define CLAW_API_H
#include <stddef.h>
#include <stdint.h>

#include "bounds.h"

#define CLAW_OP(family, name, dtype, tolerance, args) void(*name) args;
#define CLAW_DOT CLAW_OP
typedef struct claw_ops {
    const char *isa;
#include "ops.def"
} claw_ops;
#undef CLAW_OP

/* BEGIN CDEF */
/* What a step computes. a, b, c, y are its views; see plan.c for each. */
enum {
    CLAW_EMBED, CLAW_NORM, CLAW_QUANT, CLAW_MATMUL, CLAW_ROPE, CLAW_KV, CLAW_ATTEND,
    CLAW_SILU_MUL, CLAW_ADD, CLAW_LAST, CLAW_HEAD_NORM, CLAW_GELU_MUL, CLAW_SOFTCAP, CLAW_CODES
};

enum {
    CLAW_ROWS = 1,         /* works on the rows whose logits were asked for, not on all tokens */
    CLAW_TO_F32 = 2,       /* writes y */
    CLAW_TO_Q8 = 4,        /* writes quantized activations at q8 */
    CLAW_FOLDED = 8,       /* skipped for a single token: its readers compute it for themselves */
    CLAW_PLUS = 16,        /* MATMUL: y = b + product */
    CLAW_SILU = 32,        /* MATMUL: blocks alternate gate, up; y = silu(gate) * up */
    CLAW_BIAS = 64,        /* MATMUL: extra is a bias of `rows` floats */
    CLAW_ROPE_Q = 128,     /* KV: a is rotated in place */
    CLAW_ROPE_K = 256,     /* KV: b is rotated on its way to the cache */
    CLAW_INTERLEAVED = 512, /* ROPE, KV: pairs are neighbours */
    CLAW_GELU = 1024,       /* with SILU: gelu(gate) * up, in its place */
    CLAW_KV_Q8 = 2048       /* KV, ATTEND: the layer's cache is int8 with scales, not f16 */
};

enum { CLAW_IN_ARENA, CLAW_IN_OUT };

enum {
    CLAW_OK = 0, CLAW_LEFT = 1, CLAW_BAD_TOKEN = -1, CLAW_NO_ROOM = -2, CLAW_BAD_PLAN = -3,
    CLAW_NO_MEMORY = -4, CLAW_NO_THREAD = -5
};

/* Activations of shape (tokens, width), f32: byte offset of the first, elements from row to row. */
typedef struct claw_view {
    uint64_t offset;
    uint32_t base;
    uint32_t stride;
} claw_view;

typedef struct claw_step {
    uint32_t code, flags, format;
    uint32_t rows, k;
    uint32_t heads, kv_heads, head_dim, rot_dim;
    uint32_t folds; /* MATMUL: 1 + the index of the folded step that makes its input, or 0 */
    uint32_t window; /* ATTEND: positions that each row sees, itself included; 0: all */
    float eps, scale;
    float cap; /* SOFTCAP, ATTEND: of the scores; 0: none */
    claw_view a, b, c, y;
    uint64_t in_q8;  /* in the arena: int8 codes of `chunk` tokens, then scales, then sums: MATMUL's input */
    uint64_t q8;     /* the same, as output */
    uint64_t weight; /* in the weights: packed matrix, table or gain */
    uint64_t extra;  /* in the weights: bias; ROPE, KV: in the tables */
    uint64_t cache;  /* in each block of the KV memory: the layer's keys, then its values */
} claw_step;

typedef struct claw_spec {
    const char *isa;
    const uint8_t *weights, *tables; /* read only: weights may be shared with other processes */
    uint8_t *kv, *arena, *work;      /* of all sequences, one after the other, the batches' arenas last; work: of all threads */
    uint64_t weights_bytes, tables_bytes, work_bytes;
    uint64_t kv_bytes, arena_bytes; /* of one sequence */
    uint64_t kv_block; /* bytes of 64 positions of all layers: memory fills as the sequence grows */
    uint32_t context, chunk, threads, vocabulary, sequences;
    uint32_t batches; /* arenas for joint steps */
    const claw_ops *ops; /* runs instead of those of isa, if not NULL; outlives the plan */
} claw_spec;

typedef struct claw_time {
    uint32_t step;
    uint32_t tokens;
    uint64_t ns;
} claw_time;

/* Tokens on their way into a sequence. A run that was left goes on where it was: nothing that it has
 * computed lies in memory that another sequence writes to. */
typedef struct claw_run {
    const uint32_t *control; /* low byte: wire.GO and its neighbours; second: threads; may be NULL */
    const int32_t *tokens;
    float *out; /* n (all) or 1 rows of `vocabulary` floats */
    claw_time *times; /* ring of CLAW_TIMES stamps */
    uint32_t sequence;
    uint32_t position; /* tokens in its cache: grows with each chunk */
    uint32_t n, all;
    uint32_t done;    /* of n */
    uint32_t chunk;   /* tokens of the next chunk at most: follows what steps take */
    uint32_t count;   /* tokens of the chunk that runs */
    uint32_t step;    /* of this chunk the next one; 0: it has not begun */
    uint32_t stamped; /* stamps since `done` was 0 */
    int32_t likeliest; /* where the largest of one row of logits is, the first of equals; -1: not known */
    uint64_t longest; /* nanoseconds of the longest step of this chunk */
} claw_run;

/* One sequence's token in a joint step. */
typedef struct claw_row {
    const uint32_t *control; /* as of claw_run */
    float *out;              /* `vocabulary` floats */
    uint32_t sequence, position;
    int32_t token;
    uint32_t gone;     /* STOP or HOLD took it out: its token is not appended */
    int32_t likeliest; /* as of claw_run */
} claw_row;

/* A step of several sequences, a token each; each gets the bits that it would get alone. */
typedef struct claw_batch {
    claw_row *rows; /* of different sequences */
    claw_time *times;
    uint32_t n;
    uint32_t arena;   /* which of `batches` holds its activations */
    uint32_t step;    /* the next one; 0: it has not begun */
    uint32_t stamped; /* stamps since it began */
} claw_batch;

typedef struct claw_plan claw_plan;

/* Bytes of scratch that the executor needs in the arena, for all threads. */
uint64_t claw_scratch_bytes(const claw_step *steps, uint32_t n, uint32_t chunk, uint32_t threads);
/* Checks every extent, copies the steps and starts the threads. On failure NULL, and *code says why,
 * *bad which step. */
claw_plan *claw_plan_new(const claw_spec *spec, const claw_step *steps, uint32_t n, int32_t *code, uint32_t *bad);
void claw_plan_free(claw_plan *plan);
/* Goes on with a run until its tokens are in (CLAW_OK), or leaves between two steps (CLAW_LEFT): its
 * control word says STOP or HOLD, or claw_plan_preempt said so. One caller at a time. */
int32_t claw_plan_run(claw_plan *plan, claw_run *run);
/* The same for a token of each row of a batch. A row whose control word says STOP is taken out, as is
 * one that says HOLD while others go on; if all that are left say HOLD, it leaves. */
int32_t claw_plan_decode(claw_plan *plan, claw_batch *batch);
/* From any thread: 1 has every run leave after its next step; 0 ends that. */
void claw_plan_preempt(claw_plan *plan, uint32_t on);

/* Packs a matrix of a GGUF type into R8k4 or float blocks; block i goes to first + i * step. */
int32_t claw_pack(uint32_t format, uint32_t dtype, uint32_t rows, uint32_t k, const uint8_t *src, uint64_t src_bytes,
                  uint8_t *dst, uint64_t dst_bytes, uint32_t first, uint32_t step);
uint64_t claw_packed_bytes(uint32_t format, uint32_t rows, uint32_t k);

/* y = x * w^T outside of a plan, m rows of k by n rows of k; n a multiple of 16. With `a` set (bytes
 * 0..255) w is of pack_s8 and `sums` are exact; else w is packed in `format` (q4a or q4s) and x is
 * quantized in each run. */
typedef struct claw_product {
    const uint8_t *w, *a;
    const float *x;
    int32_t *sums;
    float *y;
    uint32_t format;
    int32_t m, k, n;
} claw_product;
/* Runs it `rounds` times on a team of threads and writes the nanoseconds of each. */
int32_t claw_product_run(const claw_ops *ops, const claw_product *product, uint32_t threads, uint32_t rounds, uint64_t *ns);

/* The ops of an instruction set ("scalar", "avx2", "neon", ...; NULL = the best here), NULL if it cannot run. */
const claw_ops *claw_ops_named(const char *isa);

/* What a machine's profile chooses: hints, on which no result depends. Written before the first plan
 * is made, never later. */
typedef struct claw_tuning {
    uint32_t ahead;     /* bytes that the integer products of one token ask for ahead of themselves */
    uint32_t tile;      /* tokens of a tile of the integer products of many, 1..CLAW_MAX_TILE */
    uint32_t streams;   /* of weights that they read side by side: 1 (rows of some length only), or any other number for CLAW_STREAMS */
    uint32_t one, many; /* threads that one token, many tokens run on at most; 0: all */
} claw_tuning;
extern claw_tuning claw_tune;
/* In `into`, the ops of a family become those of `from`; returns how many these are. */
uint32_t claw_ops_take(claw_ops *into, const char *family, const claw_ops *from);

/* A row of ops.def. dots: built on sums of products of bytes (CLAW_DOT). */
typedef struct claw_op_row {
    const char *family, *name, *dtype;
    double tolerance;
    int32_t dots;
} claw_op_row;
const claw_op_row *claw_op_rows(uint32_t *n);
/* Loops that reach the ceilings of a processor (roofline.c); each result depends on all of its work. */
typedef struct claw_roof {
    /* way: less than CLAW_READS; bytes: a multiple of 1024. */
    uint64_t (*read)(uint32_t way, const uint8_t *p, uint64_t bytes);
    float (*fma)(uint64_t rounds);
    int32_t (*dot)(uint64_t rounds);
    uint32_t flops, int_ops; /* of a round of fma and of dot: a multiply and an add are two */
} claw_roof;
void claw_roofline(const char *isa, claw_roof *roof);
/* END CDEF */

/* Blocks of rows of k elements that a product of one token reads side by side. */
static inline uint32_t claw_streams(uint32_t k)
{
    return claw_tune.streams == 1 && k >= CLAW_ONE_LEAST && k <= CLAW_ONE_MOST ? 1 : CLAW_STREAMS;
}
#endif
