/* Camera and file pixels to what models read, and back. Bytes are interleaved, without padding; c is
 * the number of channels of a pixel (1 to 4). */

static void CLAW_FN(normalize_hwc)(const uint8_t *x, int32_t pixels, int32_t c, const float *scale, const float *shift, float *y)
{
    float by[32], to[32]; /* 8 pixels of c channels are c vectors */
    for (int32_t i = 0; i < 8 * c; i++) by[i] = scale[i % c], to[i] = shift[i % c];
    int32_t p = 0;
    for (; p + 8 <= pixels; p += 8)
        for (int32_t j = 0; j < c; j++, x += 8, y += 8)
            vf_store(y, vf_add(vf_mul(vf_load_u8(x), vf_load(by + 8 * j)), vf_load(to + 8 * j)));
    for (int32_t i = 0; i < (pixels - p) * c; i++) y[i] = x[i] * by[i] + to[i];
}

static void CLAW_FN(normalize_chw)(
    const uint8_t *x, int32_t pixels, int32_t c, const float *scale, const float *shift, float *y, int32_t plane)
{
    int32_t p = 0;
    if (c == 3)
        for (; p + 8 <= pixels; p += 8) {
            vf v[3];
            vf_load_rgb(x + 3 * (size_t)p, v);
            for (int j = 0; j < 3; j++)
                vf_store(y + (size_t)j * (size_t)plane + p, vf_add(vf_mul(v[j], vf_set1(scale[j])), vf_set1(shift[j])));
        }
    for (; p < pixels; p++)
        for (int32_t j = 0; j < c; j++)
            y[(size_t)j * (size_t)plane + (size_t)p] = x[(size_t)p * (size_t)c + (size_t)j] * scale[j] + shift[j];
}

/* A table of 256 codes a channel first: a call is for many pixels. */
static void CLAW_FN(quantize_image)(
    const uint8_t *x, int32_t pixels, int32_t c, const float *scale, const float *shift, uint8_t *y, int32_t ychannels, int32_t fill)
{
    uint8_t table[4][256];
    for (int32_t j = 0; j < c; j++)
        for (int32_t i = 0; i < 256; i += 8) {
            float v[8];
            for (int k = 0; k < 8; k++) v[k] = (float)(i + k);
            vf t = vf_add(vf_mul(vf_load(v), vf_set1(scale[j])), vf_set1(shift[j]));
            vf_store_u8(table[j] + i, vf_round(vf_min(vf_max(t, vf_zero()), vf_set1(255.0f))));
        }
    if (ychannels == 8) { /* as wide as a word, and bytes of words go lowest first on all targets */
        const uint64_t rest = (0x0101010101010101ull * (uint8_t)fill) << (8 * c);
        for (int32_t p = 0; p < pixels; p++, x += c, y += 8) {
            uint64_t word = rest;
            for (int32_t j = 0; j < c; j++) word |= (uint64_t)table[j][x[j]] << (8 * j);
            memcpy(y, &word, 8);
        }
        return;
    }
    for (int32_t p = 0; p < pixels; p++, x += c, y += ychannels) {
        for (int32_t j = 0; j < c; j++) y[j] = table[j][x[j]];
        for (int32_t j = c; j < ychannels; j++) y[j] = (uint8_t)fill;
    }
}

static inline vf to_byte(vf x, const float *scale, const float *shift)
{
    vf v = vf_add(vf_mul(x, vf_load(scale)), vf_load(shift));
    return vf_round(vf_min(vf_max(v, vf_zero()), vf_set1(255.0f)));
}

/* Of NaN, 0; rounds to nearest even. Pixels side by side go 8 at a time, others one by one. */
static void CLAW_FN(denormalize_u8)(
    const float *x, int32_t stride, int32_t pixels, int32_t c, const float *scale, const float *shift, uint8_t *y)
{
    float by[32], to[32];
    for (int32_t i = 0; i < 8 * c; i++) by[i] = scale[i % c], to[i] = shift[i % c];
    int32_t p = 0;
    if (stride == c)
        for (; p + 8 <= pixels; p += 8)
            for (int32_t j = 0; j < c; j++, x += 8, y += 8) vf_store_u8(y, to_byte(vf_load(x), by + 8 * j, to + 8 * j));
    for (; p < pixels; p++, x += stride, y += c) {
        uint8_t t[8];
        vf_store_u8(t, to_byte(p + 1 < pixels && stride >= 8 ? vf_load(x) : vf_load_part(x, c), by, to));
        for (int32_t j = 0; j < c; j++) y[j] = t[j];
    }
}

/* RGB to BGR and back, alpha stays; y may be x. */
static void CLAW_FN(swap_rb_u8)(const uint8_t *x, int32_t pixels, int32_t c, uint8_t *y)
{
    int32_t p = 0;
    if (c == 3)
        for (; p + 8 <= pixels; p += 8, x += 24, y += 24) {
            vf v[3];
            vf_load_rgb(x, v);
            vf_store_rgb(y, (const vf[3]){v[2], v[1], v[0]});
        }
    for (; p < pixels; p++, x += c, y += c) {
        const uint8_t r = x[0], b = x[2];
        y[0] = b, y[1] = x[1], y[2] = r;
        if (c == 4) y[3] = x[3];
    }
}

/* Luma of RGB as Pillow's mode "L": (19595 R + 38470 G + 7471 B + 2^15) >> 16. */
static void CLAW_FN(gray_u8)(const uint8_t *x, int32_t pixels, uint8_t *y)
{
    int32_t p = 0;
    for (; p + 8 <= pixels; p += 8, x += 24, y += 8) {
        vf v[3];
        vf_load_rgb(x, v);
        vf t = vf_add(vf_mul(v[0], vf_set1(19595.0f)), vf_mul(v[1], vf_set1(38470.0f)));
        t = vf_mul(vf_add(t, vf_mul(v[2], vf_set1(7471.0f))), vf_set1(1.0f / 65536.0f)); /* exact: 24 bits */
        vf r = vf_round(t);                                                             /* halves to even, */
        vf_store_u8(y, vf_add(r, vf_keep_ge(vf_set1(1.0f), vf_sub(t, r), vf_set1(0.5f)))); /* then all up */
    }
    for (; p < pixels; p++, x += 3, y++) *y = (uint8_t)((19595 * x[0] + 38470 * x[1] + 7471 * x[2] + 32768) >> 16);
}

/* BT.601, studio range, in 8 bits: R = (298 (Y - 16) + 409 (V - 128) + 128) >> 8 and so on, held in
 * 0..255. Sums are whole and below 2^24, so exact in f32; a whole number of 256ths less 127.5 of them
 * rounds to its floor. */
static inline vf yuv_channel(vf luma, vf u, vf v, float by_u, float by_v)
{
    vf t = vf_add(luma, vf_add(vf_mul(u, vf_set1(by_u)), vf_mul(v, vf_set1(by_v))));
    t = vf_round(vf_sub(vf_mul(t, vf_set1(1.0f / 256.0f)), vf_set1(127.5f / 256.0f)));
    return vf_min(vf_max(t, vf_zero()), vf_set1(255.0f));
}

/* 8 pixels; each u and v stands twice. One copy for the three formats: a call costs little here. */
static __attribute__((noinline)) void yuv_rgb8(const uint8_t *luma, uint64_t us, uint64_t vs, uint8_t *rgb)
{
    uint8_t t[8];
    vf c[3], l = vf_load_u8(luma), u, v;
    memcpy(t, &us, 8);
    u = vf_sub(vf_load_u8(t), vf_set1(128.0f));
    memcpy(t, &vs, 8);
    v = vf_sub(vf_load_u8(t), vf_set1(128.0f));
    l = vf_add(vf_mul(vf_sub(l, vf_set1(16.0f)), vf_set1(298.0f)), vf_set1(128.0f));
    c[0] = yuv_channel(l, u, v, 0.0f, 409.0f);
    c[1] = yuv_channel(l, u, v, -100.0f, -208.0f);
    c[2] = yuv_channel(l, u, v, 516.0f, 0.0f);
    vf_store_rgb(rgb, c);
}

#define EVEN_BYTES 0x00ff00ff00ff00ffull

/* `part` for pixels i .. i + m: 8, then the rest. */
#define YUV_ROW(part)                                                                              \
    int32_t i = 0;                                                                                 \
    for (; i + 8 <= n; i += 8) { const int32_t m = 8; part; }                                      \
    if (i < n) { const int32_t m = n - i; part; }

static inline __attribute__((always_inline)) void yuv_store(const uint8_t *luma, uint64_t u, uint64_t v, int32_t m, uint8_t *rgb)
{
    uint8_t l[8] = {0}, out[24];
    if (m == 8) {
        yuv_rgb8(luma, u, v, rgb);
        return;
    }
    memcpy(l, luma, (size_t)m);
    yuv_rgb8(l, u, v, out);
    memcpy(rgb, out, 3 * (size_t)m);
}

static inline __attribute__((always_inline)) void nv12_part(
    const uint8_t *luma, const uint8_t *chroma, int32_t m, int32_t order, uint8_t *rgb)
{
    uint64_t w = 0;
    memcpy(&w, chroma, (size_t)((m + 1) & ~1));
    uint64_t a = w & EVEN_BYTES, b = w >> 8 & EVEN_BYTES;
    a |= a << 8, b |= b << 8;
    yuv_store(luma, order ? b : a, order ? a : b, m, rgb);
}

/* One row of n pixels: luma, and the pairs of chroma that the row shares with its neighbour. order 0:
 * u before v (NV12), 1: v before u (NV21). */
static void CLAW_FN(nv12_rgb)(const uint8_t *luma, const uint8_t *chroma, int32_t n, int32_t order, uint8_t *rgb)
{
    YUV_ROW(nv12_part(luma + i, chroma + i, m, order, rgb + 3 * (size_t)i))
}

/* Each of n bytes (up to 4) twice. */
static inline __attribute__((always_inline)) uint64_t twice(const uint8_t *p, int32_t n)
{
    uint64_t w = 0;
    memcpy(&w, p, (size_t)n);
    w = (w | w << 16) & 0x0000ffff0000ffffull;
    w = (w | w << 8) & EVEN_BYTES;
    return w | w << 8;
}

static void CLAW_FN(yuv420_rgb)(const uint8_t *luma, const uint8_t *u, const uint8_t *v, int32_t n, uint8_t *rgb)
{
    YUV_ROW(yuv_store(luma + i, twice(u + i / 2, (m + 1) / 2), twice(v + i / 2, (m + 1) / 2), m, rgb + 3 * (size_t)i))
}

/* Bytes 0, 2, 4 and 6 side by side; those between are 0. */
static inline uint64_t squeeze(uint64_t even)
{
    even = (even | even >> 8) & 0x0000ffff0000ffffull;
    return (even | even >> 16) & 0xffffffffull;
}

static inline __attribute__((always_inline)) void yuyv_part(const uint8_t *x, int32_t m, uint8_t *rgb)
{
    uint64_t half[2] = {0}, luma = 0, u = 0, v = 0;
    uint8_t bytes[8];
    memcpy(half, x, 4 * (size_t)((m + 1) / 2));
    for (int j = 0; j < 2; j++) {
        uint64_t chroma = half[j] >> 8 & EVEN_BYTES; /* u . v . u . v . */
        uint64_t a = chroma & 0x000000ff000000ffull, b = chroma >> 16 & 0x000000ff000000ffull;
        luma |= squeeze(half[j] & EVEN_BYTES) << (32 * j);
        u |= squeeze(a | a << 16) << (32 * j);
        v |= squeeze(b | b << 16) << (32 * j);
    }
    memcpy(bytes, &luma, 8);
    yuv_store(bytes, u, v, m, rgb);
}

/* Bytes Y U Y V for two pixels; an odd last pixel still has its four bytes. */
static void CLAW_FN(yuyv_rgb)(const uint8_t *x, int32_t n, uint8_t *rgb)
{
    YUV_ROW(yuyv_part(x + 2 * (size_t)i, m, rgb + 3 * (size_t)i))
}

/* 255 where x > limit, else 0 (also of NaN). */
static void CLAW_FN(threshold_u8)(const float *restrict x, int32_t n, float limit, uint8_t *restrict y)
{
    for (int32_t i = 0; i < n; i++) y[i] = x[i] > limit ? 255 : 0;
}

static void CLAW_FN(pad_u8)(
    const uint8_t *x, int32_t xrow, int32_t n, int32_t rows, int32_t left, int32_t right, int32_t fill, uint8_t *y, int32_t yrow)
{
    for (int32_t r = 0; r < rows; r++, x += xrow, y += yrow) {
        memset(y, fill, (size_t)left);
        memcpy(y + left, x, (size_t)n);
        memset(y + left + n, fill, (size_t)right);
    }
}

static void CLAW_FN(pad_f32)(
    const float *x, int32_t xrow, int32_t n, int32_t rows, int32_t left, int32_t right, float fill, float *y, int32_t yrow)
{
    for (int32_t r = 0; r < rows; r++, x += xrow, y += yrow) {
        for (int32_t i = 0; i < left; i++) y[i] = fill;
        memcpy(y + left, x, 4 * (size_t)n);
        for (int32_t i = left + n; i < left + n + right; i++) y[i] = fill;
    }
}

/* Rows of `bytes` at one stride to rows at another: channels joined or cut, a part of an image. */
static void CLAW_FN(copy_rows)(const uint8_t *x, int32_t xrow, int32_t bytes, int32_t rows, uint8_t *y, int32_t yrow)
{
    if (bytes == 32)
        for (; rows > 0; rows--, x += xrow, y += yrow) memcpy(y, x, 32);
    for (; rows > 0; rows--, x += xrow, y += yrow) memcpy(y, x, (size_t)bytes);
}

/* Intersection over union of one box (x1, y1, x2, y2) with n, whose four coordinates lie `stride`
 * floats apart; 0 where neither has an area. */
static void CLAW_FN(iou_f32)(const float *box, const float *boxes, int32_t n, int32_t stride, float *y)
{
    const vf x1 = vf_set1(box[0]), y1 = vf_set1(box[1]), x2 = vf_set1(box[2]), y2 = vf_set1(box[3]), zero = vf_zero();
    const vf own = vf_mul(vf_max(vf_sub(x2, x1), zero), vf_max(vf_sub(y2, y1), zero));
    for (int32_t i = 0; i < n; i += 8) {
        const int m = n - i < 8 ? n - i : 8;
        vf v[4];
        for (int j = 0; j < 4; j++) {
            const float *p = boxes + (size_t)j * (size_t)stride + i;
            v[j] = m == 8 ? vf_load(p) : vf_load_part(p, m);
        }
        vf w = vf_max(vf_sub(vf_min(v[2], x2), vf_max(v[0], x1)), zero);
        vf h = vf_max(vf_sub(vf_min(v[3], y2), vf_max(v[1], y1)), zero);
        vf area = vf_mul(vf_max(vf_sub(v[2], v[0]), zero), vf_max(vf_sub(v[3], v[1]), zero));
        vf both = vf_mul(w, h), all = vf_sub(vf_add(own, area), both);
        vf r = vf_keep_ge(vf_div(both, all), all, vf_set1(1e-30f));
        if (m == 8) vf_store(y + i, r);
        else vf_store_part(y + i, m, r);
    }
}
