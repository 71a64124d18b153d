/* Plain int8 products, exact in int32: y = sum of (a - zero) * w. Layout of w: pack_s8 in ops.def.
 *
 * Where the target has sums of four byte products (VNNI, dot-product), a step is one of them. Where it
 * has not, products of 8-bit codes of any value cannot be added in 16 bits without overflow, so bytes
 * are widened, and half of the multiplications are then saved by Winograd's inner product (1968):
 *   a0 w0 + a1 w1 = (a0 + w1)(a1 + w0) - a0 a1 - w0 w1
 * The last two sums depend on the token alone and on the row alone. One step of 8 rows x 4 k is two
 * 16-bit additions, one multiplication of pairs and one 32-bit addition. Sums are modulo 2^32, so the
 * result is exact whenever it fits int32 (k below 65536).
 *
 * Where bytes without a sign can be multiplied with bytes that have one (AVX2), many tokens take three
 * instructions a step in place of four: see many8. */

/* k are worked on in chunks: 16 rows (widened) and a few tokens then fit the first-level cache. */
#define CHUNK8 CLAW_GEMM8_CHUNK
#define TOKEN_BYTES (2 * CHUNK8) /* of a token's chunk in the scratch */

static inline size_t block8_bytes(int32_t k) { return (size_t)((k + 3) / 4) * 32 + 32; }

static void CLAW_FN(pack_s8)(const int8_t *src, int32_t stride, int32_t rows, int32_t k, uint8_t *w)
{
    int32_t sums[8] = {0};
    memset(w, 0, block8_bytes(k));
    for (int32_t r = 0; r < rows; r++, src += stride) {
        int32_t i = 0, sum = 0;
        for (; i + 4 <= k; i += 4) memcpy(w + (size_t)i * 8 + (size_t)(4 * r), src + i, 4);
        for (; i < k; i++) w[(size_t)(i & ~3) * 8 + (size_t)(4 * r + i % 4)] = (uint8_t)src[i];
        for (i = 0; i < k; i++) sum += src[i];
        sums[r] = sum;
    }
    memcpy(w + block8_bytes(k) - 32, sums, sizeof sums);
}

/* y = factor * sums of the rows: what zero points and offsets of the activations take away. */
static inline void start_rows(const uint8_t *w, int32_t blocks, int32_t k, int32_t factor, int32_t tokens, int32_t *y, int32_t ystride)
{
    for (int32_t b = 0; b < blocks; b++) {
        int32_t sums[8];
        memcpy(sums, w + (size_t)(b + 1) * block8_bytes(k) - 32, sizeof sums);
        for (int i = 0; i < 8; i++) sums[i] = (int32_t)((uint32_t)sums[i] * (uint32_t)factor);
        for (int32_t t = 0; t < tokens; t++) memcpy(y + (size_t)t * (size_t)ystride + 8 * b, sums, sizeof sums);
    }
}

#ifdef CLAW_DOT8_OFFSET
/* ---- sums of four byte products; vq_dot8 multiplies with activations plus CLAW_DOT8_OFFSET ---- */

#ifndef CLAW_DOT8_VECTORS /* vectors of rows x tokens of a tile, and 8 rows a vector */
#define CLAW_DOT8_VECTORS 2
#define CLAW_DOT8_TOKENS 4
#define CLAW_DOT8_BLOCKS 1
typedef vi vq;
static inline vq vq_load(const int32_t *p) { return vi_load(p); }
static inline void vq_store(int32_t *p, vq a) { vi_store(p, a); }
static inline vb vq_rows(const uint8_t *w, size_t block) { (void)block; return vb_load(w); }
static inline vb vq_bcast(const int8_t *p) { return vb_bcast(p); }
static inline vq vq_dot8(vq acc, vb w, vb a) { return vi_dot8(acc, w, a); }
typedef vb vqb;
#endif

enum { FLIP_S8 = CLAW_DOT8_OFFSET, FLIP_U8 = 128 - CLAW_DOT8_OFFSET };

/* A chunk of n activations of a token; elements beyond a quad's end meet weights of 0. */
static inline int32_t prepare8(const uint8_t *a, int32_t n, int flip, uint8_t *out)
{
    for (int32_t i = 0; i < n; i++) out[i] = a[i] ^ (uint8_t)flip;
    for (int32_t i = n; i % 4; i++) out[i] = 0;
    return 0;
}

static inline __attribute__((always_inline)) void tile8(
    int nv, int nt, const uint8_t *w, size_t block, int32_t quads, const uint8_t *a, int32_t *y, int32_t ystride)
{
    vq acc[CLAW_DOT8_TOKENS][CLAW_DOT8_VECTORS];
    const int width = 8 * CLAW_DOT8_BLOCKS;
    for (int t = 0; t < nt; t++)
        for (int v = 0; v < nv; v++) acc[t][v] = vq_load(y + (size_t)t * (size_t)ystride + width * v);
    for (int32_t j = 0; j < quads; j++, w += 32, a += 4) {
        vqb rows[CLAW_DOT8_VECTORS];
        for (int v = 0; v < nv; v++) rows[v] = vq_rows(w + (size_t)(v * CLAW_DOT8_BLOCKS) * block, block);
        for (int t = 0; t < nt; t++) {
            const vqb x = vq_bcast((const int8_t *)a + t * TOKEN_BYTES);
            for (int v = 0; v < nv; v++) {
                acc[t][v] = vq_dot8(acc[t][v], rows[v], x);
                KEEP(acc[t][v]);
            }
        }
    }
    for (int t = 0; t < nt; t++)
        for (int v = 0; v < nv; v++) vq_store(y + (size_t)t * (size_t)ystride + width * v, acc[t][v]);
}

/* The last blocks of a matrix that do not fill a vector, one at a time. */
static inline void rest8(const uint8_t *w, int32_t quads, int32_t tokens, const uint8_t *a, int32_t *y, int32_t ystride)
{
    for (int32_t t = 0; t < tokens; t++, a += TOKEN_BYTES, y += ystride) {
        vi acc = vi_load(y);
        for (int32_t j = 0; j < quads; j++) acc = vi_dot8(acc, vb_load(w + 32 * j), vb_bcast((const int8_t *)a + 4 * j));
        vi_store(y, acc);
    }
}

static inline void chunk8(const uint8_t *w, int32_t blocks, size_t block, int32_t quads, const uint8_t *a, const int32_t *terms,
                          int32_t tokens, uint8_t *room, int32_t *y, int32_t ystride)
{
    const int each = CLAW_DOT8_VECTORS * CLAW_DOT8_BLOCKS;
    (void)terms;
    (void)room;
    for (; blocks >= each; blocks -= each, w += (size_t)each * block, y += 8 * each) {
        int32_t t = 0;
        for (; t + CLAW_DOT8_TOKENS <= tokens; t += CLAW_DOT8_TOKENS)
            tile8(CLAW_DOT8_VECTORS, CLAW_DOT8_TOKENS, w, block, quads, a + (size_t)t * TOKEN_BYTES, y + (size_t)t * (size_t)ystride, ystride);
        for (; t < tokens; t++)
            tile8(CLAW_DOT8_VECTORS, 1, w, block, quads, a + (size_t)t * TOKEN_BYTES, y + (size_t)t * (size_t)ystride, ystride);
    }
    for (; blocks > 0; blocks--, w += block, y += 8) rest8(w, quads, tokens, a, y, ystride);
}

static inline vi step8(vi acc, vb w, const uint8_t *a) { return vi_dot8(acc, w, vb_bcast((const int8_t *)a)); }
#define OFFSET_S8 (-(int32_t)CLAW_DOT8_OFFSET)
#define OFFSET_U8 (128 - (int32_t)CLAW_DOT8_OFFSET)
#else
/* ---- widened to 16 bits: the even elements of a chunk (a0, a2, ...), then the odd ones ---- */

enum { FLIP_S8 = 0, FLIP_U8 = 128 };
#define OFFSET_S8 0
#define OFFSET_U8 128

/* Returns minus the sum of a0 * a1 of a chunk. */
static inline int32_t prepare8(const uint8_t *a, int32_t n, int flip, uint8_t *out)
{
    int16_t *even = (int16_t *)(void *)out, *odd = even + CHUNK8 / 2;
    int32_t term = 0, i = 0;
    for (; i + 1 < n; i += 2) {
        even[i / 2] = (int8_t)(a[i] ^ (uint8_t)flip);
        odd[i / 2] = (int8_t)(a[i + 1] ^ (uint8_t)flip);
    }
    for (; i < (n + 3) / 4 * 4; i += 2) {
        even[i / 2] = i < n ? (int8_t)(a[i] ^ (uint8_t)flip) : 0;
        odd[i / 2] = 0;
    }
    for (i = 0; i < (n + 3) / 4 * 2; i++) term -= even[i] * odd[i];
    return term;
}

/* Panel of nb blocks: of each quad and block the odd, then the even elements; minus the sums of
 * w0 * w1 of the rows. */
static inline __attribute__((always_inline)) void widen8(int nb, const uint8_t *w, size_t block, int32_t quads, int16_t *out, int32_t *terms)
{
    for (int b = 0; b < nb; b++, w += block) {
        vi sum = vi_zero();
        int32_t t[8];
        for (int32_t j = 0; j < quads; j++) {
            const vb v = vb_load(w + 32 * j);
            const vw even = vw_even(v), odd = vw_odd(v);
            vw_store(out + (j * nb + b) * 32, odd);
            vw_store(out + (j * nb + b) * 32 + 16, even);
            sum = vi_add(sum, vw_dot(even, odd));
        }
        vi_store(t, sum);
        for (int i = 0; i < 8; i++) terms[8 * b + i] = -t[i];
    }
}

static inline __attribute__((always_inline)) void tile8(
    int nb, int nt, const int16_t *w, const int32_t *rows, int32_t quads, const uint8_t *a, const int32_t *terms, int32_t *y, int32_t ystride)
{
    vi acc[4][2];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) acc[t][b] = vi_zero();

    for (int32_t j = 0; j < quads; j++, w += 32 * nb, a += 4) {
        vw odd[2], even[2];
        for (int b = 0; b < nb; b++) {
            odd[b] = vw_load(w + 32 * b);
            even[b] = vw_load(w + 32 * b + 16);
        }
        for (int t = 0; t < nt; t++) {
            const vw x0 = vw_pair(a + t * TOKEN_BYTES), x1 = vw_pair(a + t * TOKEN_BYTES + CHUNK8);
            for (int b = 0; b < nb; b++) {
                acc[t][b] = vi_add(acc[t][b], vw_dot(vw_add(x0, odd[b]), vw_add(x1, even[b])));
                KEEP(acc[t][b]);
            }
        }
    }
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) {
            int32_t *out = y + (size_t)t * (size_t)ystride + 8 * b;
            const vi rest = vi_add(vi_load(rows + 8 * b), vi_set1(terms[t]));
            vi_store(out, vi_add(vi_load(out), vi_add(acc[t][b], rest)));
        }
}

static inline __attribute__((always_inline)) void panel8(
    int nb, const uint8_t *w, size_t block, int32_t quads, const uint8_t *a, const int32_t *terms, int32_t tokens, uint8_t *room, int32_t *y, int32_t ystride)
{
    int16_t *wide = (int16_t *)(void *)room;
    int32_t rows[16], t = 0;
    widen8(nb, w, block, quads, wide, rows);
    for (; t + 4 <= tokens; t += 4) tile8(nb, 4, wide, rows, quads, a + (size_t)t * TOKEN_BYTES, terms + t, y + (size_t)t * (size_t)ystride, ystride);
    for (; t < tokens; t++) tile8(nb, 1, wide, rows, quads, a + (size_t)t * TOKEN_BYTES, terms + t, y + (size_t)t * (size_t)ystride, ystride);
}

static inline void chunk8(const uint8_t *w, int32_t blocks, size_t block, int32_t quads, const uint8_t *a, const int32_t *terms,
                          int32_t tokens, uint8_t *room, int32_t *y, int32_t ystride)
{
    for (; blocks >= 2; blocks -= 2, w += 2 * block, y += 16) panel8(2, w, block, quads, a, terms, tokens, room, y, ystride);
    if (blocks) panel8(1, w, block, quads, a, terms, tokens, room, y, ystride);
}

/* For one token widening is most of the work, and preparing rows for pairs of sums would not pay. */
static inline vi step8(vi acc, vb w, const uint8_t *a)
{
    int16_t t[4] = {(int8_t)a[0], (int8_t)a[2], (int8_t)a[1], (int8_t)a[3]};
    acc = vi_add(acc, vw_dot(vw_even(w), vw_pair(t)));
    return vi_add(acc, vw_dot(vw_odd(w), vw_pair(t + 2)));
}
#endif

#ifdef CLAW_BYTES_TIMES_SIGNED
/* ---- many tokens: sizes of activations times rows that have taken over their signs ----
 *
 *   a w = |a| w          where a >= 0
 *   a w = |a| ~w + |a|   where a < 0, since -w = ~w + 1
 * Sums of two such products never leave int16: they are -2 * 128 * 128 .. 2 * 128 * 127. The second |a|
 * depends on the token alone. A quad of activations has one of 16 patterns of signs, so a panel keeps each
 * quad of its rows 16 times, with these bytes inverted or not, and a step only picks one of them by address. */

enum {
    STEP_QUADS = 16,                         /* worked on together: 16 KiB of rows in the first-level cache */
    STEP_K = 4 * STEP_QUADS,
    STEP_BYTES = STEP_K + STEP_QUADS,        /* of a token's step: sizes, patterns (4 times the number) */
    STEPS = CHUNK8 / STEP_K,
    PATTERN_BYTES = 16 * 32,                 /* of a quad of a block */
    MANY8 = 32                               /* fewer tokens do not pay for the copies */
};
_Static_assert(STEP_QUADS * 2 * PATTERN_BYTES == CHUNK8 * 2 * CLAW_PANEL, "the room of a panel");
_Static_assert(STEPS * STEP_BYTES + 4 * CLAW_PANEL <= TOKEN_BYTES, "the room of a token");

/* A step of a token: STEP_K activations. Returns minus the sizes of the negative ones. */
static inline vi prepare_step(const uint8_t *a, int flip, uint8_t *out)
{
    uint8_t codes[STEP_K], minus[STEP_K];
    uint32_t quads[STEP_QUADS];
    for (int i = 0; i < STEP_K; i++) codes[i] = a[i] ^ (uint8_t)flip;
    for (int i = 0; i < STEP_K; i++) minus[i] = (int8_t)codes[i] < 0 ? 255 : 0;
    for (int i = 0; i < STEP_K; i++) out[i] = (uint8_t)((codes[i] ^ minus[i]) - minus[i]);
    memcpy(quads, codes, sizeof quads);
    /* The four signs of a quad go to its uppermost bits; all stay 32 bits wide until the end, for speed. */
    for (int i = 0; i < STEP_QUADS; i++) quads[i] = (((quads[i] & 0x80808080u) * 0x00204081u) >> 28) * 4;
    for (int i = 0; i < STEP_QUADS; i++) out[STEP_K + i] = (uint8_t)quads[i];
    return vi_bytes(vi_bytes(vi_zero(), vb_load(out), vb_load(minus)), vb_load(out + 32), vb_load(minus + 32));
}

/* The same of the last n; beyond them are sizes of 0. */
static inline vi prepare_last(const uint8_t *a, int32_t n, int flip, uint8_t *out)
{
    uint8_t full[STEP_K];
    memset(full, flip, sizeof full);
    memcpy(full, a, (size_t)n);
    return prepare_step(full, flip, out);
}

static inline __attribute__((always_inline)) void spread_signs(int nb, const uint8_t *w, size_t block, int32_t quads, uint8_t *room)
{
    for (int b = 0; b < nb; b++, w += block)
        for (int32_t j = 0; j < quads; j++) {
            uint8_t *out = room + (j * 2 + b) * PATTERN_BYTES;
            const vb row = vb_load(w + 32 * j);
            PREFETCH(w + 32 * (j + STEP_QUADS)); /* the next step's */
#pragma GCC unroll 16
            for (int p = 0; p < 16; p++) {
                const int8_t mask[4] = {(int8_t)-(p & 1), (int8_t)-(p >> 1 & 1), (int8_t)-(p >> 2 & 1), (int8_t)-(p >> 3)};
                vb_store(out + 32 * p, vb_xor(row, vb_bcast(mask)));
            }
        }
}

/* sums: of the panel, 16 a token. */
static inline __attribute__((always_inline)) void step_many(int nb, const uint8_t *room, int32_t quads, const uint8_t *a, int32_t tokens, int32_t *sums)
{
    for (int32_t t = 0; t < tokens; t++, a += STEP_BYTES, sums += CLAW_PANEL) {
        vi acc[2];
        const uint8_t *rows = room;
        for (int b = 0; b < nb; b++) acc[b] = vi_load(sums + 8 * b);
        for (int32_t j = 0; j < quads; j += 4, rows += 4 * 2 * PATTERN_BYTES)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const vb sizes = vb_bcast((const int8_t *)a + 4 * (j + i));
                const uint8_t *row = rows + i * 2 * PATTERN_BYTES + 8 * (size_t)a[STEP_K + j + i];
                for (int b = 0; b < nb; b++) {
                    acc[b] = vi_bytes(acc[b], sizes, vb_load(row + b * PATTERN_BYTES));
                    KEEP(acc[b]);
                }
            }
        for (int b = 0; b < nb; b++) vi_store(sums + 8 * b, acc[b]);
    }
}

static inline __attribute__((always_inline)) void panel_many(
    int nb, const uint8_t *w, size_t block, int32_t n, const uint8_t *a, const int32_t *terms, int32_t tokens, uint8_t *room, int32_t *sums,
    int32_t *y, int32_t ystride)
{
    for (int32_t t = 0; t < tokens; t++)
        for (int b = 0; b < nb; b++) vi_store(sums + CLAW_PANEL * t + 8 * b, vi_set1(terms[t]));
    for (; n > 0; n -= STEP_K, w += 32 * STEP_QUADS, a += (size_t)tokens * STEP_BYTES) {
        const int32_t quads = n < STEP_K ? (n + 3) / 4 : STEP_QUADS;
        spread_signs(nb, w, block, quads, room);
        step_many(nb, room, quads, a, tokens, sums);
    }
    for (int32_t t = 0; t < tokens; t++, sums += CLAW_PANEL, y += ystride)
        for (int b = 0; b < nb; b++) vi_store(y + 8 * b, vi_add(vi_load(y + 8 * b), vi_load(sums + 8 * b)));
}

/* Adds a chunk of n activations a token. In the scratch: a panel's room, terms, sums, steps of all tokens. */
static inline void many8(const uint8_t *w, int32_t blocks, size_t block, int32_t n, const uint8_t *a, int32_t stride, int flip,
                         int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    int32_t *sums = (int32_t *)(void *)(scratch + CHUNK8 * 2 * CLAW_PANEL), *terms = sums + CLAW_PANEL * tokens;
    uint8_t *steps = (uint8_t *)(terms + tokens);
    for (int32_t t = 0; t < tokens; t++, a += stride) {
        vi minus = vi_zero();
        uint8_t *out = steps + (size_t)t * STEP_BYTES;
        int32_t i = 0;
        for (; i + STEP_K <= n; i += STEP_K, out += (size_t)tokens * STEP_BYTES) minus = vi_add(minus, prepare_step(a + i, flip, out));
        if (i < n) minus = vi_add(minus, prepare_last(a + i, n - i, flip, out));
        terms[t] = -vi_sum(minus);
    }
    for (; blocks >= 2; blocks -= 2, w += 2 * block, y += 16) panel_many(2, w, block, n, steps, terms, tokens, scratch, sums, y, ystride);
    if (blocks) panel_many(1, w, block, n, steps, terms, tokens, scratch, sums, y, ystride);
}
#else
enum { MANY8 = INT32_MAX };
static inline void many8(const uint8_t *w, int32_t blocks, size_t block, int32_t n, const uint8_t *a, int32_t stride, int flip,
                         int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    (void)w, (void)blocks, (void)block, (void)n, (void)a, (void)stride, (void)flip, (void)tokens, (void)scratch, (void)y, (void)ystride;
}
#endif

static inline void product8(const uint8_t *w, int32_t blocks, int32_t k, const uint8_t *a, int32_t stride, int flip, int32_t factor,
                            int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    int32_t *terms = (int32_t *)(void *)scratch;
    uint8_t *chunk = scratch + (size_t)tokens * 4, *room = chunk + (size_t)tokens * TOKEN_BYTES;
    start_rows(w, blocks, k, factor, tokens, y, ystride);
    for (int32_t at = 0; at < k; at += CHUNK8) {
        const int32_t n = k - at < CHUNK8 ? k - at : CHUNK8;
        if (tokens >= MANY8) {
            many8(w + (size_t)at * 8, blocks, block8_bytes(k), n, a + at, stride, flip, tokens, scratch, y, ystride);
            continue;
        }
        for (int32_t t = 0; t < tokens; t++)
            terms[t] = prepare8(a + (size_t)t * (size_t)stride + (size_t)at, n, flip, chunk + (size_t)t * TOKEN_BYTES);
        chunk8(w + (size_t)at * 8, blocks, block8_bytes(k), (n + 3) / 4, chunk, terms, tokens, room, y, ystride);
    }
}

static void CLAW_FN(gemm_s8s8_s32)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *a, int32_t stride, int32_t tokens,
                                   uint8_t *scratch, int32_t *y, int32_t ystride)
{
    product8(w, blocks, k, (const uint8_t *)a, stride, FLIP_S8, OFFSET_S8, tokens, scratch, y, ystride);
}

static void CLAW_FN(gemm_u8s8_s32)(const uint8_t *w, int32_t blocks, int32_t k, const uint8_t *a, int32_t stride, int32_t zero,
                                   int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    product8(w, blocks, k, a, stride, FLIP_U8, OFFSET_U8 - zero, tokens, scratch, y, ystride);
}

/* Rows n blocks at a time: their chains hide each other's latency. */
static inline __attribute__((always_inline)) void rows8(int n, const uint8_t *w, int32_t k, const int8_t *a, int32_t *y)
{
    const size_t block = block8_bytes(k);
    vi acc[4];
    start_rows(w, n, k, OFFSET_S8, 1, y, 0);
    for (int b = 0; b < n; b++) acc[b] = vi_load(y + 8 * b);
    for (int32_t i = 0; i < k; i += 4, w += 32) {
        uint8_t t[4] = {0};
        uint32_t quad;
        if (i + 4 <= k) memcpy(t, a + i, 4);
        else memcpy(t, a + i, (size_t)(k - i));
        memcpy(&quad, t, 4);
        quad ^= FLIP_S8 * 0x01010101u;
        memcpy(t, &quad, 4);
        for (int b = 0; b < n; b++) {
            PREFETCH(w + (size_t)b * block + 1024);
            acc[b] = step8(acc[b], vb_load(w + (size_t)b * block), t);
        }
    }
    for (int b = 0; b < n; b++) vi_store(y + 8 * b, acc[b]);
}

static void CLAW_FN(gemv_s8s8_s32)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *a, int32_t *y)
{
    for (; blocks >= 4; blocks -= 4, w += 4 * block8_bytes(k), y += 32) rows8(4, w, k, a, y);
    for (; blocks > 0; blocks--, w += block8_bytes(k), y += 8) rows8(1, w, k, a, y);
}
