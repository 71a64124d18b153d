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

#ifndef CLAW_LDEXP
/* a * 2^n of integral n, where a and the result are normal. */
static inline vf vf_ldexp(vf a, vf n) { return vf_mul(a, vf_pow2(n)); }
#endif

/* exp(x - top) of x <= top, for weights that are summed: 2^n times a polynomial of degree 5 (a minimax
 * fit of 2^r on -0.5..0.5, relative error 1e-7). Below -86.6, and of a NaN, exactly 0. */
static inline vf vf_exp_below(vf x, float top)
{
    const vf low = vf_set1(-125.0f), log2e = vf_set1(1.44269504089f);
    const vf t = vf_fma(x, log2e, vf_set1(top * -1.44269504089f)), c = vf_max(t, low);
    const vf n = vf_round(c), r = vf_sub(c, n);
    vf p = vf_fma(vf_set1(1.3276471520e-3f), r, vf_set1(9.6755413307e-3f));
    p = vf_fma(p, r, vf_set1(5.5507132750e-2f));
    p = vf_fma(p, r, vf_set1(2.4022119724e-1f));
    p = vf_fma(p, r, vf_set1(6.9314696706e-1f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_keep_ge(vf_ldexp(p, n), t, low);
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
