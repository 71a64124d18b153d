/* Primitives on NEON with products of matrices of bytes: those of dotprod.h, usdot for unsigned
 * codes, and smmla, which takes 2 rows x 8 k times 8 k x 2 tokens: panels of gemm are laid out for it
 * (vb_pair). Sums are exact in
 * int32, so results have NEON's bits. */
#ifndef CLAW_ISA_I8MM_H
#define CLAW_ISA_I8MM_H
#define CLAW_BYTE_MATRICES
#include "dotprod.h"

#undef CLAW_FN
#define CLAW_FN(name) name##_i8mm

#define VU_SHIFT 0
static inline vi vu_dot(vi acc, vb x, vb w)
{
    return (vi){vusdotq_s32(acc.lo, x.lo, vreinterpretq_s8_u8(w.lo)), vusdotq_s32(acc.hi, x.hi, vreinterpretq_s8_u8(w.hi))};
}

/* 8 rows x 2 tokens: each register holds 2 rows, each with the first token, then the second. */
typedef struct { int32x4_t r01, r23, r45, r67; } vm;

static inline uint8x16_t zip_low(uint8x16_t a, uint8x16_t b)
{
    return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
static inline uint8x16_t zip_high(uint8x16_t a, uint8x16_t b)
{
    return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
/* Two neighbouring quads of 8 rows to 8 k of rows 0..3 and 8 k of rows 4..7. */
static inline void vb_pair(vb *a, vb *b)
{
    const vb x = *a, y = *b;
    *a = (vb){zip_low(x.lo, y.lo), zip_high(x.lo, y.lo)};
    *b = (vb){zip_low(x.hi, y.hi), zip_high(x.hi, y.hi)};
}

static inline vm vm_zero(void)
{
    const int32x4_t z = vdupq_n_s32(0);
    return (vm){z, z, z, z};
}
/* Adds what a pair of vb_pair gives with 8 activations of each of two tokens. */
static inline vm vm_dot(vm acc, vb w0123, vb w4567, const int8_t *first, const int8_t *second)
{
    const int8x16_t a = vcombine_s8(vld1_s8(first), vld1_s8(second));
    return (vm){vmmlaq_s32(acc.r01, vreinterpretq_s8_u8(w0123.lo), a), vmmlaq_s32(acc.r23, vreinterpretq_s8_u8(w0123.hi), a),
                vmmlaq_s32(acc.r45, vreinterpretq_s8_u8(w4567.lo), a), vmmlaq_s32(acc.r67, vreinterpretq_s8_u8(w4567.hi), a)};
}
static inline vi vm_first(vm a) { return (vi){vuzp1q_s32(a.r01, a.r23), vuzp1q_s32(a.r45, a.r67)}; }
static inline vi vm_second(vm a) { return (vi){vuzp2q_s32(a.r01, a.r23), vuzp2q_s32(a.r45, a.r67)}; }
#endif
