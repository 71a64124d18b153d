/* Arrays from one type of number to another. Floats to integers: times scale, nearest, ties to even,
 * clipped to the type; a NaN becomes 0. Floats to floats: nearest, ties to even; too large becomes
 * infinite, a NaN stays a NaN. */

/* Nearest integer of a float of magnitude up to 2^23: what is above it has no digits to lose. */
static inline float nearest(float v)
{
    float big = copysignf(8388608.0f, v);
    return (v + big) - big;
}
/* v between two whole numbers, 0 for a NaN. */
static inline float clipped(float v, float low, float high)
{
    v = v == v ? v : 0.0f;
    v = v > low ? v : low;
    return v < high ? v : high;
}
static inline int32_t whole(float v, float low, float high) { return (int32_t)nearest(clipped(v, low, high)); }

static void CLAW_FN(convert_f32_s16)(const float *x, int32_t n, float scale, int16_t *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (int16_t)whole(x[i] * scale, -32768.0f, 32767.0f);
}
/* 2^31 - 1 is no float: the largest below 2^31, then what was beyond it is replaced. */
static void CLAW_FN(convert_f32_s32)(const float *x, int32_t n, float scale, int32_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        float v = x[i] * scale;
        float c = clipped(v, -2147483648.0f, 2147483520.0f);
        c = fabsf(c) < 8388608.0f ? nearest(c) : c;
        int32_t code = (int32_t)c;
        y[i] = v >= 2147483648.0f ? INT32_MAX : code;
    }
}
static void CLAW_FN(convert_s16_f32)(const int16_t *x, int32_t n, float scale, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (float)x[i] * scale;
}
static void CLAW_FN(convert_s32_f32)(const int32_t *x, int32_t n, float scale, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (float)x[i] * scale;
}

static void CLAW_FN(convert_f32_f16)(const float *x, int32_t n, uint16_t *y)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) vf_store_f16(y + i, vf_load(x + i));
    for (; i < n; i++) y[i] = f32_to_f16(x[i]);
}
static void CLAW_FN(convert_f16_f32)(const uint16_t *x, int32_t n, float *y)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) vf_store(y + i, vf_load_f16(x + i));
    for (; i < n; i++) y[i] = f16_to_f32(x[i]);
}
static void CLAW_FN(convert_f32_bf16)(const float *x, int32_t n, uint16_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        uint32_t b;
        memcpy(&b, x + i, 4);
        uint32_t rounded = (b + 0x7fffu + (b >> 16 & 1u)) >> 16;
        y[i] = (uint16_t)((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40u : rounded);
    }
}
static void CLAW_FN(convert_bf16_f32)(const uint16_t *x, int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i++) {
        uint32_t b = (uint32_t)x[i] << 16;
        memcpy(y + i, &b, 4);
    }
}
static void CLAW_FN(convert_f64_f32)(const double *x, int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (float)x[i];
}
static void CLAW_FN(convert_f32_f64)(const float *x, int32_t n, double *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (double)x[i];
}
