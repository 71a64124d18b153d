/* What the processor here can do, as it says itself (no /proc, fit for a sandbox). */
#ifndef CLAW_CPU_H
#define CLAW_CPU_H

typedef enum {
    CPU_PLAIN,
    CPU_AVX2,       /* AVX2, FMA and F16C */
    CPU_AVXVNNI,    /* AVX2, and dot products of bytes at 256 bits in VEX encoding */
    CPU_AVX512VNNI, /* AVX2, AVX-512 F, BW, VL and VNNI */
    CPU_NEON,       /* any 64-bit ARM */
    CPU_DOTPROD,    /* sdot, udot */
    CPU_I8MM,       /* the above, and smmla: products of matrices of bytes */
    CPU_RVV         /* the vector extension 1.0 of RISC-V */
} cpu_feature;

int cpu_has(cpu_feature feature);
/* Streams in which one core reads memory fastest, 1 or CLAW_STREAMS, as far as is known: see gemv.c. */
unsigned cpu_streams(void);
#endif
