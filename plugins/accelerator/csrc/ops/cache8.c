/* The KV cache in int8, a scale each 32 elements of a head, and attention over it: as attention.c, with
 * a first visible position a row (sliding windows) and a cap on scores (softcap_f32; 0: none).
 * Rows are worked on by themselves, so a query gives the same bits alone and in a batch. */

#define Q8_ROWS 4

/* 32 elements to codes and their f16 scale: rounded with the scale as stored, so that the stored
 * pair is as near as it can be. NaN becomes -127. */
static inline uint16_t cache_group(const float *x, int8_t *q)
{
    vf m = vf_zero();
    for (int i = 0; i < 32; i += 8) m = vf_max(vf_abs(vf_load(x + i)), m);
    const float amax = vf_hmax(m) * (1.0f / 127.0f);
    const uint16_t d = f32_to_f16(amax < 65504.0f ? amax : 65504.0f);
    const float scale = f16_to_f32(d);
    const vf inverse = vf_set1(scale > 0.0f ? 1.0f / scale : 0.0f), low = vf_set1(-127.0f), high = vf_set1(127.0f);
    for (int i = 0; i < 32; i += 8) vf_store_i8(q + i, vf_round(vf_min(vf_max(vf_mul(vf_load(x + i), inverse), low), high)));
    return d;
}

static void CLAW_FN(kv_append_q8)(const float *key, const float *value, int32_t head_dim, int32_t position, int64_t stride,
                                  uint8_t *keys, uint8_t *values)
{
    const int32_t at = position % 64, groups = head_dim / 32;
    uint8_t *k = keys + position / 64 * stride, *v = values + position / 64 * stride;
    for (int32_t g = 0; g < groups; g++) {
        int8_t q[32];
        uint16_t d = cache_group(key + 32 * g, q);
        for (int i = 0; i < 32; i++) k[(at / 8 * head_dim + 32 * g + i) * 8 + at % 8] = (uint8_t)q[i];
        memcpy(k + 64 * head_dim + ((at / 8 * groups + g) * 8 + at % 8) * 2, &d, 2);
        d = cache_group(value + 32 * g, q);
        memcpy(v + at * head_dim + 32 * g, q, 32);
        memcpy(v + 64 * head_dim + (at * groups + g) * 2, &d, 2);
    }
}

/* Scores of nr queries with nb groups of 8 positions, p[r][0..8*nb). */
static inline __attribute__((always_inline)) void scores_q8(
    int nr, int nb, const float *query, int32_t hd, const uint8_t *codes, const uint8_t *scales, float *p)
{
    vf total[Q8_ROWS][2];
    for (int r = 0; r < nr; r++)
        for (int b = 0; b < nb; b++) total[r][b] = vf_zero();
    for (int32_t g = 0; g < hd / 32; g++) {
        vf acc[Q8_ROWS][2];
        for (int r = 0; r < nr; r++)
            for (int b = 0; b < nb; b++) acc[r][b] = vf_zero();
        for (int32_t i = 32 * g; i < 32 * g + 32; i++) {
            vf k[2];
            for (int b = 0; b < nb; b++) k[b] = vf_load_i8((const int8_t *)codes + (b * hd + i) * 8);
            for (int r = 0; r < nr; r++)
                for (int b = 0; b < nb; b++) acc[r][b] = vf_fma(k[b], vf_set1(query[r * hd + i]), acc[r][b]);
        }
        for (int b = 0; b < nb; b++) {
            const vf d = vf_load_f16(scales + (b * (hd / 32) + g) * 16);
            for (int r = 0; r < nr; r++) total[r][b] = vf_fma(acc[r][b], d, total[r][b]);
        }
    }
    for (int r = 0; r < nr; r++)
        for (int b = 0; b < nb; b++) vf_store(p + 64 * r + 8 * b, total[r][b]);
}

/* y[r][0..16) += sum over n positions of p[r][position] * d * codes. */
static inline __attribute__((always_inline)) void values_q8(
    int nr, int32_t n, const float *p, int32_t hd, const uint8_t *codes, const uint8_t *scales, float *y)
{
    vf acc[Q8_ROWS][2];
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < 2; j++) acc[r][j] = vf_load(y + r * hd + 8 * j);
    for (int32_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, scales + (size_t)i * (size_t)(hd / 32) * 2, 2);
        const float d = f16_to_f32(h);
        const int8_t *row = (const int8_t *)codes + (size_t)i * (size_t)hd;
        const vf v0 = vf_load_i8(row), v1 = vf_load_i8(row + 8);
        for (int r = 0; r < nr; r++) {
            const vf w = vf_set1(p[64 * r + i] * d);
            acc[r][0] = vf_fma(v0, w, acc[r][0]);
            acc[r][1] = vf_fma(v1, w, acc[r][1]);
        }
    }
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < 2; j++) vf_store(y + r * hd + 8 * j, acc[r][j]);
}

#define SCORES_CASE(nr) case nr: scores_q8(nr, 2, query, hd, keys + (size_t)g * 8 * (size_t)hd, scales + g * (hd / 32) * 16, p + 8 * g); break;
#define VALUES_CASE(nr) case nr: values_q8(nr, n, p, hd, values + i, scales + i / 32 * 2, y + i); break;

static inline void block_scores_q8(const float *query, int32_t rows, int32_t hd, const uint8_t *keys, int32_t n, float *p)
{
    const uint8_t *scales = keys + 64 * hd;
    for (int32_t g = 0; g < (n + 7) / 8; g += 2)
        switch (rows) { SCORES_CASE(1) SCORES_CASE(2) SCORES_CASE(3) SCORES_CASE(4) }
}

static inline void block_values_q8(const float *p, int32_t rows, int32_t hd, const uint8_t *values, int32_t n, float *y)
{
    const uint8_t *scales = values + 64 * hd;
    for (int32_t i = 0; i < hd; i += 16)
        switch (rows) { VALUES_CASE(1) VALUES_CASE(2) VALUES_CASE(3) VALUES_CASE(4) }
}

/* Scales and caps the scores of a block, hides the positions below `first` and from `visible` on; then
 * softmax_block of attention.c on what is left. */
static inline float window_block(float *p, int32_t first, int32_t visible, float scale, float cap, float *top, float *total)
{
    const vf hidden = vf_set1(-INFINITY), c = vf_set1(cap), s = vf_set1(cap > 0.0f ? scale / cap : scale);
    if (visible <= 0 || first >= visible || first >= 64) {
        memset(p, 0, 64 * sizeof *p);
        return 1.0f;
    }
    for (int32_t i = 0; i < 64; i += 8) {
        vf v = vf_mul(vf_load(p + i), s);
        if (cap > 0.0f) v = vf_mul(c, tanh_of(v));
        vf_store(p + i, vf_first(first - i, hidden, v));
    }
    return softmax_block(p, visible, 1.0f, top, total);
}

/* What the two caches have in common; `rows` queries at a time see their own limits. */
typedef struct {
    float *p, *top, *total;
    const int32_t *first, *limit;
    int32_t rows, head_dim, begin, end; /* begin: a multiple of 64 */
    float scale, cap;
} window;

static inline window window_of(const int32_t *first, const int32_t *limit, int32_t rows, int32_t head_dim, float scale, float cap, float *p)
{
    window w = {p, p + 64 * rows, p + 65 * rows, first, limit, rows, head_dim, INT32_MAX, 0, scale, cap};
    for (int32_t r = 0; r < rows; r++) {
        w.top[r] = -INFINITY;
        w.total[r] = 0.0f;
        if (first[r] >= limit[r]) continue;
        if (first[r] < w.begin) w.begin = first[r];
        if (limit[r] > w.end) w.end = limit[r];
    }
    w.begin = w.begin / 64 * 64;
    return w;
}

static inline void window_weights(const window *w, int32_t base, float *y)
{
    for (int32_t r = 0; r < w->rows; r++) {
        const float shrink = window_block(w->p + 64 * r, w->first[r] - base, w->limit[r] - base, w->scale, w->cap, w->top + r, w->total + r);
        if (shrink != 1.0f) scale_row(y + r * w->head_dim, w->head_dim, shrink);
    }
}

static inline void window_finish(const window *w, float *y)
{
    for (int32_t r = 0; r < w->rows; r++)
        scale_row(y + r * w->head_dim, w->head_dim, w->total[r] != 0.0f ? 1.0f / w->total[r] : 0.0f);
}

static void CLAW_FN(attention_q8)(const float *query, int32_t rows, int32_t head_dim, float scale, float cap, const int32_t *first,
                                  const int32_t *limit, int64_t stride, const uint8_t *keys, const uint8_t *values, float *scratch, float *y)
{
    memset(y, 0, (size_t)rows * (size_t)head_dim * sizeof *y);
    for (int32_t r = 0, nr; r < rows; r += nr) {
        nr = rows - r < Q8_ROWS ? rows - r : Q8_ROWS;
        const window w = window_of(first + r, limit + r, nr, head_dim, scale, cap, scratch);
        float *out = y + (size_t)r * (size_t)head_dim;
        for (int32_t base = w.begin; base < w.end; base += 64) {
            const int32_t n = w.end - base < 64 ? w.end - base : 64;
            const int64_t at = base / 64 * stride;
            block_scores_q8(query + (size_t)r * (size_t)head_dim, nr, head_dim, keys + at, n, w.p);
            window_weights(&w, base, out);
            block_values_q8(w.p, nr, head_dim, values + at, n, out);
        }
        window_finish(&w, out);
    }
}

static void CLAW_FN(attention_window_f16)(const float *query, int32_t rows, int32_t head_dim, float scale, float cap, const int32_t *first,
                                          const int32_t *limit, int64_t stride, const uint16_t *keys, const uint16_t *values, float *scratch, float *y)
{
    float *fk = scratch, *fv = fk + 64 * head_dim;
    const window w = window_of(first, limit, rows, head_dim, scale, cap, fv + 64 * head_dim);
    memset(y, 0, (size_t)rows * (size_t)head_dim * sizeof *y);
    for (int32_t base = w.begin; base < w.end; base += 64) {
        const int32_t n = w.end - base < 64 ? w.end - base : 64;
        const uint16_t *k = keys + base / 64 * stride, *v = values + base / 64 * stride;
        if (rows > FEW_ROWS) load_block(k, v, n, head_dim, fk, fv);
        block_scores(query, rows, head_dim, k, fk, n, w.p);
        window_weights(&w, base, y);
        block_values(w.p, rows, head_dim, v, fv, n, y);
    }
    window_finish(&w, y);
}
