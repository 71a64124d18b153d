/* One query against n rows that lie one after the other (stride in elements): similarities and
 * distances of embeddings. */

static void CLAW_FN(dot_rows_f32)(const float *query, const float *rows, int32_t n, int32_t width, int64_t stride,
                                  float *y)
{
    for (int32_t r = 0; r < n; r++, rows += stride) y[r] = dot_run(query, rows, width);
}

/* As dot_run, with rows of 16 bits; the last numbers are copied and filled up with zeros. */
static inline float dot_half(const float *a, const uint16_t *b, int32_t n, int brain)
{
    vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    float last_a[32];
    uint16_t last_b[32];
    for (int32_t i = 0; i < n; i += 32, a += 32, b += 32) {
        if (n - i < 32) {
            memset(last_a, 0, sizeof last_a);
            memset(last_b, 0, sizeof last_b);
            memcpy(last_a, a, (size_t)(n - i) * sizeof *a);
            memcpy(last_b, b, (size_t)(n - i) * sizeof *b);
            a = last_a;
            b = last_b;
        }
        for (int j = 0; j < 4; j++) {
            vf row = brain ? vf_load_bf16(b + 8 * j) : vf_load_f16(b + 8 * j);
            s[j] = vf_fma(vf_load(a + 8 * j), row, s[j]);
        }
    }
    return vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
}
static void CLAW_FN(dot_rows_f16)(const float *query, const uint16_t *rows, int32_t n, int32_t width, int64_t stride,
                                  float *y)
{
    for (int32_t r = 0; r < n; r++, rows += stride) y[r] = dot_half(query, rows, width, 0);
}
static void CLAW_FN(dot_rows_bf16)(const float *query, const uint16_t *rows, int32_t n, int32_t width, int64_t stride,
                                   float *y)
{
    for (int32_t r = 0; r < n; r++, rows += stride) y[r] = dot_half(query, rows, width, 1);
}

static inline vb vb_bytes(const int8_t *p) { return vb_load((const uint8_t *)p); }

static void CLAW_FN(dot_rows_s8)(const int8_t *query, const int8_t *rows, int32_t n, int32_t width, int64_t stride,
                                 int32_t *y)
{
    for (int32_t r = 0; r < n; r++, rows += stride) {
        vi s0 = vi_zero(), s1 = vi_zero();
        int32_t i = 0;
        for (; i + 64 <= width; i += 64) {
            s0 = vi_dot(s0, vb_bytes(rows + i), vb_bytes(query + i));
            s1 = vi_dot(s1, vb_bytes(rows + i + 32), vb_bytes(query + i + 32));
        }
        for (; i + 32 <= width; i += 32) s0 = vi_dot(s0, vb_bytes(rows + i), vb_bytes(query + i));
        int32_t sum = vi_sum(vi_add(s0, s1));
        for (; i < width; i++) sum += rows[i] * query[i];
        y[r] = sum;
    }
}

static void CLAW_FN(l2_rows_f32)(const float *query, const float *rows, int32_t n, int32_t width, int64_t stride,
                                 float *y)
{
    for (int32_t r = 0; r < n; r++, rows += stride) {
        vf s[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        int32_t i = 0;
        for (; i + 32 <= width; i += 32)
            for (int j = 0; j < 4; j++) {
                vf d = vf_sub(vf_load(query + i + 8 * j), vf_load(rows + i + 8 * j));
                s[j] = vf_fma(d, d, s[j]);
            }
        for (; i + 8 <= width; i += 8) {
            vf d = vf_sub(vf_load(query + i), vf_load(rows + i));
            s[0] = vf_fma(d, d, s[0]);
        }
        float sum = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
        for (; i < width; i++) sum += (query[i] - rows[i]) * (query[i] - rows[i]);
        y[r] = sum;
    }
}
static void CLAW_FN(l2_rows_s8)(const int8_t *query, const int8_t *rows, int32_t n, int32_t width, int64_t stride,
                                int32_t *y)
{
    for (int32_t r = 0; r < n; r++, rows += stride) {
        int32_t sum = 0;
        for (int32_t i = 0; i < width; i++) {
            int16_t d = (int16_t)(query[i] - rows[i]);
            sum += d * d;
        }
        y[r] = sum;
    }
}

static void CLAW_FN(cosine_rows_f32)(const float *query, const float *rows, int32_t n, int32_t width, int64_t stride,
                                     float *y)
{
    float own = sqrtf(dot_run(query, query, width));
    for (int32_t r = 0; r < n; r++, rows += stride) {
        vf p0 = vf_zero(), p1 = vf_zero(), q0 = vf_zero(), q1 = vf_zero();
        int32_t i = 0;
        for (; i + 16 <= width; i += 16) {
            vf a = vf_load(rows + i), b = vf_load(rows + i + 8);
            p0 = vf_fma(a, vf_load(query + i), p0);
            p1 = vf_fma(b, vf_load(query + i + 8), p1);
            q0 = vf_fma(a, a, q0);
            q1 = vf_fma(b, b, q1);
        }
        float product = vf_sum(vf_add(p0, p1)), square = vf_sum(vf_add(q0, q1));
        for (; i < width; i++) {
            product += rows[i] * query[i];
            square += rows[i] * rows[i];
        }
        float norms = own * sqrtf(square);
        y[r] = norms == 0.0f ? 0.0f : product / norms;
    }
}

static void CLAW_FN(hamming_rows)(const uint64_t *query, const uint64_t *rows, int32_t n, int32_t words, int32_t *y)
{
    for (int32_t r = 0; r < n; r++, rows += words) {
        int32_t count = 0, more = 0, i = 0;
        for (; i + 4 <= words; i += 4) {
            count += __builtin_popcountll(query[i] ^ rows[i]) + __builtin_popcountll(query[i + 1] ^ rows[i + 1]);
            more += __builtin_popcountll(query[i + 2] ^ rows[i + 2]) + __builtin_popcountll(query[i + 3] ^ rows[i + 3]);
        }
        for (; i < words; i++) count += __builtin_popcountll(query[i] ^ rows[i]);
        y[r] = count + more;
    }
}
