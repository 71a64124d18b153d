/* Depthwise convolutions through a table (images.h). A pixel's sum runs tap by tap, so ranges do not
 * matter. Rows of channels are walked 32 (bytes: 16) at a time, two pixels on each load of weights. */

static inline __attribute__((always_inline)) void depthwise_part(
    int np, int nb, int32_t taps, const float *const *rows, size_t at, const float *w, size_t record, vf low, vf high,
    float *y, size_t ystride)
{
    vf acc[2][4];
    for (int p = 0; p < np; p++)
        for (int b = 0; b < nb; b++) acc[p][b] = vf_load(w + (size_t)b * record);
    for (int32_t tap = 0; tap < taps; tap++)
        for (int b = 0; b < nb; b++) {
            vf v = vf_load(w + (size_t)b * record + 8 + 8 * (size_t)tap);
            for (int p = 0; p < np; p++)
                acc[p][b] = vf_fma(v, vf_load(rows[p * CLAW_MAX_TAPS + tap] + at + 8 * (size_t)b), acc[p][b]);
        }
    for (int p = 0; p < np; p++)
        for (int b = 0; b < nb; b++)
            vf_store(y + (size_t)p * ystride + at + 8 * (size_t)b, vf_min(high, vf_max(low, acc[p][b])));
}

static inline __attribute__((always_inline)) void depthwise_pixels(
    int np, int32_t taps, const float *const *rows, int32_t channels, const float *w, vf low, vf high, float *y, size_t ystride)
{
    const size_t record = 8 + 8 * (size_t)taps, n = (size_t)channels;
    size_t at = 0;
    for (; at + 32 <= n; at += 32, w += 4 * record)
        depthwise_part(np, 4, taps, rows, at, w, record, low, high, y, ystride);
    for (; at < n; at += 8, w += record)
        depthwise_part(np, 1, taps, rows, at, w, record, low, high, y, ystride);
}

static void CLAW_FN(depthwise_f32)(
    const float *x, const float *zero, const int32_t *offset, int32_t step, int32_t taps, int32_t channels,
    const float *w, int32_t pixels, float low, float high, float *y, int32_t ystride)
{
    const float *rows[2 * CLAW_MAX_TAPS];
    const vf lo = vf_set1(low), hi = vf_set1(high);
    for (int32_t p = 0, np; p < pixels; p += np, y += (size_t)np * (size_t)ystride) {
        np = pixels - p >= 2 ? 2 : 1;
        for (int32_t i = 0; i < np; i++)
            for (int32_t tap = 0; tap < taps; tap++) {
                int32_t at = offset[(size_t)(p + i) * (size_t)step + (size_t)tap];
                rows[i * CLAW_MAX_TAPS + tap] = at < 0 ? zero : x + at;
            }
        if (np == 2 && taps == 9) depthwise_pixels(2, 9, rows, channels, w, lo, hi, y, (size_t)ystride);
        else if (np == 2) depthwise_pixels(2, taps, rows, channels, w, lo, hi, y, (size_t)ystride);
        else depthwise_pixels(1, taps, rows, channels, w, lo, hi, y, (size_t)ystride);
    }
}

static inline __attribute__((always_inline)) void depthwise_u8_pixels(
    int np, int32_t taps, const uint8_t *const *rows, int32_t channels, const uint8_t *w, int32_t zero, int32_t low,
    int32_t high, uint8_t *y, size_t ystride)
{
    const size_t record = claw_depthwise_u8_bytes(taps), n = (size_t)channels;
    for (size_t at = 0; at < n; at += 8, w += record) {
        vi acc[2];
        for (int p = 0; p < np; p++) acc[p] = vi_load(w);
        for (int32_t tap = 0; tap < taps; tap += 2) {
            const int32_t next = tap + 1 < taps ? tap + 1 : tap;
            const uint8_t *v = w + DEPTHWISE_U8_HEAD + 16 * (size_t)tap;
            for (int p = 0; p < np; p++)
                acc[p] = vi_pair(acc[p], rows[p * CLAW_MAX_TAPS + tap] + at, rows[p * CLAW_MAX_TAPS + next] + at, v);
        }
        for (int p = 0; p < np; p++) store_codes(y + (size_t)p * ystride + at, acc[p], vf_load(w + 32), zero, low, high);
    }
}

static void CLAW_FN(depthwise_u8)(
    const uint8_t *x, const uint8_t *zero, const int32_t *offset, int32_t step, int32_t taps, int32_t channels,
    const uint8_t *w, int32_t pixels, int32_t yzero, int32_t low, int32_t high, uint8_t *y, int32_t ystride)
{
    const uint8_t *rows[2 * CLAW_MAX_TAPS];
    for (int32_t p = 0, np; p < pixels; p += np, y += (size_t)np * (size_t)ystride) {
        np = pixels - p >= 2 ? 2 : 1;
        for (int32_t i = 0; i < np; i++)
            for (int32_t tap = 0; tap < taps; tap++) {
                int32_t at = offset[(size_t)(p + i) * (size_t)step + (size_t)tap];
                rows[i * CLAW_MAX_TAPS + tap] = at < 0 ? zero : x + at;
            }
        if (np == 2) depthwise_u8_pixels(2, taps, rows, channels, w, yzero, low, high, y, (size_t)ystride);
        else depthwise_u8_pixels(1, taps, rows, channels, w, yzero, low, high, y, (size_t)ystride);
    }
}
