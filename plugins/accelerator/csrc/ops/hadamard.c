/* Walsh-Hadamard transform of a power of two elements, natural order, divided by sqrt(n): its own
 * inverse. Rotating activations so spreads outliers before they are quantized (QuaRot, 2024). */

static inline __attribute__((always_inline)) void butterflies_in_8(float *y, int32_t n, int h)
{
    for (int32_t i = 0; i < n; i += 2 * h)
        for (int j = i; j < i + h; j++) {
            const float a = y[j], b = y[j + h];
            y[j] = a + b;
            y[j + h] = a - b;
        }
}

static void CLAW_FN(hadamard_f32)(const float *x, int32_t n, float *y)
{
    if (y != x) memmove(y, x, (size_t)n * sizeof *y);
    if (n >= 2) butterflies_in_8(y, n, 1);
    if (n >= 4) butterflies_in_8(y, n, 2);
    if (n >= 8) butterflies_in_8(y, n, 4);
    for (int32_t h = 8; h < n; h *= 2)
        for (int32_t i = 0; i < n; i += 2 * h)
            for (int32_t j = i; j < i + h; j += 8) {
                vf a = vf_load(y + j), b = vf_load(y + j + h);
                vf_store(y + j, vf_add(a, b));
                vf_store(y + j + h, vf_sub(a, b));
            }
    const float scale = 1.0f / sqrtf((float)n);
    for (int32_t i = 0; i < n; i++) y[i] *= scale;
}
