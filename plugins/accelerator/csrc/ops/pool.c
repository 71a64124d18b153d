/* Pools through a table (images.h), and over all pixels of a map. Maxima pass over NaN (-inf if there
 * is nothing else); averages give NaN. Sums run tap by tap or pixel by pixel. */

static void CLAW_FN(maxpool_f32)(
    const float *x, const int32_t *offset, int32_t step, int32_t taps, int32_t channels, int32_t pixels, float *y, int32_t ystride)
{
    for (int32_t p = 0; p < pixels; p++, offset += step, y += ystride)
        for (int32_t c = 0; c < channels; c += 8) {
            vf m = vf_set1(-INFINITY);
            for (int32_t tap = 0; tap < taps; tap++)
                if (offset[tap] >= 0) m = vf_max(vf_load(x + offset[tap] + c), m);
            vf_store(y + c, m);
        }
}

static void CLAW_FN(maxpool_u8)(
    const uint8_t *x, const int32_t *offset, int32_t step, int32_t taps, int32_t channels, int32_t pixels,
    uint8_t *restrict y, int32_t ystride)
{
    for (int32_t p = 0; p < pixels; p++, offset += step, y += ystride) {
        memset(y, 0, (size_t)channels);
        for (int32_t tap = 0; tap < taps; tap++) {
            if (offset[tap] < 0) continue;
            const uint8_t *restrict row = x + offset[tap];
            for (int32_t c = 0; c < channels; c++) y[c] = row[c] > y[c] ? row[c] : y[c];
        }
    }
}

static void CLAW_FN(avgpool_f32)(
    const float *x, const int32_t *offset, int32_t step, int32_t taps, int32_t channels, int32_t pixels, int32_t padded,
    float *y, int32_t ystride)
{
    for (int32_t p = 0; p < pixels; p++, offset += step, y += ystride) {
        int32_t count = 0;
        for (int32_t tap = 0; tap < taps; tap++) count += padded || offset[tap] >= 0;
        const vf n = vf_set1(count ? (float)count : 1.0f);
        for (int32_t c = 0; c < channels; c += 8) {
            vf sum = vf_zero();
            for (int32_t tap = 0; tap < taps; tap++)
                if (offset[tap] >= 0) sum = vf_add(sum, vf_load(x + offset[tap] + c));
            vf_store(y + c, vf_div(sum, n));
        }
    }
}

/* A sum of `n` codes, exact in f32, to the code of its mean: scale is that of the input over the output's. */
static inline void store_mean(uint8_t *y, vf sum, int32_t n, float count, int32_t xzero, float scale, int32_t yzero)
{
    vf v = vf_mul(vf_sub(sum, vf_set1((float)(n * xzero))), vf_set1(scale / count));
    v = vf_min(vf_max(v, vf_set1((float)-yzero)), vf_set1((float)(255 - yzero)));
    vf_store_u8(y, vf_add(vf_round(v), vf_set1((float)yzero)));
}

static void CLAW_FN(avgpool_u8)(
    const uint8_t *x, const int32_t *offset, int32_t step, int32_t taps, int32_t channels, int32_t pixels,
    int32_t padded, int32_t xzero, float scale, int32_t yzero, uint8_t *y, int32_t ystride)
{
    for (int32_t p = 0; p < pixels; p++, offset += step, y += ystride) {
        int32_t n = 0;
        for (int32_t tap = 0; tap < taps; tap++) n += offset[tap] >= 0;
        const float count = padded ? (float)taps : n ? (float)n : 1.0f;
        for (int32_t c = 0; c < channels; c += 8) {
            vf sum = vf_zero();
            for (int32_t tap = 0; tap < taps; tap++)
                if (offset[tap] >= 0) sum = vf_add(sum, vf_load_u8(x + offset[tap] + c));
            store_mean(y + c, sum, n, count, xzero, scale, yzero);
        }
    }
}

static void CLAW_FN(global_avgpool_f32)(const float *x, int32_t stride, int32_t pixels, int32_t channels, float *y)
{
    for (int32_t c = 0; c < channels; c += 8) {
        vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        int32_t p = 0;
        for (; p + 4 <= pixels; p += 4)
            for (int j = 0; j < 4; j++) sum[j] = vf_add(sum[j], vf_load(x + (size_t)(p + j) * (size_t)stride + c));
        for (; p < pixels; p++) sum[0] = vf_add(sum[0], vf_load(x + (size_t)p * (size_t)stride + c));
        vf_store(y + c, vf_div(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])), vf_set1((float)pixels)));
    }
}

static void CLAW_FN(global_avgpool_u8)(
    const uint8_t *x, int32_t stride, int32_t pixels, int32_t channels, int32_t xzero, float scale, int32_t yzero, uint8_t *y)
{
    for (int32_t c = 0; c < channels; c += 8) {
        vf sum = vf_zero();
        for (int32_t p = 0; p < pixels; p++) sum = vf_add(sum, vf_load_u8(x + (size_t)p * (size_t)stride + c));
        store_mean(y + c, sum, pixels, (float)pixels, xzero, scale, yzero);
    }
}

static void CLAW_FN(global_maxpool_f32)(const float *x, int32_t stride, int32_t pixels, int32_t channels, float *y)
{
    int32_t c = 0;
    for (; c + 32 <= channels; c += 32) { /* two lines of a cache at a time, each once */
        vf m[4];
        for (int i = 0; i < 4; i++) m[i] = vf_set1(-INFINITY);
        for (int32_t p = 0; p < pixels; p++) {
            const float *at = x + (size_t)p * (size_t)stride + c;
            for (int i = 0; i < 4; i++) m[i] = vf_max(vf_load(at + 8 * i), m[i]);
        }
        for (int i = 0; i < 4; i++) vf_store(y + c + 8 * i, m[i]);
    }
    for (; c < channels; c += 8) {
        vf m = vf_set1(-INFINITY);
        for (int32_t p = 0; p < pixels; p++) m = vf_max(vf_load(x + (size_t)p * (size_t)stride + c), m);
        vf_store(y + c, m);
    }
}
