/* Feature maps element by element: codes with their scales, and f32 with one number a channel. Integer
 * sums and products are exact in f32, then rounded as ONNX Runtime does; y may be an input. */

static inline vf codes_less(const uint8_t *x, float zero) { return vf_sub(vf_load_u8(x), vf_set1(zero)); }

static inline vf to_code(vf v, float zero, float low, float high)
{
    v = vf_min(vf_max(v, vf_set1(low - zero)), vf_set1(high - zero));
    return vf_add(vf_round(v), vf_set1(zero));
}

/* Bodies for 8 codes at x and z; the tail goes through 8 bytes of its own. */
#define BYTES_OF_TWO(body)                                                                         \
    int32_t i = 0;                                                                                 \
    for (; i + 8 <= n; i += 8) {                                                                   \
        const uint8_t *x = a + i, *z = b + i;                                                      \
        vf_store_u8(y + i, body);                                                                  \
    }                                                                                              \
    if (i < n) {                                                                                   \
        uint8_t x[8] = {0}, z[8] = {0}, r[8];                                                      \
        memcpy(x, a + i, (size_t)(n - i));                                                         \
        memcpy(z, b + i, (size_t)(n - i));                                                         \
        vf_store_u8(r, body);                                                                      \
        memcpy(y + i, r, (size_t)(n - i));                                                         \
    }

static void CLAW_FN(add_u8)(
    const uint8_t *a, int32_t azero, float ascale, const uint8_t *b, int32_t bzero, float bscale, int32_t n,
    int32_t yzero, int32_t low, int32_t high, uint8_t *y)
{
    const float za = (float)azero, zb = (float)bzero, zy = (float)yzero;
    const vf sa = vf_set1(ascale), sb = vf_set1(bscale);
    BYTES_OF_TWO(to_code(vf_add(vf_mul(codes_less(x, za), sa), vf_mul(codes_less(z, zb), sb)), zy, (float)low, (float)high))
}

static void CLAW_FN(mul_u8)(
    const uint8_t *a, int32_t azero, const uint8_t *b, int32_t bzero, float scale, int32_t n, int32_t yzero, uint8_t *y)
{
    const float za = (float)azero, zb = (float)bzero, zy = (float)yzero;
    const vf s = vf_set1(scale);
    BYTES_OF_TWO(to_code(vf_mul(vf_mul(codes_less(x, za), codes_less(z, zb)), s), zy, 0.0f, 255.0f))
}

static void CLAW_FN(lut_u8)(const uint8_t *x, const uint8_t *table, int32_t n, uint8_t *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = table[x[i]];
}

static void CLAW_FN(scale_channels_u8)(
    const uint8_t *x, int32_t stride, int32_t pixels, int32_t channels, int32_t xzero, const uint8_t *by,
    int32_t byzero, float scale, int32_t yzero, uint8_t *y, int32_t ystride)
{
    const float zx = (float)xzero, zb = (float)byzero, zy = (float)yzero;
    for (int32_t p = 0; p < pixels; p++, x += stride, y += ystride)
        for (int32_t c = 0; c < channels; c += 8) {
            vf v = vf_mul(vf_mul(codes_less(x + c, zx), codes_less(by + c, zb)), vf_set1(scale));
            vf_store_u8(y + c, to_code(v, zy, 0.0f, 255.0f));
        }
}

/* Maps of f32, channels a multiple of 8: 8 channels at x + c become `body`. */
#define CHANNELS(body)                                                                             \
    for (int32_t p = 0; p < pixels; p++, x += stride, y += ystride)                                \
        for (int32_t c = 0; c < channels; c += 8) {                                                \
            vf v = vf_load(x + c);                                                                 \
            vf_store(y + c, body);                                                                 \
        }

static void CLAW_FN(scale_channels_f32)(
    const float *x, int32_t stride, int32_t pixels, int32_t channels, const float *scale, float *y, int32_t ystride)
{
    CHANNELS(vf_mul(v, vf_load(scale + c)))
}

static void CLAW_FN(affine_channels_f32)(
    const float *x, int32_t stride, int32_t pixels, int32_t channels, const float *scale, const float *shift,
    float low, float high, float *y, int32_t ystride)
{
    CHANNELS(vf_min(vf_set1(high), vf_max(vf_set1(low), vf_add(vf_mul(v, vf_load(scale + c)), vf_load(shift + c)))))
}

static void CLAW_FN(prelu_f32)(
    const float *x, int32_t stride, int32_t pixels, int32_t channels, const float *slope, float *y, int32_t ystride)
{
    CHANNELS(vf_add(vf_max(vf_zero(), v), vf_mul(vf_min(vf_zero(), v), vf_load(slope + c))))
}

/* A residual: sum of two maps, clamped. */
static void CLAW_FN(add_clamp_f32)(const float *a, const float *b, int32_t n, float low, float high, float *y)
{
    const vf lo = vf_set1(low), hi = vf_set1(high);
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) vf_store(y + i, vf_min(hi, vf_max(lo, vf_add(vf_load(a + i), vf_load(b + i)))));
    if (i < n) vf_store_part(y + i, n - i, vf_min(hi, vf_max(lo, vf_add(vf_load_part(a + i, n - i), vf_load_part(b + i, n - i)))));
}
