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
/* A panel of 16 rows in one vector, for the int4 products of many tokens: 16 floats or int32, one a row. */
#define CLAW_WIDE_PANELS
#define CLAW_WIDE_TILE 8 /* tokens */
typedef __m512 wf;
typedef __m512i wi;
static inline wf wf_zero(void) { return _mm512_setzero_ps(); }
static inline wf wf_set1(float a) { return _mm512_set1_ps(a); }
static inline wf wf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void wf_store(float *p, wf a) { _mm512_storeu_ps(p, a); }
static inline wf wf_add(wf a, wf b) { return _mm512_add_ps(a, b); }
static inline wf wf_mul(wf a, wf b) { return _mm512_mul_ps(a, b); }
static inline wf wf_fma(wf a, wf b, wf c) { return _mm512_fmadd_ps(a, b, c); }
static inline wf wf_from_wi(wi a)
{
#if defined(CLAW_EMULATED) /* there is no such conversion */
    int32_t whole[16];
    float out[16];
    _mm512_storeu_si512(whole, a);
    for (int i = 0; i < 16; i++) out[i] = (float)whole[i];
    return _mm512_loadu_ps(out);
#else
    return _mm512_cvtepi32_ps(a);
#endif
}
static inline wi wi_zero(void) { return _mm512_setzero_si512(); }
static inline wi wi_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
/* acc + sums of four: codes (0..255) of 16 rows times the same 4 int8. */
static inline wi wi_dot(wi acc, wi w, const int8_t *a) { return _mm512_dpbusd_epi32(acc, w, vq_bcast(a)); }
#define VU_SHIFT 0
static inline vi vu_dot(vi acc, vb x, vb w) { return _mm256_dpbusd_epi32(acc, x, w); }
#endif
