/* Primitives on AVX2 + AVX-VNNI (processors without AVX-512: Alder Lake, Zen 5): those of avx2.h,
 * but products of bytes are summed in int32 by one instruction, so results have AVX2's bits. */
#ifndef CLAW_ISA_AVXVNNI_H
#define CLAW_ISA_AVXVNNI_H
#define CLAW_NO_BYTE_DOTS
#include "avx2.h"

#undef CLAW_FN
#define CLAW_FN(name) name##_avxvnni

#if defined(CLAW_EMULATED)
#define dpbusd _mm256_dpbusd_epi32 /* the emulation knows the other encoding's name only */
#else
#define dpbusd _mm256_dpbusd_avx_epi32
#endif

static inline vs vs_zero(void) { return _mm256_setzero_si256(); }
static inline vs vs_dot(vs acc, vb w, vb a) { return dpbusd(acc, w, a); }
static inline vi vs_sum(vs a) { return a; }
static inline vi vi_dot(vi acc, vb w, vb a) { return dpbusd(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w)); }
/* s8 rows times u8 activations (their codes plus 128), exact for all values. */
#define CLAW_DOT8_OFFSET 128
static inline vi vi_dot8(vi acc, vb w, vb a) { return dpbusd(acc, a, w); }
#define VU_SHIFT 0
static inline vi vu_dot(vi acc, vb x, vb w) { return dpbusd(acc, x, w); }
#endif
