/* Resizing of interleaved images and maps: rows `first` .. first + rows of an output of oh x ow, at y.
 * Bilinear samples at half-pixel centres, (i + 0.5) * size / out - 0.5 held inside the image, without
 * a filter when it shrinks: INTER_LINEAR of OpenCV, "half_pixel" of ONNX. Nearest takes
 * i * size / out rounded down: INTER_NEAREST, "asymmetric" with "floor". Area gives each output pixel
 * the mean of what it covers, exactly, halves up. Positions are in f64, so all targets have the same. */

#define RESIZE_BITS 11

/* The left (upper) of two neighbours of output i, and the share of the other in 0..1. */
static inline int32_t linear_at(double at, int32_t size, double *part)
{
    at = at > 0.0 ? at : 0.0; /* NaN becomes 0 */
    int32_t i = at < size - 1 ? (int32_t)at : size - 1;
    *part = at < size - 1 ? at - i : 0.0;
    return i;
}
static inline double half_pixel(int32_t i, int32_t size, int32_t out) { return (i + 0.5) * ((double)size / out) - 0.5; }
static inline int32_t to_fixed(double part) { return (int32_t)(part * (1 << RESIZE_BITS) + 0.5); }

/* A row between two neighbours a pixel: `right` elements on, by its share. */
static inline __attribute__((always_inline)) void blend_row(
    const int32_t *restrict x, const int32_t *restrict at, const int32_t *restrict share, int32_t n, int32_t c,
    int32_t right, uint8_t *restrict y)
{
    for (int32_t i = 0; i < n; i++, y += c) {
        const int32_t *p = x + at[i], f = share[i], g = (1 << RESIZE_BITS) - f;
        for (int32_t j = 0; j < c; j++) y[j] = (uint8_t)((p[j] * g + p[j + right] * f + (1 << 21)) >> 22);
    }
}

static void CLAW_FN(resize_bilinear_u8)(
    const uint8_t *x, int32_t h, int32_t width, int32_t c, int32_t xrow, int32_t oh, int32_t ow, int32_t first,
    int32_t rows, int32_t *scratch, uint8_t *y, int32_t yrow)
{
    const int32_t one = 1 << RESIZE_BITS, n = width * c, right = width > 1 ? c : 0;
    int32_t *restrict blend = scratch, *at = scratch + n, *share = at + ow;
    double part;
    for (int32_t i = 0; i < ow; i++) {
        int32_t left = linear_at(half_pixel(i, width, ow), width, &part);
        share[i] = to_fixed(part);
        if (left == width - 1 && width > 1) left--, share[i] = one; /* the neighbour stays inside */
        at[i] = left * c;
    }
    for (int32_t row = first; row < first + rows; row++, y += yrow) {
        const int32_t top = linear_at(half_pixel(row, h, oh), h, &part), f = to_fixed(part);
        const uint8_t *restrict a = x + (size_t)top * (size_t)xrow, *restrict b = top + 1 < h ? a + xrow : a;
        for (int32_t i = 0; i < n; i++) blend[i] = a[i] * (one - f) + b[i] * f;
        if (c == 3 && right) blend_row(blend, at, share, ow, 3, 3, y);
        else blend_row(blend, at, share, ow, c, right, y);
    }
}

static void CLAW_FN(resize_bilinear_f32)(
    const float *x, int32_t h, int32_t width, int32_t c, int32_t xrow, int32_t oh, int32_t ow, int32_t first,
    int32_t rows, float *y, int32_t yrow)
{
    double fy, fx;
    for (int32_t row = first; row < first + rows; row++, y += yrow) {
        const int32_t top = linear_at(half_pixel(row, h, oh), h, &fy);
        const float *a = x + (size_t)top * (size_t)xrow, *b = top + 1 < h ? a + xrow : a;
        const float v = (float)fy;
        for (int32_t i = 0; i < ow; i++) {
            const int32_t left = linear_at(half_pixel(i, width, ow), width, &fx), right = left + 1 < width ? c : 0;
            const float u = (float)fx, *p = a + (size_t)left * (size_t)c, *q = b + (size_t)left * (size_t)c;
            float *out = y + (size_t)i * (size_t)c;
            int32_t j = 0;
            for (; j + 8 <= c; j += 8) {
                vf s = vf_load(p + j), t = vf_load(q + j);
                s = vf_add(s, vf_mul(vf_sub(vf_load(p + j + right), s), vf_set1(u)));
                t = vf_add(t, vf_mul(vf_sub(vf_load(q + j + right), t), vf_set1(u)));
                vf_store(out + j, vf_add(s, vf_mul(vf_sub(t, s), vf_set1(v))));
            }
            for (; j < c; j++) {
                const float s = p[j] + (p[j + right] - p[j]) * u, t = q[j] + (q[j + right] - q[j]) * u;
                out[j] = s + (t - s) * v;
            }
        }
    }
}

static inline void copy_pixel(uint8_t *y, const uint8_t *x, int32_t bytes)
{
    switch (bytes) {
    case 1: *y = *x; break;
    case 3: memcpy(y, x, 3); break;
    case 4: memcpy(y, x, 4); break;
    case 32: memcpy(y, x, 32); break;
    default: memcpy(y, x, (size_t)bytes);
    }
}

static void CLAW_FN(resize_nearest)(
    const uint8_t *x, int32_t h, int32_t width, int32_t bytes, int32_t xrow, int32_t oh, int32_t ow, int32_t first,
    int32_t rows, uint8_t *y, int32_t yrow)
{
    int32_t before = -1;
    for (int32_t row = first; row < first + rows; row++, y += yrow) {
        const int32_t from = (int32_t)((int64_t)row * h / oh);
        if (from == before) { /* the same source row once more */
            memcpy(y, y - yrow, (size_t)ow * (size_t)bytes);
            continue;
        }
        before = from;
        const uint8_t *a = x + (size_t)from * (size_t)xrow;
        for (int32_t i = 0, at = 0, rest = 0; i < ow; i++) {
            copy_pixel(y + (size_t)i * (size_t)bytes, a + (size_t)at * (size_t)bytes, bytes);
            at += width / ow;
            rest += width % ow;
            if (rest >= ow) at++, rest -= ow;
        }
    }
}

/* How much of source pixel j lies in output pixel i, in 1 / out of a source pixel. */
static inline int64_t covered(int32_t i, int32_t j, int32_t size, int32_t out)
{
    const int64_t from = (int64_t)i * size, to = from + size, a = (int64_t)j * out, b = a + out;
    return (b < to ? b : to) - (a > from ? a : from);
}

/* Sums of rows are whole and below 2^24 (h < 65536), totals below 2^53: exact in f32 and f64. */
static void CLAW_FN(resize_area_u8)(
    const uint8_t *x, int32_t h, int32_t width, int32_t c, int32_t xrow, int32_t oh, int32_t ow, int32_t first,
    int32_t rows, float *scratch, uint8_t *y, int32_t yrow)
{
    const int32_t n = width * c;
    const double area = (double)h * (double)width;
    for (int32_t row = first; row < first + rows; row++, y += yrow) {
        memset(scratch, 0, 4 * (size_t)n);
        for (int32_t j = (int32_t)((int64_t)row * h / oh); (int64_t)j * oh < (int64_t)(row + 1) * h; j++) {
            const uint8_t *a = x + (size_t)j * (size_t)xrow;
            const float share = (float)covered(row, j, h, oh);
            int32_t i = 0;
            for (; i + 8 <= n; i += 8)
                vf_store(scratch + i, vf_fma(vf_load_u8(a + i), vf_set1(share), vf_load(scratch + i)));
            for (; i < n; i++) scratch[i] += a[i] * share;
        }
        for (int32_t i = 0; i < ow; i++) {
            double total[4] = {0};
            for (int32_t j = (int32_t)((int64_t)i * width / ow); (int64_t)j * ow < (int64_t)(i + 1) * width; j++) {
                const double share = (double)covered(i, j, width, ow);
                for (int32_t k = 0; k < c; k++) total[k] += scratch[j * c + k] * share;
            }
            for (int32_t k = 0; k < c; k++) y[i * c + k] = (uint8_t)((total[k] + 0.5 * area) / area);
        }
    }
}

/* Output (i, row) shows the source at the projection m of (i, row, 1): faces turned upright, lines of
 * text cut out of a page. Bilinear; outside of the image its edge goes on. */
static void CLAW_FN(warp_u8)(
    const uint8_t *x, int32_t h, int32_t width, int32_t c, int32_t xrow, const double *m, int32_t ow, int32_t first,
    int32_t rows, uint8_t *y, int32_t yrow)
{
    const int32_t one = 1 << RESIZE_BITS;
    for (int32_t row = first; row < first + rows; row++, y += yrow)
        for (int32_t i = 0; i < ow; i++) {
            const double w = m[6] * i + m[7] * row + m[8];
            double fx, fy;
            const int32_t left = linear_at((m[0] * i + m[1] * row + m[2]) / w, width, &fx);
            const int32_t top = linear_at((m[3] * i + m[4] * row + m[5]) / w, h, &fy);
            const uint8_t *p = x + (size_t)top * (size_t)xrow + (size_t)left * (size_t)c;
            const int32_t right = left + 1 < width ? c : 0, below = top + 1 < h ? xrow : 0;
            const int32_t u = to_fixed(fx), v = to_fixed(fy);
            for (int32_t j = 0; j < c; j++, p++) {
                const int32_t a = p[0] * (one - u) + p[right] * u, b = p[below] * (one - u) + p[below + right] * u;
                y[i * c + j] = (uint8_t)((a * (one - v) + b * v + (1 << 21)) >> 22);
            }
        }
}
