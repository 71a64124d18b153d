/* Every limit of the library. The Python side reads the same numbers. */
#ifndef CLAW_BOUNDS_H
#define CLAW_BOUNDS_H

#define CLAW_GROUP 32           /* elements that share one quantization scale */
#define CLAW_LANES 8            /* rows interleaved in packed weights */
#define CLAW_PANEL 16           /* rows of a prefill panel */
#define CLAW_MAX_TILE 4         /* tokens of a tile in the integer products of many; more did not pay */
#define CLAW_STREAMS 4          /* blocks of rows that the products of one token read side by side */
#define CLAW_ONE_LEAST 3072     /* elements of a row from which they may read one block after the other, */
#define CLAW_ONE_MOST 6144      /* and up to which */
#define CLAW_MAX_AHEAD 65536    /* bytes asked for ahead */
#define CLAW_READS 5            /* ways in which a region is read to find how fast that can be */
#define CLAW_POSITIONS 64       /* positions of one attention block */
#define CLAW_ATTENTION_ROWS 48  /* queries of one attention call */
#define CLAW_MAX_HEAD_DIM 256
#define CLAW_MAX_WIDTH (1 << 18) /* any activation width or matrix dimension but the vocabulary */
#define CLAW_MAX_ROWS (1 << 22)  /* rows of a matrix, so also the vocabulary */
#define CLAW_MAX_CONTEXT (1 << 20)
#define CLAW_MAX_CHUNK 256
#define CLAW_MAX_THREADS 64
#define CLAW_MAX_STEPS 65536
#define CLAW_MAX_SEQUENCES 64 /* sequences of one plan, each with a KV memory of its own */
#define CLAW_MAX_BATCHES 4    /* joint steps that can be left at the same time: one for each class of tasks */
#define CLAW_LEAST_CHUNK 32   /* slow steps never make the chunks of a prompt shorter than this */
#define CLAW_STEP_NS 15000000 /* a chunk is made shorter if a step of it takes longer */
#define CLAW_TIMES 8192 /* entries of the ring of stamps, a power of two */
#define CLAW_MAX_TAPS 128     /* places of a depthwise kernel */
#define CLAW_MAX_KERNEL 24576 /* taps * channels of a convolution of bytes: its sums fit int32 */

/* Bytes of the scratch of the gemm_int ops: 16 rows of codes, then 2 * 16 floats a group. */
#define CLAW_GEMM_SCRATCH(k) ((size_t)(k) * CLAW_PANEL + (size_t)(k) / CLAW_GROUP * CLAW_PANEL * 8)
/* The same of the int8 products: a chunk of every token, in up to 80 bytes for 64, and its sums; rows; 4-aligned. */
#define CLAW_GEMM8_CHUNK 4096
#define CLAW_GEMM8_TOKEN (CLAW_GEMM8_CHUNK / 64 * 80 + 128)
#define CLAW_GEMM8_ROOM (1 << 14)
#define CLAW_GEMM8_SCRATCH(tokens) ((size_t)(tokens) * CLAW_GEMM8_TOKEN + CLAW_GEMM8_ROOM)
/* Floats of the scratch of attention: keys and values of a block, scores. */
#define CLAW_ATTENTION_SCRATCH(rows, head_dim) \
    ((size_t)CLAW_POSITIONS * (size_t)(head_dim) * 2 + (size_t)(rows) * CLAW_POSITIONS)
/* The same over int8: and what becomes scores or weights when it meets its scales. */
#define CLAW_ATTENTION8_SCRATCH(rows, head_dim) (CLAW_ATTENTION_SCRATCH(rows, head_dim) + (size_t)(rows) * CLAW_POSITIONS)
/* Bytes of the keys or values of a head in a block of the cache in int8: codes, then f16 scales. */
#define CLAW_CACHE8_BYTES(head_dim) \
    ((size_t)CLAW_POSITIONS * ((size_t)(head_dim) + ((size_t)(head_dim) + CLAW_GROUP - 1) / CLAW_GROUP * 2))
/* Floats of the scratch of fft_f32 of n complex, and of rfft, irfft and stft_power of n reals. */
#define CLAW_FFT_SCRATCH(n) ((size_t)(n) * ((n) % 8 ? 48 : 4))
#define CLAW_RFFT_SCRATCH(n) ((size_t)(n) * 2 + CLAW_FFT_SCRATCH((n) / 2))
/* Elements of the scratch of resize_bilinear_u8; resize_area_u8 needs width * channels. */
#define CLAW_RESIZE_SCRATCH(width, channels, out_width) \
    ((size_t)(width) * (size_t)(channels) + 2 * (size_t)(out_width))
#endif
