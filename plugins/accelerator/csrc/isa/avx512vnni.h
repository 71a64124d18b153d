/* Primitives on AVX-512 VL + VNNI, at 256 bits but for gemm8: those of avx2.h, but products of bytes are summed
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

/* Twice the registers. */
#define CLAW_FEW_TILE 8

/* s8 rows times u8 activations (their codes plus 128), exact for all values: gemm8.c. */
#define CLAW_DOT8_OFFSET 128
static inline vi vi_dot8(vi acc, vb w, vb a) { return _mm256_dpbusd_epi32(acc, a, w); }
/* At 512 bits, two blocks of 8 rows in a vector: 32 rows x 8 tokens a tile. */
#define CLAW_DOT8_VECTORS 2
#define CLAW_DOT8_TOKENS 8
#define CLAW_DOT8_BLOCKS 2
typedef __m512i vq, vqb;
static inline vq vq_load(const int32_t *p) { return _mm512_loadu_si512(p); }
static inline void vq_store(int32_t *p, vq a) { _mm512_storeu_si512(p, a); }
static inline vqb vq_rows(const uint8_t *w, size_t block)
{
#if defined(CLAW_EMULATED) /* there insertion does not compile */
    uint8_t both[64];
    vb_store(both, vb_load(w));
    vb_store(both + 32, vb_load(w + block));
    return _mm512_loadu_si512(both);
#else
    return _mm512_inserti64x4(_mm512_castsi256_si512(vb_load(w)), vb_load(w + block), 1);
#endif
}
static inline vqb vq_bcast(const int8_t *p)
{
    int32_t quad;
    memcpy(&quad, p, 4);
    return _mm512_set1_epi32(quad);
}
static inline vq vq_dot8(vq acc, vqb w, vqb a) { return _mm512_dpbusd_epi32(acc, a, w); }
#define VU_SHIFT 0
static inline vi vu_dot(vi acc, vb x, vb w) { return _mm256_dpbusd_epi32(acc, x, w); }
#endif
