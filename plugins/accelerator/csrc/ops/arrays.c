/* Arithmetic on whole arrays, and rows by index. */

/* v: 8 at a time, s: the same of one element. Written on vectors, since compilers take long over so
 * many loops whose arrays might overlap in any way. */
#define EACH_ELEMENT(v, s)                                       \
    int32_t i = 0;                                               \
    for (; i + 8 <= n; i += 8) vf_store(y + i, v);               \
    for (; i < n; i++) y[i] = s;
#define AT(p) vf_load((p) + i)

static void CLAW_FN(mul_f32)(const float *a, const float *b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_mul(AT(a), AT(b)), a[i] * b[i])
}
static void CLAW_FN(sub_f32)(const float *a, const float *b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_sub(AT(a), AT(b)), a[i] - b[i])
}
static void CLAW_FN(div_f32)(const float *a, const float *b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_div(AT(a), AT(b)), a[i] / b[i])
}
static void CLAW_FN(max_f32)(const float *a, const float *b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_max(AT(a), AT(b)), a[i] > b[i] ? a[i] : b[i])
}
static void CLAW_FN(min_f32)(const float *a, const float *b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_min(AT(a), AT(b)), a[i] < b[i] ? a[i] : b[i])
}
static void CLAW_FN(mul_add_f32)(const float *a, const float *b, const float *c, int32_t n, float *y)
{
    EACH_ELEMENT(vf_add(vf_mul(AT(a), AT(b)), AT(c)), a[i] * b[i] + c[i])
}
static void CLAW_FN(axpy_f32)(const float *x, float a, const float *b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_add(vf_mul(vf_set1(a), AT(x)), AT(b)), a * x[i] + b[i])
}
static void CLAW_FN(affine_f32)(const float *x, float a, float b, int32_t n, float *y)
{
    EACH_ELEMENT(vf_add(vf_mul(vf_set1(a), AT(x)), vf_set1(b)), a * x[i] + b)
}
static void CLAW_FN(select_f32)(const uint8_t *mask, const float *a, const float *b, int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = mask[i] ? a[i] : b[i];
}

static inline int row_is(int32_t index, int32_t rows) { return index >= 0 && index < rows; }

static void CLAW_FN(gather_rows)(const uint8_t *table, int32_t rows, int32_t bytes, const int32_t *index, int32_t n,
                                 uint8_t *y)
{
    for (int32_t i = 0; i < n; i++, y += bytes) {
        if (row_is(index[i], rows)) memcpy(y, table + (size_t)index[i] * (size_t)bytes, (size_t)bytes);
        else memset(y, 0, (size_t)bytes);
    }
}
static void CLAW_FN(gather_rows_f16)(const uint16_t *table, int32_t rows, int32_t width, const int32_t *index,
                                     int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i++, y += width) {
        if (row_is(index[i], rows)) CLAW_FN(convert_f16_f32)(table + (size_t)index[i] * (size_t)width, width, y);
        else memset(y, 0, (size_t)width * sizeof *y);
    }
}
static void CLAW_FN(scatter_add_f32)(const float *x, int32_t width, const int32_t *index, int32_t n, int32_t rows,
                                     float *y)
{
    for (int32_t i = 0; i < n; i++, x += width) {
        if (!row_is(index[i], rows)) continue;
        float *to = y + (size_t)index[i] * (size_t)width;
        for (int32_t k = 0; k < width; k++) to[k] += x[k];
    }
}
