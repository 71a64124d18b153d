/* How images, their kernels and the tables of neighbours lie in memory.
 *
 * Feature maps are channels-last: pixel after pixel, the channels of a pixel side by side, padded with
 * zeros (codes: zero points) to a multiple of 8. The blocked form (8 channels of all pixels, then the
 * next 8) is no faster here: the inner loop of a convolution runs over the channels of one pixel, and
 * longer runs measured better (see "tables" for how either form can be walked).
 *
 * Tables: the indirect convolution of Dukhan (2019), with offsets in place of pointers so that a table
 * outlives a move of its arena. Entry [pixel * step + tap] is where, in elements from x, the input
 * pixel below that tap of that output pixel begins; below 0 it is the pixel `zero` (padding: zeros, or
 * the zero point). step is `taps` or, where neighbouring output pixels share columns of the kernel,
 * less: with taps in column order (tap = column * height + row), stride * height. Any stride, dilation
 * and padding is a table; a table of c / 8 times as many taps of 8 channels walks a blocked map.
 *
 * Kernels, one record for 8 output channels ("lanes"), weights of a tap in channel order:
 *   conv f32       8 f32 biases, then per tap and input channel 8 f32 weights
 *   conv u8        8 i32 biases, 8 i32 sums of weights, 8 f32 scales, then per tap and 4 input channels
 *                  32 int8 weights: byte 4 * lane + t is channel t of the four
 *   depthwise f32  8 f32 biases, then per tap 8 f32 weights
 *   depthwise u8   8 i32 biases, 8 f32 scales, then per pair of taps 16 int16: 2 * lane + t is tap t of
 *                  the pair; an odd last tap pairs with weights of 0
 *
 * Bytes are codes with value scale * (code - zero point), as in ONNX; int8 tensors are stored with 128
 * added to codes and zero points. Biases of byte kernels have the input's zero point taken out already:
 * bias - zero point * sum(weights). The scales are input scale * weight scale / output scale, and a
 * result is clamp(round(sum * scale) + zero point), rounding to nearest even in f32, as ONNX Runtime.
 * No sum overflows: weights lie in -127..127, taps * channels <= CLAW_MAX_KERNEL, |bias| <= 2^29. */
#ifndef CLAW_IMAGES_H
#define CLAW_IMAGES_H
#include <stddef.h>
#include <stdint.h>

#include "bounds.h"

#define CONV_U8_HEAD 96
#define DEPTHWISE_U8_HEAD 64

/* Bytes of one record of 8 output channels. */
static inline size_t claw_conv_f32_bytes(int32_t taps, int32_t k) { return 32 * (1 + (size_t)taps * (size_t)k); }
static inline size_t claw_conv_u8_bytes(int32_t taps, int32_t k) { return CONV_U8_HEAD + 8 * (size_t)taps * (size_t)k; }
static inline size_t claw_depthwise_u8_bytes(int32_t taps) { return DEPTHWISE_U8_HEAD + 32 * (((size_t)taps + 1) / 2); }
#endif
