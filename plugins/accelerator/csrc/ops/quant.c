/* Activations to int8 in groups of 32, round to nearest even, symmetric (-127..127).
 * A group whose largest magnitude is below 1e-30 becomes zeros; a NaN becomes code -127. */

static void CLAW_FN(quantize_q8)(const float *x, int32_t n, int8_t *q, float *d, float *s)
{
    for (int32_t g = 0; g < n / 32; g++, x += 32, q += 32) {
        vf v[4], m, total = vf_zero();
        for (int i = 0; i < 4; i++) v[i] = vf_load(x + 8 * i);
        m = vf_max(vf_max(vf_abs(v[0]), vf_abs(v[1])), vf_max(vf_abs(v[2]), vf_abs(v[3])));
        float amax = vf_hmax(m);
        float scale = amax >= 1e-30f ? 127.0f / amax : 0.0f;
        for (int i = 0; i < 4; i++) {
            vf c = vf_mul(v[i], vf_set1(scale));
            c = vf_round(vf_min(vf_max(c, vf_set1(-127.0f)), vf_set1(127.0f)));
            vf_store_i8(q + 8 * i, c);
            total = vf_add(total, c);
        }
        d[g] = amax >= 1e-30f ? amax * (1.0f / 127.0f) : 0.0f;
        s[g] = d[g] * vf_sum(total);
    }
}
