/* Element by element; y may be one of the inputs. */

static void CLAW_FN(add)(const float *a, const float *b, int32_t n, float *y)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) vf_store(y + i, vf_add(vf_load(a + i), vf_load(b + i)));
    for (; i < n; i++) y[i] = a[i] + b[i];
}

/* e: exp(-g) */
static inline vf silu_of(vf g, vf u, vf e) { return vf_mul(vf_div(g, vf_add(vf_set1(1.0f), e)), u); }
static inline vf silu_times(vf g, vf u) { return silu_of(g, u, vf_exp(vf_sub(vf_zero(), g))); }

static void CLAW_FN(silu_mul)(const float *gate, const float *up, int32_t n, float *y)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) vf_store(y + i, silu_times(vf_load(gate + i), vf_load(up + i)));
    if (i < n) {
        vf g = vf_load_part(gate + i, n - i), u = vf_load_part(up + i, n - i);
        vf_store_part(y + i, n - i, silu_times(g, u));
    }
}

static void CLAW_FN(silu_mul_tile)(const float *tile, int32_t n, float *y, int32_t ystride)
{
    for (; n >= 4; n -= 4, tile += 64, y += 4 * (ptrdiff_t)ystride) {
        vf e[4];
        for (int j = 0; j < 4; j++) e[j] = vf_sub(vf_zero(), vf_load(tile + 16 * j));
        vf_exp4(e);
        for (int j = 0; j < 4; j++)
            vf_store(y + j * (ptrdiff_t)ystride, silu_of(vf_load(tile + 16 * j), vf_load(tile + 16 * j + 8), e[j]));
    }
    for (; n > 0; n--, tile += 16, y += ystride) vf_store(y, silu_times(vf_load(tile), vf_load(tile + 8)));
}
