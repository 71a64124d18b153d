/* Normalisations beside rmsnorm: with the residual, on the way to int8, LayerNorm (Ba et al., 2016),
 * GroupNorm (Wu and He, 2018), L2. */

/* Sum of f over n elements of x in four chains; f sees v and must give 0 for an element beyond n. */
#define ROW_SUM(result, f, last)                                                                    \
    {                                                                                              \
        vf a[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};                                    \
        int64_t i = 0;                                                                             \
        for (; i + 32 <= n; i += 32)                                                               \
            for (int j = 0; j < 4; j++) {                                                          \
                vf v = vf_load(x + i + 8 * j);                                                     \
                a[j] = f(a[j]);                                                                    \
            }                                                                                      \
        for (; i + 8 <= n; i += 8) {                                                               \
            vf v = vf_load(x + i);                                                                 \
            a[0] = f(a[0]);                                                                        \
        }                                                                                          \
        if (i < n) {                                                                               \
            vf v = vf_load_part(x + i, (int)(n - i));                                              \
            v = last;                                                                              \
            a[0] = f(a[0]);                                                                        \
        }                                                                                          \
        result = vf_sum(vf_add(vf_add(a[0], a[1]), vf_add(a[2], a[3])));                           \
    }
#define ROW_PLAIN(acc) vf_add(acc, v)
#define ROW_SQUARE(acc) vf_fma(v, v, acc)
#define ROW_CENTERED(acc) vf_fma(vf_sub(v, m), vf_sub(v, m), acc)

static inline float row_total(const float *x, int64_t n)
{
    float sum;
    ROW_SUM(sum, ROW_PLAIN, v)
    return sum;
}

static inline float row_squares(const float *x, int64_t n)
{
    float sum;
    ROW_SUM(sum, ROW_SQUARE, v)
    return sum;
}

/* 1 / standard deviation, in a second pass: nothing cancels. */
static inline float inverse_deviation(const float *x, int64_t n, float mean, float eps)
{
    const vf m = vf_set1(mean);
    float sum;
    ROW_SUM(sum, ROW_CENTERED, vf_first((int)(n - i), v, m))
    return 1.0f / sqrtf(sum / (float)n + eps);
}

static void CLAW_FN(add_rmsnorm)(const float *a, const float *b, const float *gain, int32_t n, float eps, float *sum, float *y)
{
    CLAW_FN(add)(a, b, n, sum);
    CLAW_FN(rmsnorm)(sum, gain, n, eps, y);
}

static void CLAW_FN(rmsnorm_q8)(const float *x, const float *gain, int32_t n, float eps, int8_t *q, float *d, float *s)
{
    const vf scale = vf_set1(1.0f / sqrtf(row_squares(x, n) / (float)n + eps));
    for (int32_t g = 0; g < n / 32; g++, x += 32, gain += 32) {
        vf v[4];
        for (int j = 0; j < 4; j++) v[j] = vf_mul(vf_mul(vf_load(x + 8 * j), scale), vf_load(gain + 8 * j));
        quantize_group(v, 127.0f, q + 32 * g, d + g, s + g);
    }
}

static inline vf layer_of(vf v, vf mean, vf scale, vf gain, vf bias)
{
    return vf_add(vf_mul(vf_mul(vf_sub(v, mean), scale), gain), bias);
}

static void CLAW_FN(layernorm_f32)(const float *x, const float *gain, const float *bias, int32_t n, float eps, float *y)
{
    const float mean = row_total(x, n) / (float)n;
    const vf m = vf_set1(mean), scale = vf_set1(inverse_deviation(x, n, mean, eps));
    int32_t i = 0;
    for (; i + 8 <= n; i += 8)
        vf_store(y + i, layer_of(vf_load(x + i), m, scale, vf_load(gain + i), vf_load(bias + i)));
    if (i < n) {
        vf g = vf_load_part(gain + i, n - i), b = vf_load_part(bias + i, n - i);
        vf_store_part(y + i, n - i, layer_of(vf_load_part(x + i, n - i), m, scale, g, b));
    }
}

static void CLAW_FN(layernorm_q8)(const float *x, const float *gain, const float *bias, int32_t n, float eps, int8_t *q, float *d, float *s)
{
    const float mean = row_total(x, n) / (float)n;
    const vf m = vf_set1(mean), scale = vf_set1(inverse_deviation(x, n, mean, eps));
    for (int32_t g = 0; g < n / 32; g++, x += 32, gain += 32, bias += 32) {
        vf v[4];
        for (int j = 0; j < 4; j++)
            v[j] = layer_of(vf_load(x + 8 * j), m, scale, vf_load(gain + 8 * j), vf_load(bias + 8 * j));
        quantize_group(v, 127.0f, q + 32 * g, d + g, s + g);
    }
}

/* y = x * a + b, y may be x. */
static inline void affine_row(const float *x, int64_t n, float a, float b, float *y)
{
    const vf va = vf_set1(a), vb_ = vf_set1(b);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) vf_store(y + i, vf_fma(vf_load(x + i), va, vb_));
    if (i < n) vf_store_part(y + i, (int)(n - i), vf_fma(vf_load_part(x + i, (int)(n - i)), va, vb_));
}

static void CLAW_FN(l2norm_f32)(const float *x, int32_t n, float eps, float *y)
{
    const float length = sqrtf(row_squares(x, n));
    affine_row(x, n, 1.0f / (length < eps ? eps : length), 0.0f, y);
}

static void CLAW_FN(groupnorm_f32)(const float *x, const float *gain, const float *bias, int32_t channels, int32_t groups,
                                   int32_t positions, float eps, float *y)
{
    const int32_t each = channels / groups;
    const int64_t n = (int64_t)each * positions;
    for (int32_t g = 0; g < groups; g++, x += n, y += n) {
        const float mean = row_total(x, n) / (float)n, scale = inverse_deviation(x, n, mean, eps);
        for (int32_t c = 0; c < each; c++) {
            const float a = scale * gain[g * each + c];
            affine_row(x + (int64_t)c * positions, positions, a, bias[g * each + c] - mean * a, y + (int64_t)c * positions);
        }
    }
}
