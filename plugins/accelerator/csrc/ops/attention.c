/* Causal attention of a few queries over the f16 cache of one KV head, block by block of 64
 * positions with a running maximum (online softmax: Milakov and Gimelshein, 2018). Blocks lie at
 * absolute positions, so a query gives the same bits alone and in a batch. */

#define FEW_ROWS 3

static void CLAW_FN(kv_append)(const float *key, const float *value, int32_t head_dim, int32_t position, int64_t stride,
                               uint16_t *keys, uint16_t *values)
{
    /* Clamped to finite f16, NaN included: a masked position is multiplied by 0, never by NaN. */
    const vf low = vf_set1(-65504.0f), high = vf_set1(65504.0f);
    const int32_t at = position % 64;
    uint16_t *k = keys + position / 64 * stride + at / 8 * 8 * head_dim + at % 8;
    uint16_t *v = values + position / 64 * stride + at * head_dim;
    for (int32_t i = 0; i < head_dim; i += 8) {
        uint16_t t[8];
        vf_store_f16(t, vf_min(vf_max(vf_load(key + i), low), high));
        for (int j = 0; j < 8; j++) k[(size_t)(i + j) * 8] = t[j];
        vf_store_f16(v + i, vf_min(vf_max(vf_load(value + i), low), high));
    }
}

/* What a tile does with its sums: they are y, they go on from y, or they meet the f16 scales d of their
 * columns first and are y or are added to it. */
enum { TILE_SET, TILE_ADD, TILE_SCALE, TILE_SCALE_ADD };

static inline __attribute__((always_inline)) void tile_end(int end, int nb, const uint8_t *d, const vf *acc, float *y)
{
    for (int j = 0; j < nb; j++) {
        vf v = acc[j];
        if (end == TILE_SCALE) v = vf_mul(v, vf_load_f16(d + 16 * j));
        if (end == TILE_SCALE_ADD) v = vf_fma(v, vf_load_f16(d + 16 * j), vf_load(y + 8 * j));
        vf_store(y + 8 * j, v);
    }
}

/* y[r][0..8*nb) = sum over i < n of a[r*as + i] * b[i*bs + 0..8*nb), as `end` says. Offsets of
 * rows are constants of pointer size in the loop: as 32-bit indices they would be widened at each use. */
static inline __attribute__((always_inline)) void tile_f32_small(
    int nr, int nb, int end, int32_t n, const float *a, int32_t as, const float *b, int32_t bs, const uint8_t *d, float *y, int32_t ys)
{
    const size_t row = (size_t)as, step = (size_t)bs;
    vf acc[6][2];
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < nb; j++) acc[r][j] = end == TILE_ADD ? vf_load(y + r * ys + 8 * j) : vf_zero();
    for (; n > 0; n--, a++, b += step) {
        vf v[2];
        for (int j = 0; j < nb; j++) v[j] = vf_load(b + 8 * j);
        for (int r = 0; r < nr; r++) {
            vf x = vf_set1(a[(size_t)r * row]);
            for (int j = 0; j < nb; j++) acc[r][j] = vf_fma(v[j], x, acc[r][j]);
        }
    }
    for (int r = 0; r < nr; r++) tile_end(end, nb, d, acc[r], y + r * ys);
}

#define TILE_ROWS(nr, nb) case nr: tile_f32_small(nr, nb, end, n, a, as, b, bs, d, y, ys); break;

static inline void tile_rows(int32_t rows, int nb, int end, int32_t n, const float *a, int32_t as, const float *b,
                             int32_t bs, const uint8_t *d, float *y, int32_t ys)
{
    for (int32_t r; rows > 0; rows -= r, a += r * as, y += r * ys) {
        r = rows >= 6 ? 6 : rows;
        if (nb == 2) switch (r) {
            TILE_ROWS(1, 2) TILE_ROWS(2, 2) TILE_ROWS(3, 2) TILE_ROWS(4, 2) TILE_ROWS(5, 2) TILE_ROWS(6, 2)
        } else switch (r) {
            TILE_ROWS(1, 1) TILE_ROWS(2, 1) TILE_ROWS(3, 1) TILE_ROWS(4, 1) TILE_ROWS(5, 1) TILE_ROWS(6, 1)
        }
    }
}

/* A matrix in the cache: f16 or, eight != 0, int8. In elements: from row to row, and between the vectors
 * of a row. ask: what is read after it. Of that as much is asked for with each step as a step reads: blocks lie apart,
 * and the processor's own guesses begin anew in each. */
typedef struct {
    const void *at;
    int32_t row, vector;
    const uint8_t *ask;
} cached;

/* The same straight from the cache, for so few rows that converting a block first does not pay. A vector of the cache is
 * done with all rows before the next one is read: 3 rows of 4 sums, 3 factors and it are the 16 registers of AVX2, and
 * with one more alive, sums were stored and loaded in each step, for twice the time. */
static inline __attribute__((always_inline)) void tile_few_small(
    int nr, int nb, int eight, int end, int32_t n, const float *a, int32_t as, const cached *b, const uint8_t *d, float *y, int32_t ys)
{
    const size_t row = (size_t)as, step = (size_t)b->row, apart = (size_t)b->vector;
    const uint8_t *ask = b->ask;
    vf acc[FEW_ROWS][4];
    for (int r = 0; r < nr; r++)
        for (int j = 0; j < nb; j++) acc[r][j] = end == TILE_ADD ? vf_load(y + r * ys + 8 * j) : vf_zero();
    for (size_t first = 0; n > 0; n--, a++, first += step, ask += nb * (eight ? 8 : 16)) {
        PREFETCH_FAR(ask);
        vf x[FEW_ROWS];
        for (int r = 0; r < nr; r++) {
            x[r] = vf_set1(a[(size_t)r * row]);
            KEEP(x[r]);
        }
        for (int j = 0; j < nb; j++) {
            const size_t at = first + (size_t)j * apart;
            const vf v = eight ? vf_load_i8((const int8_t *)b->at + at) : vf_load_f16((const uint16_t *)b->at + at);
            for (int r = 0; r < nr; r++) acc[r][j] = vf_fma(v, x[r], acc[r][j]);
        }
    }
    for (int r = 0; r < nr; r++) tile_end(end, nb, d, acc[r], y + r * ys);
}

#define FEW_CASE(nr, nb) case nr * 8 + nb: tile_few_small(nr, nb, eight, end, n, a, as, b, d, y, ys); break;

static inline __attribute__((always_inline)) void tile_few(
    int32_t rows, int nb, int eight, int end, int32_t n, const float *a, int32_t as, const cached *b, const uint8_t *d, float *y, int32_t ys)
{
    switch (rows * 8 + nb) {
        FEW_CASE(1, 1) FEW_CASE(1, 2) FEW_CASE(1, 3) FEW_CASE(1, 4)
        FEW_CASE(2, 1) FEW_CASE(2, 2) FEW_CASE(2, 3) FEW_CASE(2, 4)
        FEW_CASE(3, 1) FEW_CASE(3, 2) FEW_CASE(3, 3) FEW_CASE(3, 4)
    }
}

/* Scaled scores of a row back to p, hidden ones as minus infinity; returns the largest. */
static inline __attribute__((always_inline)) float scale_visible(int masked, float *p, int32_t visible, float scale)
{
    const vf hidden = vf_set1(-INFINITY), factor = vf_set1(scale);
    vf m = hidden;
    for (int32_t i = 0; i < 64; i += 8) {
        vf v = vf_mul(vf_load(p + i), factor);
        if (masked) v = vf_first(visible - i, v, hidden);
        vf_store(p + i, v);
        m = vf_max(m, v);
    }
    return vf_hmax(m);
}
static inline float scale_scores(float *p, int32_t visible, float scale)
{
    return visible < 64 ? scale_visible(1, p, visible, scale) : scale_visible(0, p, visible, scale);
}

/* The rows of a call: the largest score of a block, then by what earlier sums shrink; the largest so far; the sum. */
typedef struct {
    float best[CLAW_ATTENTION_ROWS], top[CLAW_ATTENTION_ROWS], total[CLAW_ATTENTION_ROWS];
} softmax;

static inline void softmax_begin(softmax *s)
{
    for (int32_t r = 0; r < CLAW_ATTENTION_ROWS; r++) {
        s->best[r] = s->top[r] = -INFINITY;
        s->total[r] = 0.0f;
    }
}

static inline void scale_row(float *y, int32_t n, float factor)
{
    for (int32_t i = 0; i < n; i += 8) vf_store(y + i, vf_mul(vf_load(y + i), vf_set1(factor)));
}

/* Scaled scores of a block, whose largest are best, to weights; sums and outputs y of earlier blocks shrink. One sweep
 * after the other: what each row needs is there when its turn comes, and nothing is guessed. (Row by row, whether a row
 * has a new maximum was guessed wrong so often that half of the time went there.) Of a row that has seen nothing yet
 * differences are NaN, whose vf_exp is 0. */
static inline void softmax_block(softmax *s, float *p, int32_t rows, int32_t head_dim, float *y)
{
    for (int32_t r = 0; r < rows; r += 8) {
        const vf old = vf_load(s->top + r), next = vf_max(vf_load(s->best + r), old);
        vf_store(s->best + r, vf_exp(vf_sub(old, next)));
        vf_store(s->top + r, next);
    }
    for (int32_t r = 0; r < rows; r++, p += 64) {
        const vf peak = vf_set1(s->top[r]);
        vf sum = vf_zero();
        for (int32_t i = 0; i < 64; i += 32) {
            vf v[4];
            for (int j = 0; j < 4; j++) v[j] = vf_sub(vf_load(p + i + 8 * j), peak);
            vf_exp4(v);
            for (int j = 0; j < 4; j++) {
                vf_store(p + i + 8 * j, v[j]);
                sum = vf_add(sum, v[j]);
            }
        }
        s->total[r] = s->total[r] * s->best[r] + vf_sum(sum);
    }
    for (int32_t r = 0; r < rows; r++)
        if (s->best[r] != 1.0f) scale_row(y + r * head_dim, head_dim, s->best[r]);
}

/* A block of n positions, converted: keys as [4][head_dim][16], values as [n][head_dim]. ask: the next keys. */
static inline void load_block(const uint16_t *keys, const uint16_t *values, int32_t n, int32_t head_dim, const uint8_t *ask, float *fk, float *fv)
{
    const size_t hd = (size_t)head_dim;
    for (size_t g = 0; g < (size_t)(n + 7) / 8; g++) {
        const uint16_t *src = keys + g * 8 * hd;
        float *dst = fk + g / 2 * 16 * hd + g % 2 * 8;
        for (size_t i = 0; i < hd; i += 4) {
            PREFETCH_FAR(values + g * 8 * hd + 8 * i);
            for (size_t j = i; j < i + 4; j++) vf_store(dst + 16 * j, vf_load_f16(src + 8 * j));
        }
    }
    for (size_t i = 0; i < (size_t)n * hd; i += 32) {
        PREFETCH_FAR(ask + 2 * i);
        for (size_t j = i; j < i + 32; j += 8) vf_store(fv + j, vf_load_f16(values + j));
    }
}

/* Scores of a block: p[r][0..64), at least the first n of each row. ask: its values. */
static inline void block_scores(const float *query, int32_t rows, int32_t hd, const uint16_t *keys, const float *fk, const uint16_t *ask, int32_t n, float *p)
{
    if (rows > FEW_ROWS) {
        for (int32_t j = 0; j < (n + 15) / 16; j++)
            tile_rows(rows, 2, TILE_SET, hd, query, hd, fk + j * 16 * hd, 16, NULL, p + 16 * j, 64);
        return;
    }
    for (int32_t j = 0, groups = (n + 7) / 8, nb; j < groups; j += nb) {
        const size_t at = (size_t)j * 8 * (size_t)hd;
        const cached k = {keys + at, 8, 8 * hd, (const uint8_t *)(ask + at)};
        nb = groups - j < 4 ? groups - j : 4;
        tile_few(rows, nb, 0, TILE_SET, hd, query, hd, &k, NULL, p + 8 * j, 64);
    }
}

/* y += p * values of a block of n positions. ask: the next keys. */
static inline void block_values(const float *p, int32_t rows, int32_t hd, const uint16_t *values, const float *fv, const uint8_t *ask, int32_t n, float *y)
{
    int32_t i = 0;
    if (rows <= FEW_ROWS) {
        for (int32_t nb; i < hd; i += 8 * nb) {
            const cached v = {values + i, hd, 8, ask + (size_t)i * (size_t)n * sizeof *values};
            nb = hd - i < 32 ? (hd - i) / 8 : 4;
            tile_few(rows, nb, 0, TILE_ADD, n, p, 64, &v, NULL, y + i, hd);
        }
        return;
    }
    for (; i + 16 <= hd; i += 16) tile_rows(rows, 2, TILE_ADD, n, p, 64, fv + i, hd, NULL, y + i, hd);
    if (i < hd) tile_rows(rows, 1, TILE_ADD, n, p, 64, fv + i, hd, NULL, y + i, hd);
}

/* The keys that are read after those of the block at `base`: of the next one, or the first ones of the next head, which
 * lie behind those of this head (`head` bytes). stride: in bytes. */
static inline const uint8_t *next_keys(const void *keys, int32_t begin, int32_t base, int32_t end, int64_t stride, int64_t head)
{
    return (const uint8_t *)keys + (base + 64 < end ? (base / 64 + 1) * stride : begin / 64 * stride + head);
}

/* A last block is shorter than what it asks for while it is read; it asks for the rest at once. */
static inline void ask_rest(const uint8_t *ask, size_t read, size_t whole)
{
    for (; read < whole; read += 64) PREFETCH_FAR(ask + read);
}

static void CLAW_FN(attention_f16)(const float *query, int32_t rows, int32_t head_dim, float scale, const int32_t *limit,
                                   int64_t stride, const uint16_t *keys, const uint16_t *values, float *scratch, float *y)
{
    float *fk = scratch, *fv = fk + 64 * head_dim, *p = fv + 64 * head_dim;
    softmax s;
    int32_t end = 0;
    softmax_begin(&s);
    for (int32_t r = 0; r < rows; r++)
        if (limit[r] > end) end = limit[r];
    memset(y, 0, (size_t)rows * (size_t)head_dim * sizeof *y);
    for (int32_t base = 0; base < end; base += 64) {
        const int32_t n = end - base < 64 ? end - base : 64;
        const uint16_t *k = keys + base / 64 * stride, *v = values + base / 64 * stride;
        const uint8_t *ask = next_keys(keys, 0, base, end, 2 * stride, 128 * head_dim);
        if (rows > FEW_ROWS) load_block(k, v, n, head_dim, ask, fk, fv);
        block_scores(query, rows, head_dim, k, fk, v, n, p);
        if (base) ask_rest(ask, (size_t)(2 * n * head_dim), (size_t)(128 * head_dim));
        for (int32_t r = 0; r < rows; r++) s.best[r] = scale_scores(p + 64 * r, limit[r] - base, scale);
        softmax_block(&s, p, rows, head_dim, y);
        block_values(p, rows, head_dim, v, fv, ask, n, y);
    }
    for (int32_t r = 0; r < rows; r++) scale_row(y + r * head_dim, head_dim, 1.0f / s.total[r]);
}
