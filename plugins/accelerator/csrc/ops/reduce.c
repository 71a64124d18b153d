/* One number out of many. Sums run in 4 vectors of 8 lanes, joined in one order on every target (see
 * dot_run in audio.c); largest and smallest are exact and pass over NaN. */

static inline float sum_run(const float *x, int32_t n, float centre, int square)
{
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()}, c = vf_set1(centre);
    int32_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) {
            vf v = vf_sub(vf_load(x + i + 8 * j), c);
            s[j] = square ? vf_fma(v, v, s[j]) : vf_add(v, s[j]);
        }
    for (; i + 8 <= n; i += 8) {
        vf v = vf_sub(vf_load(x + i), c);
        s[0] = square ? vf_fma(v, v, s[0]) : vf_add(v, s[0]);
    }
    float sum = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
    for (; i < n; i++) sum += square ? (x[i] - centre) * (x[i] - centre) : x[i] - centre;
    return sum;
}

static void CLAW_FN(sum_f32)(const float *x, int32_t n, float *y) { *y = sum_run(x, n, 0.0f, 0); }

static void CLAW_FN(sum_squares_f32)(const float *x, int32_t n, float *y) { *y = sum_run(x, n, 0.0f, 1); }

/* Two passes: the second sums squares around the mean, so nothing cancels. */
static void CLAW_FN(mean_variance_f32)(const float *x, int32_t n, float *y)
{
    y[0] = sum_run(x, n, 0.0f, 0) / (float)n;
    y[1] = sum_run(x, n, y[0], 1) / (float)n;
}

enum reach { REACH_MAX, REACH_MIN, REACH_ABS };

/* All three are a largest of something; "x then the best so far" makes a NaN lose. */
static inline float reach_run(const float *x, int32_t n, enum reach kind, float best)
{
    vf m[4], zero = vf_zero();
    int32_t i = 0;
    for (int j = 0; j < 4; j++) m[j] = vf_set1(best);
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) {
            vf v = vf_load(x + i + 8 * j);
            v = kind == REACH_MIN ? vf_sub(zero, v) : kind == REACH_ABS ? vf_abs(v) : v;
            m[j] = vf_max(v, m[j]);
        }
    best = vf_hmax(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
    for (; i < n; i++) {
        float v = kind == REACH_MIN ? 0.0f - x[i] : kind == REACH_ABS ? fabsf(x[i]) : x[i];
        best = v > best ? v : best;
    }
    return best;
}

static void CLAW_FN(max_of_f32)(const float *x, int32_t n, float *y) { *y = reach_run(x, n, REACH_MAX, -INFINITY); }
static void CLAW_FN(min_of_f32)(const float *x, int32_t n, float *y) { *y = 0.0f - reach_run(x, n, REACH_MIN, -INFINITY); }
static void CLAW_FN(absmax_f32)(const float *x, int32_t n, float *y) { *y = reach_run(x, n, REACH_ABS, 0.0f); }

static void CLAW_FN(level_f32)(const float *x, int32_t n, float *y)
{
    y[0] = reach_run(x, n, REACH_ABS, 0.0f);
    y[1] = sqrtf(sum_run(x, n, 0.0f, 1) / (float)n);
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
