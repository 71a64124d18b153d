/* Samples as files, telephones and devices hold them; convert.c has the plain integer types. */

static void CLAW_FN(s24_unpack)(const uint8_t *x, int32_t n, float scale, float *y)
{
    for (int32_t i = 0; i < n; i++, x += 3) {
        uint32_t bits = (uint32_t)x[0] << 8 | (uint32_t)x[1] << 16 | (uint32_t)x[2] << 24;
        y[i] = (float)((int32_t)bits >> 8) * scale;
    }
}
static void CLAW_FN(s24_pack)(const float *x, int32_t n, float scale, uint8_t *y)
{
    for (int32_t i = 0; i < n; i++, y += 3) {
        uint32_t bits = (uint32_t)whole(x[i] * scale, -8388608.0f, 8388607.0f);
        y[0] = (uint8_t)bits;
        y[1] = (uint8_t)(bits >> 8);
        y[2] = (uint8_t)(bits >> 16);
    }
}

/* ITU-T G.711 with the rounding of the reference in G.191: what is negative is taken in ones'
 * complement; A-law codes have every other bit inverted, mu-law codes all. */
static void CLAW_FN(alaw_decode)(const uint8_t *x, int32_t n, int16_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t code = x[i] ^ 0x55, segment = code >> 4 & 7, m = (code & 15) * 16 + 8;
        m = segment ? (m + 256) << (segment - (segment > 0)) : m;
        y[i] = (int16_t)(code & 128 ? m : -m);
    }
}
static void CLAW_FN(ulaw_decode)(const uint8_t *x, int32_t n, int16_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t code = ~x[i], power = ((code >> 4 & 7) + 127) << 23;
        float shift; /* a product with 2^n: compilers would shift 16-bit lanes, which few units can */
        memcpy(&shift, &power, 4);
        int32_t m = (int32_t)((float)((code & 15) * 8 + 132) * shift) - 132;
        y[i] = (int16_t)(code & 128 ? -m : m);
    }
}

/* Index of the highest bit of a number in 1..2^24, by the exponent of its float. */
static inline int32_t top_bit(int32_t v)
{
    float f = (float)v;
    int32_t bits;
    memcpy(&bits, &f, 4);
    return (bits >> 23) - 127;
}
static void CLAW_FN(alaw_encode)(const int16_t *x, int32_t n, uint8_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t v = x[i], m = (v ^ v >> 15) >> 4, top = top_bit(m | 16);
        int32_t code = (m >> (top - 4)) + (top - 4) * 16;
        y[i] = (uint8_t)((code | (v >= 0 ? 128 : 0)) ^ 0x55);
    }
}
static void CLAW_FN(ulaw_encode)(const int16_t *x, int32_t n, uint8_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t v = x[i], m = ((v ^ v >> 15) >> 2) + 33;
        m = m < 0x1fff ? m : 0x1fff;
        int32_t top = top_bit(m), code = (top - 5) * 16 + (m >> (top - 4) & 15);
        y[i] = (uint8_t)(~code & (v >= 0 ? 255 : 127));
    }
}

static void CLAW_FN(interleave_f32)(const float *left, const float *right, int32_t n, float *restrict y)
{
    for (int32_t i = 0; i < n; i++) {
        y[2 * i] = left[i];
        y[2 * i + 1] = right[i];
    }
}
static void CLAW_FN(deinterleave_f32)(const float *x, int32_t n, float *restrict left, float *restrict right)
{
    for (int32_t i = 0; i < n; i++) {
        left[i] = x[2 * i];
        right[i] = x[2 * i + 1];
    }
}
static void CLAW_FN(downmix_f32)(const float *x, int32_t n, int32_t channels, float *y)
{
    float share = 1.0f / (float)channels;
    if (channels == 2) {
        for (int32_t i = 0; i < n; i++) y[i] = (x[2 * i] + x[2 * i + 1]) * 0.5f;
        return;
    }
    for (int32_t i = 0; i < n; i++, x += channels) {
        float sum = x[0];
        for (int32_t c = 1; c < channels; c++) sum += x[c];
        y[i] = sum * share;
    }
}

static void CLAW_FN(gain_f32)(const float *x, int32_t n, float gain, float limit, float *y)
{
    for (int32_t i = 0; i < n; i++) {
        float v = x[i] * gain;
        v = v == v ? v : 0.0f;
        v = v > -limit ? v : -limit;
        y[i] = v < limit ? v : limit;
    }
}

static void CLAW_FN(energy_f32)(const float *x, int32_t frames, int32_t hop, int32_t length, float *y)
{
    float share = 1.0f / (float)length;
    for (int32_t f = 0; f < frames; f++, x += hop) y[f] = dot_run(x, x, length) * share;
}
