/* Matrices turned: rows x cols at x becomes cols x rows at y; strides in elements. Blocks of 64 x 64
 * keep both sides in the cache; inside, squares of 8 x 8 (u16: 4 x 4) are turned in registers. */

#define TRANSPOSE(name, type, square)                                                              \
    static void CLAW_FN(name)(const type *x, int32_t rows, int32_t cols, int32_t xstride, type *y, int32_t ystride) \
    {                                                                                              \
        const size_t sx = (size_t)xstride, sy = (size_t)ystride;                                   \
        for (int32_t r0 = 0; r0 < rows; r0 += 64)                                                  \
            for (int32_t c0 = 0; c0 < cols; c0 += 64) {                                            \
                const int32_t r1 = rows - r0 < 64 ? rows : r0 + 64, c1 = cols - c0 < 64 ? cols : c0 + 64; \
                const int32_t rn = r1 - (r1 - r0) % square, cn = c1 - (c1 - c0) % square;          \
                for (int32_t c = c0; c < cn; c += square)                                          \
                    for (int32_t r = r0; r < rn; r += square)                                      \
                        name##_square(x + (size_t)r * sx + c, sx, y + (size_t)c * sy + r, sy);     \
                for (int32_t r = r0; r < r1; r++)                                                  \
                    for (int32_t c = r < rn ? cn : c0; c < c1; c++) y[(size_t)c * sy + (size_t)r] = x[(size_t)r * sx + (size_t)c]; \
            }                                                                                      \
    }

static inline void transpose_f32_square(const float *x, size_t xstride, float *y, size_t ystride)
{
    vf v[8];
    for (size_t i = 0; i < 8; i++) v[i] = vf_load(x + i * xstride);
    vf_transpose(v);
    for (size_t i = 0; i < 8; i++) vf_store(y + i * ystride, v[i]);
}
TRANSPOSE(transpose_f32, float, 8)

/* Parts of two words change places: those under mask in b, and those `bits` higher in a. */
static inline void swap_parts(uint64_t *a, uint64_t *b, int bits, uint64_t mask)
{
    const uint64_t t = (*a >> bits ^ *b) & mask;
    *b ^= t;
    *a ^= t << bits;
}

static inline void transpose_u16_square(const uint16_t *x, size_t xstride, uint16_t *y, size_t ystride)
{
    uint64_t w[4];
    for (size_t i = 0; i < 4; i++) memcpy(w + i, x + i * xstride, 8);
    for (int i = 0; i < 2; i++) swap_parts(w + i, w + i + 2, 32, 0xffffffffull);
    for (int i = 0; i < 4; i += 2) swap_parts(w + i, w + i + 1, 16, 0x0000ffff0000ffffull);
    for (size_t i = 0; i < 4; i++) memcpy(y + i * ystride, w + i, 8);
}
TRANSPOSE(transpose_u16, uint16_t, 4)

static inline void transpose_u8_square(const uint8_t *x, size_t xstride, uint8_t *y, size_t ystride)
{
    uint64_t w[8];
    for (size_t i = 0; i < 8; i++) memcpy(w + i, x + i * xstride, 8);
    for (int i = 0; i < 4; i++) swap_parts(w + i, w + i + 4, 32, 0xffffffffull);
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) swap_parts(w + i + j, w + i + j + 2, 16, 0x0000ffff0000ffffull);
    for (int i = 0; i < 8; i += 2) swap_parts(w + i, w + i + 1, 8, 0x00ff00ff00ff00ffull);
    for (size_t i = 0; i < 8; i++) memcpy(y + i * ystride, w + i, 8);
}
TRANSPOSE(transpose_u8, uint8_t, 8)
