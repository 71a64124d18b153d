/* One number out of many. Sums run in 4 vectors of 8 lanes, joined in one order on every target (see
 * dot_run in audio.c); largest and smallest are exact and pass over NaN. */

static __attribute__((noinline)) float ordered_sum(const float *x, int32_t n)
{
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int32_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) s[j] = vf_add(vf_load(x + i + 8 * j), s[j]);
    for (; i + 8 <= n; i += 8) s[0] = vf_add(vf_load(x + i), s[0]);
    float sum = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
    for (; i < n; i++) sum += x[i];
    return sum;
}

static void CLAW_FN(sum_f32)(const float *x, int32_t n, float *y) { *y = ordered_sum(x, n); }

static void CLAW_FN(sum_squares_f32)(const float *x, int32_t n, float *y) { *y = dot_run(x, x, n); }

/* Sum of squared distances. */
static inline float spread(const float *x, int32_t n, float centre)
{
    vf s0 = vf_zero(), s1 = vf_zero(), c = vf_set1(centre);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vf a = vf_sub(vf_load(x + i), c), b = vf_sub(vf_load(x + i + 8), c);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
    }
    float sum = vf_sum(vf_add(s0, s1));
    for (; i < n; i++) sum += (x[i] - centre) * (x[i] - centre);
    return sum;
}

/* Two passes: the second sums squares around the mean, so nothing cancels. */
static void CLAW_FN(mean_variance_f32)(const float *x, int32_t n, float *y)
{
    y[0] = ordered_sum(x, n) / (float)n;
    y[1] = spread(x, n, y[0]) / (float)n;
}

/* The largest x, or with sign -1 the largest -x; "x then the best so far" makes a NaN lose. */
static __attribute__((noinline)) float largest_of(const float *x, int32_t n, float sign)
{
    vf m[4], by = vf_set1(sign);
    int32_t i = 0;
    for (int j = 0; j < 4; j++) m[j] = vf_set1(-INFINITY);
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) m[j] = vf_max(vf_mul(vf_load(x + i + 8 * j), by), m[j]);
    float best = vf_hmax(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
    for (; i < n; i++) best = x[i] * sign > best ? x[i] * sign : best;
    return best;
}

static void CLAW_FN(max_of_f32)(const float *x, int32_t n, float *y) { *y = largest_of(x, n, 1.0f); }
static void CLAW_FN(min_of_f32)(const float *x, int32_t n, float *y) { *y = -largest_of(x, n, -1.0f); }

static inline float largest_magnitude(const float *x, int32_t n)
{
    vf m0 = vf_zero(), m1 = vf_zero();
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        m0 = vf_max(vf_abs(vf_load(x + i)), m0);
        m1 = vf_max(vf_abs(vf_load(x + i + 8)), m1);
    }
    float best = vf_hmax(vf_max(m0, m1));
    for (; i < n; i++) best = fabsf(x[i]) > best ? fabsf(x[i]) : best;
    return best;
}

static void CLAW_FN(absmax_f32)(const float *x, int32_t n, float *y) { *y = largest_magnitude(x, n); }

static void CLAW_FN(level_f32)(const float *x, int32_t n, float *y)
{
    y[0] = largest_magnitude(x, n);
    y[1] = sqrtf(dot_run(x, x, n) / (float)n);
}

static void CLAW_FN(cumsum_f32)(const float *x, int32_t n, float start, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = start += x[i];
}

static void CLAW_FN(count_nonfinite_f32)(const float *x, int32_t n, int32_t *y)
{
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        count += (bits & 0x7f800000u) == 0x7f800000u;
    }
    *y = count;
}
