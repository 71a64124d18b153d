/* Convolutions of codes: u8 times int8 in int32, then to codes of the output's scale. The layout of
 * kernels and the arithmetic are stated in images.h; every target has the same bits. */

typedef struct {
    const uint8_t *x, *zero;
    const int32_t *offset;
    int32_t step, taps, k;
    size_t stride, wblock;
    int32_t yzero, low, high;
} conv_codes;

static inline const uint8_t *conv_codes_at(const conv_codes *in, int32_t pixel, int32_t tap)
{
    if (!in->offset) return in->x + (size_t)pixel * in->stride;
    int32_t at = in->offset[(size_t)pixel * (size_t)in->step + (size_t)tap];
    return at < 0 ? in->zero : in->x + at;
}

/* Integer sums to codes: clamp first (the bounds are whole numbers), so that rounding is in range. */
static inline void store_codes(uint8_t *y, vi sum, vf scale, int32_t zero, int32_t low, int32_t high)
{
    vf v = vf_mul(vf_from_vi(sum), scale);
    v = vf_min(vf_max(v, vf_set1((float)(low - zero))), vf_set1((float)(high - zero)));
    vf_store_u8(y, vf_add(vf_round(v), vf_set1((float)zero)));
}

static inline __attribute__((always_inline)) void conv_u8_tile(
    int nb, int nt, const conv_codes *in, const uint8_t *w, const int32_t *start, int32_t pixel, uint8_t *y, size_t ystride)
{
    vi acc[4][2];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) acc[t][b] = vi_load(start + 8 * b);
    const uint8_t *at = w + CONV_U8_HEAD;
    for (int32_t tap = 0; tap < in->taps; tap++) {
        const uint8_t *rows[4];
        for (int t = 0; t < nt; t++) rows[t] = conv_codes_at(in, pixel + t, tap);
        for (int32_t i = 0; i < in->k; i += 4, at += 32) {
            vb v[2];
            for (int b = 0; b < nb; b++) v[b] = vb_load(at + (size_t)b * in->wblock);
            for (int t = 0; t < nt; t++) {
                vb a = vb_bcast((const int8_t *)rows[t] + i);
                for (int b = 0; b < nb; b++) {
                    acc[t][b] = vu_dot(acc[t][b], a, v[b]);
                    KEEP(acc[t][b]);
                }
            }
        }
    }
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++)
            store_codes(y + (size_t)t * ystride + 8 * b, acc[t][b], vf_load(w + (size_t)b * in->wblock + 64),
                        in->yzero, in->low, in->high);
}

static __attribute__((noinline)) void conv_u8_panel(
    int nb, const conv_codes *in, const uint8_t *w, int32_t pixels, uint8_t *y, size_t ystride)
{
    int32_t start[16], sums[8];
    for (int b = 0; b < nb; b++) {
        memcpy(start + 8 * b, w + (size_t)b * in->wblock, 32);
        memcpy(sums, w + (size_t)b * in->wblock + 32, 32);
        for (int i = 0; i < 8; i++) start[8 * b + i] += VU_SHIFT * sums[i];
    }
    for (int32_t p = 0, nt; p < pixels; p += nt, y += (size_t)nt * ystride) {
        nt = pixels - p >= 4 ? 4 : 1;
        switch (nt + (nb == 2 ? 8 : 0)) {
        case 12: conv_u8_tile(2, 4, in, w, start, p, y, ystride); break;
        case 9: conv_u8_tile(2, 1, in, w, start, p, y, ystride); break;
        case 4: conv_u8_tile(1, 4, in, w, start, p, y, ystride); break;
        default: conv_u8_tile(1, 1, in, w, start, p, y, ystride);
        }
    }
}

static void conv_u8_all(const conv_codes *in, const uint8_t *w, int32_t blocks, int32_t pixels, uint8_t *y, size_t ystride)
{
    for (int32_t b = 0; b < blocks; b += 2)
        conv_u8_panel(blocks - b >= 2 ? 2 : 1, in, w + (size_t)b * in->wblock, pixels, y + 8 * (size_t)b, ystride);
}

static void CLAW_FN(conv_u8)(
    const uint8_t *x, const uint8_t *zero, const int32_t *offset, int32_t step, int32_t taps, int32_t k,
    const uint8_t *w, int32_t blocks, int32_t pixels, int32_t yzero, int32_t low, int32_t high, uint8_t *y, int32_t ystride)
{
    const conv_codes in = {x, zero, offset, step, taps, k, 0, claw_conv_u8_bytes(taps, k), yzero, low, high};
    conv_u8_all(&in, w, blocks, pixels, y, (size_t)ystride);
}

static void CLAW_FN(pointwise_u8)(
    const uint8_t *x, int32_t stride, int32_t k, const uint8_t *w, int32_t blocks, int32_t pixels, int32_t yzero,
    int32_t low, int32_t high, uint8_t *y, int32_t ystride)
{
    const conv_codes in = {x, NULL, NULL, 0, 1, k, (size_t)stride, claw_conv_u8_bytes(1, k), yzero, low, high};
    conv_u8_all(&in, w, blocks, pixels, y, (size_t)ystride);
}
