/* Filters and changes of the sample rate. */

/* R runs of 8 outputs at once: every tap is read once for all of them. */
#define FIR_RUNS 6

static void CLAW_FN(fir_f32)(const float *x, int32_t n, const float *taps, int32_t k, float *y)
{
    int32_t i = 0;
    for (; i + 8 * FIR_RUNS <= n; i += 8 * FIR_RUNS) {
        vf s[FIR_RUNS];
        for (int r = 0; r < FIR_RUNS; r++) s[r] = vf_zero();
        for (int32_t j = 0; j < k; j++) {
            vf t = vf_set1(taps[j]);
            for (int r = 0; r < FIR_RUNS; r++) s[r] = vf_fma(t, vf_load(x + i + j + 8 * r), s[r]);
        }
        for (int r = 0; r < FIR_RUNS; r++) vf_store(y + i + 8 * r, s[r]);
    }
    for (; i + 8 <= n; i += 8) {
        vf s = vf_zero();
        for (int32_t j = 0; j < k; j++) s = vf_fma(vf_set1(taps[j]), vf_load(x + i + j), s);
        vf_store(y + i, s);
    }
    for (; i < n; i++) y[i] = dot_run(x + i, taps, k);
}

static void CLAW_FN(fir_decimate_f32)(const float *x, int32_t n, int32_t step, const float *taps, int32_t k, float *y)
{
    for (int32_t i = 0; i < n; i++) y[i] = dot_run(x + (size_t)i * (size_t)step, taps, k);
}

static void CLAW_FN(resample_f32)(const float *x, const float *table, int32_t up, int32_t down, int32_t taps,
                                  int32_t phase, int32_t n, float *y)
{
    int32_t whole = down / up, part = down % up;
    for (int32_t i = 0; i < n; i++) {
        y[i] = dot_run(x, table + (size_t)phase * (size_t)taps, taps);
        phase += part;
        x += whole + (phase >= up);
        phase -= phase >= up ? up : 0;
    }
}

static void CLAW_FN(resample_linear_f32)(const float *x, int32_t length, int64_t position, int64_t step, int32_t n,
                                         float *y)
{
    for (int32_t i = 0; i < n; i++, position += step) {
        int64_t at = position >> 32, last = length - 1;
        int64_t a = at < last ? at : last, b = at + 1 < last ? at + 1 : last;
        if (b < 0) { /* ahead of the first sample, or there is none */
            y[i] = length > 0 ? x[0] : 0.0f;
            continue;
        }
        if (a < 0) a = 0;
        float part = (float)(uint32_t)position * 2.3283064365386963e-10f;
        y[i] = x[a] + (x[b] - x[a]) * part;
    }
}

/* One section after the other over all samples: each keeps its state in registers. */
static void CLAW_FN(biquad_f32)(const float *x, int32_t n, const float *sections, int32_t count, const float *state,
                                float *after, float *y)
{
    for (int32_t s = 0; s < count; s++, sections += 5) {
        float b0 = sections[0], b1 = sections[1], b2 = sections[2], a1 = sections[3], a2 = sections[4];
        float s1 = state[2 * s], s2 = state[2 * s + 1];
        for (int32_t i = 0; i < n; i++) {
            float v = x[i], out = b0 * v + s1;
            s1 = (b1 * v + s2) - a1 * out;
            s2 = b2 * v - a2 * out;
            y[i] = out;
        }
        after[2 * s] = s1;
        after[2 * s + 1] = s2;
        x = y;
    }
    if (!count)
        for (int32_t i = 0; i < n; i++) y[i] = x[i];
}
