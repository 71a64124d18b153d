/* Fourier transforms of any length whose only prime factors are 2, 3 and 5. Stockham's autosort
 * scheme in radix 4, 2, 3, 5: no bit reversal, every stage reads and writes runs of 8 floats.
 *
 * A length n = 8 m is cut into 8 transforms of length m, one a lane (element 8 i + j lies in lane j
 * already), then one of length 8 across the lanes joins them. Any other length runs in lane 0.
 *
 * Complex arrays are split: all real parts in one array, all imaginary parts in another. The table
 * is made by `fft_table` in sound.py: for each stage and each p the factors w^p, w^2p, ... as
 * (cos, sin); for n = 8 m then m runs of 8 cosines, and m runs of 8 sines, of w^(lane * k). */

typedef struct { vf r, i; } cf;

static inline cf cf_load(const float *r, const float *i, size_t at) { return (cf){vf_load(r + at), vf_load(i + at)}; }
static inline void cf_store(float *r, float *i, size_t at, cf a) { vf_store(r + at, a.r); vf_store(i + at, a.i); }
static inline cf cf_add(cf a, cf b) { return (cf){vf_add(a.r, b.r), vf_add(a.i, b.i)}; }
static inline cf cf_sub(cf a, cf b) { return (cf){vf_sub(a.r, b.r), vf_sub(a.i, b.i)}; }
/* a - i b and a + i b */
static inline cf cf_minus_i(cf a, cf b) { return (cf){vf_add(a.r, b.i), vf_sub(a.i, b.r)}; }
static inline cf cf_plus_i(cf a, cf b) { return (cf){vf_sub(a.r, b.i), vf_add(a.i, b.r)}; }
static inline cf cf_scale(cf a, float s) { vf v = vf_set1(s); return (cf){vf_mul(a.r, v), vf_mul(a.i, v)}; }
static inline cf cf_mul(cf a, vf c, vf s)
{
    return (cf){vf_sub(vf_mul(a.r, c), vf_mul(a.i, s)), vf_fma(a.r, s, vf_mul(a.i, c))};
}
static inline cf cf_twiddle(cf a, const float *w) { return cf_mul(a, vf_set1(w[0]), vf_set1(w[1])); }

static inline void dft3(cf *a)
{
    cf t = cf_add(a[1], a[2]), d = cf_scale(cf_sub(a[1], a[2]), 0.866025403784438647f);
    cf m = cf_sub(a[0], cf_scale(t, 0.5f));
    a[0] = cf_add(a[0], t);
    a[1] = cf_minus_i(m, d);
    a[2] = cf_plus_i(m, d);
}
static inline void dft4(cf *a)
{
    cf s = cf_add(a[0], a[2]), d = cf_sub(a[0], a[2]), t = cf_add(a[1], a[3]), e = cf_sub(a[1], a[3]);
    a[0] = cf_add(s, t);
    a[1] = cf_minus_i(d, e);
    a[2] = cf_sub(s, t);
    a[3] = cf_plus_i(d, e);
}
static inline void dft5(cf *a)
{
    const float c1 = 0.309016994374947424f, c2 = -0.809016994374947424f;
    const float s1 = 0.951056516295153572f, s2 = 0.587785252292473129f;
    cf t1 = cf_add(a[1], a[4]), t2 = cf_add(a[2], a[3]), d1 = cf_sub(a[1], a[4]), d2 = cf_sub(a[2], a[3]);
    cf m1 = cf_add(a[0], cf_add(cf_scale(t1, c1), cf_scale(t2, c2)));
    cf m2 = cf_add(a[0], cf_add(cf_scale(t1, c2), cf_scale(t2, c1)));
    cf n1 = cf_add(cf_scale(d1, s1), cf_scale(d2, s2)), n2 = cf_sub(cf_scale(d1, s2), cf_scale(d2, s1));
    a[0] = cf_add(a[0], cf_add(t1, t2));
    a[1] = cf_minus_i(m1, n1);
    a[2] = cf_minus_i(m2, n2);
    a[3] = cf_plus_i(m2, n2);
    a[4] = cf_plus_i(m1, n1);
}
/* Two transforms of 4, of the even and the odd elements. */
static inline void dft8(cf *a)
{
    cf e[4] = {a[0], a[2], a[4], a[6]}, o[4] = {a[1], a[3], a[5], a[7]};
    const float h = 0.707106781186547524f;
    dft4(e);
    dft4(o);
    o[1] = cf_scale(cf_minus_i(o[1], o[1]), h); /* times (1 - i) / sqrt 2 */
    o[3] = cf_scale(cf_plus_i(o[3], o[3]), -h);
    a[0] = cf_add(e[0], o[0]);
    a[4] = cf_sub(e[0], o[0]);
    a[1] = cf_add(e[1], o[1]);
    a[5] = cf_sub(e[1], o[1]);
    a[2] = cf_minus_i(e[2], o[2]);
    a[6] = cf_plus_i(e[2], o[2]);
    a[3] = cf_add(e[3], o[3]);
    a[7] = cf_sub(e[3], o[3]);
}

static inline int32_t fft_radix(int32_t n) { return n % 4 == 0 ? 4 : n % 2 == 0 ? 2 : n % 3 == 0 ? 3 : 5; }

/* One stage: m positions, runs of s floats, radix r. Run p + m k of x goes to run r p + k of y. */
static inline void fft_stage(int r, const float *xr, const float *xi, int32_t m, int32_t s, const float *w, float *yr,
                             float *yi)
{
    for (int32_t p = 0; p < m; p++, w += 2 * (r - 1))
        for (int32_t q = 0; q < s; q += 8) {
            cf a[5];
            for (int k = 0; k < r; k++) a[k] = cf_load(xr, xi, (size_t)s * (size_t)(p + m * k) + (size_t)q);
            if (r == 4) dft4(a);
            if (r == 3) dft3(a);
            if (r == 5) dft5(a);
            if (r == 2) {
                cf t = a[1];
                a[1] = cf_sub(a[0], t);
                a[0] = cf_add(a[0], t);
            }
            size_t to = (size_t)s * (size_t)r * (size_t)p + (size_t)q;
            cf_store(yr, yi, to, a[0]);
            for (int k = 1; k < r; k++) cf_store(yr, yi, to + (size_t)s * (size_t)k, cf_twiddle(a[k], w + 2 * (k - 1)));
        }
}

/* 8 transforms of length m, one a lane, from x to one of the two buffers of 16 m floats; returns it
 * (x itself for m = 1). *table is moved behind the stages. */
static const float *fft_lanes(const float *xr, const float *xi, int32_t m, const float **table, float *scratch,
                              const float **yi)
{
    float *to = scratch, *other = scratch + 16 * (size_t)m;
    for (int32_t s = 8; m > 1;) {
        int32_t r = fft_radix(m), rest = m / r;
        float *ti = to + (size_t)s * (size_t)m;
        if (r == 4) fft_stage(4, xr, xi, rest, s, *table, to, ti);
        if (r == 2) fft_stage(2, xr, xi, rest, s, *table, to, ti);
        if (r == 3) fft_stage(3, xr, xi, rest, s, *table, to, ti);
        if (r == 5) fft_stage(5, xr, xi, rest, s, *table, to, ti);
        *table += 2 * (r - 1) * rest;
        float *done = to;
        xr = done;
        xi = ti;
        to = other;
        other = done;
        m = rest;
        s *= r;
    }
    *yi = xi;
    return xr;
}

/* Joins the 8 lanes: 8 positions k at once become lanes. */
static inline void fft_join(const float *ar, const float *ai, int32_t m, int32_t k, const float *table, float scale,
                            cf out[8])
{
    vf r[8], i[8];
    for (int j = 0; j < 8; j++) {
        size_t at = 8 * (size_t)(k + j < m ? k + j : m - 1);
        cf a = cf_mul(cf_load(ar, ai, at), vf_load(table + at), vf_load(table + 8 * (size_t)m + at));
        r[j] = vf_mul(a.r, vf_set1(scale));
        i[j] = vf_mul(a.i, vf_set1(scale));
    }
    vf_transpose(r);
    vf_transpose(i);
    for (int j = 0; j < 8; j++) out[j] = (cf){r[j], i[j]};
    dft8(out);
}

static __attribute__((noinline)) void fft_any(const float *xr, const float *xi, int32_t n, float scale, const float *table, float *scratch,
                    float *yr, float *yi)
{
    const float *ar, *ai;
    if (n % 8) {
        float *r = scratch + 32 * (size_t)n, *i = r + 8 * (size_t)n;
        memset(r, 0, 64 * (size_t)n);
        for (int32_t k = 0; k < n; k++) {
            r[8 * (size_t)k] = xr[k] * scale;
            i[8 * (size_t)k] = xi[k] * scale;
        }
        ar = fft_lanes(r, i, n, &table, scratch, &ai);
        for (int32_t k = 0; k < n; k++) {
            yr[k] = ar[8 * (size_t)k];
            yi[k] = ai[8 * (size_t)k];
        }
        return;
    }
    int32_t m = n / 8;
    ar = fft_lanes(xr, xi, m, &table, scratch, &ai);
    for (int32_t k = 0; k < m; k += 8) {
        cf out[8];
        /* The last run starts early and computes some positions again, unless there are too few. */
        if (k + 8 > m && m >= 8) k = m - 8;
        fft_join(ar, ai, m, k, table, scale, out);
        for (int j = 0; j < 8; j++) {
            float *r = yr + (size_t)m * (size_t)j + k, *i = yi + (size_t)m * (size_t)j + k;
            if (m >= 8) {
                vf_store(r, out[j].r);
                vf_store(i, out[j].i);
            } else {
                vf_store_part(r, m, out[j].r);
                vf_store_part(i, m, out[j].i);
            }
        }
    }
}

static void CLAW_FN(fft_f32)(const float *xr, const float *xi, int32_t n, float scale, const float *table,
                             float *scratch, float *yr, float *yi)
{
    fft_any(xr, xi, n, scale, table, scratch, yr, yi);
}

/* The spectrum of n = 2 h reals out of the transform z of their pairs; u and v: -sin and cos of
 * 2 pi k / n for k below h. */
static __attribute__((noinline)) void rfft_split(const float *zr, const float *zi, int32_t h, const float *u, const float *v, float *restrict yr,
                       float *restrict yi)
{
    yr[0] = zr[0] + zi[0];
    yr[h] = zr[0] - zi[0];
    yi[0] = yi[h] = 0.0f;
    for (int32_t k = 1; k < h; k++) {
        float ar = zr[k] + zr[h - k], ai = zi[k] - zi[h - k], br = zr[k] - zr[h - k], bi = zi[k] + zi[h - k];
        yr[k] = 0.5f * (ar + (u[k] * br + v[k] * bi));
        yi[k] = 0.5f * (ai + (u[k] * bi - v[k] * br));
    }
}

static void CLAW_FN(rfft_f32)(const float *x, int32_t n, const float *table, float *scratch, float *yr, float *yi)
{
    int32_t h = n / 2;
    float *restrict ar = scratch, *restrict ai = scratch + h, *zr = scratch + 2 * (size_t)h, *zi = zr + h;
    for (int32_t i = 0; i < h; i++) {
        ar[i] = x[2 * i];
        ai[i] = x[2 * i + 1];
    }
    fft_any(ar, ai, h, 1.0f, table + n, zi + h, zr, zi);
    rfft_split(zr, zi, h, table, table + h, yr, yi);
}

static void CLAW_FN(irfft_f32)(const float *xr, const float *xi, int32_t n, const float *table, float *scratch,
                               float *y)
{
    int32_t h = n / 2;
    float *restrict ar = scratch, *restrict ai = scratch + h, *zr = scratch + 2 * (size_t)h, *zi = zr + h;
    const float *u = table, *v = table + h;
    ar[0] = 0.5f * (xr[0] + xr[h]);
    ai[0] = 0.5f * (xr[0] - xr[h]);
    for (int32_t k = 1; k < h; k++) {
        float er = xr[k] + xr[h - k], ei = xi[k] - xi[h - k], dr = xr[k] - xr[h - k], di = xi[k] + xi[h - k];
        ar[k] = 0.5f * (er + (u[k] * dr - v[k] * di));
        ai[k] = 0.5f * (ei + (u[k] * di + v[k] * dr));
    }
    /* Real and imaginary parts changed over: the inverse transform. */
    fft_any(ai, ar, h, 1.0f / (float)h, table + n, zi + h, zi, zr);
    for (int32_t i = 0; i < h; i++) {
        y[2 * i] = zr[i];
        y[2 * i + 1] = zi[i];
    }
}

static void CLAW_FN(stft_power_f32)(const float *x, const float *window, int32_t frames, int32_t hop, int32_t length,
                                    int32_t n, const float *table, float *scratch, float *y)
{
    int32_t h = n / 2;
    float *ar = scratch, *ai = scratch + h, *zr = scratch + 2 * (size_t)h, *zi = zr + h;
    for (int32_t f = 0; f < frames; f++, x += hop, y += h + 1) {
        float *restrict r = ar, *restrict i = ai;
        for (int32_t k = 0; k < length / 2; k++) {
            r[k] = x[2 * k] * window[2 * k];
            i[k] = x[2 * k + 1] * window[2 * k + 1];
        }
        for (int32_t k = length / 2; k < h; k++) r[k] = i[k] = 0.0f;
        if (length & 1) r[length / 2] = x[length - 1] * window[length - 1];
        fft_any(ar, ai, h, 1.0f, table + n, zi + h, zr, zi);
        rfft_split(zr, zi, h, table, table + h, zi + h, zi + 2 * h + 1);
        const float *pr = zi + h, *pi = pr + h + 1;
        for (int32_t k = 0; k <= h; k++) y[k] = pr[k] * pr[k] + pi[k] * pi[k];
    }
}
