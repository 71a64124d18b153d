/* Rows of a GGUF matrix to one block of 8 interleaved rows (layout.h): every quad of 4 bytes, or every
 * float, of the 8 rows comes to lie side by side. Rows that are missing become zeros. */

typedef struct {
    uint32_t v[8];
} quads;

/* `n` quads of 8 rows: row r reads p[r] + 4*j, block j holds the rows side by side. */
static inline __attribute__((always_inline)) void interleave_quads(const uint8_t *const p[8], size_t at, int n, uint8_t *out)
{
    for (int j = 0; j < n; j++) {
        quads q;
        for (int r = 0; r < 8; r++) memcpy(q.v + r, p[r] + at + 4 * (size_t)j, 4);
        memcpy(out + 32 * j, q.v, 32);
    }
}

static inline void interleave_halves(const uint8_t *const p[8], size_t at, uint8_t *out)
{
    uint16_t h[8];
    for (int r = 0; r < 8; r++) memcpy(h + r, p[r] + at, 2);
    memcpy(out, h, 16);
}

/* Groups of 32 elements in `bytes` bytes: f16 scale, perhaps f16 minimum, then `n` quads of codes. */
static inline __attribute__((always_inline)) void repack_groups(
    const uint8_t *const p[8], int32_t groups, size_t bytes, int has_min, int n, uint8_t *w)
{
    for (size_t at = 0; groups > 0; groups--, at += bytes) {
        interleave_quads(p, at + (has_min ? 4 : 2), n, w);
        w += 32 * n;
        interleave_halves(p, at, w);
        w += 16;
        if (has_min) {
            interleave_halves(p, at + 2, w);
            w += 16;
        }
    }
}

static inline __attribute__((always_inline)) void repack_2(const uint8_t *const p[8], int32_t k, uint8_t *w)
{
    for (int32_t i = 0; i < k; i++, w += 16) interleave_halves(p, (size_t)i * 2, w);
}

static inline __attribute__((always_inline)) void repack_4(const uint8_t *const p[8], int32_t k, uint8_t *w)
{
    for (int32_t i = 0; i < k; i++, w += 32) interleave_quads(p, (size_t)i * 4, 1, w);
}

/* A missing row reads the first one; its lane is cleared afterwards. `unit` bytes are a lane's. */
static inline void clear_lanes(uint8_t *w, size_t bytes, int32_t rows, size_t unit)
{
    for (size_t at = 0; at < bytes; at += 8 * unit) memset(w + at + (size_t)rows * unit, 0, (size_t)(8 - rows) * unit);
}

#define ROWS_AT(p)                                                                                 \
    const uint8_t *p[8];                                                                           \
    for (int r = 0; r < 8; r++) p[r] = src + (r < rows ? (size_t)r * (size_t)stride : 0);

#define REPACK_GROUPS(name, bytes, has_min, n)                                                     \
    static void CLAW_FN(name)(const uint8_t *src, int64_t stride, int32_t rows, int32_t k, uint8_t *w) \
    {                                                                                              \
        ROWS_AT(p)                                                                                 \
        const size_t record = 32 * (n) + 16 * (1 + (has_min));                                     \
        repack_groups(p, k / 32, bytes, has_min, n, w);                                            \
        for (int32_t g = 0; rows < 8 && g < k / 32; g++) {                                         \
            clear_lanes(w + (size_t)g * record, 32 * (n), rows, 4);                                \
            clear_lanes(w + (size_t)g * record + 32 * (n), record - 32 * (n), rows, 2);            \
        }                                                                                          \
    }

REPACK_GROUPS(repack_q4_0, 18, 0, 4)
REPACK_GROUPS(repack_q4_1, 20, 1, 4)
REPACK_GROUPS(repack_q8_0, 34, 0, 8)

static void CLAW_FN(repack_f16)(const uint8_t *src, int64_t stride, int32_t rows, int32_t k, uint8_t *w)
{
    ROWS_AT(p)
    repack_2(p, k, w);
    if (rows < 8) clear_lanes(w, (size_t)k * 16, rows, 2);
}

static void CLAW_FN(repack_f32)(const uint8_t *src, int64_t stride, int32_t rows, int32_t k, uint8_t *w)
{
    ROWS_AT(p)
    repack_4(p, k, w);
    if (rows < 8) clear_lanes(w, (size_t)k * 32, rows, 4);
}
