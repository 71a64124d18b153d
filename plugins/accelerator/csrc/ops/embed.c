/* One row out of packed weights: row `lane` of the 8 that start at w, as floats. */

static inline float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return f16_to_f32(h);
}

static inline void row_q4(const uint8_t *w, int32_t k, int32_t lane, float *y, int bytes, int has_min)
{
    for (int32_t g = 0; g < k / 32; g++, w += bytes, y += 32) {
        float d = half_at(w + 128 + 2 * lane);
        float m = has_min ? half_at(w + 144 + 2 * lane) : -8.0f * d;
        for (int i = 0; i < 16; i++) {
            uint8_t code = w[(i >> 2) * 32 + 4 * lane + (i & 3)];
            y[i] = d * (float)(code & 15) + m;
            y[16 + i] = d * (float)(code >> 4) + m;
        }
    }
}

static inline void row_q8(const uint8_t *w, int32_t k, int32_t lane, float *y, int bytes, int has_min)
{
    for (int32_t g = 0; g < k / 32; g++, w += bytes, y += 32) {
        float d = half_at(w + 256 + 2 * lane);
        float m = has_min ? half_at(w + 272 + 2 * lane) : 0.0f;
        for (int i = 0; i < 32; i++)
            y[i] = d * (float)(int8_t)w[(i >> 2) * 32 + 4 * lane + (i & 3)] + m;
    }
}

static void CLAW_FN(row_q4a)(const uint8_t *w, int32_t k, int32_t lane, float *y) { row_q4(w, k, lane, y, Q4A_BYTES, 1); }
static void CLAW_FN(row_q4s)(const uint8_t *w, int32_t k, int32_t lane, float *y) { row_q4(w, k, lane, y, Q4S_BYTES, 0); }
static void CLAW_FN(row_q8a)(const uint8_t *w, int32_t k, int32_t lane, float *y) { row_q8(w, k, lane, y, Q8A_BYTES, 1); }
static void CLAW_FN(row_q8s)(const uint8_t *w, int32_t k, int32_t lane, float *y) { row_q8(w, k, lane, y, Q8S_BYTES, 0); }

static void CLAW_FN(row_f16)(const uint8_t *w, int32_t k, int32_t lane, float *y)
{
    for (int32_t i = 0; i < k; i++) y[i] = half_at(w + 16 * (size_t)i + 2 * lane);
}
static void CLAW_FN(row_bf16)(const uint8_t *w, int32_t k, int32_t lane, float *y)
{
    for (int32_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, w + 16 * (size_t)i + 2 * lane, 2);
        uint32_t b = (uint32_t)h << 16;
        memcpy(y + i, &b, 4);
    }
}
static void CLAW_FN(row_f32)(const uint8_t *w, int32_t k, int32_t lane, float *y)
{
    for (int32_t i = 0; i < k; i++) memcpy(y + i, w + 32 * (size_t)i + 4 * lane, 4);
}
