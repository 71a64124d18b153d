/* Primitives on AVX2 + FMA + F16C (any x86-64-v3 processor). Meaning: see scalar.h. */
#ifndef CLAW_ISA_AVX2_H
#define CLAW_ISA_AVX2_H
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define CLAW_FN(name) name##_avx2
/* Tells the compiler that a register changed here: without it gcc merges and spills the tile. */
#define KEEP(x) __asm__("" : "+x"(x))
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define PREFETCH_FAR(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

typedef __m256 vf;
typedef __m256i vi;
typedef __m256i vb;
typedef __m256i vs;

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_set1(float a) { return _mm256_set1_ps(a); }
static inline vf vf_load(const void *p) { return _mm256_loadu_ps((const float *)p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline vf vf_keep_ge(vf a, vf x, vf y) { return _mm256_and_ps(a, _mm256_cmp_ps(x, y, _CMP_GE_OQ)); }
static inline vf vf_first(int n, vf a, vf b)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 mask = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
    return _mm256_blendv_ps(b, a, mask);
}
static inline vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf vf_pow2(vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
static inline void vf_transpose(vf a[8])
{
    vf p[8], q[8]; /* pairs of rows, then squares of four */
    for (int i = 0; i < 8; i += 2) {
        p[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        p[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            q[i + 2 * j] = _mm256_shuffle_ps(p[i + j], p[i + j + 2], 0x44);
            q[i + 2 * j + 1] = _mm256_shuffle_ps(p[i + j], p[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(q[i], q[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(q[i], q[i + 4], 0x31);
    }
}
static inline vf vf_swap(vf a) { return _mm256_permute_ps(a, 0xb1); }
static inline float vf_sum(vf a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float vf_hmax(vf a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

static inline float f16_to_f32(uint16_t h) { return _cvtsh_ss(h); }
static inline uint16_t f32_to_f16(float f) { return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT); }
static inline vf vf_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_load_bf16(const void *p)
{
    __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}

static inline vf vf_load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline __m128i vf_bytes(vf a)
{
    __m256i i = _mm256_cvtps_epi32(a);
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    return _mm_packus_epi16(h, h);
}
static inline void vf_store_u8(uint8_t *p, vf a) { _mm_storel_epi64((__m128i *)(void *)p, vf_bytes(a)); }
static inline void vf_load_rgb(const uint8_t *p, vf c[3])
{
    /* Bytes 0..15 and 8..23: a channel's first five or six come from the one, the rest from the other. */
    __m128i a = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(p + 8));
    const __m128i from_a[3] = {_mm_set_epi64x(-1, (int64_t)0xffff0f0c09060300),
                               _mm_set_epi64x(-1, (int64_t)0xffffff0d0a070401),
                               _mm_set_epi64x(-1, (int64_t)0xffffff0e0b080502)};
    const __m128i from_b[3] = {_mm_set_epi64x(-1, (int64_t)0x0d0affffffffffff),
                               _mm_set_epi64x(-1, (int64_t)0x0e0b08ffffffffff),
                               _mm_set_epi64x(-1, (int64_t)0x0f0c09ffffffffff)};
    for (int j = 0; j < 3; j++) {
        __m128i t = _mm_or_si128(_mm_shuffle_epi8(a, from_a[j]), _mm_shuffle_epi8(b, from_b[j]));
        c[j] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(t));
    }
}
static inline void vf_store_rgb(uint8_t *p, const vf c[3])
{
    __m128i rg = _mm_unpacklo_epi64(vf_bytes(c[0]), vf_bytes(c[1])), b = vf_bytes(c[2]);
    __m128i low = _mm_or_si128(
        _mm_shuffle_epi8(rg, _mm_setr_epi8(0, 8, -1, 1, 9, -1, 2, 10, -1, 3, 11, -1, 4, 12, -1, 5)),
        _mm_shuffle_epi8(b, _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1)));
    __m128i high = _mm_or_si128(
        _mm_shuffle_epi8(rg, _mm_setr_epi8(13, -1, 6, 14, -1, 7, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1)),
        _mm_shuffle_epi8(b, _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, -1, -1, -1, -1, -1, -1)));
    _mm_storeu_si128((__m128i *)(void *)p, low);
    _mm_storel_epi64((__m128i *)(void *)(p + 16), high);
}

static inline vi vi_zero(void) { return _mm256_setzero_si256(); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline int32_t vi_sum(vi a)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
static inline vi vi_pair(vi acc, const uint8_t *a, const uint8_t *b, const void *w)
{
    __m128i x = _mm_loadl_epi64((const __m128i *)(const void *)a), y = _mm_loadl_epi64((const __m128i *)(const void *)b);
    __m256i t = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, y));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(t, _mm256_loadu_si256((const __m256i *)w)));
}
static inline vf vf_from_vi(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void vi_store(int32_t *p, vi a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }
static inline vf vf_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline void vf_store_i8(int8_t *p, vf a)
{
    __m256i i = _mm256_cvtps_epi32(a);
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(h, h));
}
/* Quantizer of activations (quant.c): all four vectors together. */
#define CLAW_CODES
static inline float vf_codes(int8_t *q, const vf c[4])
{
    __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(c[0]), _mm256_cvtps_epi32(c[1]));
    __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(c[2]), _mm256_cvtps_epi32(c[3]));
    /* Packing works on halves: quads of bytes are put in order at the end. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)(void *)q, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
    return (float)vi_sum(_mm256_madd_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(1)));
}

static inline vb vb_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline void vb_store(uint8_t *p, vb a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }
static inline vb vb_low(vb a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
static inline vb vb_high(vb a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
static inline vb vb_bcast(const int8_t *p)
{
    int32_t quad;
    memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
}

typedef __m256i vw;
static inline vw vw_load(const int16_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline void vw_store(int16_t *p, vw a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }
static inline vw vw_even(vb a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
static inline vw vw_odd(vb a) { return _mm256_srai_epi16(a, 8); }
static inline vw vw_pair(const void *p) { return vb_bcast((const int8_t *)p); }
static inline vw vw_add(vw a, vw b) { return _mm256_add_epi16(a, b); }
static inline vi vw_dot(vw a, vw b) { return _mm256_madd_epi16(a, b); }

#ifndef CLAW_NO_BYTE_DOTS
#define CLAW_FEW 32 /* see few.c */
static inline vs vs_zero(void) { return _mm256_setzero_si256(); }
static inline vs vs_dot(vs acc, vb w, vb a) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, a)); }
static inline vi vs_sum(vs a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
/* Sums of codes of 4 bits, whose int16 are below 15 * 127 * 16, times scales of 15 bits, each twice: fits int32. */
#define CLAW_SCALED_SUMS
static inline vi vs_scaled(vs a, const void *scales) { return _mm256_madd_epi16(a, _mm256_loadu_si256((const __m256i *)scales)); }
/* In place: n floats, a multiple of 8, that are integers of 15 bits after `up`, to such scales. */
static inline void vs_scales(float *p, int32_t n, float up)
{
    for (int32_t i = 0; i < n; i += 8) {
        const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p + i), _mm256_set1_ps(up)));
        _mm256_storeu_si256((__m256i *)(void *)(p + i), _mm256_blend_epi16(v, _mm256_slli_epi32(v, 16), 0xaa));
    }
}
static inline uint32_t vi_most(vi a)
{
    __m128i x = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(x, _mm_shuffle_epi32(x, 0xb1)));
}
static inline vf vf_first_of(const float *p, int32_t n)
{
    float copy[8] = {0};
    memcpy(copy, p, (size_t)n * sizeof *p);
    return vf_load(copy);
}
/* The least and the largest magnitude of n floats, zeros apart, as their bits: those of magnitudes are in their order.
 * All zeros: UINT32_MAX and 0. */
static inline void vf_range(const float *p, int32_t n, uint32_t *least, uint32_t *most)
{
    const __m256i magnitude = _mm256_set1_epi32(INT32_MAX), zero = _mm256_setzero_si256();
    __m256i low = zero, high = zero;
    for (int32_t i = 0; i < n; i += 8) {
        __m256i v = i + 8 <= n ? _mm256_loadu_si256((const __m256i *)(const void *)(p + i)) : _mm256_castps_si256(vf_first_of(p + i, n - i));
        v = _mm256_and_si256(v, magnitude);
        /* -v is the larger the smaller v is, and least of all where it is 0. */
        low = _mm256_max_epu32(low, _mm256_sub_epi32(zero, v));
        high = _mm256_max_epu32(high, v);
    }
    *least = -vi_most(low) - !vi_most(low);
    *most = vi_most(high);
}
/* |w| * (a with w's sign): 127 * 127 * 2 fits int16. */
static inline vi vi_dot(vi acc, vb w, vb a)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Products of codes 0..128 and int8, exact for all of them: pairs are -2 * 128 * 128 .. 2 * 128 * 127. */
#define CLAW_BYTES_TIMES_SIGNED
static inline vb vb_xor(vb a, vb b) { return _mm256_xor_si256(a, b); }
static inline vb vb_abs(vb a) { return _mm256_abs_epi8(a); }
static inline vb vb_minus(vb a) { return _mm256_cmpgt_epi8(_mm256_setzero_si256(), a); }
static inline vi vi_bytes(vi acc, vb x, vb w)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}
/* x - 128 is in -128..127, and 128 * 127 * 2 fits int16. */
#define VU_SHIFT 128
static inline vi vu_dot(vi acc, vb x, vb w) { return vi_dot(acc, _mm256_xor_si256(x, _mm256_set1_epi8(-128)), w); }
#endif
#endif
