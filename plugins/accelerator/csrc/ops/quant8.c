/* Numbers to bytes and back: one scale a row, or ONNX's affine form (QuantizeLinear, opset 13:
 * saturate(round_half_even(x / scale) + zero)). A NaN becomes the lowest code. */

static void CLAW_FN(quantize_a7)(const float *x, int32_t n, int8_t *q, float *d, float *s)
{
    quantize_groups(x, n, 63.0f, q, d, s);
}

static void CLAW_FN(dequantize_q8)(const int8_t *q, const float *d, int32_t n, float *y)
{
    for (int32_t g = 0; g < n / 32; g++)
        for (int i = 0; i < 32; i++) y[32 * g + i] = (float)q[32 * g + i] * d[g];
}

static void CLAW_FN(quantize_q8_row)(const float *x, int32_t n, int8_t *q, float *d, int32_t *sum)
{
    vf m = vf_zero();
    int32_t i = 0, total = 0;
    for (; i + 8 <= n; i += 8) m = vf_max(vf_abs(vf_load(x + i)), m);
    if (i < n) m = vf_max(vf_abs(vf_load_part(x + i, n - i)), m);
    const float amax = vf_hmax(m);
    const vf scale = vf_set1(amax >= 1e-30f ? 127.0f / amax : 0.0f), low = vf_set1(-127.0f), high = vf_set1(127.0f);
    for (i = 0; i + 8 <= n; i += 8)
        vf_store_i8(q + i, vf_round(vf_min(vf_max(vf_mul(vf_load(x + i), scale), low), high)));
    if (i < n) {
        int8_t t[8];
        vf_store_i8(t, vf_round(vf_min(vf_max(vf_mul(vf_load_part(x + i, n - i), scale), low), high)));
        memcpy(q + i, t, (size_t)(n - i));
    }
    for (i = 0; i < n; i++) total += q[i];
    *d = amax >= 1e-30f ? amax * (1.0f / 127.0f) : 0.0f;
    *sum = total;
}

/* 8 integral floats in low..low+255 to bytes; low is 0 or -128. */
static inline void store_bytes(void *p, int n, vf v, int low)
{
    int8_t t[8];
    uint64_t bits;
    vf_store_i8(t, vf_sub(v, vf_set1((float)(low + 128))));
    memcpy(&bits, t, 8);
    if (low == 0) bits ^= 0x8080808080808080u;
    memcpy(p, &bits, (size_t)n);
}

/* Rounds, then shifts by zero, within low..low+255. Clamped first, so that vf_round can take it;
 * the bounds are whole, so the order does not matter. */
static inline vf affine(vf v, int32_t zero, int low)
{
    const vf least = vf_set1((float)(low - zero)), most = vf_set1((float)(low + 255 - zero));
    return vf_add(vf_round(vf_min(vf_max(v, least), most)), vf_set1((float)zero));
}

#define AFFINE(type, ctype, low)                                                                   \
    static void CLAW_FN(quantize_##type)(const float *x, int32_t n, float scale, int32_t zero, ctype *q) \
    {                                                                                              \
        const vf by = vf_set1(scale);                                                              \
        int32_t i = 0;                                                                             \
        for (; i + 8 <= n; i += 8) store_bytes(q + i, 8, affine(vf_div(vf_load(x + i), by), zero, low), low); \
        if (i < n) store_bytes(q + i, n - i, affine(vf_div(vf_load_part(x + i, n - i), by), zero, low), low); \
    }                                                                                              \
    static void CLAW_FN(dequantize_##type)(const ctype *q, int32_t n, float scale, int32_t zero, float *y) \
    {                                                                                              \
        for (int32_t i = 0; i < n; i++) y[i] = (float)(q[i] - zero) * scale;                       \
    }                                                                                              \
    static void CLAW_FN(requantize_s32_##type)(const int32_t *acc, const int32_t *bias, const float *multiplier, \
                                               int32_t n, int32_t zero, ctype *q)                  \
    {                                                                                              \
        for (int32_t i = 0; i < n; i += 8) {                                                       \
            const int m = n - i < 8 ? n - i : 8;                                                   \
            float t[8] = {0};                                                                      \
            if (m == 8)                                                                            \
                for (int j = 0; j < 8; j++) t[j] = (float)(int32_t)((uint32_t)acc[i + j] + (uint32_t)bias[i + j]); \
            else                                                                                   \
                for (int j = 0; j < m; j++) t[j] = (float)(int32_t)((uint32_t)acc[i + j] + (uint32_t)bias[i + j]); \
            vf by = m == 8 ? vf_load(multiplier + i) : vf_load_part(multiplier + i, m);            \
            store_bytes(q + i, m, affine(vf_mul(vf_load(t), by), zero, low), low);                 \
        }                                                                                          \
    }

AFFINE(u8, uint8_t, 0)
AFFINE(s8, int8_t, -128)
