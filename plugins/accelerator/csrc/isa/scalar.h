/* Primitives in plain C: the definition of what each primitive means, and the only target that
 * every processor has. Loops over small structs; the compiler may vectorise them. */
#ifndef CLAW_ISA_SCALAR_H
#define CLAW_ISA_SCALAR_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define CLAW_FN(name) name##_scalar
#define EACH(n) for (int i = 0; i < (n); i++)
#define KEEP(x) ((void)(x))
#define PREFETCH(p) ((void)(p))     /* into the first-level cache */
#define PREFETCH_FAR(p) ((void)(p)) /* into the second-level one */

typedef struct { float v[8]; } vf;     /* 8 floats, one a row or position */
typedef struct { int32_t v[8]; } vi;   /* 8 int32 */
typedef struct { uint8_t v[32]; } vb;  /* 8 lanes x 4 codes */
typedef struct { int16_t v[16]; } vs;  /* running int16 sums, two a lane */

static inline vf vf_zero(void) { vf r = {{0}}; return r; }
static inline vf vf_set1(float a) { vf r; EACH(8) r.v[i] = a; return r; }
static inline vf vf_load(const void *p) { vf r; memcpy(r.v, p, 32); return r; }
static inline void vf_store(float *p, vf a) { memcpy(p, a.v, 32); }
static inline vf vf_add(vf a, vf b) { EACH(8) a.v[i] += b.v[i]; return a; }
static inline vf vf_sub(vf a, vf b) { EACH(8) a.v[i] -= b.v[i]; return a; }
static inline vf vf_mul(vf a, vf b) { EACH(8) a.v[i] *= b.v[i]; return a; }
static inline vf vf_div(vf a, vf b) { EACH(8) a.v[i] /= b.v[i]; return a; }
static inline vf vf_fma(vf a, vf b, vf c) { EACH(8) c.v[i] = a.v[i] * b.v[i] + c.v[i]; return c; }
/* Of a NaN and a number both give the second argument, as x86 does. */
static inline vf vf_max(vf a, vf b) { EACH(8) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
static inline vf vf_min(vf a, vf b) { EACH(8) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
static inline vf vf_abs(vf a) { EACH(8) a.v[i] = fabsf(a.v[i]); return a; }
/* a where x >= y, else 0. */
static inline vf vf_keep_ge(vf a, vf x, vf y) { EACH(8) a.v[i] = x.v[i] >= y.v[i] ? a.v[i] : 0.0f; return a; }
/* a in the lanes below n, else b. */
static inline vf vf_first(int n, vf a, vf b) { EACH(8) b.v[i] = i < n ? a.v[i] : b.v[i]; return b; }
/* Nearest integer, ties to even; |x| < 2^22. */
static inline vf vf_round(vf a)
{
    EACH(8) { float t = a.v[i] + 12582912.0f; a.v[i] = t - 12582912.0f; }
    return a;
}
/* 2^n of integers n in -126..127. */
static inline vf vf_pow2(vf n)
{
    EACH(8) { uint32_t b = (uint32_t)((int32_t)n.v[i] + 127) << 23; memcpy(&n.v[i], &b, 4); }
    return n;
}
/* Lane j of vector i and lane i of vector j change places. */
static inline void vf_transpose(vf a[8])
{
    EACH(8) for (int j = 0; j < i; j++) { float t = a[i].v[j]; a[i].v[j] = a[j].v[i]; a[j].v[i] = t; }
}
/* Neighbouring lanes change places. */
static inline vf vf_swap(vf a) { vf r; EACH(8) r.v[i] = a.v[i ^ 1]; return r; }
/* Lanes combine as ((0+4)+(2+6)) + ((1+5)+(3+7)). */
static inline float vf_sum(vf a)
{
    float x[4];
    EACH(4) x[i] = a.v[i] + a.v[i + 4];
    return (x[0] + x[2]) + (x[1] + x[3]);
}
static inline float vf_hmax(vf a)
{
    float x[4];
    EACH(4) x[i] = a.v[i] > a.v[i + 4] ? a.v[i] : a.v[i + 4];
    EACH(2) x[i] = x[i] > x[i + 2] ? x[i] : x[i + 2];
    return x[0] > x[1] ? x[0] : x[1];
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 1023u, bits;
    float r;
    if (e == 31) {
        bits = sign | 0x7f800000u | m << 13 | (m ? 0x400000u : 0);
    } else if (e) {
        bits = sign | (e + 112) << 23 | m << 13;
    } else { /* zero and subnormals: m * 2^-24, exact */
        r = (float)m * 5.9604644775390625e-08f;
        memcpy(&bits, &r, 4);
        bits |= sign;
    }
    memcpy(&r, &bits, 4);
    return r;
}
static inline uint16_t f32_to_f16(float f)
{
    uint32_t b, sign, m, half, rest;
    memcpy(&b, &f, 4);
    sign = (b >> 16) & 0x8000u;
    b &= 0x7fffffffu;
    if (b > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (b >> 13 & 0x3ffu));
    if (b >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);
    if (b < 0x33000000u) return (uint16_t)sign;
    if (b < 0x38800000u) { /* subnormal result */
        uint32_t shift = 126u - (b >> 23);
        m = (b & 0x7fffffu) | 0x800000u;
        half = m >> shift;
        rest = m & ((1u << shift) - 1);
        half += rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && (half & 1));
        return (uint16_t)(sign | half);
    }
    half = (b - 0x38000000u) >> 13;
    rest = b & 0x1fffu;
    half += rest > 0x1000u || (rest == 0x1000u && (half & 1));
    return (uint16_t)(sign | half);
}
static inline vf vf_load_f16(const void *p)
{
    vf r;
    EACH(8) { uint16_t h; memcpy(&h, (const char *)p + 2 * i, 2); r.v[i] = f16_to_f32(h); }
    return r;
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    EACH(8) { uint16_t h = f32_to_f16(a.v[i]); memcpy(p + i, &h, 2); }
}
static inline vf vf_load_bf16(const void *p)
{
    vf r;
    EACH(8) {
        uint16_t h;
        memcpy(&h, (const char *)p + 2 * i, 2);
        uint32_t b = (uint32_t)h << 16;
        memcpy(&r.v[i], &b, 4);
    }
    return r;
}

/* Images: 8 bytes to floats and back (integral floats in 0..255 only). */
static inline vf vf_load_u8(const uint8_t *p) { vf r; EACH(8) r.v[i] = p[i]; return r; }
static inline void vf_store_u8(uint8_t *p, vf a) { EACH(8) p[i] = (uint8_t)a.v[i]; }
/* The same for 8 pixels of 3 bytes: c[0] has the first byte of each, c[1] the second, c[2] the third. */
static inline void vf_load_rgb(const uint8_t *p, vf c[3])
{
    EACH(8) for (int j = 0; j < 3; j++) c[j].v[i] = p[3 * i + j];
}
static inline void vf_store_rgb(uint8_t *p, const vf c[3])
{
    EACH(8) for (int j = 0; j < 3; j++) p[3 * i + j] = (uint8_t)c[j].v[i];
}

static inline vi vi_zero(void) { vi r = {{0}}; return r; }
/* Modulo 2^32. */
static inline vi vi_add(vi a, vi b) { EACH(8) a.v[i] = (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]); return a; }
/* Of all lanes, modulo 2^32. */
static inline int32_t vi_sum(vi a) { uint32_t r = 0; EACH(8) r += (uint32_t)a.v[i]; return (int32_t)r; }
/* acc + a * w + b * w': 8 bytes of each of two rows; the int16 weights of a lane, w and w', are neighbours. */
static inline vi vi_pair(vi acc, const uint8_t *a, const uint8_t *b, const void *w)
{
    EACH(8) {
        int16_t t[2];
        memcpy(t, (const char *)w + 4 * i, sizeof t);
        acc.v[i] += a[i] * t[0] + b[i] * t[1];
    }
    return acc;
}
static inline vf vf_from_vi(vi a) { vf r; EACH(8) r.v[i] = (float)a.v[i]; return r; }
static inline vi vi_set1(int32_t a) { vi r; EACH(8) r.v[i] = a; return r; }
static inline vi vi_load(const void *p) { vi r; memcpy(r.v, p, 32); return r; }
static inline void vi_store(int32_t *p, vi a) { memcpy(p, a.v, 32); }
/* 8 int8 as floats. */
static inline vf vf_load_i8(const int8_t *p) { vf r; EACH(8) r.v[i] = (float)p[i]; return r; }
/* Integral floats in -128..127 to int8. */
static inline void vf_store_i8(int8_t *p, vf a) { EACH(8) p[i] = (int8_t)a.v[i]; }

static inline vb vb_load(const uint8_t *p) { vb r; memcpy(r.v, p, 32); return r; }
static inline void vb_store(uint8_t *p, vb a) { memcpy(p, a.v, 32); }
static inline vb vb_low(vb a) { EACH(32) a.v[i] &= 15; return a; }
static inline vb vb_high(vb a) { EACH(32) a.v[i] >>= 4; return a; }
/* The same 4 activations in each lane. */
static inline vb vb_bcast(const int8_t *p) { vb r; EACH(32) r.v[i] = (uint8_t)p[i & 3]; return r; }

/* 16 int16, two a lane of 8: bytes widened. Of each lane's 4 int8 the elements 0 and 2, or 1 and 3. */
typedef struct { int16_t v[16]; } vw;
static inline vw vw_load(const int16_t *p) { vw r; memcpy(r.v, p, 32); return r; }
static inline void vw_store(int16_t *p, vw a) { memcpy(p, a.v, 32); }
static inline vw vw_even(vb a) { vw r; EACH(16) r.v[i] = (int8_t)a.v[2 * i]; return r; }
static inline vw vw_odd(vb a) { vw r; EACH(16) r.v[i] = (int8_t)a.v[2 * i + 1]; return r; }
/* The same two int16 in each lane. */
static inline vw vw_pair(const void *p) { vw r; EACH(8) memcpy(r.v + 2 * i, p, 4); return r; }
static inline vw vw_add(vw a, vw b) { EACH(16) a.v[i] = (int16_t)(a.v[i] + b.v[i]); return a; }
/* a0 * b0 + a1 * b1 of each lane, both products below 2^30. */
static inline vi vw_dot(vw a, vw b) { vi r; EACH(8) r.v[i] = a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1]; return r; }

/* u4 codes times int8: 8 steps (32 elements) fit int16, 8 * 2 * 15 * 128 = 30720. */
static inline vs vs_zero(void) { vs r = {{0}}; return r; }
static inline vs vs_dot(vs acc, vb w, vb a)
{
    EACH(16) acc.v[i] = (int16_t)(acc.v[i] + w.v[2 * i] * (int8_t)a.v[2 * i]
                                  + w.v[2 * i + 1] * (int8_t)a.v[2 * i + 1]);
    return acc;
}
static inline vi vs_sum(vs a) { vi r; EACH(8) r.v[i] = a.v[2 * i] + a.v[2 * i + 1]; return r; }
/* int8 codes (-127..127) times int8 (-127..127), summed in int32. */
static inline vi vi_dot(vi acc, vb w, vb a)
{
    EACH(32) acc.v[i >> 2] += (int8_t)w.v[i] * (int8_t)a.v[i];
    return acc;
}
/* Sizes (0..128) times int8 of any value, summed in int32. A target where this takes three instructions
 * defines CLAW_BYTES_TIMES_SIGNED. */
static inline vb vb_xor(vb a, vb b) { EACH(32) a.v[i] ^= b.v[i]; return a; }
static inline vi vi_bytes(vi acc, vb x, vb w)
{
    EACH(32) acc.v[i >> 2] += x.v[i] * (int8_t)w.v[i];
    return acc;
}
/* Codes (0..255) times int8 weights (-127..127), summed in int32. A target whose products of bytes
 * are of int8 only takes VU_SHIFT = 128 off each code first: sums then lack VU_SHIFT * sum(weights). */
#define VU_SHIFT 0
static inline vi vu_dot(vi acc, vb x, vb w)
{
    EACH(32) acc.v[i >> 2] += x.v[i] * (int8_t)w.v[i];
    return acc;
}
#endif
