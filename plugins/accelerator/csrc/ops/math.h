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
