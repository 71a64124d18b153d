/* The KV cache in int8, a scale each 32 elements of a head, and attention over it: as attention.c, with
 * a first visible position a row (sliding windows) and a cap on scores (softcap_f32; 0: none).
 * Rows are worked on by themselves, so a query gives the same bits alone and in a batch. */

/* A group of n elements to codes and their f16 scale: rounded with the scale as stored, so that the
 * stored pair is as near as it can be. NaN becomes -127. */
static inline uint16_t cache_group(const float *x, int32_t n, int8_t *q)
{
    vf m = vf_zero();
    for (int32_t i = 0; i < n; i += 8) m = vf_max(vf_abs(vf_load(x + i)), m);
    const float amax = vf_hmax(m) * (1.0f / 127.0f);
    const uint16_t d = f32_to_f16(amax < 65504.0f ? amax : 65504.0f);
    const float scale = f16_to_f32(d);
    const vf inverse = vf_set1(scale > 0.0f ? 1.0f / scale : 0.0f), low = vf_set1(-127.0f), high = vf_set1(127.0f);
    for (int32_t i = 0; i < n; i += 8) vf_store_i8(q + i, vf_round(vf_min(vf_max(vf_mul(vf_load(x + i), inverse), low), high)));
    return d;
}

static inline int32_t cache_groups(int32_t head_dim) { return (head_dim + 31) / 32; }

static void CLAW_FN(kv_append_q8)(const float *key, const float *value, int32_t head_dim, int32_t position, int64_t stride,
                                  uint8_t *keys, uint8_t *values)
{
    const int32_t at = position % 64;
    uint8_t *k = keys + position / 64 * stride, *v = values + position / 64 * stride;
    for (int32_t g = 0; g < cache_groups(head_dim); g++) {
        const int32_t n = head_dim - 32 * g < 32 ? head_dim - 32 * g : 32;
        const size_t scale = (size_t)64 * (size_t)head_dim + ((size_t)g * 64 + (size_t)at) * 2;
        int8_t q[32];
        uint16_t d = cache_group(key + 32 * g, n, q);
        for (int32_t i = 0; i < n; i++) k[(at / 8 * head_dim + 32 * g + i) * 8 + at % 8] = (uint8_t)q[i];
        memcpy(k + scale, &d, 2);
        d = cache_group(value + 32 * g, n, q);
        memcpy(v + at * head_dim + 32 * g, q, (size_t)n);
        memcpy(v + scale, &d, 2);
    }
}

/* load_block of attention.c for codes: their scales come later, as they do straight from the cache. */
static inline void load_block_i8(const uint8_t *keys, const uint8_t *values, int32_t n, int32_t head_dim, const uint8_t *ask, float *fk, float *fv)
{
    const size_t hd = (size_t)head_dim;
    for (size_t g = 0; g < (size_t)(n + 7) / 8; g++) {
        const int8_t *src = (const int8_t *)keys + g * 8 * hd;
        float *dst = fk + g / 2 * 16 * hd + g % 2 * 8;
        for (size_t i = 0; i < hd; i++) {
            PREFETCH_FAR(values + (g * hd + i) * 8);
            vf_store(dst + 16 * i, vf_load_i8(src + 8 * i));
        }
    }
    for (size_t i = 0; i < (size_t)n * hd; i += 8) {
        PREFETCH_FAR(ask + i);
        vf_store(fv + i, vf_load_i8((const int8_t *)values + i));
    }
}

/* Scores of a block as of block_scores: each group is summed on its own, and its sum meets its scale. */
static inline void block_scores_q8(const float *query, int32_t rows, int32_t hd, const uint8_t *keys, const float *fk, const uint8_t *ask, int32_t n, float *p)
{
    const uint8_t *scales = keys + 64 * (size_t)hd;
    for (int32_t i = 0; i < hd; i += 32, scales += 128) {
        const int32_t len = hd - i < 32 ? hd - i : 32, groups = (n + 7) / 8;
        const int end = i ? TILE_SCALE_ADD : TILE_SCALE;
        for (int32_t j = 0, nb; j < groups; j += nb) {
            const size_t at = (size_t)(j * hd + i) * 8;
            const cached k = {keys + at, 8, 8 * hd, ask + at};
            if (rows > FEW_ROWS) {
                nb = 2;
                tile_rows(rows, nb, end, len, query + i, hd, fk + (j / 2 * hd + i) * 16, 16, scales + 16 * j, p + 8 * j, 64);
            } else {
                nb = groups - j < 4 ? groups - j : 4;
                tile_few(rows, nb, 1, end, len, query + i, hd, &k, scales + 16 * j, p + 8 * j, 64);
            }
        }
    }
}

/* y += p * values of a block of n positions; the weights of a group, p * scale, go to `part`. */
static inline void block_values_q8(const float *p, int32_t rows, int32_t hd, const uint8_t *values, const float *fv, const uint8_t *ask,
                                   int32_t n, float *part, float *y)
{
    const uint8_t *scales = values + 64 * (size_t)hd;
    for (int32_t i = 0; i < hd; i += 32, scales += 128) {
        const int32_t len = hd - i < 32 ? hd - i : 32;
        const cached v = {values + i, hd, 8, ask + (size_t)i * (size_t)n};
        for (int32_t j = 0; j < n; j += 8) {
            const vf d = vf_load_f16(scales + 2 * j);
            for (int32_t r = 0; r < rows; r++) vf_store(part + 64 * r + j, vf_mul(vf_load(p + 64 * r + j), d));
        }
        if (rows <= FEW_ROWS) {
            tile_few(rows, len / 8, 1, TILE_ADD, n, part, 64, &v, NULL, y + i, hd);
            continue;
        }
        for (int32_t c = i, nb; c < i + len; c += 8 * nb) {
            nb = i + len - c < 16 ? 1 : 2;
            tile_rows(rows, nb, TILE_ADD, n, part, 64, fv + c, hd, NULL, y + c, hd);
        }
    }
}

/* Scales and caps the scores of a row, hides the positions below `first` and from `visible` on; returns the largest. */
static inline float window_scores(float *p, int32_t first, int32_t visible, float scale, float cap)
{
    const vf hidden = vf_set1(-INFINITY), c = vf_set1(cap), s = vf_set1(cap > 0.0f ? scale / cap : scale);
    if (first >= visible || first >= 64) visible = 0;
    if (visible <= 0 || (first <= 0 && cap <= 0.0f)) return scale_scores(p, visible, scale);
    for (int32_t i = 0; i < 64; i += 8) {
        vf v = vf_mul(vf_load(p + i), s);
        if (cap > 0.0f) v = vf_mul(c, tanh_of(v));
        vf_store(p + i, vf_first(first - i, hidden, v));
    }
    return scale_scores(p, visible, 1.0f);
}

/* What the two caches have in common; `rows` queries at a time see their own limits. */
typedef struct {
    softmax s;
    float *p;
    const int32_t *first, *limit;
    int32_t rows, head_dim, begin, end; /* begin: a multiple of 64 */
    float scale, cap;
} window;

static inline void window_begin(window *w)
{
    softmax_begin(&w->s);
    w->begin = INT32_MAX;
    w->end = 0;
    for (int32_t r = 0; r < w->rows; r++) {
        if (w->first[r] >= w->limit[r]) continue;
        if (w->first[r] < w->begin) w->begin = w->first[r];
        if (w->limit[r] > w->end) w->end = w->limit[r];
    }
    w->begin = w->begin / 64 * 64;
}

static inline void window_weights(window *w, int32_t base, float *y)
{
    for (int32_t r = 0; r < w->rows; r++)
        w->s.best[r] = window_scores(w->p + 64 * r, w->first[r] - base, w->limit[r] - base, w->scale, w->cap);
    softmax_block(&w->s, w->p, w->rows, w->head_dim, y);
}

static inline void window_finish(const window *w, float *y)
{
    for (int32_t r = 0; r < w->rows; r++)
        scale_row(y + r * w->head_dim, w->head_dim, w->s.total[r] != 0.0f ? 1.0f / w->s.total[r] : 0.0f);
}

static void CLAW_FN(attention_q8)(const float *query, int32_t rows, int32_t head_dim, float scale, float cap, const int32_t *first,
                                  const int32_t *limit, int64_t stride, const uint8_t *keys, const uint8_t *values, float *scratch, float *y)
{
    float *fk = scratch, *fv = fk + 64 * head_dim, *part = fv + 64 * head_dim;
    window w = {.p = part + 64 * rows, .first = first, .limit = limit, .rows = rows, .head_dim = head_dim, .scale = scale, .cap = cap};
    window_begin(&w);
    memset(y, 0, (size_t)rows * (size_t)head_dim * sizeof *y);
    for (int32_t base = w.begin; base < w.end; base += 64) {
        const int32_t n = w.end - base < 64 ? w.end - base : 64;
        const uint8_t *k = keys + base / 64 * stride, *v = values + base / 64 * stride;
        const uint8_t *ask = next_keys(keys, w.begin, base, w.end, stride, (int64_t)CLAW_CACHE8_BYTES(head_dim));
        if (rows > FEW_ROWS) load_block_i8(k, v, n, head_dim, ask, fk, fv);
        block_scores_q8(query, rows, head_dim, k, fk, v, n, w.p);
        if (base > w.begin) ask_rest(ask, (size_t)(n * head_dim), CLAW_CACHE8_BYTES(head_dim));
        window_weights(&w, base, y);
        block_values_q8(w.p, rows, head_dim, v, fv, ask, n, part, y);
    }
    window_finish(&w, y);
}

static void CLAW_FN(attention_window_f16)(const float *query, int32_t rows, int32_t head_dim, float scale, float cap, const int32_t *first,
                                          const int32_t *limit, int64_t stride, const uint16_t *keys, const uint16_t *values, float *scratch, float *y)
{
    float *fk = scratch, *fv = fk + 64 * head_dim;
    window w = {.p = fv + 64 * head_dim, .first = first, .limit = limit, .rows = rows, .head_dim = head_dim, .scale = scale, .cap = cap};
    window_begin(&w);
    memset(y, 0, (size_t)rows * (size_t)head_dim * sizeof *y);
    for (int32_t base = w.begin; base < w.end; base += 64) {
        const int32_t n = w.end - base < 64 ? w.end - base : 64;
        const uint16_t *k = keys + base / 64 * stride, *v = values + base / 64 * stride;
        const uint8_t *ask = next_keys(keys, w.begin, base, w.end, 2 * stride, 128 * head_dim);
        if (rows > FEW_ROWS) load_block(k, v, n, head_dim, ask, fk, fv);
        block_scores(query, rows, head_dim, k, fk, v, n, w.p);
        if (base > w.begin) ask_rest(ask, (size_t)(2 * n * head_dim), (size_t)(128 * head_dim));
        window_weights(&w, base, y);
        block_values(w.p, rows, head_dim, v, fv, ask, n, y);
    }
    window_finish(&w, y);
}
