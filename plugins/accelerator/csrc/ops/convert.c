/* Arrays from one type of number to another. Floats to integers: times scale, nearest, ties to even,
 * clipped to the type; a NaN becomes 0 (in u8: the offset). Floats to floats: nearest, ties to even;
 * too large becomes infinite, a NaN stays a NaN. */

/* Nearest integer of any float, as a float. */
static inline float nearest(float v)
{
    float a = fabsf(v), r = (a + 8388608.0f) - 8388608.0f;
    r = a < 8388608.0f ? r : a;
    return v < 0.0f ? -r : r;
}
/* v between two whole numbers, 0 for a NaN. */
static inline float whole(float v, float low, float high)
{
    v = v == v ? v : 0.0f;
    v = v > low ? v : low;
    v = v < high ? v : high;
    return nearest(v);
}

static void CLAW_FN(convert_f32_s8)(const float *x, int32_t n, float scale, int8_t *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (int8_t)(int32_t)whole(x[i] * scale, -128.0f, 127.0f);
}
static void CLAW_FN(convert_f32_u8)(const float *x, int32_t n, float scale, int32_t offset, uint8_t *y)
{
    float zero = (float)offset;
    for (int32_t i = 0; i < n; i++) y[i] = (uint8_t)((int32_t)whole(x[i] * scale, -zero, 255.0f - zero) + offset);
}
static void CLAW_FN(convert_f32_s16)(const float *x, int32_t n, float scale, int16_t *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (int16_t)(int32_t)whole(x[i] * scale, -32768.0f, 32767.0f);
}
/* 2^31 - 1 is no float: the largest below 2^31, then what was beyond it is replaced. */
static void CLAW_FN(convert_f32_s32)(const float *x, int32_t n, float scale, int32_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        float v = x[i] * scale;
        int32_t code = (int32_t)whole(v, -2147483648.0f, 2147483520.0f);
        y[i] = v >= 2147483648.0f ? INT32_MAX : code;
    }
}
static void CLAW_FN(convert_u8_f32)(const uint8_t *x, int32_t n, int32_t offset, float scale, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = (float)(x[i] - offset) * scale;
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
