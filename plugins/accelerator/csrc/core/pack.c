/* Packs GGUF matrices into the layouts of layout.h.
 *
 * Q4_0, Q4_1 and Q8_0 keep their codes and scales bit for bit; Q5_0, Q5_1, Q5_K and Q4_K keep their
 * codes, with scales rounded to f16 where the format multiplies two of them; Q6_K (a scale each 16
 * elements) is rounded to int8 with a scale each 32. Block formats: GGUF specification, ggml-common.
 * A hostile file can at worst give odd numbers: all sizes are checked before the first read. */
#include <math.h>
#include <string.h>

#include "../api.h"
#include "../layout.h"

enum { T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q5_0 = 6, T_Q5_1 = 7, T_Q8_0 = 8,
       T_Q4_K = 12, T_Q5_K = 13, T_Q6_K = 14, T_BF16 = 30 };

/* 32 elements of one row: codes (u4 in 0..15, or int8), scale and minimum in f16. */
typedef struct {
    uint8_t codes[32];
    uint16_t d, m;
} group;

static float half_to_float(uint16_t h)
{
    const float sign = h & 0x8000 ? -1.0f : 1.0f;
    const int e = (h >> 10) & 31, m = h & 1023;
    if (e == 31) return m ? NAN : sign * INFINITY;
    return sign * (e ? ldexpf((float)(m | 1024), e - 25) : ldexpf((float)m, -24));
}

static uint16_t float_to_half(float f)
{
    const uint16_t sign = signbit(f) ? 0x8000 : 0;
    const float a = fabsf(f);
    if (isnan(f)) return 0x7e00;
    if (a >= 65520.0f) return sign | 0x7c00;
    if (a < 0x1p-14f) return (uint16_t)(sign | (uint16_t)rintf(a * 0x1p24f));
    int e;
    const float m = frexpf(a, &e); /* a = m * 2^e, m in 0.5..1 */
    return (uint16_t)(sign | (uint16_t)(((e + 13) << 10) + (int)rintf(m * 2048.0f)));
}

static uint16_t u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static void group_q5(const uint8_t *high, const uint8_t *low, group *g)
{
    uint32_t h;
    memcpy(&h, high, 4);
    for (int i = 0; i < 16; i++) {
        g->codes[i] = (uint8_t)((low[i] & 15) | (h >> i & 1) << 4);
        g->codes[16 + i] = (uint8_t)(low[i] >> 4 | (h >> (16 + i) & 1) << 4);
    }
}

/* The 6-bit scale and minimum of sub-block j (0..7) of a Q4_K or Q5_K superblock. */
static void scale_k(const uint8_t *s, int j, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *minimum = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

static void group_k(const uint8_t *block, const uint8_t *codes, const uint8_t *fifth, int j, group *g)
{
    int scale, minimum;
    scale_k(block + 4, j, &scale, &minimum);
    g->d = float_to_half(half_to_float(u16(block)) * (float)scale);
    g->m = float_to_half(-half_to_float(u16(block + 2)) * (float)minimum);
    for (int i = 0; i < 32; i++) {
        const uint8_t c = codes[j / 2 * 32 + i];
        g->codes[i] = j % 2 ? c >> 4 : c & 15;
        if (fifth) g->codes[i] = (uint8_t)(g->codes[i] | (fifth[i] >> j & 1) << 4);
    }
}

static void group_q6(const uint8_t *block, int j, group *g)
{
    const float d = half_to_float(u16(block + 208));
    const uint8_t *low = block + j / 4 * 64 + j % 2 * 32, *high = block + 128 + j / 4 * 32;
    const int8_t *scales = (const int8_t *)block + 192 + j * 2;
    float x[32], top = 0.0f;
    for (int i = 0; i < 32; i++) {
        const int nibble = j % 4 < 2 ? low[i] & 15 : low[i] >> 4;
        const int code = (nibble | (high[i] >> j % 4 * 2 & 3) << 4) - 32;
        x[i] = d * (float)scales[i / 16] * (float)code;
        top = fmaxf(top, fabsf(x[i]));
    }
    g->d = float_to_half(top / 127.0f);
    const float scale = half_to_float(g->d);
    const float inverse = scale > 0.0f && isfinite(scale) ? 1.0f / scale : 0.0f;
    for (int i = 0; i < 32; i++) {
        const float c = rintf(x[i] * inverse);
        g->codes[i] = (uint8_t)(int8_t)(c > 127.0f ? 127.0f : c > -127.0f ? c : -127.0f);
    }
}

/* Group j of 32 elements of a row. */
static void read_group(uint32_t dtype, const uint8_t *row, uint32_t j, group *g)
{
    const uint8_t *p;
    memset(g, 0, sizeof *g);
    switch (dtype) {
    case T_Q5_0:
        p = row + (size_t)j * 22;
        g->d = u16(p);
        group_q5(p + 2, p + 6, g);
        for (int i = 0; i < 32; i++) g->codes[i] = (uint8_t)(g->codes[i] - 16);
        break;
    case T_Q5_1:
        p = row + (size_t)j * 24;
        g->d = u16(p);
        g->m = u16(p + 2);
        group_q5(p + 4, p + 8, g);
        break;
    case T_Q4_K:
        p = row + (size_t)(j / 8) * 144;
        group_k(p, p + 16, NULL, (int)(j % 8), g);
        break;
    case T_Q5_K:
        p = row + (size_t)(j / 8) * 176;
        group_k(p, p + 48, p + 16, (int)(j % 8), g);
        break;
    default: /* T_Q6_K */
        group_q6(row + (size_t)(j / 8) * 210, (int)(j % 8), g);
    }
}

static void put_scales(uint8_t *record, size_t at, uint32_t lane, uint16_t d, uint16_t m, int has_min)
{
    memcpy(record + at + 2 * lane, &d, 2);
    if (has_min) memcpy(record + at + 16 + 2 * lane, &m, 2);
}

static void pack_groups(uint32_t format, uint32_t dtype, const uint8_t *row, uint32_t groups, uint32_t lane, uint8_t *block)
{
    const size_t record = claw_block_bytes(format, 32);
    for (uint32_t j = 0; j < groups; j++, block += record) {
        group g;
        read_group(dtype, row, j, &g);
        if (format == CLAW_Q4A)
            for (int i = 0; i < 16; i++)
                block[i / 4 * 32 + 4 * (int)lane + i % 4] = (uint8_t)(g.codes[i] | g.codes[16 + i] << 4);
        else
            for (int i = 0; i < 32; i++) block[i / 4 * 32 + 4 * (int)lane + i % 4] = g.codes[i];
        put_scales(block, format == CLAW_Q4A ? 128 : 256, lane, g.d, g.m, format != CLAW_Q8S);
    }
}

/* Rows of a type whose bytes only move: an op takes up to 8 of them at a time. */
typedef void mover(const uint8_t *, int64_t, int32_t, int32_t, uint8_t *);

static mover *mover_of(uint32_t dtype)
{
    const claw_ops *o = claw_ops_named(NULL);
    switch (dtype) {
    case T_Q4_0: return o->repack_q4_0;
    case T_Q4_1: return o->repack_q4_1;
    case T_Q8_0: return o->repack_q8_0;
    case T_F16:
    case T_BF16: return o->repack_f16;
    case T_F32: return o->repack_f32;
    default: return NULL;
    }
}

/* The format that a type packs into, and the bytes of 32 elements times 8 (K types: exact too). */
static int source_of(uint32_t dtype, uint32_t *format, uint64_t *bytes_per_256)
{
    static const struct { uint8_t dtype, format; uint16_t bytes; } known[] = {
        {T_F32, CLAW_F32, 1024}, {T_F16, CLAW_F16, 512}, {T_BF16, CLAW_BF16, 512},
        {T_Q4_0, CLAW_Q4S, 144}, {T_Q4_1, CLAW_Q4A, 160}, {T_Q5_0, CLAW_Q8S, 176},
        {T_Q5_1, CLAW_Q8A, 192}, {T_Q8_0, CLAW_Q8S, 272}, {T_Q4_K, CLAW_Q4A, 144},
        {T_Q5_K, CLAW_Q8A, 176}, {T_Q6_K, CLAW_Q8S, 210},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].dtype == dtype) {
            *format = known[i].format;
            *bytes_per_256 = known[i].bytes;
            return 1;
        }
    return 0;
}

uint64_t claw_packed_bytes(uint32_t format, uint32_t rows, uint32_t k)
{
    if (format >= CLAW_FORMATS || rows > CLAW_MAX_ROWS || k > CLAW_MAX_WIDTH) return 0;
    return (uint64_t)((rows + 7) / 8) * claw_block_bytes(format, k);
}

int32_t claw_pack(uint32_t format, uint32_t dtype, uint32_t rows, uint32_t k, const uint8_t *src, uint64_t src_bytes,
                  uint8_t *dst, uint64_t dst_bytes, uint32_t first, uint32_t step)
{
    uint32_t expected;
    uint64_t per_256;
    if (!source_of(dtype, &expected, &per_256) || expected != format) return CLAW_BAD_PLAN;
    if (!rows || !k || rows > CLAW_MAX_ROWS || k > CLAW_MAX_WIDTH || step > 2 || first > CLAW_MAX_ROWS)
        return CLAW_BAD_PLAN;
    const uint32_t unit = dtype >= T_Q4_K && dtype <= T_Q6_K ? 256 : claw_is_int(format) ? 32 : 1;
    const uint64_t row_bytes = (uint64_t)k * per_256 / 256, block = claw_block_bytes(format, k);
    const uint64_t last = first + (uint64_t)((rows + 7) / 8 - 1) * step;
    if (k % unit || row_bytes * rows > src_bytes || (last + 1) * block > dst_bytes) return CLAW_BAD_PLAN;
    mover *const move = mover_of(dtype);
    for (uint32_t r = 0; r < rows; r += 8) {
        const uint8_t *row = src + (uint64_t)r * row_bytes;
        const uint32_t n = rows - r < 8 ? rows - r : 8;
        uint8_t *out = dst + (first + (uint64_t)(r / 8) * step) * block;
        if (move) move(row, (int64_t)row_bytes, (int32_t)n, (int32_t)k, out);
        for (uint32_t lane = 0; !move && lane < n; lane++) pack_groups(format, dtype, row + lane * row_bytes, k / 32, lane, out);
    }
    return CLAW_OK;
}
