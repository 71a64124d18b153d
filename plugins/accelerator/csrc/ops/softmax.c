/* Softmax of a row and its relatives. Elements that are NaN count as if they were not there (their
 * weight is 0); a row without a finite largest element has no weights: softmax gives zeros. */

typedef struct {
    float top, total; /* largest scaled element; sum of exp(element - top) */
} row_sums;

static inline vf scaled_at(const float *x, int32_t i, int32_t n, float scale)
{
    if (i + 8 <= n) return vf_mul(vf_load(x + i), vf_set1(scale));
    return vf_first(n - i, vf_mul(vf_load_part(x + i, n - i), vf_set1(scale)), vf_set1(-INFINITY));
}

static inline float top_of(const float *x, int32_t n, float scale)
{
    vf m = vf_set1(-INFINITY);
    for (int32_t i = 0; i < n; i += 8) m = vf_max(scaled_at(x, i, n, scale), m);
    return vf_hmax(m);
}

static inline row_sums sums_of_row(const float *x, int32_t n, float scale)
{
    const float top = top_of(x, n, scale);
    vf total = vf_zero();
    for (int32_t i = 0; i < n; i += 8) total = vf_add(total, vf_exp(vf_sub(scaled_at(x, i, n, scale), vf_set1(top))));
    return (row_sums){top, vf_sum(total)};
}

static void CLAW_FN(softmax_f32)(const float *x, int32_t n, int32_t length, float scale, float *y)
{
    const float top = top_of(x, length, scale);
    vf total = vf_zero();
    for (int32_t i = 0; i < length; i += 8) {
        vf e = vf_exp(vf_sub(scaled_at(x, i, length, scale), vf_set1(top)));
        total = vf_add(total, e);
        if (i + 8 <= length) vf_store(y + i, e);
        else vf_store_part(y + i, length - i, e);
    }
    const float sum = vf_sum(total);
    affine_row(y, length, sum > 0.0f ? 1.0f / sum : 0.0f, 0.0f, y);
    memset(y + length, 0, (size_t)(n - length) * sizeof *y);
}

/* The logarithm of the sum of exp; the largest element itself if that is not finite. */
static inline float log_sum(const float *x, int32_t n)
{
    const row_sums r = sums_of_row(x, n, 1.0f);
    return r.total > 0.0f ? r.top + logf(r.total) : r.top;
}

static void CLAW_FN(log_softmax_f32)(const float *x, int32_t n, float *y) { affine_row(x, n, 1.0f, -log_sum(x, n), y); }

static void CLAW_FN(logsumexp_f32)(const float *x, int32_t n, float *y) { *y = log_sum(x, n); }
