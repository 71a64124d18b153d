/* Activations to int8 in groups of 32, round to nearest even, symmetric (-127..127, or -63..63).
 * A group whose largest magnitude is below 1e-30 becomes zeros; a NaN becomes the lowest code. */

#ifndef CLAW_CODES
/* Four vectors of floats in -127..127 to the nearest int8, ties to even; returns the sum of the codes, which is exact. */
static inline float vf_codes(int8_t *q, const vf c[4])
{
    vf total = vf_zero();
    for (int i = 0; i < 4; i++) {
        const vf code = vf_round(c[i]);
        vf_store_i8(q + 8 * i, code);
        total = vf_add(total, code);
    }
    return vf_sum(total);
}
#endif

static inline void quantize_group(const vf v[4], float top, int8_t *q, float *d, float *s)
{
    vf m = vf_max(vf_max(vf_abs(v[0]), vf_abs(v[1])), vf_max(vf_abs(v[2]), vf_abs(v[3]))), c[4];
    const float amax = vf_hmax(m);
    const float scale = amax >= 1e-30f ? top / amax : 0.0f;
    for (int i = 0; i < 4; i++) c[i] = vf_min(vf_max(vf_mul(v[i], vf_set1(scale)), vf_set1(-top)), vf_set1(top));
    *d = amax >= 1e-30f ? amax * (1.0f / top) : 0.0f;
    *s = *d * vf_codes(q, c);
}

static inline __attribute__((always_inline)) void quantize_groups(const float *x, int32_t n, float top, int8_t *q, float *d, float *s)
{
    for (int32_t g = 0; g < n / 32; g++, x += 32) {
        const vf v[4] = {vf_load(x), vf_load(x + 8), vf_load(x + 16), vf_load(x + 24)};
        quantize_group(v, top, q + 32 * g, d + g, s + g);
    }
}

static void CLAW_FN(quantize_q8)(const float *x, int32_t n, int8_t *q, float *d, float *s)
{
    quantize_groups(x, n, 127.0f, q, d, s);
}
