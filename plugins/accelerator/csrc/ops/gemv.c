/* Packed weights times one vector of activations, 8 rows a time.
 *
 * What a row of weights costs is its way from memory, and a core alone can ask for only so many lines at a
 * time. How most of them are kept under way depends on the processor (claw_tune.streams):
 *   - Four blocks of 8 rows side by side, every line asked for into the second-level cache, where more
 *     requests fit than in the first: where the processor itself looks only a short way ahead.
 *   - One block after the other, a single stream: where what the second-level cache asks for by itself, once it
 *     has seen where a stream goes, is more than a program can ask for. Then it is only shown the way: one line
 *     in ASK_BYTES is asked for, further ahead than it looks, so that it is there already in the next page.
 *     Not where rows are so long that the activations, read again for each block, would not stay in L1, nor
 *     where they are so short that a small model's lie in the caches anyway: there it was a tenth slower.
 *
 * Sums run over k in order, in one chain a row (scales and minima apart), exactly as in gemm.c, so
 * that a token gives the same bits alone and in a batch. A group's integer meets the weights' scale first, then
 * the activations': where both factors are integers (gemm.c), that is one rounding of the same number. */
#define ASK_BYTES 512

/* The sums of one group of n blocks of 8 rows, `block` bytes apart. */
static inline __attribute__((always_inline)) void group_dots_q4(int n, const uint8_t *w, size_t block, const int8_t *q, vi *dots)
{
    vs acc[CLAW_STREAMS];
    for (int b = 0; b < n; b++) acc[b] = vs_zero();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const vb low = vb_bcast(q + 4 * j), high = vb_bcast(q + 16 + 4 * j);
        for (int b = 0; b < n; b++) {
            const vb codes = vb_load(w + (size_t)b * block + 32 * j);
            acc[b] = vs_dot(acc[b], vb_low(codes), low);
            acc[b] = vs_dot(acc[b], vb_high(codes), high);
            KEEP(acc[b]);
        }
    }
    for (int b = 0; b < n; b++) dots[b] = vs_sum(acc[b]);
}

static inline __attribute__((always_inline)) void group_dots_q8(int n, const uint8_t *w, size_t block, const int8_t *q, vi *dots)
{
    for (int b = 0; b < n; b++) dots[b] = vi_zero();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const vb codes = vb_bcast(q + 4 * j);
        for (int b = 0; b < n; b++) {
            dots[b] = vi_dot(dots[b], vb_load(w + (size_t)b * block + 32 * j), codes);
            KEEP(dots[b]);
        }
    }
}

/* Where the weights that are asked for next lie: in each of the streams at the same place. */
typedef struct {
    const uint8_t *at;
    int32_t left; /* groups until the end of the block */
} stream;

static inline stream stream_ahead(const uint8_t *w, int32_t groups, size_t bytes)
{
    const size_t n = claw_tune.ahead / (CLAW_STREAMS * bytes), whole = (size_t)groups * bytes;
    const size_t rest = n % (size_t)groups;
    return (stream){w + n / (size_t)groups * CLAW_STREAMS * whole + rest * bytes, groups - (int32_t)rest};
}

static inline __attribute__((always_inline)) void ask(int n, int bytes, size_t block, int32_t groups, stream *far)
{
    for (int b = 0; b < n; b++)
        for (int p = 0; p < bytes; p += 64) PREFETCH_FAR(far->at + (size_t)b * block + p);
    far->at += bytes;
    if (!--far->left) {
        far->at += (CLAW_STREAMS - 1) * block;
        far->left = groups;
    }
}

/* n blocks of 8 rows; far: NULL if they are one stream. */
static inline __attribute__((always_inline)) void gemv_blocks(
    int n, int bits, int bytes, int has_min, int shift, stream *far, const uint8_t *w, int32_t groups, const int8_t *q,
    const float *d, const float *s, float *y)
{
    const size_t block = (size_t)groups * (size_t)bytes, ahead = claw_tune.ahead;
    vf scaled[CLAW_STREAMS], minima[CLAW_STREAMS];
    for (int b = 0; b < n; b++) scaled[b] = minima[b] = vf_zero();
    for (int32_t g = 0; g < groups; g++, w += bytes) {
        vi dots[CLAW_STREAMS];
        if (far) ask(n, bytes, block, groups, far);
        else if (!(g % (ASK_BYTES / (bits * 32)))) PREFETCH_FAR(w + ahead);
        if (bits == 4) group_dots_q4(n, w, block, q + 32 * g, dots);
        else group_dots_q8(n, w, block, q + 32 * g, dots);
        const vf scale = vf_set1(d[g]), sum = vf_set1(s[g]);
        for (int b = 0; b < n; b++) {
            const uint8_t *at = w + (size_t)b * block + bits * 32;
            const vf dw = vf_load_f16(at);
            scaled[b] = vf_fma(vf_mul(vf_from_vi(dots[b]), dw), scale, scaled[b]);
            if (has_min) minima[b] = vf_fma(vf_load_f16(at + 16), sum, minima[b]);
            if (shift) minima[b] = vf_fma(dw, sum, minima[b]);
        }
    }
    for (int b = 0; b < n; b++) {
        if (shift) minima[b] = vf_mul(minima[b], vf_set1(-(float)shift));
        vf_store(y + 8 * b, vf_add(scaled[b], minima[b]));
    }
}

#define GEMV_INT(name, bits, bytes, has_min, shift)                                                \
    static void CLAW_FN(name)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *q,        \
                              const float *d, const float *s, float *y)                            \
    {                                                                                              \
        const int32_t groups = k / 32;                                                             \
        const size_t block = (size_t)groups * (bytes);                                             \
        stream far = stream_ahead(w, groups, bytes);                                               \
        if (claw_streams((uint32_t)k) == 1) {                                                      \
            for (; blocks > 0; blocks--, w += block, y += 8)                                       \
                gemv_blocks(1, bits, bytes, has_min, shift, NULL, w, groups, q, d, s, y);          \
            return;                                                                                \
        }                                                                                          \
        for (; blocks >= CLAW_STREAMS; blocks -= CLAW_STREAMS, w += CLAW_STREAMS * block, y += 8 * CLAW_STREAMS) \
            gemv_blocks(CLAW_STREAMS, bits, bytes, has_min, shift, &far, w, groups, q, d, s, y);   \
        for (; blocks > 0; blocks--, w += block, y += 8)                                           \
            gemv_blocks(1, bits, bytes, has_min, shift, &far, w, groups, q, d, s, y);              \
    }

GEMV_INT(gemv_q4a, 4, Q4A_BYTES, 1, 0)
GEMV_INT(gemv_q4s, 4, Q4S_BYTES, 0, 8)
GEMV_INT(gemv_q8a, 8, Q8A_BYTES, 1, 0)
GEMV_INT(gemv_q8s, 8, Q8S_BYTES, 0, 0)

static inline vf load_f16(const uint8_t *p) { return vf_load_f16(p); }
static inline vf load_bf16(const uint8_t *p) { return vf_load_bf16(p); }
static inline vf load_f32(const uint8_t *p) { return vf_load(p); }

/* Four groups of rows side by side hide the latency of the chains. */
#define GEMV_FLOAT(type, bytes)                                                                    \
    static inline __attribute__((always_inline)) void gemv_##type##_n(                             \
        int n, const uint8_t *w, int32_t k, const float *x, float *y)                              \
    {                                                                                              \
        vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};                                  \
        const size_t row = (size_t)k * (bytes);                                                    \
        for (int32_t i = 0; i < k; i++)                                                            \
            for (int b = 0; b < n; b++)                                                            \
                acc[b] = vf_fma(load_##type(w + (size_t)b * row + (size_t)i * (bytes)),            \
                                vf_set1(x[i]), acc[b]);                                            \
        for (int b = 0; b < n; b++) vf_store(y + 8 * b, acc[b]);                                   \
    }                                                                                              \
    static void CLAW_FN(gemv_##type)(const uint8_t *w, int32_t blocks, int32_t k, const float *x, float *y) \
    {                                                                                              \
        const size_t row = (size_t)k * (bytes);                                                    \
        for (; blocks >= 4; blocks -= 4, w += 4 * row, y += 32) gemv_##type##_n(4, w, k, x, y);    \
        for (; blocks > 0; blocks--, w += row, y += 8) gemv_##type##_n(1, w, k, x, y);             \
    }

GEMV_FLOAT(f16, 16)
GEMV_FLOAT(bf16, 16)
GEMV_FLOAT(f32, 32)
