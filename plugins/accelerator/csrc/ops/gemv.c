/* Packed weights times one vector of activations, 8 rows a time.
 *
 * Sums run over k in order, in one chain a row (scales and minima apart), exactly as in gemm.c, so
 * that a token gives the same bits alone and in a batch. */

static inline vi group_dot_q4(const uint8_t *w, const int8_t *q)
{
    vs acc = vs_zero();
    for (int j = 0; j < 4; j++) {
        vb codes = vb_load(w + 32 * j);
        acc = vs_dot(acc, vb_low(codes), vb_bcast(q + 4 * j));
        acc = vs_dot(acc, vb_high(codes), vb_bcast(q + 16 + 4 * j));
    }
    return vs_sum(acc);
}

static inline vi group_dot_q8(const uint8_t *w, const int8_t *q)
{
    vi acc = vi_zero();
    for (int j = 0; j < 8; j++) acc = vi_dot(acc, vb_load(w + 32 * j), vb_bcast(q + 4 * j));
    return acc;
}

#define GEMV_INT(name, bits, bytes, has_min, shift)                                                \
    static void CLAW_FN(name)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *q,        \
                              const float *d, const float *s, float *y)                            \
    {                                                                                              \
        const uint8_t *const end = w + (size_t)blocks * (size_t)(k / 32) * (bytes);                \
        const size_t ahead = claw_tune.ahead; /* of the dot product, the stream of weights */      \
        for (; w < end; y += 8) {                                                                  \
            vf scaled = vf_zero(), minima = vf_zero();                                             \
            for (int32_t g = 0; g < k / 32; g++, w += (bytes)) {                                   \
                for (int p = 0; p < (bytes); p += 64) PREFETCH(w + ahead + p);                     \
                vf dw = vf_load_f16(w + (bits) * 32);                                              \
                vi dot = group_dot_q##bits(w, q + 32 * g);                                         \
                scaled = vf_fma(vf_from_vi(dot), vf_mul(dw, vf_set1(d[g])), scaled);               \
                if (has_min) minima = vf_fma(vf_load_f16(w + (bits) * 32 + 16), vf_set1(s[g]), minima); \
                if (shift) minima = vf_fma(dw, vf_set1(s[g]), minima);                             \
            }                                                                                      \
            if (shift) minima = vf_mul(minima, vf_set1(-(float)(shift)));                          \
            vf_store(y, vf_add(scaled, minima));                                                   \
        }                                                                                          \
    }

GEMV_INT(gemv_q4a, 4, Q4A_BYTES, 1, 0)
GEMV_INT(gemv_q4s, 4, Q4S_BYTES, 0, 8)
GEMV_INT(gemv_q8a, 8, Q8A_BYTES, 1, 0)
GEMV_INT(gemv_q8s, 8, Q8S_BYTES, 0, 0)

static inline vf load_f16(const uint8_t *p) { return vf_load_f16(p); }
static inline vf load_bf16(const uint8_t *p) { return vf_load_bf16(p); }
static inline vf load_f32(const uint8_t *p) { return vf_load(p); }

/* Four groups of rows side by side hide the latency of the chains. */
#define GEMV_FLOAT(type, bytes)                                                                    \
    static inline __attribute__((always_inline)) void gemv_##type##_n(                             \
        int n, const uint8_t *w, int32_t k, const float *x, float *y)                              \
    {                                                                                              \
        vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};                                  \
        const size_t row = (size_t)k * (bytes);                                                    \
        for (int32_t i = 0; i < k; i++)                                                            \
            for (int b = 0; b < n; b++)                                                            \
                acc[b] = vf_fma(load_##type(w + (size_t)b * row + (size_t)i * (bytes)),            \
                                vf_set1(x[i]), acc[b]);                                            \
        for (int b = 0; b < n; b++) vf_store(y + 8 * b, acc[b]);                                   \
    }                                                                                              \
    static void CLAW_FN(gemv_##type)(const uint8_t *w, int32_t blocks, int32_t k, const float *x, float *y) \
    {                                                                                              \
        const size_t row = (size_t)k * (bytes);                                                    \
        for (; blocks >= 4; blocks -= 4, w += 4 * row, y += 32) gemv_##type##_n(4, w, k, x, y);    \
        for (; blocks > 0; blocks--, w += row, y += 8) gemv_##type##_n(1, w, k, x, y);             \
    }

GEMV_FLOAT(f16, 16)
GEMV_FLOAT(bf16, 16)
GEMV_FLOAT(f32, 32)
