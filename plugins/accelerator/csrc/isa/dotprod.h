/* Primitives on NEON with dot products of bytes (ARMv8.2 and later): those of neon.h, but products of
 * bytes are summed in int32 by sdot, so results have NEON's bits. Codes of vs_dot are at most 15: as
 * int8 they are the same number. */
#ifndef CLAW_ISA_DOTPROD_H
#define CLAW_ISA_DOTPROD_H
#define CLAW_NO_BYTE_DOTS
#include "neon.h"

#undef CLAW_FN
#define CLAW_FN(name) name##_dotprod

typedef vi vs;

static inline vi vi_dot(vi acc, vb w, vb a)
{
    return (vi){vdotq_s32(acc.lo, vreinterpretq_s8_u8(w.lo), vreinterpretq_s8_u8(a.lo)),
                vdotq_s32(acc.hi, vreinterpretq_s8_u8(w.hi), vreinterpretq_s8_u8(a.hi))};
}
/* Exact for all values. */
#define CLAW_DOT8_OFFSET 0
static inline vi vi_dot8(vi acc, vb w, vb a) { return vi_dot(acc, w, a); }
static inline vs vs_zero(void) { return vi_zero(); }
static inline vs vs_dot(vs acc, vb w, vb a) { return vi_dot(acc, w, a); }
static inline vi vs_sum(vs a) { return a; }
#ifndef CLAW_BYTE_MATRICES
#define VU_SHIFT 128
static inline vi vu_dot(vi acc, vb x, vb w) { return vi_dot(acc, vb_flip(x), w); }
#endif
#endif
