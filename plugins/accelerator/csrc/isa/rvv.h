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

typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));
typedef uint8_t vb __attribute__((vector_size(32)));
typedef int16_t vs __attribute__((vector_size(64))); /* a running int16 sum for each byte: one widening multiply-add a step */

typedef int8_t rvv_i8x8 __attribute__((vector_size(8)));
typedef uint16_t rvv_u16x8 __attribute__((vector_size(16)));
typedef int32_t rvv_i32x16 __attribute__((vector_size(64)));
typedef int8_t rvv_i8x32 __attribute__((vector_size(32)));
typedef int64_t rvv_i64x8 __attribute__((vector_size(64)));

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

static inline vi vi_zero(void) { return (vi){0}; }
static inline vi vi_add(vi a, vi b) { return a + b; }
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

static inline vs vs_zero(void) { return (vs){0}; }
/* Of 8 steps a byte's sum stays below 8 * 15 * 128 = 15360. */
static inline vs vs_dot(vs acc, vb w, vb a)
{
    return acc + __builtin_convertvector(w, vs) * __builtin_convertvector((rvv_i8x32)a, vs);
}
/* The four sums of each lane, the first two of them in 16 bits: 30720 at most. */
static inline vi vs_sum(vs a)
{
    const rvv_i32x16 four = (rvv_i32x16)a;
    const rvv_i64x8 two = (rvv_i64x8)(((four << 16) + four) >> 16);
    return __builtin_convertvector((two + (two << 32)) >> 32, vi);
}
static inline vi vi_dot(vi acc, vb w, vb a)
{
    return acc + vs_sum(__builtin_convertvector((rvv_i8x32)w, vs) * __builtin_convertvector((rvv_i8x32)a, vs));
}
#endif
