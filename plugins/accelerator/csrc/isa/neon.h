/* Primitives on NEON (any 64-bit ARM): pairs of registers, lanes 0..3 and 4..7. Meaning: see
 * scalar.h. */
#ifndef CLAW_ISA_NEON_H
#define CLAW_ISA_NEON_H
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define CLAW_FN(name) name##_neon
#define KEEP(x) __asm__("" : "+w"((x).lo), "+w"((x).hi))
#define PREFETCH(p) __builtin_prefetch(p)
#define PREFETCH_FAR(p) __builtin_prefetch(p, 0, 2)

typedef struct { float32x4_t lo, hi; } vf;
typedef struct { int32x4_t lo, hi; } vi;
typedef struct { uint8x16_t lo, hi; } vb;

static inline vf vf_zero(void) { return (vf){vdupq_n_f32(0), vdupq_n_f32(0)}; }
static inline vf vf_set1(float a) { return (vf){vdupq_n_f32(a), vdupq_n_f32(a)}; }
/* Through bytes: a load of floats may ask for their alignment. */
static inline vf vf_load(const void *p)
{
    const uint8_t *b = p;
    return (vf){vreinterpretq_f32_u8(vld1q_u8(b)), vreinterpretq_f32_u8(vld1q_u8(b + 16))};
}
static inline void vf_store(float *p, vf a)
{
    vst1q_u8((uint8_t *)(void *)p, vreinterpretq_u8_f32(a.lo));
    vst1q_u8((uint8_t *)(void *)p + 16, vreinterpretq_u8_f32(a.hi));
}
static inline vf vf_add(vf a, vf b) { return (vf){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
static inline vf vf_sub(vf a, vf b) { return (vf){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
static inline vf vf_mul(vf a, vf b) { return (vf){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
static inline vf vf_div(vf a, vf b) { return (vf){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
static inline vf vf_fma(vf a, vf b, vf c) { return (vf){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
/* Not vmaxq: of a NaN and a number the second argument is the result. */
static inline float32x4_t max4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline float32x4_t min4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline vf vf_max(vf a, vf b) { return (vf){max4(a.lo, b.lo), max4(a.hi, b.hi)}; }
static inline vf vf_min(vf a, vf b) { return (vf){min4(a.lo, b.lo), min4(a.hi, b.hi)}; }
static inline vf vf_abs(vf a) { return (vf){vabsq_f32(a.lo), vabsq_f32(a.hi)}; }
static inline float32x4_t masked(float32x4_t a, uint32x4_t mask)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), mask));
}
static inline vf vf_keep_ge(vf a, vf x, vf y)
{
    return (vf){masked(a.lo, vcgeq_f32(x.lo, y.lo)), masked(a.hi, vcgeq_f32(x.hi, y.hi))};
}
static inline vf vf_first(int n, vf a, vf b)
{
    static const int32_t lane[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32x4_t limit = vdupq_n_s32(n);
    return (vf){vbslq_f32(vcltq_s32(vld1q_s32(lane), limit), a.lo, b.lo),
                vbslq_f32(vcltq_s32(vld1q_s32(lane + 4), limit), a.hi, b.hi)};
}
static inline vf vf_round(vf a) { return (vf){vrndnq_f32(a.lo), vrndnq_f32(a.hi)}; }
static inline float32x4_t pow2_4(float32x4_t n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline vf vf_pow2(vf n) { return (vf){pow2_4(n.lo), pow2_4(n.hi)}; }
/* Of 4 rows of 4. */
static inline void transpose4(float32x4_t *a, float32x4_t *b, float32x4_t *c, float32x4_t *d)
{
    const float64x2_t ab0 = vreinterpretq_f64_f32(vtrn1q_f32(*a, *b)), ab1 = vreinterpretq_f64_f32(vtrn2q_f32(*a, *b));
    const float64x2_t cd0 = vreinterpretq_f64_f32(vtrn1q_f32(*c, *d)), cd1 = vreinterpretq_f64_f32(vtrn2q_f32(*c, *d));
    *a = vreinterpretq_f32_f64(vzip1q_f64(ab0, cd0));
    *b = vreinterpretq_f32_f64(vzip1q_f64(ab1, cd1));
    *c = vreinterpretq_f32_f64(vzip2q_f64(ab0, cd0));
    *d = vreinterpretq_f32_f64(vzip2q_f64(ab1, cd1));
}
static inline void vf_transpose(vf a[8])
{
    transpose4(&a[0].lo, &a[1].lo, &a[2].lo, &a[3].lo);
    transpose4(&a[0].hi, &a[1].hi, &a[2].hi, &a[3].hi);
    transpose4(&a[4].lo, &a[5].lo, &a[6].lo, &a[7].lo);
    transpose4(&a[4].hi, &a[5].hi, &a[6].hi, &a[7].hi);
    for (int i = 0; i < 4; i++) {
        const float32x4_t t = a[i].hi;
        a[i].hi = a[i + 4].lo;
        a[i + 4].lo = t;
    }
}
static inline vf vf_swap(vf a) { return (vf){vrev64q_f32(a.lo), vrev64q_f32(a.hi)}; }
static inline float vf_sum(vf a)
{
    const float32x4_t x = vaddq_f32(a.lo, a.hi);
    return vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)));
}
static inline float vf_hmax(vf a)
{
    const float32x4_t x = max4(a.lo, a.hi), y = max4(x, vextq_f32(x, x, 2));
    const float first = vgetq_lane_f32(y, 0), second = vgetq_lane_f32(y, 1);
    return first > second ? first : second;
}

static inline float f16_to_f32(uint16_t h)
{
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0);
}
static inline uint16_t f32_to_f16(float f)
{
    return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(f))), 0);
}
static inline uint16x8_t load_u16(const void *p) { return vreinterpretq_u16_u8(vld1q_u8((const uint8_t *)p)); }
static inline vf vf_load_f16(const void *p)
{
    const float16x8_t h = vreinterpretq_f16_u16(load_u16(p));
    return (vf){vcvt_f32_f16(vget_low_f16(h)), vcvt_f32_f16(vget_high_f16(h))};
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    const float16x8_t h = vcombine_f16(vcvt_f16_f32(a.lo), vcvt_f16_f32(a.hi));
    vst1q_u8((uint8_t *)(void *)p, vreinterpretq_u8_f16(h));
}
static inline vf vf_load_bf16(const void *p)
{
    const uint16x8_t h = load_u16(p);
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16))};
}

static inline vf from_u8(uint8x8_t a)
{
    const uint16x8_t h = vmovl_u8(a);
    return (vf){vcvtq_f32_u32(vmovl_u16(vget_low_u16(h))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(h)))};
}
static inline vf vf_load_u8(const uint8_t *p) { return from_u8(vld1_u8(p)); }
static inline vf vf_load_i8(const int8_t *p)
{
    const int16x8_t h = vmovl_s8(vld1_s8(p));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(h)))};
}
static inline uint8x8_t to_u8(vf a)
{
    return vmovn_u16(vcombine_u16(vmovn_u32(vcvtq_u32_f32(a.lo)), vmovn_u32(vcvtq_u32_f32(a.hi))));
}
static inline void vf_store_u8(uint8_t *p, vf a) { vst1_u8(p, to_u8(a)); }
static inline void vf_load_rgb(const uint8_t *p, vf c[3])
{
    const uint8x8x3_t t = vld3_u8(p);
    for (int j = 0; j < 3; j++) c[j] = from_u8(t.val[j]);
}
static inline void vf_store_rgb(uint8_t *p, const vf c[3])
{
    const uint8x8x3_t t = {{to_u8(c[0]), to_u8(c[1]), to_u8(c[2])}};
    vst3_u8(p, t);
}

static inline vi vi_zero(void) { return (vi){vdupq_n_s32(0), vdupq_n_s32(0)}; }
static inline vi vi_add(vi a, vi b) { return (vi){vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)}; }
static inline vi vi_set1(int32_t a) { return (vi){vdupq_n_s32(a), vdupq_n_s32(a)}; }
static inline vi vi_load(const void *p)
{
    const uint8_t *b = p;
    return (vi){vreinterpretq_s32_u8(vld1q_u8(b)), vreinterpretq_s32_u8(vld1q_u8(b + 16))};
}
static inline void vi_store(int32_t *p, vi a)
{
    vst1q_u8((uint8_t *)(void *)p, vreinterpretq_u8_s32(a.lo));
    vst1q_u8((uint8_t *)(void *)p + 16, vreinterpretq_u8_s32(a.hi));
}
static inline int32_t vi_sum(vi a) { return vaddvq_s32(vaddq_s32(a.lo, a.hi)); }
static inline vi vi_pair(vi acc, const uint8_t *a, const uint8_t *b, const void *w)
{
    const int16x8_t x = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(a))), y = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(b)));
    const int16x8_t v0 = vreinterpretq_s16_u16(load_u16(w));
    const int16x8_t v1 = vreinterpretq_s16_u16(load_u16((const uint8_t *)w + 16));
    const int16x8_t first = vuzp1q_s16(v0, v1), second = vuzp2q_s16(v0, v1);
    acc.lo = vmlal_s16(acc.lo, vget_low_s16(x), vget_low_s16(first));
    acc.hi = vmlal_high_s16(acc.hi, x, first);
    acc.lo = vmlal_s16(acc.lo, vget_low_s16(y), vget_low_s16(second));
    acc.hi = vmlal_high_s16(acc.hi, y, second);
    return acc;
}
static inline vf vf_from_vi(vi a) { return (vf){vcvtq_f32_s32(a.lo), vcvtq_f32_s32(a.hi)}; }
static inline void vf_store_i8(int8_t *p, vf a)
{
    const int16x8_t h = vcombine_s16(vmovn_s32(vcvtq_s32_f32(a.lo)), vmovn_s32(vcvtq_s32_f32(a.hi)));
    vst1_s8(p, vmovn_s16(h));
}

static inline vb vb_load(const uint8_t *p) { return (vb){vld1q_u8(p), vld1q_u8(p + 16)}; }
static inline void vb_store(uint8_t *p, vb a)
{
    vst1q_u8(p, a.lo);
    vst1q_u8(p + 16, a.hi);
}
static inline vb vb_low(vb a) { return (vb){vandq_u8(a.lo, vdupq_n_u8(15)), vandq_u8(a.hi, vdupq_n_u8(15))}; }
static inline vb vb_high(vb a) { return (vb){vshrq_n_u8(a.lo, 4), vshrq_n_u8(a.hi, 4)}; }
static inline vb vb_bcast(const int8_t *p)
{
    uint32_t quad;
    memcpy(&quad, p, 4);
    const uint8x16_t all = vreinterpretq_u8_u32(vdupq_n_u32(quad));
    return (vb){all, all};
}

typedef struct { int16x8_t lo, hi; } vw;
static inline vw vw_load(const int16_t *p)
{
    return (vw){vreinterpretq_s16_u16(load_u16(p)), vreinterpretq_s16_u16(load_u16((const uint8_t *)(const void *)p + 16))};
}
static inline void vw_store(int16_t *p, vw a)
{
    vst1q_u8((uint8_t *)(void *)p, vreinterpretq_u8_s16(a.lo));
    vst1q_u8((uint8_t *)(void *)p + 16, vreinterpretq_u8_s16(a.hi));
}
static inline int16x8_t even_s8(uint8x16_t a) { return vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_u8(a), 8), 8); }
static inline vw vw_even(vb a) { return (vw){even_s8(a.lo), even_s8(a.hi)}; }
static inline vw vw_odd(vb a)
{
    return (vw){vshrq_n_s16(vreinterpretq_s16_u8(a.lo), 8), vshrq_n_s16(vreinterpretq_s16_u8(a.hi), 8)};
}
static inline vw vw_pair(const void *p)
{
    const vb t = vb_bcast(p);
    return (vw){vreinterpretq_s16_u8(t.lo), vreinterpretq_s16_u8(t.hi)};
}
static inline vw vw_add(vw a, vw b) { return (vw){vaddq_s16(a.lo, b.lo), vaddq_s16(a.hi, b.hi)}; }
static inline int32x4_t dot_s16(int16x8_t a, int16x8_t b)
{
    return vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}
static inline vi vw_dot(vw a, vw b) { return (vi){dot_s16(a.lo, b.lo), dot_s16(a.hi, b.hi)}; }

/* Codes 0..255 less 128. */
static inline vb vb_flip(vb a) { return (vb){veorq_u8(a.lo, vdupq_n_u8(128)), veorq_u8(a.hi, vdupq_n_u8(128))}; }

#ifndef CLAW_NO_BYTE_DOTS
typedef struct { int16x8_t lo, hi; } vs;

/* w[0]*a[0] + w[1]*a[1], w[2]*a[2] + w[3]*a[3], ... */
static inline int16x8_t pairs(uint8x16_t w, uint8x16_t a)
{
    const int8x16_t x = vreinterpretq_s8_u8(w), y = vreinterpretq_s8_u8(a);
    return vpaddq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)), vmull_high_s8(x, y));
}
static inline vs vs_zero(void) { return (vs){vdupq_n_s16(0), vdupq_n_s16(0)}; }
static inline vs vs_dot(vs acc, vb w, vb a)
{
    return (vs){vaddq_s16(acc.lo, pairs(w.lo, a.lo)), vaddq_s16(acc.hi, pairs(w.hi, a.hi))};
}
static inline vi vs_sum(vs a) { return (vi){vpaddlq_s16(a.lo), vpaddlq_s16(a.hi)}; }
/* 128 * 127 * 2 fits int16. */
static inline vi vi_dot(vi acc, vb w, vb a)
{
    return (vi){vpadalq_s16(acc.lo, pairs(w.lo, a.lo)), vpadalq_s16(acc.hi, pairs(w.hi, a.hi))};
}
#define VU_SHIFT 128
static inline vi vu_dot(vi acc, vb x, vb w) { return vi_dot(acc, vb_flip(x), w); }
#endif
#endif
