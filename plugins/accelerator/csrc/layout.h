/* The packed layouts: 8 rows interleaved by 4 elements ("R8k4"), one record for 8 rows x 32 k.
 *
 * q4: 128 bytes of nibbles; byte 32*j + 4*row + t holds k = 4*j + t low and k = 16 + 4*j + t high.
 * q8: 256 bytes; byte 32*j + 4*row + t holds k = 4*j + t.
 * Then 8 scales in f16, and for the "a" (asymmetric) forms 8 minima in f16:
 *   q4a: d * code + m     q4s: d * (code - 8)     q8a: d * code + m     q8s: d * code
 * Float forms: 8 rows of one k side by side, k after k. */
#ifndef CLAW_LAYOUT_H
#define CLAW_LAYOUT_H
#include <stddef.h>
#include <stdint.h>

enum claw_format {
    CLAW_Q4A, CLAW_Q4S, CLAW_Q8A, CLAW_Q8S, CLAW_F16, CLAW_BF16, CLAW_F32, CLAW_FORMATS
};

#define Q4A_BYTES 160
#define Q4S_BYTES 144
#define Q8A_BYTES 288
#define Q8S_BYTES 272

static inline int claw_is_int(uint32_t format) { return format <= CLAW_Q8S; }

/* Bytes of 8 packed rows of k elements. */
static inline size_t claw_block_bytes(uint32_t format, uint32_t k)
{
    static const uint16_t per_group[CLAW_FORMATS] = {
        Q4A_BYTES, Q4S_BYTES, Q8A_BYTES, Q8S_BYTES, 512, 512, 1024
    };
    return (size_t)k * per_group[format] / 32;
}
#endif
