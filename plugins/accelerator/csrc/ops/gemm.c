/* Packed weights times many tokens: a panel of 16 rows is unpacked to bytes once (it stays in L1),
 * then tiles of 16 rows x claw_tune.tile tokens run over the tokens. Sums are ordered as in
 * gemv.c. */

/* Two neighbouring quads of 8 rows. */
static inline void store_quads(uint8_t *out, size_t step, vb a, vb b)
{
#if defined(CLAW_BYTE_MATRICES)
    vb_pair(&a, &b);
#endif
    vb_store(out, a);
    vb_store(out + step, b);
}

/* Codes of a panel: [group][quad 0..7][block][32]; scales: [group][16] d, then [group][16] m. */
static inline __attribute__((always_inline)) void unpack_panel(
    const uint8_t *w, int blocks, int32_t k, int bits, int bytes, int has_min, uint8_t *codes, float *dw, float *mw)
{
    const int32_t groups = k / 32;
    for (int b = 0; b < blocks; b++)
        for (int32_t g = 0; g < groups; g++, w += bytes) {
            uint8_t *out = codes + ((size_t)g * 8 * (size_t)blocks + (size_t)b) * 32;
            const size_t step = 32 * (size_t)blocks;
            for (int j = 0; j < 32 / (8 / bits) / 4; j += 2) {
                vb c = vb_load(w + 32 * j), e = vb_load(w + 32 * j + 32);
                store_quads(out + (size_t)j * step, step, bits == 4 ? vb_low(c) : c, bits == 4 ? vb_low(e) : e);
                if (bits == 4) store_quads(out + (size_t)(j + 4) * step, step, vb_high(c), vb_high(e));
            }
            vf d = vf_load_f16(w + bits * 32);
            vf_store(dw + 16 * g + 8 * b, d);
            vf_store(mw + 16 * g + 8 * b, has_min ? vf_load_f16(w + bits * 32 + 16) : d);
        }
}

/* One group of 32 k for a tile of nb*8 rows x nt tokens; sums stay in memory between groups, the
 * registers are for the dot products. */
#if defined(CLAW_BYTE_MATRICES)
/* Tokens two by two; an odd last one is taken twice. */
static inline __attribute__((always_inline)) void tile_group_matrix(
    int nb, int nt, const uint8_t *codes, const float *dw, const int8_t *q, int32_t k, const float *d,
    int32_t groups, vf sums[4][2])
{
    vm acc[2][2] = {{vm_zero(), vm_zero()}, {vm_zero(), vm_zero()}};
#pragma GCC unroll 4
    for (int j = 0; j < 8; j += 2)
        for (int t = 0; t < nt; t += 2) {
            const int8_t *first = q + (size_t)t * (size_t)k + 4 * j, *second = t + 1 < nt ? first + k : first;
            for (int b = 0; b < nb; b++) {
                const uint8_t *w = codes + (j * nb + b) * 32;
                acc[t / 2][b] = vm_dot(acc[t / 2][b], vb_load(w), vb_load(w + 32 * nb), first, second);
            }
        }
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) {
            vi dot = t % 2 ? vm_second(acc[t / 2][b]) : vm_first(acc[t / 2][b]);
            vf scaled = vf_mul(vf_from_vi(dot), vf_load(dw + 8 * b));
            sums[t][b] = vf_fma(scaled, vf_set1(d[(size_t)t * (size_t)groups]), sums[t][b]);
        }
}
#define tile_group_q4(scaled, ...) tile_group_matrix(__VA_ARGS__)
#define tile_group_q8 tile_group_matrix
#else
/* A group's integers times its scales; `scaled`: scales as scale_panel makes them. */
static inline vf dot_q4(int scaled, vs acc, const float *dw)
{
#if defined(CLAW_SCALED_SUMS)
    if (scaled) return vf_from_vi(vs_scaled(acc, dw));
#endif
    (void)scaled;
    return vf_mul(vf_from_vi(vs_sum(acc)), vf_load(dw));
}

static inline __attribute__((always_inline)) void tile_group_q4(
    int scaled, int nb, int nt, const uint8_t *codes, const float *dw, const int8_t *q, int32_t k, const float *d,
    int32_t groups, vf sums[CLAW_MAX_TILE][2])
{
    vs acc[CLAW_MAX_TILE][2];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) acc[t][b] = vs_zero();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        vb w[2];
        for (int b = 0; b < nb; b++) w[b] = vb_load(codes + (j * nb + b) * 32);
        for (int t = 0; t < nt; t++) {
            vb a = vb_bcast(q + (size_t)t * (size_t)k + 4 * j);
            for (int b = 0; b < nb; b++) {
                acc[t][b] = vs_dot(acc[t][b], w[b], a);
                KEEP(acc[t][b]);
            }
        }
    }
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) {
            const vf dot = dot_q4(scaled, acc[t][b], dw + 8 * b);
            sums[t][b] = vf_fma(dot, vf_set1(d[(size_t)t * (size_t)groups]), sums[t][b]);
        }
}

static inline __attribute__((always_inline)) void tile_group_q8(
    int nb, int nt, const uint8_t *codes, const float *dw, const int8_t *q, int32_t k, const float *d,
    int32_t groups, vf sums[CLAW_MAX_TILE][2])
{
    vi acc[CLAW_MAX_TILE][2];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) acc[t][b] = vi_zero();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        vb w[2];
        for (int b = 0; b < nb; b++) w[b] = vb_load(codes + (j * nb + b) * 32);
        for (int t = 0; t < nt; t++) {
            vb a = vb_bcast(q + (size_t)t * (size_t)k + 4 * j);
            for (int b = 0; b < nb; b++) {
                acc[t][b] = vi_dot(acc[t][b], w[b], a);
                KEEP(acc[t][b]);
            }
        }
    }
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) {
            vf scaled = vf_mul(vf_from_vi(acc[t][b]), vf_load(dw + 8 * b));
            sums[t][b] = vf_fma(scaled, vf_set1(d[(size_t)t * (size_t)groups]), sums[t][b]);
        }
}
#endif

#if defined(CLAW_SCALED_SUMS)
/* Makes integers of a panel's scales, for the instruction that adds the two halves of each sum multiplies them anyway:
 * that saves a product of each group of each row and token, and what multiplies is what a core has too little of. Scales
 * have 11 bits, so 15 are enough if none is 32 times another, and in models hardly any is. What is left of all is one
 * power of two, which is returned: sums of rows meet it at their end. 0: scales stay as they are, for they are too far
 * apart, or activations' scales d so large or small that sums would leave float's range where they do not now. A group's
 * integer times its scale is rounded once, here and there, so bits are the same. */
static float scale_panel(float *dw, int32_t groups, const float *d, int32_t count)
{
    const uint32_t one = 127, mantissa = 23, large = one + 50, small = one - 100;
    uint32_t least, most, exponent;
    vf_range(dw, CLAW_PANEL * groups, &least, &most);
    exponent = least >> mantissa;
    if (!most || most >> mantissa > exponent + 4 || most >> mantissa > large) return 0.0f;
    vf_range(d, count, &least, &most);
    if (most >> mantissa > large || least >> mantissa < small) return 0.0f;
    const uint32_t up = (2 * one + 10 - exponent) << mantissa, down = (exponent - 10) << mantissa;
    float factor;
    memcpy(&factor, &up, sizeof up);
    vs_scales(dw, CLAW_PANEL * groups, factor);
    memcpy(&factor, &down, sizeof down);
    return factor;
}
#endif

/* down: of scaled sums, what scale_panel returned. */
static inline __attribute__((always_inline)) void tile_int(
    int bits, int scaled, int nb, int nt, int shift, int minima, const uint8_t *codes, const float *dw, const float *mw,
    int32_t k, const int8_t *q, const float *d, const float *s, float down, float *y, int32_t ystride)
{
    const int32_t groups = k / 32;
    vf sums[CLAW_MAX_TILE][2], mins[CLAW_MAX_TILE][2];
    float least[16 * CLAW_MAX_TILE] __attribute__((aligned(32)));
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) sums[t][b] = mins[t][b] = vf_zero();
    if (minima)
        for (int32_t g = 0; g < groups; g++)
            for (int t = 0; t < nt; t++)
                for (int b = 0; b < nb; b++)
                    mins[t][b] = vf_fma(vf_load(mw + 16 * g + 8 * b), vf_set1(s[t * groups + g]), mins[t][b]);
    for (int t = 0; t < nt; t++) {
        /* The next tile's results: to wait for their lines would hold up all that is stored meanwhile. */
        PREFETCH(y + (size_t)(nt + t) * (size_t)ystride);
        for (int b = 0; b < nb; b++) {
            if (shift) mins[t][b] = vf_mul(mins[t][b], vf_set1(-(float)shift));
            vf_store(least + 16 * t + 8 * b, mins[t][b]);
        }
    }
    __asm__("" : : "r"(least) : "memory"); /* They lie in memory from here on: registers are for the products. */
    for (int32_t g = 0; g < groups; g++, codes += 256 * nb)
        if (bits == 4) tile_group_q4(scaled, nb, nt, codes, dw + 16 * g, q + 32 * g, k, d + g, groups, sums);
        else tile_group_q8(nb, nt, codes, dw + 16 * g, q + 32 * g, k, d + g, groups, sums);
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) {
            const vf rest = vf_load(least + 16 * t + 8 * b);
            const vf sum = scaled ? vf_fma(sums[t][b], vf_set1(down), rest) : vf_add(sums[t][b], rest);
            vf_store(y + (size_t)t * (size_t)ystride + 8 * b, sum);
        }
}

#if defined(CLAW_WIDE_PANELS)
/* int4, two blocks as one vector: with so many registers sums stay in them. The same operations on each
 * element as above, so the same bits. */
static inline __attribute__((always_inline)) void tile_wide(
    int nt, int shift, int minima, const uint8_t *codes, const float *dw, const float *mw, int32_t k, const int8_t *q,
    const float *d, const float *s, float *y, int32_t ystride)
{
    const size_t groups = (size_t)(k / 32), row = (size_t)k;
    wf sums[CLAW_WIDE_TILE], mins[CLAW_WIDE_TILE];
    for (int t = 0; t < nt; t++) sums[t] = mins[t] = wf_zero();
    for (size_t g = 0; g < groups; g++, codes += 512, dw += 16, mw += 16, q += 32, d++, s++) {
        wi acc[CLAW_WIDE_TILE];
        for (int t = 0; t < nt; t++) acc[t] = wi_zero();
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const wi w = wi_load(codes + 64 * j);
            for (int t = 0; t < nt; t++) {
                acc[t] = wi_dot(acc[t], w, q + (size_t)t * row + 4 * j);
                KEEP(acc[t]);
            }
        }
        const wf scale = wf_load(dw), least = wf_load(mw);
        for (int t = 0; t < nt; t++) {
            sums[t] = wf_fma(wf_mul(wf_from_wi(acc[t]), scale), wf_set1(d[(size_t)t * groups]), sums[t]);
            if (minima) mins[t] = wf_fma(least, wf_set1(s[(size_t)t * groups]), mins[t]);
        }
    }
    for (int t = 0; t < nt; t++) {
        if (shift) mins[t] = wf_mul(mins[t], wf_set1(-(float)shift));
        wf_store(y + (size_t)t * (size_t)ystride, wf_add(sums[t], mins[t]));
    }
}

#define TILE_WIDE(nt) case nt: tile_wide(nt, shift, minima, codes, dw, mw, k, q, d, s, y, ystride); break;

static inline __attribute__((always_inline)) void tiles_wide(
    int shift, int minima, const uint8_t *codes, const float *dw, const float *mw, int32_t k, const int8_t *q, const float *d,
    const float *s, int32_t tokens, const uint8_t *next, int32_t lines, float *y, int32_t ystride)
{
    for (int32_t nt; tokens > 0; tokens -= nt) {
        nt = tokens >= CLAW_WIDE_TILE ? CLAW_WIDE_TILE : tokens >= 4 ? 4 : tokens;
        for (int32_t i = 0; i < lines * nt; i++, next += 64) PREFETCH(next);
        switch (nt) { TILE_WIDE(1) TILE_WIDE(2) TILE_WIDE(3) TILE_WIDE(4) TILE_WIDE(CLAW_WIDE_TILE) }
        q += (size_t)nt * (size_t)k;
        d += nt * (k / 32);
        s += nt * (k / 32);
        y += (size_t)nt * (size_t)ystride;
    }
}
#endif

#define TILE_INT(nt) case nt: tile_int(bits, scaled, nb, nt, shift, minima, codes, dw, mw, k, q, d, s, down, y, ystride); break;

/* next: what is asked for meanwhile, some lines with each tile. */
static inline __attribute__((always_inline)) void tiles_int(
    int bits, int scaled, int nb, int shift, int minima, const uint8_t *codes, const float *dw, const float *mw, int32_t k,
    const int8_t *q, const float *d, const float *s, int32_t tokens, int32_t tile, const uint8_t *next, int32_t lines, float down,
    float *y, int32_t ystride)
{
    for (int32_t nt; tokens > 0; tokens -= nt) {
        nt = tokens >= tile ? tile : tokens;
        for (int32_t i = 0; i < lines; i++, next += 64) PREFETCH(next);
        switch (nt) { TILE_INT(1) TILE_INT(2) TILE_INT(3) TILE_INT(4) }
        q += (size_t)nt * (size_t)k;
        d += nt * (k / 32);
        s += nt * (k / 32);
        y += (size_t)nt * (size_t)ystride;
    }
}

static inline __attribute__((always_inline)) void panel_int(
    int bits, int bytes, int has_min, int shift, int nb, const uint8_t *w, int32_t k, const int8_t *q, const float *d,
    const float *s, int32_t tokens, uint8_t *codes, float *y, int32_t ystride)
{
    const int32_t groups = k / 32, mins = has_min || shift;
    float *dw = (float *)(void *)(codes + 16 * (size_t)k), *mw = dw + 16 * groups;
    /* The next panel is asked for while this one is worked on, a share with each tile. */
    const uint8_t *next = w + (size_t)nb * (size_t)groups * (size_t)bytes;
    const int32_t tile = claw_tune.tile - 1 < CLAW_MAX_TILE ? (int32_t)claw_tune.tile : 4;
    const int32_t lines = nb * groups * bytes / 64 * tile / tokens + 1;
    unpack_panel(w, nb, k, bits, bytes, has_min, codes, dw, mw);
#if defined(CLAW_WIDE_PANELS)
    if (bits == 4 && nb == 2) {
        tiles_wide(shift, mins, codes, dw, mw, k, q, d, s, tokens, next, lines / tile + 1, y, ystride);
        return;
    }
#endif
#if defined(CLAW_SCALED_SUMS)
    const float down = bits == 4 && nb == 2 ? scale_panel(dw, groups, d, tokens * groups) : 0.0f;
    if (down != 0.0f) {
        tiles_int(bits, 1, nb, shift, mins, codes, dw, mw, k, q, d, s, tokens, tile, next, lines, down, y, ystride);
        return;
    }
#endif
    tiles_int(bits, 0, nb, shift, mins, codes, dw, mw, k, q, d, s, tokens, tile, next, lines, 0.0f, y, ystride);
}

#define GEMM_INT(name, bits, bytes, has_min, shift)                                                \
    static void CLAW_FN(name)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *q, const float *d, \
                              const float *s, int32_t tokens, uint8_t *scratch, float *y, int32_t ystride)  \
    {                                                                                              \
        const size_t panel = 2 * (size_t)(k / 32) * (bytes);                                       \
        if (few_tokens(bits, tokens, k)) {                                                         \
            few_int(bits, bytes, has_min, shift, w, blocks, k, q, d, s, tokens, scratch, y, ystride); \
            return;                                                                                \
        }                                                                                          \
        for (; blocks > 1; blocks -= 2, w += panel, y += 16)                                       \
            panel_int(bits, bytes, has_min, shift, 2, w, k, q, d, s, tokens, scratch, y, ystride); \
        if (blocks > 0) panel_int(bits, bytes, has_min, shift, 1, w, k, q, d, s, tokens, scratch, y, ystride); \
    }

GEMM_INT(gemm_q4a, 4, Q4A_BYTES, 1, 0)
GEMM_INT(gemm_q4s, 4, Q4S_BYTES, 0, 8)
GEMM_INT(gemm_q8a, 8, Q8A_BYTES, 1, 0)
GEMM_INT(gemm_q8s, 8, Q8S_BYTES, 0, 0)

#define GEMM_FLOAT(type, bytes)                                                                    \
    static inline __attribute__((always_inline)) void tile_##type(                                 \
        int nb, int nt, const uint8_t *w, int32_t k, const float *x, int32_t stride, float *y, int32_t ystride) \
    {                                                                                              \
        vf acc[6][2];                                                                              \
        const size_t row = (size_t)k * (bytes);                                                    \
        for (int t = 0; t < nt; t++)                                                               \
            for (int b = 0; b < nb; b++) acc[t][b] = vf_zero();                                    \
        for (int32_t i = 0; i < k; i++) {                                                          \
            vf v[2];                                                                               \
            for (int b = 0; b < nb; b++) v[b] = load_##type(w + (size_t)b * row + (size_t)i * (bytes)); \
            for (int t = 0; t < nt; t++) {                                                         \
                vf a = vf_set1(x[(size_t)t * (size_t)stride + (size_t)i]);                         \
                for (int b = 0; b < nb; b++) acc[t][b] = vf_fma(v[b], a, acc[t][b]);               \
            }                                                                                      \
        }                                                                                          \
        for (int t = 0; t < nt; t++)                                                               \
            for (int b = 0; b < nb; b++) vf_store(y + (size_t)t * (size_t)ystride + 8 * b, acc[t][b]); \
    }                                                                                              \
    static inline __attribute__((always_inline)) void panel_##type(                                \
        int nb, const uint8_t *w, int32_t k, const float *x, int32_t stride, int32_t tokens, float *y, int32_t ystride) \
    {                                                                                              \
        for (int32_t nt; tokens > 0; tokens -= nt) {                                               \
            nt = tokens >= 6 ? 6 : tokens >= 2 ? 2 : 1;                                            \
            switch (nt) {                                                                          \
            case 6: tile_##type(nb, 6, w, k, x, stride, y, ystride); break;                        \
            case 2: tile_##type(nb, 2, w, k, x, stride, y, ystride); break;                        \
            default: tile_##type(nb, 1, w, k, x, stride, y, ystride);                              \
            }                                                                                      \
            x += (size_t)nt * (size_t)stride;                                                      \
            y += (size_t)nt * (size_t)ystride;                                                     \
        }                                                                                          \
    }                                                                                              \
    static void CLAW_FN(gemm_##type)(const uint8_t *w, int32_t blocks, int32_t k, const float *x, int32_t stride, \
                                     int32_t tokens, float *y, int32_t ystride)                    \
    {                                                                                              \
        if (blocks == 2) panel_##type(2, w, k, x, stride, tokens, y, ystride);                     \
        else panel_##type(1, w, k, x, stride, tokens, y, ystride);                                 \
    }

GEMM_FLOAT(f16, 16)
GEMM_FLOAT(bf16, 16)
GEMM_FLOAT(f32, 32)
