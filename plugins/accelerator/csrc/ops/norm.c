/* Root mean square normalisation (Zhang and Sennrich, 2019): x / sqrt(mean(x^2) + eps) * gain. */

static void CLAW_FN(rmsnorm)(const float *x, const float *gain, int32_t n, float eps, float *y)
{
    vf a[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int32_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) {
            vf v = vf_load(x + i + 8 * j);
            a[j] = vf_fma(v, v, a[j]);
        }
    for (; i < n; i += 8) {
        vf v = i + 8 <= n ? vf_load(x + i) : vf_load_part(x + i, n - i);
        a[0] = vf_fma(v, v, a[0]);
    }
    float sum = vf_sum(vf_add(vf_add(a[0], a[1]), vf_add(a[2], a[3])));
    vf scale = vf_set1(1.0f / sqrtf(sum / (float)n + eps));
    for (i = 0; i + 8 <= n; i += 8)
        vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(gain + i)));
    if (i < n) {
        vf g = vf_load_part(gain + i, n - i);
        vf_store_part(y + i, n - i, vf_mul(vf_mul(vf_load_part(x + i, n - i), scale), g));
    }
}
