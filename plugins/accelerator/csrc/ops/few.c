/* Packed weights times a few tokens: a joint step of some sequences, or drafts that are verified.
 *
 * Here the weights' way from memory is what costs, as for one token, and to unpack a panel first (gemm.c) takes
 * longer than it saves. So the weights are streamed as in gemv.c and unpacked in registers once for CLAW_FEW_TILE
 * tokens. Of more tokens each tile goes over the block again, which then lies in L1, and asks for its share of the next
 * block: memory is never idle.
 * Sums are ordered as in gemv.c: a token has the same bits alone, here and in a long prompt. */

#if !defined(CLAW_FEW_TILE)
#define CLAW_FEW_TILE 4
#endif

/* Up to so many tokens are few. */
#define CLAW_FEW 16

/* The sums of one group of 8 rows for nt tokens whose codes lie k apart. */
static inline __attribute__((always_inline)) void few_dots_q4(int nt, const uint8_t *w, const int8_t *q, int32_t k, vi *dots)
{
    vs acc[CLAW_FEW_TILE];
    for (int t = 0; t < nt; t++) acc[t] = vs_zero();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const vb codes = vb_load(w + 32 * j), low = vb_low(codes), high = vb_high(codes);
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            acc[t] = vs_dot(acc[t], low, vb_bcast(q + (size_t)t * (size_t)k + 4 * j));
            acc[t] = vs_dot(acc[t], high, vb_bcast(q + (size_t)t * (size_t)k + 16 + 4 * j));
            KEEP(acc[t]);
        }
    }
    for (int t = 0; t < nt; t++) dots[t] = vs_sum(acc[t]);
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

/* One block of 8 rows. `next`: the weights that are asked for meanwhile, `share` bytes with each group. */
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
        if (bits == 4) few_dots_q4(nt, w, q + 32 * g, k, dots);
        else few_dots_q8(nt, w, q + 32 * g, k, dots);
        const vf dw = vf_load_f16(w + bits * 32), mw = has_min ? vf_load_f16(w + bits * 32 + 16) : dw;
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            scaled[t] = vf_fma(vf_from_vi(dots[t]), vf_mul(dw, vf_set1(d[t * groups + g])), scaled[t]);
            if (has_min || shift) minima[t] = vf_fma(mw, vf_set1(s[t * groups + g]), minima[t]);
        }
    }
    for (int t = 0; t < nt; t++) {
        if (shift) minima[t] = vf_mul(minima[t], vf_set1(-(float)shift));
        vf_store(y + (size_t)t * (size_t)ystride, vf_add(scaled[t], minima[t]));
    }
}

#define FEW_TILE(nt) case nt: few_tile(bits, bytes, has_min, shift, nt, w, k, q, d, s, next, share, y, ystride); break;

static inline __attribute__((always_inline)) void few_int(
    int bits, int bytes, int has_min, int shift, const uint8_t *w, int32_t blocks, int32_t k, const int8_t *all_q,
    const float *all_d, const float *all_s, int32_t tokens, float *all_y, int32_t ystride)
{
    const int32_t groups = k / 32, share = bytes / ((tokens + CLAW_FEW_TILE - 1) / CLAW_FEW_TILE);
    for (int32_t b = 0; b < blocks; b++, w += groups * bytes) {
        const int8_t *q = all_q;
        const float *d = all_d, *s = all_s;
        float *y = all_y + 8 * b;
        const uint8_t *next = w + (share == bytes ? (size_t)claw_tune.ahead : (size_t)groups * bytes);
        for (int32_t left = tokens, nt; left > 0; left -= nt) {
            nt = left < CLAW_FEW_TILE ? left : CLAW_FEW_TILE;
            switch (nt) {
                FEW_TILE(1) FEW_TILE(2) FEW_TILE(3) FEW_TILE(4)
#if CLAW_FEW_TILE > 4
                FEW_TILE(5) FEW_TILE(6) FEW_TILE(7) FEW_TILE(8)
#endif
            }
            next += groups * share;
            q += (size_t)nt * (size_t)k;
            d += nt * groups;
            s += nt * groups;
            y += (size_t)nt * (size_t)ystride;
        }
    }
}
