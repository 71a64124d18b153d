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

/* s8 rows times u8 activations (their codes plus 128), exact for all values: gemm8_dots.c. */
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

/* The same for few.c: codes of two blocks of 8 rows times a token's s8, and floats of 16 rows. 32 registers hold a tile
 * of 8 tokens. */
#define CLAW_FEW_WIDE
#define CLAW_FEW 24
#if defined(CLAW_EMULATED) /* where each instruction is a function, eight tiles take long to compile */
#define CLAW_FEW_TILE 4
#else
#define CLAW_FEW_TILE 8
#endif
typedef __m512 vqf;
static inline vq vq_zero(void) { return _mm512_setzero_si512(); }
static inline vqb vq_low(vqb a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
static inline vqb vq_high(vqb a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
static inline vq vq_dot(vq acc, vqb w, vqb a) { return _mm512_dpbusd_epi32(acc, w, a); }
static inline uint64_t vq_negative(vqb w) { return (uint64_t)_mm512_movepi8_mask(w); }
static inline vqb vq_abs(vqb w) { return _mm512_abs_epi8(w); }
/* a, negated where its bit in `negative` is set. */
static inline vqb vq_flip(vqb a, uint64_t negative) { return _mm512_mask_sub_epi8(a, (__mmask64)negative, _mm512_setzero_si512(), a); }
static inline vqf vqf_zero(void) { return _mm512_setzero_ps(); }
static inline vqf vqf_set1(float a) { return _mm512_set1_ps(a); }
static inline vqf vqf_add(vqf a, vqf b) { return _mm512_add_ps(a, b); }
static inline vqf vqf_mul(vqf a, vqf b) { return _mm512_mul_ps(a, b); }
static inline vqf vqf_fma(vqf a, vqf b, vqf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vqf vqf_from_vq(vq a)
{
#if defined(CLAW_EMULATED)
    int32_t whole[16];
    float both[16];
    vq_store(whole, a);
    for (int i = 0; i < 16; i += 8) vf_store(both + i, vf_from_vi(vi_load(whole + i)));
    return _mm512_loadu_ps(both);
#else
    return _mm512_cvtepi32_ps(a);
#endif
}
/* Eight f16 each. */
static inline vqf vqf_load_f16(const uint8_t *a, const uint8_t *b)
{
#if defined(CLAW_EMULATED)
    float both[16];
    vf_store(both, vf_load_f16(a));
    vf_store(both + 8, vf_load_f16(b));
    return _mm512_loadu_ps(both);
#else
    const __m128i low = _mm_loadu_si128((const __m128i *)(const void *)a);
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_loadu_si128((const __m128i *)(const void *)b), 1));
#endif
}
static inline void vqf_store(float *p, vqf a) { _mm512_storeu_ps(p, a); }

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
