/* Between samples and features: windows, spectra, mel filters, logarithms, the cosine transform.
 * Plain loops, which compilers vectorise; nothing here is contracted, so every target has the same
 * bits but where sums of products are taken on vectors. */

static void CLAW_FN(window_f32)(const float *x, const float *window, int32_t length, int32_t n, float *y)
{
    for (int32_t i = 0; i < length; i++) y[i] = x[i] * window[i];
    for (int32_t i = length; i < n; i++) y[i] = 0.0f;
}

static void CLAW_FN(preemphasis_f32)(const float *x, int32_t n, float factor, float before, float *y)
{
    if (n < 1) return;
    y[0] = x[0] - factor * before;
    for (int32_t i = 1; i < n; i++) y[i] = x[i] - factor * x[i - 1];
}

static void CLAW_FN(power_f32)(const float *re, const float *im, int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = re[i] * re[i] + im[i] * im[i];
}

static void CLAW_FN(magnitude_f32)(const float *re, const float *im, int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = sqrtf(re[i] * re[i] + im[i] * im[i]);
}

/* Sum of n products: 4 running vectors, then their pairs, the lanes as vf_sum, the rest one by one.
 * Not inlined: its callers are many and its runs long. */
static __attribute__((noinline)) float dot_run(const float *a, const float *b, int32_t n)
{
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int32_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
        s1 = vf_fma(vf_load(a + i + 8), vf_load(b + i + 8), s1);
        s2 = vf_fma(vf_load(a + i + 16), vf_load(b + i + 16), s2);
        s3 = vf_fma(vf_load(a + i + 24), vf_load(b + i + 24), s3);
    }
    for (; i + 8 <= n; i += 8) s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
    float sum = vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* `count` frames at once, so that weights are loaded once; each has the same bits as alone. */
static inline __attribute__((always_inline)) void mel_frames(int count, const float *x, int32_t bins,
                                                             const int32_t *rows, const float *w, int32_t filters,
                                                             float *y)
{
    for (int32_t f = 0; f < filters; f++, y++) {
        const float *from = x + rows[2 * f];
        int32_t n = rows[2 * f + 1], i = 0;
        vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        for (; i + 8 <= n; i += 8) {
            vf v = vf_load(w + i);
            for (int j = 0; j < count; j++) s[j] = vf_fma(vf_load(from + (size_t)j * (size_t)bins + i), v, s[j]);
        }
        for (int j = 0; j < count; j++) {
            float sum = vf_sum(s[j]);
            for (int32_t k = i; k < n; k++) sum += from[(size_t)j * (size_t)bins + k] * w[k];
            y[(size_t)j * (size_t)filters] = sum;
        }
        w += n;
    }
}

static void CLAW_FN(mel_f32)(const float *x, int32_t frames, int32_t bins, const int32_t *rows, const float *weights,
                             int32_t filters, float *y)
{
    int32_t f = 0;
    for (; f + 4 <= frames; f += 4, x += 4 * (size_t)bins, y += 4 * (size_t)filters)
        mel_frames(4, x, bins, rows, weights, filters, y);
    for (; f < frames; f++, x += bins, y += filters) mel_frames(1, x, bins, rows, weights, filters, y);
}

static void CLAW_FN(dct_f32)(const float *x, int32_t frames, int32_t n, const float *table, int32_t outputs, float *y)
{
    for (int32_t f = 0; f < frames; f++, x += n)
        for (int32_t i = 0; i < outputs; i++) *y++ = dot_run(x, table + (size_t)i * (size_t)n, n);
}

/* ln of a normal number: exponent and mantissa in [sqrt 1/2, sqrt 2), polynomial of the Cephes
 * library's logf. Bits are taken apart in plain C, so that any vector unit can do it. */
static inline float ln_of(float x)
{
    uint32_t bits, scaled;
    float m, e, p, sq;
    memcpy(&bits, &x, 4);
    scaled = bits - 0x3f3504f3u;
    e = (float)((int32_t)scaled >> 23);
    bits = (scaled & 0x7fffffu) + 0x3f3504f3u;
    memcpy(&m, &bits, 4);
    m -= 1.0f;
    sq = m * m;
    p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * sq + e * -2.12194440e-4f;
    return m + (p - 0.5f * sq) + e * 0.693359375f;
}

static void CLAW_FN(log_f32)(const float *x, int32_t n, float floor, float scale, float *y)
{
    for (int32_t i = 0; i < n; i++) {
        float v = x[i] > floor ? x[i] : floor;
        float r = ln_of(v);
        y[i] = scale * (v > 3.4028234e38f ? v : r);
    }
}
