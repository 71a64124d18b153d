/* Plain int8 products, exact in int32: y = sum of (a - zero) * w. Layout of w: pack_s8 in ops.def.
 *
 * Where the target has sums of four byte products (VNNI, dot-product), a step is one of them:
 * gemm8_dots.c. Where it has not, see gemm8_wide.c. Sums are modulo 2^32, so the result is exact whenever it
 * fits int32 (k below 65536). */

static inline size_t block8_bytes(int32_t k) { return (size_t)((k + 3) / 4) * 32 + 32; }

static void CLAW_FN(pack_s8)(const int8_t *src, int32_t stride, int32_t rows, int32_t k, uint8_t *w)
{
    int32_t sums[8] = {0};
    memset(w, 0, block8_bytes(k));
    for (int32_t r = 0; r < rows; r++, src += stride) {
        int32_t i = 0, sum = 0;
        for (; i + 4 <= k; i += 4) memcpy(w + (size_t)i * 8 + (size_t)(4 * r), src + i, 4);
        for (; i < k; i++) w[(size_t)(i & ~3) * 8 + (size_t)(4 * r + i % 4)] = (uint8_t)src[i];
        for (i = 0; i < k; i++) sum += src[i];
        sums[r] = sum;
    }
    memcpy(w + block8_bytes(k) - 32, sums, sizeof sums);
}

/* factor * sums of the rows of some blocks: what zero points and offsets of the activations take away. */
static inline void start8(const uint8_t *w, int32_t blocks, size_t block, int32_t factor, int32_t *start)
{
    for (int32_t b = 0; b < blocks; b++, start += 8) {
        memcpy(start, w + (size_t)(b + 1) * block - 32, 32);
        for (int i = 0; i < 8; i++) start[i] = (int32_t)((uint32_t)start[i] * (uint32_t)factor);
    }
}

#ifdef CLAW_DOT8_OFFSET
#include "gemm8_dots.c"
#else
#include "gemm8_wide.c"
#endif

static void CLAW_FN(gemm_s8s8_s32)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *a, int32_t stride, int32_t tokens,
                                   uint8_t *scratch, int32_t *y, int32_t ystride)
{
    product8(w, blocks, k, (const uint8_t *)a, stride, FLIP_S8, OFFSET_S8, tokens, scratch, y, ystride);
}

static void CLAW_FN(gemm_u8s8_s32)(const uint8_t *w, int32_t blocks, int32_t k, const uint8_t *a, int32_t stride, int32_t zero,
                                   int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    product8(w, blocks, k, a, stride, FLIP_U8, OFFSET_U8 - zero, tokens, scratch, y, ystride);
}

/* Rows n blocks at a time: their chains hide each other's latency. */
static inline __attribute__((always_inline)) void rows8(int n, const uint8_t *w, int32_t k, const int8_t *a, int32_t *y)
{
    const size_t block = block8_bytes(k);
    int32_t start[4 * 8];
    vi acc[4];
    start8(w, n, block, OFFSET_S8, start);
    for (int b = 0; b < n; b++) acc[b] = vi_load(start + 8 * b);
    for (int32_t i = 0; i < k; i += 4, w += 32) {
        uint8_t t[4] = {0};
        uint32_t quad;
        if (i + 4 <= k) memcpy(t, a + i, 4);
        else memcpy(t, a + i, (size_t)(k - i));
        memcpy(&quad, t, 4);
        quad ^= FLIP_S8 * 0x01010101u;
        memcpy(t, &quad, 4);
        for (int b = 0; b < n; b++) {
            PREFETCH(w + (size_t)b * block + 1024);
            acc[b] = step8(acc[b], vb_load(w + (size_t)b * block), t);
        }
    }
    for (int b = 0; b < n; b++) vi_store(y + 8 * b, acc[b]);
}

static void CLAW_FN(gemv_s8s8_s32)(const uint8_t *w, int32_t blocks, int32_t k, const int8_t *a, int32_t *y)
{
    for (; blocks >= 4; blocks -= 4, w += 4 * block8_bytes(k), y += 32) rows8(4, w, k, a, y);
    for (; blocks > 0; blocks--, w += block8_bytes(k), y += 8) rows8(1, w, k, a, y);
}
