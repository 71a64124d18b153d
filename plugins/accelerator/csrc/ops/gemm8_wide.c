/* int8 products where there are no sums of four byte products.
 *
 * Products of 8-bit codes of any value cannot be added in 16 bits without overflow, so bytes are widened, and half of
 * the multiplications are then saved by Winograd's inner product (1968):
 *   a0 w0 + a1 w1 = (a0 + w1)(a1 + w0) - a0 a1 - w0 w1
 * The last two sums depend on the token alone and on the row alone. One step of 8 rows x 4 k is two
 * 16-bit additions, one multiplication of pairs and one 32-bit addition.
 *
 * Where bytes without a sign can be multiplied with bytes that have one (AVX2), many tokens take three
 * instructions a step in place of four: see product_many. */

/* k are worked on in chunks: 16 rows (widened) and a few tokens then fit the first-level cache. */
#define CHUNK8 512
#define TOKEN_BYTES (2 * CHUNK8) /* of a token's chunk in the scratch */

enum { FLIP_S8 = 0, FLIP_U8 = 128, OFFSET_S8 = 0, OFFSET_U8 = 128 };
_Static_assert(4 + TOKEN_BYTES <= CLAW_GEMM8_TOKEN && CHUNK8 * 2 * CLAW_PANEL <= CLAW_GEMM8_ROOM, "the scratch");

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
    PATTERN_BYTES = 16 * 32,                 /* of a quad of a block */
    MANY8 = 32                               /* fewer tokens do not pay for the copies */
};
_Static_assert(STEP_QUADS * 2 * PATTERN_BYTES <= CLAW_GEMM8_ROOM, "the room of a panel");
_Static_assert(CLAW_GEMM8_CHUNK / STEP_K * STEP_BYTES + 4 * CLAW_PANEL + 4 <= CLAW_GEMM8_TOKEN, "the room of a token");

/* A step of a token: STEP_K activations. Returns minus the sizes of the negative ones. */
static inline vi prepare_step(const uint8_t *a, int flip, uint8_t *out)
{
    static const int8_t bits[4] = {4, 8, 16, 32};
    uint8_t codes[STEP_K], minus[STEP_K];
    int32_t patterns[STEP_QUADS];
    for (int i = 0; i < STEP_K; i++) codes[i] = a[i] ^ (uint8_t)flip;
    for (int i = 0; i < STEP_K; i++) minus[i] = (int8_t)codes[i] < 0 ? 255 : 0;
    for (int i = 0; i < STEP_K; i++) out[i] = (uint8_t)((codes[i] ^ minus[i]) - minus[i]);
    for (int i = 0; i < STEP_QUADS; i += 8) vi_store(patterns + i, vi_bytes(vi_zero(), vb_bcast(bits), vb_load(minus + 4 * i)));
    for (int i = 0; i < STEP_QUADS; i++) out[STEP_K + i] = (uint8_t)-patterns[i];
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

/* Functions of their own: among the masks of spread_signs gcc finds no register for the loop's constant. */
static __attribute__((noinline)) void step_one(const uint8_t *room, int32_t quads, const uint8_t *a, int32_t tokens, int32_t *sums)
{
    step_many(1, room, quads, a, tokens, sums);
}

static __attribute__((noinline)) void step_two(const uint8_t *room, int32_t quads, const uint8_t *a, int32_t tokens, int32_t *sums)
{
    step_many(2, room, quads, a, tokens, sums);
}

/* start: of a panel's rows, for the first chunk; later ones (NULL) go on with y. */
static inline __attribute__((always_inline)) void panel_many(
    int nb, const uint8_t *w, size_t block, int32_t n, const uint8_t *a, const int32_t *terms, const int32_t *start, int32_t tokens,
    uint8_t *room, int32_t *sums, int32_t *y, size_t ystride)
{
    for (int32_t t = 0; t < tokens; t++)
        for (int b = 0; b < nb; b++)
            vi_store(sums + CLAW_PANEL * t + 8 * b, vi_add(vi_load(start ? start + 8 * b : y + (size_t)t * ystride + 8 * b), vi_set1(terms[t])));
    for (; n > 0; n -= STEP_K, w += 32 * STEP_QUADS, a += (size_t)tokens * STEP_BYTES) {
        const int32_t quads = n < STEP_K ? (n + 3) / 4 : STEP_QUADS;
        spread_signs(nb, w, block, quads, room);
        (nb == 2 ? step_two : step_one)(room, quads, a, tokens, sums);
    }
    for (int32_t t = 0; t < tokens; t++, sums += CLAW_PANEL, y += ystride)
        for (int b = 0; b < nb; b++) vi_store(y + 8 * b, vi_load(sums + 8 * b));
}

/* In the scratch: a panel's room, sums of all tokens, terms, a chunk of steps of all tokens. */
static inline void product_many(const uint8_t *w, int32_t blocks, int32_t k, const uint8_t *a, int32_t stride, int flip, int32_t factor,
                                int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    const size_t block = block8_bytes(k);
    int32_t *sums = (int32_t *)(void *)(scratch + CLAW_GEMM8_ROOM), *terms = sums + CLAW_PANEL * tokens;
    uint8_t *steps = (uint8_t *)(terms + tokens);
    for (int32_t at = 0; at < k; at += CLAW_GEMM8_CHUNK) {
        const int32_t n = k - at < CLAW_GEMM8_CHUNK ? k - at : CLAW_GEMM8_CHUNK;
        for (int32_t t = 0; t < tokens; t++) {
            const uint8_t *chunk = a + (size_t)t * (size_t)stride + (size_t)at;
            uint8_t *out = steps + (size_t)t * STEP_BYTES;
            vi minus = vi_zero();
            int32_t i = 0;
            for (; i + STEP_K <= n; i += STEP_K, out += (size_t)tokens * STEP_BYTES) minus = vi_add(minus, prepare_step(chunk + i, flip, out));
            if (i < n) minus = vi_add(minus, prepare_last(chunk + i, n - i, flip, out));
            terms[t] = -vi_sum(minus);
        }
        for (int32_t b = 0; b < blocks; b += 2) {
            int32_t start[CLAW_PANEL];
            const int nb = blocks - b < 2 ? 1 : 2;
            const uint8_t *rows = w + (size_t)b * block, *chunk = rows + (size_t)at * 8;
            if (!at) start8(rows, nb, block, factor, start);
            if (nb == 2) panel_many(2, chunk, block, n, steps, terms, at ? NULL : start, tokens, scratch, sums, y + 8 * b, (size_t)ystride);
            else panel_many(1, chunk, block, n, steps, terms, at ? NULL : start, tokens, scratch, sums, y + 8 * b, (size_t)ystride);
        }
    }
}
#endif

static inline void product8(const uint8_t *w, int32_t blocks, int32_t k, const uint8_t *a, int32_t stride, int flip, int32_t factor,
                            int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    const size_t block = block8_bytes(k);
    int32_t *terms = (int32_t *)(void *)scratch;
    uint8_t *chunk = scratch + (size_t)tokens * 4, *room = chunk + (size_t)tokens * TOKEN_BYTES;
#ifdef CLAW_BYTES_TIMES_SIGNED
    if (tokens >= MANY8) {
        product_many(w, blocks, k, a, stride, flip, factor, tokens, scratch, y, ystride);
        return;
    }
#endif
    for (int32_t b = 0; b < blocks; b++) {
        int32_t start[8];
        start8(w + (size_t)b * block, 1, block, factor, start);
        for (int32_t t = 0; t < tokens; t++) memcpy(y + (size_t)t * (size_t)ystride + 8 * b, start, sizeof start);
    }
    for (int32_t at = 0; at < k; at += CHUNK8) {
        const int32_t n = k - at < CHUNK8 ? k - at : CHUNK8;
        for (int32_t t = 0; t < tokens; t++)
            terms[t] = prepare8(a + (size_t)t * (size_t)stride + (size_t)at, n, flip, chunk + (size_t)t * TOKEN_BYTES);
        chunk8(w + (size_t)at * 8, blocks, block, (n + 3) / 4, chunk, terms, tokens, room, y, ystride);
    }
}
