/* Convolutions in f32 on one walk over rows of channels: through a table (indirect), at a stride
 * (pointwise, transposed 2x2) or over the rows of an image with few channels (the first layer).
 * Sums run tap by tap, channel by channel, whatever the tile: a pixel has the same bits in any range.
 * NaN goes through to the result. */
#include "../images.h"

/* Where the inputs of a pixel lie: the table if there is one, else p * stride + tap * row. */
typedef struct {
    const float *x, *zero;
    const int32_t *offset;
    int32_t step;
    size_t stride, row;
} conv_walk;

static inline const float *conv_walk_at(const conv_walk *in, int32_t pixel, int32_t tap)
{
    if (!in->offset) return in->x + (size_t)pixel * in->stride + (size_t)tap * in->row;
    int32_t at = in->offset[(size_t)pixel * (size_t)in->step + (size_t)tap];
    return at < 0 ? in->zero : in->x + at;
}

/* A product of runs: `taps` of k elements each; the weights of a run begin wtap floats after those of
 * the run before, at w; the bias of a block at `bias`; blocks lie wblock floats apart. */
typedef struct {
    int32_t taps, k;
    size_t wtap, wblock;
    const float *w, *bias;
    float low, high;
} conv_runs;

static inline __attribute__((always_inline)) void conv_tile(
    int nb, int nt, const conv_walk *in, const conv_runs *c, int32_t pixel, float *y, size_t ystride)
{
    vf acc[4][3];
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++) acc[t][b] = vf_load(c->bias + (size_t)b * c->wblock);
    for (int32_t tap = 0; tap < c->taps; tap++) {
        const float *rows[4], *w = c->w + (size_t)tap * c->wtap;
        for (int t = 0; t < nt; t++) rows[t] = conv_walk_at(in, pixel + t, tap);
        for (int32_t i = 0; i < c->k; i++) {
            vf v[3];
            for (int b = 0; b < nb; b++) v[b] = vf_load(w + (size_t)b * c->wblock + 8 * (size_t)i);
            for (int t = 0; t < nt; t++) {
                vf a = vf_set1(rows[t][i]);
                for (int b = 0; b < nb; b++) acc[t][b] = vf_fma(v[b], a, acc[t][b]);
            }
        }
    }
    for (int t = 0; t < nt; t++)
        for (int b = 0; b < nb; b++)
            vf_store(y + (size_t)t * ystride + 8 * b,
                     vf_min(vf_set1(c->high), vf_max(vf_set1(c->low), acc[t][b])));
}

/* Up to three blocks of output channels for a range of pixels: their weights stay in the cache. A
 * tile of 3 blocks x 4 pixels needs 16 registers. */
static __attribute__((noinline)) void conv_panel(
    int nb, const conv_walk *in, const conv_runs *c, int32_t pixels, float *y, size_t ystride)
{
    for (int32_t p = 0, nt; p < pixels; p += nt, y += (size_t)nt * ystride) {
        nt = pixels - p >= 4 ? 4 : 1;
        switch (nt + 8 * nb) {
        case 28: conv_tile(3, 4, in, c, p, y, ystride); break;
        case 25: conv_tile(3, 1, in, c, p, y, ystride); break;
        case 20: conv_tile(2, 4, in, c, p, y, ystride); break;
        case 17: conv_tile(2, 1, in, c, p, y, ystride); break;
        case 12: conv_tile(1, 4, in, c, p, y, ystride); break;
        default: conv_tile(1, 1, in, c, p, y, ystride);
        }
    }
}

static void conv_all(const conv_walk *in, conv_runs *c, int32_t blocks, int32_t pixels, float *y, size_t ystride)
{
    for (int32_t b = 0, nb; b < blocks; b += nb) {
        nb = blocks - b == 4 ? 2 : blocks - b >= 3 ? 3 : blocks - b; /* 3 + 1 is slower than 2 + 2 */
        conv_panel(nb, in, c, pixels, y + 8 * (size_t)b, ystride);
        c->w += (size_t)nb * c->wblock;
        c->bias += (size_t)nb * c->wblock;
    }
}

static void CLAW_FN(conv_f32)(
    const float *x, const float *zero, const int32_t *offset, int32_t step, int32_t taps, int32_t k, const float *w,
    int32_t blocks, int32_t pixels, float low, float high, float *y, int32_t ystride)
{
    const conv_walk in = {.x = x, .zero = zero, .offset = offset, .step = step};
    const size_t wtap = 8 * (size_t)k;
    conv_runs c = {taps, k, wtap, 8 + (size_t)taps * wtap, w + 8, w, low, high};
    conv_all(&in, &c, blocks, pixels, y, (size_t)ystride);
}

static void CLAW_FN(pointwise_f32)(
    const float *x, int32_t stride, int32_t k, const float *w, int32_t blocks, int32_t pixels, float low, float high,
    float *y, int32_t ystride)
{
    const conv_walk in = {.x = x, .stride = (size_t)stride};
    conv_runs c = {1, k, 0, 8 + 8 * (size_t)k, w + 8, w, low, high};
    conv_all(&in, &c, blocks, pixels, y, (size_t)ystride);
}

static void CLAW_FN(deconv2x2_f32)(
    const float *x, int32_t stride, int32_t k, const float *w, int32_t blocks, int32_t pixels, float low, float high,
    float *y, int32_t ystride, int32_t yrow)
{
    const conv_walk in = {.x = x, .stride = (size_t)stride};
    const size_t wtap = 8 * (size_t)k;
    for (int tap = 0; tap < 4; tap++) {
        conv_runs c = {1, k, 0, 8 + 4 * wtap, w + 8 + (size_t)tap * wtap, w, low, high};
        float *at = y + (tap & 1) * (size_t)ystride + (tap >> 1) * (size_t)yrow;
        conv_all(&in, &c, blocks, pixels, at, 2 * (size_t)ystride);
    }
}

/* The kernel's columns from .. from + columns of one or more pixels of a row: no padding inside. */
static void conv_image_part(
    const float *x, int32_t xrow, int32_t c, int32_t rows, int32_t kw, int32_t from, int32_t columns, size_t stride,
    const conv_runs *all, int32_t blocks, int32_t pixels, float *y, size_t ystride)
{
    const conv_walk in = {.x = x, .stride = stride, .row = (size_t)xrow};
    conv_runs part = *all;
    part.taps = rows;
    part.k = columns * c;
    part.wtap = 8 * (size_t)kw * (size_t)c;
    part.w += 8 * (size_t)from * (size_t)c;
    conv_all(&in, &part, blocks, pixels, y, ystride);
}

/* One row of output: kernel rows above and below the image are left out, then the pixels whose kernel
 * lies inside go as one range, those at the edges one by one. */
static void CLAW_FN(conv_image_f32)(
    const float *x, int32_t h, int32_t width, int32_t c, int32_t xrow, int32_t kh, int32_t kw, int32_t stride,
    int32_t pad_top, int32_t pad_left, const float *w, int32_t blocks, int32_t row, int32_t pixels, float low,
    float high, float *y, int32_t ystride)
{
    const int32_t top = row * stride - pad_top, first = top < 0 ? -top : 0;
    const int32_t last = h - top < kh ? h - top : kh, rows = last > first ? last - first : 0;
    const size_t wblock = 8 + 8 * (size_t)kh * (size_t)kw * (size_t)c;
    const conv_runs all = {.wblock = wblock, .w = w + 8 + 8 * (size_t)(first * kw * c), .bias = w, .low = low, .high = high};
    x += rows ? (ptrdiff_t)(top + first) * xrow : 0;
    for (int32_t p = 0, n; p < pixels; p += n, y += (size_t)n * (size_t)ystride) {
        const int32_t left = p * stride - pad_left, from = left < 0 ? -left : 0;
        const int32_t end = width - left < kw ? width - left : kw, columns = end > from ? end - from : 0;
        n = 1;
        if (columns == kw) {
            n = (width - kw - left) / stride + 1;
            if (n > pixels - p) n = pixels - p;
        }
        conv_image_part(columns ? x + (ptrdiff_t)(left + from) * c : x, xrow, c, rows, kw, from, columns,
                                 (size_t)stride * (size_t)c, &all, blocks, n, y, (size_t)ystride);
    }
}
