/* exp on vectors, from the target's primitives: range reduction by ln 2 and a polynomial of degree
 * 6 (coefficients of the Cephes library's expf). Below -87.3 the result is exactly 0. */
#ifndef CLAW_OPS_MATH_H
#define CLAW_OPS_MATH_H

static inline vf vf_exp(vf x)
{
    const vf low = vf_set1(-87.3f);
    vf c = vf_min(vf_max(x, low), vf_set1(88.3f));
    vf n = vf_round(vf_mul(c, vf_set1(1.44269504089f)));
    vf r = vf_fma(n, vf_set1(-0.693359375f), c);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_add(vf_fma(vf_mul(r, r), p, r), vf_set1(1.0f));
    return vf_keep_ge(vf_mul(p, vf_pow2(n)), x, low);
}

/* vf_exp of four vectors, stage by stage: one after the other, a processor's schedulers fill with steps that wait for
 * the step before. */
static inline __attribute__((always_inline)) void vf_exp4(vf x[4])
{
    static const float factors[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    const vf low = vf_set1(-87.3f);
    vf n[4], r[4], p[4];
    for (int i = 0; i < 4; i++) r[i] = vf_min(vf_max(x[i], low), vf_set1(88.3f));
    for (int i = 0; i < 4; i++) n[i] = vf_round(vf_mul(r[i], vf_set1(1.44269504089f)));
    for (int i = 0; i < 4; i++) r[i] = vf_fma(n[i], vf_set1(-0.693359375f), r[i]);
    for (int i = 0; i < 4; i++) r[i] = vf_fma(n[i], vf_set1(2.12194440e-4f), r[i]);
    for (int i = 0; i < 4; i++) p[i] = vf_set1(factors[0]);
    for (int j = 1; j < 6; j++)
        for (int i = 0; i < 4; i++) p[i] = vf_fma(p[i], r[i], vf_set1(factors[j]));
    for (int i = 0; i < 4; i++) p[i] = vf_add(vf_fma(vf_mul(r[i], r[i]), p[i], r[i]), vf_set1(1.0f));
    for (int i = 0; i < 4; i++) x[i] = vf_keep_ge(vf_mul(p[i], vf_pow2(n[i])), x[i], low);
}

/* The first n (1..7) floats of p, zeros after them. */
static inline vf vf_load_part(const float *p, int n)
{
    float t[8] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vf_load(t);
}
static inline void vf_store_part(float *p, int n, vf a)
{
    float t[8];
    vf_store(t, a);
    memcpy(p, t, (size_t)n * sizeof *p);
}
#endif
