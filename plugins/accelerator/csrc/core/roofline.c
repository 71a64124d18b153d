/* Loops that do nothing but what is measured: the ceilings that ops are compared with.
 *
 * read: every byte of a region once, in several ways. fma: float32 multiply-adds in registers. dot: products
 * of bytes summed to int32 in registers, the way that the integer ops do it on this processor. Each returns a
 * value that depends on all of its work, so that none of it can be left out. */
#include <string.h>

#include "../api.h"

typedef float f8 __attribute__((vector_size(32), may_alias));
typedef uint64_t u8x4 __attribute__((vector_size(32), may_alias, aligned(8)));

/* A region in parts side by side, the bytes that lie `ahead` asked for into the second-level cache, as
 * the products of one token do it (0: the processor itself sees what comes). Which of these ways is the
 * fastest depends on the processor and on how many threads read. */
#define READ_BODY(parts, ahead) \
    u8x4 a[8] = {{0}}; \
    const uint64_t part = bytes / (parts); \
    for (uint64_t at = 0; at + 256 <= part; at += 256) \
        _Pragma("GCC unroll 4") for (int s = 0; s < (parts); s++) { \
            const uint8_t *q = p + part * (uint64_t)s + at; \
            if (ahead) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) __builtin_prefetch(q + (ahead) + 64 * i, 0, 2); \
            _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) a[i] ^= *(const u8x4 *)(const void *)(q + 32 * i); \
        } \
    _Pragma("GCC unroll 8") for (int i = 1; i < 8; i++) a[0] ^= a[i]; \
    return a[0][0] ^ a[0][1] ^ a[0][2] ^ a[0][3];

#define READ(name, parts, ahead) \
    static uint64_t name(const uint8_t *p, uint64_t bytes) { READ_BODY(parts, ahead) }
#define READS(set, target) \
    target READ(read1_##set, 1, 0) target READ(read1_ahead_##set, 1, 2048) target READ(read2_##set, 2, 0) \
    target READ(read2_ahead_##set, 2, 2048) target READ(read4_ahead_##set, 4, 1024) \
    static uint64_t read_##set(uint32_t way, const uint8_t *p, uint64_t bytes) \
    { \
        static uint64_t (*const ways[CLAW_READS])(const uint8_t *, uint64_t) = { \
            read1_##set, read1_ahead_##set, read2_##set, read2_ahead_##set, read4_ahead_##set}; \
        return ways[way](p, bytes); \
    }

/* Twelve chains hide the latency of any processor at hand. */
#define FMA_BODY(type, set, fma, store) \
    type acc[12], x = set(1.0000001f), y = set(1e-9f); \
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] = set((float)i); \
    for (uint64_t r = 0; r < rounds; r++) \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) { \
            acc[i] = fma(acc[i], x, y); \
            HOLD(acc[i]); \
        } \
    float out[16], sum = 0; \
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) { \
        store(out, acc[i]); \
        sum += out[0]; \
    } \
    return sum;

READS(plain, )

static float fma_plain(uint64_t rounds)
{
    float acc[12] = {0};
    for (uint64_t r = 0; r < rounds; r++)
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] = acc[i] * 1.0000001f + 1e-9f;
    float sum = 0;
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) sum += acc[i];
    return sum;
}

static int32_t dot_plain(uint64_t rounds)
{
    int32_t acc[12] = {0};
    for (uint64_t r = 0; r < rounds; r++)
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] += (int32_t)(uint8_t)(r + (uint64_t)i) * (int8_t)i;
    int32_t sum = 0;
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) sum += acc[i];
    return sum;
}

#if defined(__x86_64__)
#include <immintrin.h>
#define HOLD(x) __asm__("" : "+v"(x))

READS(avx2, __attribute__((target("avx2"))))

__attribute__((target("avx2,fma"))) static float fma_avx2(uint64_t rounds)
{
    FMA_BODY(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)
}

__attribute__((target("avx512f"))) static float fma_avx512(uint64_t rounds)
{
    FMA_BODY(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
}

/* Both operands pass through an empty asm in each round, or the products would be computed once.
 * Eight chains: with more gcc spills them. */
#define DOT_BODY(step) \
    __m256i acc[8], w = _mm256_set1_epi8(3), a = _mm256_set1_epi8(-2), one = _mm256_set1_epi16(1); \
    _Pragma("GCC unroll 12") for (int i = 0; i < 8; i++) acc[i] = _mm256_setzero_si256(); \
    for (uint64_t r = 0; r < rounds; r++) \
        _Pragma("GCC unroll 12") for (int i = 0; i < 8; i++) { \
            HOLD(w); \
            HOLD(a); \
            acc[i] = step; \
            HOLD(acc[i]); \
        } \
    (void)one; \
    _Pragma("GCC unroll 12") for (int i = 1; i < 8; i++) acc[0] = _mm256_add_epi32(acc[0], acc[i]); \
    return _mm256_extract_epi32(acc[0], 0);

__attribute__((target("avx2"))) static int32_t dot_avx2(uint64_t rounds)
{
    DOT_BODY(_mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), one)))
}
/* The same at 512 bits, as the products of many tokens do it. */
__attribute__((target("avx2,avx512f,avx512bw,avx512vnni"))) static int32_t dot_vnni(uint64_t rounds)
{
    __m512i acc[12], w = _mm512_set1_epi8(3), a = _mm512_set1_epi8(-2);
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] = _mm512_setzero_si512();
    for (uint64_t r = 0; r < rounds; r++)
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) {
            HOLD(w);
            HOLD(a);
            acc[i] = _mm512_dpbusd_epi32(acc[i], w, a);
            HOLD(acc[i]);
        }
    _Pragma("GCC unroll 12") for (int i = 1; i < 12; i++) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    return _mm512_reduce_add_epi32(acc[0]);
}
#endif

void claw_roofline(const char *isa, claw_roof *roof)
{
    *roof = (claw_roof){read_plain, fma_plain, dot_plain, 12 * 2, 12 * 2};
#if defined(__x86_64__)
    if (!strncmp(isa, "avx", 3)) *roof = (claw_roof){read_avx2, fma_avx2, dot_avx2, 12 * 8 * 2, 8 * 32 * 2};
    if (!strcmp(isa, "avx512vnni")) {
        roof->fma = fma_avx512;
        roof->flops = 12 * 16 * 2;
        roof->dot = dot_vnni;
        roof->int_ops = 12 * 64 * 2;
    }
#else
    (void)isa;
#endif
}
