/* Packed weights times a few tokens: a joint step of some sequences, or drafts that are verified.
 *
 * Here the weights' way from memory is what costs, as for one token, and to unpack a panel first (gemm.c) takes
 * longer than it saves. So the weights are streamed as in gemv.c and unpacked in registers: of 4 bits once for all
 * tokens, of 8 bits once for a tile of them. Of more tokens each tile goes over the block again, which then lies in
 * L1, and asks for its share of the next block: memory is never idle.
 * Sums are ordered as in gemv.c: a token has the same bits alone, here and in a long prompt. */

#if !defined(CLAW_FEW_TILE)
#define CLAW_FEW_TILE 4
#endif
#if !defined(CLAW_FEW)
#define CLAW_FEW 16 /* up to so many tokens are few: from there on an unpacked panel is faster */
#endif

/* Whether tokens are few. Of 4 bits all of their activations are read together, k bytes apart: those that are a
 * multiple of 4 KiB apart share a set of the first-level cache, and 8 places are as good as everywhere. */
static inline int few_tokens(int bits, int32_t tokens, int32_t k)
{
    const int32_t lowest = k & -k, apart = lowest < 4096 ? lowest : 4096;
#if defined(CLAW_FEW_WIDE)
    return tokens <= CLAW_FEW;
#elif defined(CLAW_BYTES_TIMES_SIGNED)
    if (bits == 8) return 1;
#endif
    return tokens <= CLAW_FEW && (bits == 8 || tokens * apart <= 8 * 4096);
}

/* nb blocks of 8 rows of 4 bits, `block` bytes apart. Codes stay in registers while all tokens pass by: a token needs
 * few registers then, and no token waits for another. Of two blocks half of a group's codes fit, so tokens pass twice,
 * but a quad of activations is then loaded once for both blocks: loads are what was slowest. Sums lie in L1. */
static inline __attribute__((always_inline)) void few_half_q4(int nb, int high, const uint8_t *w, size_t block, vb codes[2][4])
{
    for (int b = 0; b < nb; b++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const vb both = vb_load(w + (size_t)b * block + 32 * j);
            codes[b][j] = high ? vb_high(both) : vb_low(both);
            KEEP(codes[b][j]);
        }
}

static inline __attribute__((always_inline)) void few_dots_q4(int nb, vb codes[2][4], const int8_t *a, vs *acc)
{
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const vb quad = vb_bcast(a + 4 * j);
        for (int b = 0; b < nb; b++) {
            acc[b] = vs_dot(acc[b], codes[b][j], quad);
            KEEP(acc[b]);
        }
    }
}

/* y: the minima (or, of symmetric codes, scales) times the sums of nt tokens, apart so that the products above have
 * all registers. `at`: where they lie in a group. */
static inline __attribute__((always_inline)) void few_minima(
    int nb, int nt, int bytes, int at, int shift, const uint8_t *w, size_t block, int32_t groups, const float *s, float *y, int32_t ystride)
{
    vf sums[4][2];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) sums[t][b] = vf_zero();
    for (int32_t g = 0; g < groups; g++, w += bytes, s++) {
        vf mw[2];
        for (int b = 0; b < nb; b++) mw[b] = vf_load_f16(w + (size_t)b * block + at);
        for (int t = 0; t < nt; t++)
            for (int b = 0; b < nb; b++) sums[t][b] = vf_fma(mw[b], vf_set1(s[(size_t)t * (size_t)groups]), sums[t][b]);
    }
    for (int t = 0; t < nt; t++, y += ystride)
        for (int b = 0; b < nb; b++) vf_store(y + 8 * b, shift ? vf_mul(sums[t][b], vf_set1(-(float)shift)) : sums[t][b]);
}

static inline __attribute__((always_inline)) void few_all_minima(
    int nb, int bytes, int at, int shift, const uint8_t *w, size_t block, int32_t groups, const float *s, int32_t tokens,
    float *y, int32_t ystride)
{
    for (; tokens >= 4; tokens -= 4, s += 4 * (size_t)groups, y += 4 * (size_t)ystride)
        few_minima(nb, 4, bytes, at, shift, w, block, groups, s, y, ystride);
    for (; tokens > 0; tokens--, s += groups, y += ystride) few_minima(nb, 1, bytes, at, shift, w, block, groups, s, y, ystride);
}

/* The first half of a group for a token, and the second, with which its sum meets the scales. */
static inline __attribute__((always_inline)) void few_first_q4(int nb, vb codes[2][4], const int8_t *a, vs halves[2])
{
    vs acc[2] = {vs_zero(), vs_zero()};
    few_dots_q4(nb, codes, a, acc);
    for (int b = 0; b < nb; b++) halves[b] = acc[b];
}

static inline __attribute__((always_inline)) void few_second_q4(
    int nb, vb codes[2][4], const int8_t *a, const vs halves[2], const vf dw[2], const float *d, vf scaled[2])
{
    vs acc[2] = {halves[0], halves[nb - 1]};
    few_dots_q4(nb, codes, a, acc);
    const vf scale = vf_set1(*d);
    for (int b = 0; b < nb; b++) scaled[b] = vf_fma(vf_mul(vf_from_vi(vs_sum(acc[b])), dw[b]), scale, scaled[b]);
}

#define FEW_EACH(call)                                                                             \
    if (eight) {                                                                                   \
        _Pragma("GCC unroll 8") for (int32_t t = 0; t < 8; t++) call;                              \
    } else                                                                                         \
        for (int32_t t = 0; t < tokens; t++) call

/* eight: there are as many tokens, so that their loops need no counters: 3 % less time. */
static inline __attribute__((always_inline)) void few_rows_q4(
    int eight, int nb, int bytes, int shift, const uint8_t *w, int32_t k, const int8_t *q, const float *d, const float *s, int32_t tokens,
    float *y, int32_t ystride)
{
    const int32_t groups = k / 32;
    const size_t row = (size_t)k, step = (size_t)groups, block = step * (size_t)bytes;
    const uint8_t *next = w + (size_t)nb * block;
    vs halves[CLAW_FEW][2];
    vf scaled[CLAW_FEW][2];
    few_all_minima(nb, bytes, shift ? 128 : 144, shift, w, block, groups, s, tokens, y, ystride);
    for (int32_t t = 0; t < tokens; t++)
        for (int b = 0; b < nb; b++) scaled[t][b] = vf_zero();
    for (int32_t g = 0; g < groups; g++, w += bytes, next += nb * bytes, q += 32, d++) {
        vb codes[2][4];
        vf dw[2];
        for (int p = 0; p < nb * bytes; p += 64) PREFETCH(next + p);
        few_half_q4(nb, 0, w, block, codes);
        FEW_EACH(few_first_q4(nb, codes, q + (size_t)t * row, halves[t]));
        few_half_q4(nb, 1, w, block, codes);
        for (int b = 0; b < nb; b++) dw[b] = vf_load_f16(w + (size_t)b * block + 128);
        FEW_EACH(few_second_q4(nb, codes, q + 16 + (size_t)t * row, halves[t], dw, d + (size_t)t * step, scaled[t]));
    }
    for (int32_t t = 0; t < tokens; t++, y += ystride)
        for (int b = 0; b < nb; b++) vf_store(y + 8 * b, vf_add(scaled[t][b], vf_load(y + 8 * b)));
}

static inline __attribute__((always_inline)) void few_dots_q8(int nt, const uint8_t *w, const int8_t *q, int32_t k, vi *dots)
{
    for (int t = 0; t < nt; t++) dots[t] = vi_zero();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const vb codes = vb_load(w + 32 * j);
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            dots[t] = vi_dot(dots[t], codes, vb_bcast(q + (size_t)t * (size_t)k + 4 * j));
            KEEP(dots[t]);
        }
    }
}

/* One block of 8 rows of 8 bits. `next`: the weights that are asked for meanwhile, `share` bytes with each group. */
static inline __attribute__((always_inline)) void few_tile(
    int bits, int bytes, int has_min, int shift, int nt, const uint8_t *w, int32_t k, const int8_t *q, const float *d,
    const float *s, const uint8_t *next, int32_t share, float *y, int32_t ystride)
{
    const int32_t groups = k / 32;
    vf scaled[CLAW_FEW_TILE], minima[CLAW_FEW_TILE];
    for (int t = 0; t < nt; t++) scaled[t] = minima[t] = vf_zero();
    for (int32_t g = 0; g < groups; g++, w += bytes, next += share) {
        vi dots[CLAW_FEW_TILE];
        for (int32_t p = 0; p < share; p += 64) PREFETCH(next + p);
        few_dots_q8(nt, w, q + 32 * g, k, dots);
        const vf dw = vf_load_f16(w + bits * 32), mw = has_min ? vf_load_f16(w + bits * 32 + 16) : dw;
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            scaled[t] = vf_fma(vf_mul(vf_from_vi(dots[t]), dw), vf_set1(d[t * groups + g]), scaled[t]);
            if (has_min || shift) minima[t] = vf_fma(mw, vf_set1(s[t * groups + g]), minima[t]);
        }
    }
    for (int t = 0; t < nt; t++) {
        if (shift) minima[t] = vf_mul(minima[t], vf_set1(-(float)shift));
        vf_store(y + (size_t)t * (size_t)ystride, vf_add(scaled[t], minima[t]));
    }
}

#if defined(CLAW_FEW_WIDE)
/* Two blocks of 8 rows that lie `block` bytes apart, in the two halves of a vector; else as few_tile, and of 4 bits, too. */
static inline __attribute__((always_inline)) void few_wide_dots(
    int bits, int nt, const uint8_t *w, size_t block, const int8_t *q, int32_t k, vq *dots)
{
    for (int t = 0; t < nt; t++) dots[t] = vq_zero();
    for (int j = 0; j < (bits == 4 ? 4 : 8); j++) {
        const vqb codes = vq_rows(w + 32 * j, block), low = bits == 4 ? vq_low(codes) : vq_abs(codes);
        const vqb high = bits == 4 ? vq_high(codes) : codes;
        const uint64_t negative = bits == 4 ? 0 : vq_negative(codes);
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            const int8_t *a = q + (size_t)t * (size_t)k + 4 * j;
            if (bits == 4) {
                dots[t] = vq_dot(dots[t], low, vq_bcast(a));
                dots[t] = vq_dot(dots[t], high, vq_bcast(a + 16));
            } else dots[t] = vq_dot(dots[t], low, vq_flip(vq_bcast(a), negative));
            KEEP(dots[t]);
        }
    }
}

static inline __attribute__((always_inline)) void few_wide_tile(
    int bits, int bytes, int has_min, int shift, int nt, const uint8_t *w, int32_t k, const int8_t *q, const float *d,
    const float *s, const uint8_t *next, int32_t share, float *y, int32_t ystride)
{
    const int32_t groups = k / 32;
    const size_t block = (size_t)groups * (size_t)bytes;
    vqf scaled[CLAW_FEW_TILE], minima[CLAW_FEW_TILE];
    for (int t = 0; t < nt; t++) scaled[t] = minima[t] = vqf_zero();
    for (int32_t g = 0; g < groups; g++, w += bytes, next += share) {
        vq dots[CLAW_FEW_TILE];
        for (int32_t p = 0; p < share; p += 64) PREFETCH(next + p);
        few_wide_dots(bits, nt, w, block, q + 32 * g, k, dots);
        const uint8_t *scales = w + bits * 32, *more = scales + (has_min ? 16 : 0);
        const vqf dw = vqf_load_f16(scales, scales + block), mw = vqf_load_f16(more, more + block);
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            scaled[t] = vqf_fma(vqf_mul(vqf_from_vq(dots[t]), dw), vqf_set1(d[t * groups + g]), scaled[t]);
            if (has_min || shift) minima[t] = vqf_fma(mw, vqf_set1(s[t * groups + g]), minima[t]);
        }
    }
    for (int t = 0; t < nt; t++) {
        if (shift) minima[t] = vqf_mul(minima[t], vqf_set1(-(float)shift));
        vqf_store(y + (size_t)t * (size_t)ystride, vqf_add(scaled[t], minima[t]));
    }
}
#endif

#if CLAW_FEW_TILE > 4
#define FEW_TILES(tile) \
    FEW_TILE(tile, 1) FEW_TILE(tile, 2) FEW_TILE(tile, 3) FEW_TILE(tile, 4) \
    FEW_TILE(tile, 5) FEW_TILE(tile, 6) FEW_TILE(tile, 7) FEW_TILE(tile, 8)
#else
#define FEW_TILES(tile) FEW_TILE(tile, 1) FEW_TILE(tile, 2) FEW_TILE(tile, 3) FEW_TILE(tile, 4)
#endif
#define FEW_TILE(tile, nt) case nt: tile(bits, bytes, has_min, shift, nt, w, k, q, d, s, next, share, y, ystride); break;

/* All tokens, tile after tile, for the n blocks from w on. */
#define FEW_BLOCKS(name, n, tile)                                                                  \
    static inline __attribute__((always_inline)) void name(                                        \
        int bits, int bytes, int has_min, int shift, const uint8_t *w, int32_t k, const int8_t *q, const float *d, \
        const float *s, int32_t tokens, float *y, int32_t ystride)                                 \
    {                                                                                              \
        const int32_t groups = k / 32, share = (n) * (bytes) / ((tokens + CLAW_FEW_TILE - 1) / CLAW_FEW_TILE); \
        const uint8_t *next = w + ((n) == 1 && share == bytes ? claw_tune.ahead : (size_t)(n) * (size_t)(groups * bytes)); \
        for (int32_t nt; tokens > 0; tokens -= nt) {                                               \
            nt = tokens < CLAW_FEW_TILE ? tokens : CLAW_FEW_TILE;                                  \
            switch (nt) { FEW_TILES(tile) }                                                        \
            next += groups * share;                                                                \
            q += (size_t)nt * (size_t)k;                                                           \
            d += nt * groups;                                                                      \
            s += nt * groups;                                                                      \
            y += (size_t)nt * (size_t)ystride;                                                     \
        }                                                                                          \
    }

FEW_BLOCKS(few_block, 1, few_tile)
#if defined(CLAW_FEW_WIDE)
FEW_BLOCKS(few_pair, 2, few_wide_tile)
#endif

#if defined(CLAW_BYTES_TIMES_SIGNED)
/* Of 8 bits, sizes of activations times weights, and a sign goes to the weight: a w = |a| (w ^ m) - |a| m, where m = -1 if
 * a < 0, else 0, since -w = ~w + 1. Sizes, signs and what is taken away are made once for all rows. An exclusive or is done
 * by ports that have time; to negate a byte takes one that multiplies. No sum leaves int16: it is -2 * 128 * 128 at least,
 * and 2 * 128 * 127 at most. */
#define FEW_SIGNED 8 /* tokens a time: theirs fit CLAW_GEMM_SCRATCH */
typedef struct {
    int8_t *sizes, *minus;
    int32_t *rest; /* of each group */
} few_signs;

static inline void few_sign(const int8_t *q, int32_t groups, few_signs a)
{
    for (int32_t g = 0; g < groups; g++) {
        const vb codes = vb_load((const uint8_t *)q + 32 * (size_t)g), sizes = vb_abs(codes), minus = vb_minus(codes);
        vb_store((uint8_t *)a.sizes + 32 * (size_t)g, sizes);
        vb_store((uint8_t *)a.minus + 32 * (size_t)g, minus);
        a.rest[g] = -vi_sum(vi_bytes(vi_zero(), sizes, minus));
    }
}

/* nb blocks of 8 rows for nt tokens; y holds the minima, if there are any. next, share: as of few_tile. */
static inline __attribute__((always_inline)) void few_signed_tile(
    int nb, int nt, int bytes, int has_min, const uint8_t *w, int32_t k, few_signs a, const float *d, const uint8_t *next,
    int32_t share, float *y, int32_t ystride)
{
    const size_t groups = (size_t)k / 32, row = (size_t)k, block = groups * (size_t)bytes;
    vf scaled[4][2];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) scaled[t][b] = vf_zero();
    for (size_t g = 0; g < groups; g++, w += bytes, next += share) {
        vi dots[4][2];
        for (int32_t p = 0; p < share; p += 64) PREFETCH(next + p);
        for (int t = 0; t < nt; t++)
            for (int b = 0; b < nb; b++) dots[t][b] = vi_set1(a.rest[(size_t)t * groups + g]);
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++) {
            const int8_t *sizes = a.sizes + 32 * g + 4 * j, *minus = a.minus + 32 * g + 4 * j;
            vb codes[2];
            for (int b = 0; b < nb; b++) {
                codes[b] = vb_load(w + (size_t)b * block + 32 * j);
                KEEP(codes[b]);
            }
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
                const vb size = vb_bcast(sizes + (size_t)t * row), sign = vb_bcast(minus + (size_t)t * row);
                for (int b = 0; b < nb; b++) {
                    dots[t][b] = vi_bytes(dots[t][b], size, vb_xor(codes[b], sign));
                    KEEP(dots[t][b]);
                }
            }
        }
        for (int b = 0; b < nb; b++) {
            const vf dw = vf_load_f16(w + (size_t)b * block + 256);
            for (int t = 0; t < nt; t++)
                scaled[t][b] = vf_fma(vf_mul(vf_from_vi(dots[t][b]), dw), vf_set1(d[(size_t)t * groups + g]), scaled[t][b]);
        }
    }
    for (int t = 0; t < nt; t++, y += ystride)
        for (int b = 0; b < nb; b++) vf_store(y + 8 * b, vf_add(scaled[t][b], has_min ? vf_load(y + 8 * b) : vf_zero()));
}

#define FEW_SIGNED_TILE(nt) case nt: few_signed_tile(nb, nt, bytes, has_min, w, k, a, d, next, share, y, ystride); break;

static inline __attribute__((always_inline)) void few_signed_rows(
    int nb, int bytes, int has_min, const uint8_t *w, int32_t k, few_signs a, const float *d, const float *s, int32_t tokens,
    float *y, int32_t ystride)
{
    const int32_t groups = k / 32, share = nb * bytes / ((tokens + 3) / 4);
    const size_t block = (size_t)groups * (size_t)bytes;
    const uint8_t *next = w + (size_t)nb * block;
    if (has_min) few_all_minima(nb, bytes, 272, 0, w, block, groups, s, tokens, y, ystride);
    for (int32_t nt; tokens > 0; tokens -= nt) {
        nt = tokens < 4 ? tokens : 4;
        switch (nt) { FEW_SIGNED_TILE(1) FEW_SIGNED_TILE(2) FEW_SIGNED_TILE(3) FEW_SIGNED_TILE(4) }
        a.sizes += (size_t)nt * (size_t)k;
        a.minus += (size_t)nt * (size_t)k;
        a.rest += nt * groups;
        d += nt * groups;
        y += (size_t)nt * (size_t)ystride;
        next += groups * share;
    }
}

static inline __attribute__((always_inline)) void few_signed(
    int bytes, int has_min, const uint8_t *w, int32_t blocks, int32_t k, const int8_t *q, const float *d, const float *s,
    int32_t tokens, uint8_t *scratch, float *y, int32_t ystride)
{
    const int32_t groups = k / 32;
    const size_t block = (size_t)groups * (size_t)bytes, most = FEW_SIGNED * (size_t)k;
    const few_signs a = {(int8_t *)scratch, (int8_t *)scratch + most, (int32_t *)(void *)(scratch + 2 * most)};
    for (int32_t nt; tokens > 0; tokens -= nt) {
        nt = tokens < FEW_SIGNED ? tokens : FEW_SIGNED;
        few_sign(q, nt * groups, a);
        int32_t b = 0;
        for (; b + 1 < blocks; b += 2)
            few_signed_rows(2, bytes, has_min, w + (size_t)b * block, k, a, d, s, nt, y + 8 * b, ystride);
        if (b < blocks) few_signed_rows(1, bytes, has_min, w + (size_t)b * block, k, a, d, s, nt, y + 8 * b, ystride);
        q += (size_t)nt * (size_t)k;
        d += nt * groups;
        s += nt * groups;
        y += (size_t)nt * (size_t)ystride;
    }
}
#endif

static inline __attribute__((always_inline)) void few_int(
    int bits, int bytes, int has_min, int shift, const uint8_t *w, int32_t blocks, int32_t k, const int8_t *q,
    const float *d, const float *s, int32_t tokens, uint8_t *scratch, float *y, int32_t ystride)
{
#if defined(CLAW_BYTES_TIMES_SIGNED)
    if (bits == 8) {
        few_signed(bytes, has_min, w, blocks, k, q, d, s, tokens, scratch, y, ystride);
        return;
    }
#endif
    (void)scratch;
#if defined(CLAW_FEW_WIDE)
    for (; blocks > 1; blocks -= 2, w += 2 * (size_t)(k / 32 * bytes), y += 16)
        few_pair(bits, bytes, has_min, shift, w, k, q, d, s, tokens, y, ystride);
#endif
    for (; bits == 4 && blocks > 1; blocks -= 2, w += 2 * (size_t)(k / 32 * bytes), y += 16)
        if (tokens == 8) few_rows_q4(1, 2, bytes, shift, w, k, q, d, s, 8, y, ystride);
        else few_rows_q4(0, 2, bytes, shift, w, k, q, d, s, tokens, y, ystride);
    for (; blocks > 0; blocks--, w += (size_t)(k / 32 * bytes), y += 8)
        if (bits == 4) few_rows_q4(0, 1, bytes, shift, w, k, q, d, s, tokens, y, ystride);
        else few_block(bits, bytes, has_min, shift, w, k, q, d, s, tokens, y, ystride);
}
