/* Primitives on AVX-512 VL + VNNI, at 256 bits: those of avx2.h, but products of bytes are summed
 * in int32 by one instruction. Integer sums are exact either way, so results have AVX2's bits. */
#ifndef CLAW_ISA_AVX512VNNI_H
#define CLAW_ISA_AVX512VNNI_H
#define CLAW_NO_BYTE_DOTS
#include "avx2.h"

#undef CLAW_FN
#define CLAW_FN(name) name##_avx512vnni
#undef KEEP
#if defined(CLAW_EMULATED) /* 64 bytes are no register there */
#define KEEP(x) ((void)(x))
#else
#define KEEP(x) __asm__("" : "+v"(x))
#endif

static inline vs vs_zero(void) { return _mm256_setzero_si256(); }
static inline vs vs_dot(vs acc, vb w, vb a) { return _mm256_dpbusd_epi32(acc, w, a); }
static inline vi vs_sum(vs a) { return a; }
static inline vi vi_dot(vi acc, vb w, vb a) { return _mm256_dpbusd_epi32(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w)); }
#endif
