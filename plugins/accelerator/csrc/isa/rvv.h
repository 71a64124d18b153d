/* Primitives on the RISC-V vector extension 1.0 (VLEN of 128 bits or more). Meaning: see scalar.h.
 *
 * A vector of the library has 8 lanes whatever VLEN is, so these are the compiler's fixed-size
 * vectors: it holds one of 32 bytes in a pair of registers at VLEN 128 and sets the vector length
 * to 8, so the code is right, and the same, at any VLEN. The intrinsics' own types have no size and
 * could neither stand in the arrays of tiles nor be passed about like the other targets' vectors.
 *
 * V alone has no f16 arithmetic and no conversion of it: those are done on the bits. */
#ifndef CLAW_ISA_RVV_H
#define CLAW_ISA_RVV_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define CLAW_FN(name) name##_rvv
#define KEEP(x) ((void)(x))
/* V brings no prefetch: that is Zicbop, which a processor with V may lack. */
#define PREFETCH(p) ((void)(p))
#define PREFETCH_FAR(p) ((void)(p))

typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));
typedef uint8_t vb __attribute__((vector_size(32)));
typedef int16_t vs __attribute__((vector_size(64))); /* a running int16 sum for each byte: one widening multiply-add a step */

typedef int8_t rvv_i8x8 __attribute__((vector_size(8)));
typedef uint8_t rvv_u8x8 __attribute__((vector_size(8)));
typedef uint8_t rvv_u8x16 __attribute__((vector_size(16)));
typedef uint16_t rvv_u16x8 __attribute__((vector_size(16)));
typedef int32_t rvv_i32x16 __attribute__((vector_size(64)));
typedef int8_t rvv_i8x32 __attribute__((vector_size(32)));
typedef uint16_t rvv_u16x16 __attribute__((vector_size(32)));
typedef uint32_t rvv_u32x16 __attribute__((vector_size(64)));
typedef uint64_t rvv_u64x8 __attribute__((vector_size(64)));

/* a where the mask is all ones, else b. */
static inline vf vf_where(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

static inline vf vf_zero(void) { return (vf){0}; }
static inline vf vf_set1(float a) { return (vf){a, a, a, a, a, a, a, a}; }
static inline vf vf_load(const void *p) { vf r; memcpy(&r, p, 32); return r; }
static inline void vf_store(float *p, vf a) { memcpy(p, &a, 32); }
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
static inline vf vf_fma(vf a, vf b, vf c)
{
#if defined(__clang__)
    return __builtin_elementwise_fma(a, b, c);
#else
    for (int i = 0; i < 8; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}
static inline vf vf_max(vf a, vf b) { return vf_where(a > b, a, b); }
static inline vf vf_min(vf a, vf b) { return vf_where(a < b, a, b); }
static inline vf vf_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
static inline vf vf_keep_ge(vf a, vf x, vf y) { return (vf)((vi)a & (x >= y)); }
static inline vf vf_first(int n, vf a, vf b)
{
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return vf_where(lane < n, a, b);
}
static inline vf vf_round(vf a)
{
    vf t = a + 12582912.0f;
    return t - 12582912.0f;
}
/* Integral floats below 2^22 as integers. A conversion would do; qemu 7.2 ends at the one that the
 * compiler takes (vfcvt.rtz), and this costs no more. */
static inline vi rvv_integers(vf a) { return (vi)(a + 12582912.0f) - 0x4b400000; }
static inline vf vf_pow2(vf n) { return (vf)((rvv_integers(n) + 127) << 23); }
/* Of neighbouring rows, then of neighbours two and four rows away: lanes, pairs, fours change places. */
static inline void vf_transpose(vf a[8])
{
    vf p[8], q[8];
    for (int i = 0; i < 8; i += 2) {
        p[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        p[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i++) {
        if (i & 2) continue;
        q[i] = __builtin_shufflevector(p[i], p[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        q[i + 2] = __builtin_shufflevector(p[i], p[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; i++) {
        a[i] = __builtin_shufflevector(q[i], q[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        a[i + 4] = __builtin_shufflevector(q[i], q[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
static inline vf vf_swap(vf a) { return __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6); }
static inline float vf_sum(vf a)
{
    vf x = a + __builtin_shufflevector(a, a, 4, 5, 6, 7, 4, 5, 6, 7);
    return (x[0] + x[2]) + (x[1] + x[3]);
}
static inline float vf_hmax(vf a)
{
    vf x = vf_max(a, __builtin_shufflevector(a, a, 4, 5, 6, 7, 4, 5, 6, 7));
    x = vf_max(x, __builtin_shufflevector(x, x, 2, 3, 2, 3, 2, 3, 2, 3));
    return x[0] > x[1] ? x[0] : x[1];
}

/* Shifted into place, a half is a float 2^112 too small, which one exact product mends, subnormals
 * included; infinities and NaN (made quiet) are put together from the bits. */
static inline vf vf_from_halves(rvv_u16x8 h)
{
    const vu wide = __builtin_convertvector(h, vu), magnitude = (wide & 0x7fffu) << 13;
    const vu finite = (vu)((vf)magnitude * 5.192296858534828e33f);
    const vu special = magnitude | 0x7f800000u | (((vu)((magnitude & 0x7fffffu) != 0)) & 0x400000u);
    const vu is_special = (vu)(magnitude >= 0x0f800000u);
    return (vf)((wide & 0x8000u) << 16 | (is_special & special) | (~is_special & finite));
}
/* To the nearest, ties to even, by adding in place; a sum with 0.5 rounds what becomes subnormal. */
static inline rvv_u16x8 vf_to_halves(vf a)
{
    const vu bits = (vu)a, sign = (bits >> 16) & 0x8000u, b = bits & 0x7fffffffu;
    const vu normal = (b - 0x38000000u + 0xfffu + ((b >> 13) & 1u)) >> 13;
    const vu small = (vu)((vf)b + 0.5f) - 0x3f000000u;
    const vu nan = 0x7e00u | ((b >> 13) & 0x3ffu);
    const vu is_small = (vu)(b < 0x38800000u), is_large = (vu)(b >= 0x47800000u), is_nan = (vu)(b > 0x7f800000u);
    vu h = (is_small & small) | (~is_small & normal);
    h = (is_large & 0x7c00u) | (~is_large & h);
    h = (is_nan & nan) | (~is_nan & h);
    return __builtin_convertvector(h | sign, rvv_u16x8);
}
static inline vf vf_load_f16(const void *p)
{
    rvv_u16x8 h;
    memcpy(&h, p, 16);
    return vf_from_halves(h);
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    rvv_u16x8 h = vf_to_halves(a);
    memcpy(p, &h, 16);
}
static inline float f16_to_f32(uint16_t h) { return vf_from_halves((rvv_u16x8){h})[0]; }
static inline uint16_t f32_to_f16(float f) { return vf_to_halves((vf){f})[0]; }
static inline vf vf_load_bf16(const void *p)
{
    rvv_u16x8 h;
    memcpy(&h, p, 16);
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

static inline vf vf_load_u8(const uint8_t *p)
{
    rvv_u8x8 b;
    memcpy(&b, p, 8);
    return __builtin_convertvector(b, vf);
}
static inline vf vf_load_i8(const int8_t *p)
{
    rvv_i8x8 b;
    memcpy(&b, p, 8);
    return __builtin_convertvector(b, vf);
}
static inline rvv_u8x8 rvv_bytes(vf a) { return __builtin_convertvector(rvv_integers(a), rvv_u8x8); }
static inline void vf_store_u8(uint8_t *p, vf a)
{
    rvv_u8x8 b = rvv_bytes(a);
    memcpy(p, &b, 8);
}
static inline void vf_load_rgb(const uint8_t *p, vf c[3])
{
    vb b = {0};
    memcpy(&b, p, 24);
    c[0] = __builtin_convertvector(__builtin_shufflevector(b, b, 0, 3, 6, 9, 12, 15, 18, 21), vf);
    c[1] = __builtin_convertvector(__builtin_shufflevector(b, b, 1, 4, 7, 10, 13, 16, 19, 22), vf);
    c[2] = __builtin_convertvector(__builtin_shufflevector(b, b, 2, 5, 8, 11, 14, 17, 20, 23), vf);
}
static inline void vf_store_rgb(uint8_t *p, const vf c[3])
{
    const rvv_u8x8 r = rvv_bytes(c[0]), g = rvv_bytes(c[1]), b = rvv_bytes(c[2]);
    const rvv_u8x16 rg = __builtin_shufflevector(r, g, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const rvv_u8x16 bb = __builtin_shufflevector(b, b, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    const vb t = __builtin_shufflevector(rg, bb, 0, 8, 16, 1, 9, 17, 2, 10, 18, 3, 11, 19, 4, 12, 20, 5,
                                         13, 21, 6, 14, 22, 7, 15, 23, 0, 0, 0, 0, 0, 0, 0, 0);
    memcpy(p, &t, 24);
}

static inline vi vi_zero(void) { return (vi){0}; }
static inline vi vi_add(vi a, vi b) { return (vi)((vu)a + (vu)b); }
static inline int32_t vi_sum(vi a)
{
    const vu b = (vu)a, x = b + __builtin_shufflevector(b, b, 4, 5, 6, 7, 4, 5, 6, 7);
    return (int32_t)(x[0] + x[1] + x[2] + x[3]);
}
static inline vi vi_set1(int32_t a) { return (vi){a, a, a, a, a, a, a, a}; }
static inline vi vi_load(const void *p) { vi r; memcpy(&r, p, 32); return r; }
static inline void vi_store(int32_t *p, vi a) { memcpy(p, &a, 32); }
static inline vi vi_pair(vi acc, const uint8_t *a, const uint8_t *b, const void *w)
{
    rvv_u8x8 x, y;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    const vi both = vi_load(w), first = (vi)((vu)both << 16) >> 16, second = both >> 16;
    return acc + __builtin_convertvector(x, vi) * first + __builtin_convertvector(y, vi) * second;
}
static inline vf vf_from_vi(vi a) { return __builtin_convertvector(a, vf); }
static inline void vf_store_i8(int8_t *p, vf a)
{
    rvv_i8x8 b = __builtin_convertvector(rvv_integers(a), rvv_i8x8);
    memcpy(p, &b, 8);
}

static inline vb vb_load(const uint8_t *p) { vb r; memcpy(&r, p, 32); return r; }
static inline void vb_store(uint8_t *p, vb a) { memcpy(p, &a, 32); }
static inline vb vb_low(vb a) { return a & 15; }
static inline vb vb_high(vb a) { return a >> 4; }
static inline vb vb_bcast(const int8_t *p)
{
    uint32_t quad;
    memcpy(&quad, p, 4);
    return (vb)(vu){quad, quad, quad, quad, quad, quad, quad, quad};
}

typedef int16_t vw __attribute__((vector_size(32)));
static inline vw vw_load(const int16_t *p) { vw r; memcpy(&r, p, 32); return r; }
static inline void vw_store(int16_t *p, vw a) { memcpy(p, &a, 32); }
static inline vw vw_even(vb a) { return (vw)((rvv_u16x16)a << 8) >> 8; }
static inline vw vw_odd(vb a) { return (vw)a >> 8; }
static inline vw vw_pair(const void *p) { return (vw)vb_bcast(p); }
static inline vw vw_add(vw a, vw b) { return (vw)((rvv_u16x16)a + (rvv_u16x16)b); }
/* The upper half of a lane of 64 bits becomes the sum of both: no carry comes from below. */
static inline vi vw_dot(vw a, vw b)
{
    const rvv_u64x8 two = (rvv_u64x8)(__builtin_convertvector(a, rvv_i32x16) * __builtin_convertvector(b, rvv_i32x16));
    return __builtin_convertvector((two + (two << 32)) >> 32, vi);
}

static inline vs vs_zero(void) { return (vs){0}; }
/* Of 8 steps a byte's sum stays below 8 * 15 * 128 = 15360. */
static inline vs vs_dot(vs acc, vb w, vb a)
{
    return acc + __builtin_convertvector(w, vs) * __builtin_convertvector((rvv_i8x32)a, vs);
}
/* The four sums of each lane, the first two of them in 16 bits: 30720 at most. */
static inline vi vs_sum(vs a)
{
    const rvv_u32x16 four = (rvv_u32x16)a;
    const rvv_u64x8 two = (rvv_u64x8)((rvv_i32x16)((four << 16) + four) >> 16);
    return __builtin_convertvector((two + (two << 32)) >> 32, vi);
}
static inline vi vi_dot(vi acc, vb w, vb a)
{
    return acc + vs_sum(__builtin_convertvector((rvv_i8x32)w, vs) * __builtin_convertvector((rvv_i8x32)a, vs));
}
/* x - 128 is in -128..127, and the sum of two products fits 16 bits. */
#define VU_SHIFT 128
static inline vi vu_dot(vi acc, vb x, vb w) { return vi_dot(acc, x ^ 128, w); }
#endif
