/* Activations, element by element; y may be an input. A NaN gives NaN. Each body sees 8 elements, so
 * that the rest of an array gives the same bits as its middle. */

/* 0, or NaN where x is NaN (vf_min and vf_max give their second argument then). */
static inline vf nan_of(vf x)
{
    vf c = vf_max(vf_set1(-1.0f), vf_min(vf_set1(1.0f), x));
    return vf_sub(c, c);
}

/* 1 / (1 + exp(-x)) without NaN's: exact to about 3 units in the last place for |x| < 87. */
static inline vf sigmoid_of(vf x) { return vf_div(vf_set1(1.0f), vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), x)))); }

/* x * sigmoid(a * x). Below -40 the result is -0 even for -inf, whose product would be NaN. */
static inline vf swish_of(vf x, vf a)
{
    vf c = vf_max(vf_set1(-40.0f), x);
    return vf_mul(c, sigmoid_of(vf_mul(a, c)));
}

/* tanh: a polynomial near 0 (Cephes library, tanhf), so that small values keep their digits, and
 * 1 - 2 / (exp(2 x) + 1) elsewhere. */
static inline vf tanh_of(vf x)
{
    const vf edge = vf_set1(0.625f), one = vf_set1(1.0f), z = vf_mul(x, x), magnitude = vf_abs(x);
    vf p = vf_fma(vf_set1(-5.70498872745e-3f), z, vf_set1(2.06390887954e-2f));
    p = vf_fma(p, z, vf_set1(-5.37397155531e-2f));
    p = vf_fma(p, z, vf_set1(1.33314422036e-1f));
    p = vf_fma(p, z, vf_set1(-3.33332819422e-1f));
    vf near = vf_fma(vf_mul(p, z), x, x);
    vf far = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(vf_exp(vf_add(x, x)), one)));
    /* 0.62499994 is the float before the edge: each x has one of the two. */
    vf inside = vf_keep_ge(near, vf_set1(0.62499994f), magnitude);
    return vf_add(vf_add(inside, vf_keep_ge(far, magnitude, edge)), nan_of(x));
}

/* 1 + erf(x / sqrt 2) with small relative error on the left side too: 2 - q or q, where q =
 * polynomial(t) * exp(-x^2 / 2) (Abramowitz and Stegun, 7.1.26; absolute error 1.5e-7). */
static inline vf one_plus_erf(vf x)
{
    const vf magnitude = vf_abs(x), one = vf_set1(1.0f);
    vf t = vf_div(one, vf_fma(magnitude, vf_set1(0.3275911f * 0.70710678118654752f), one));
    vf p = vf_fma(vf_set1(1.061405429f), t, vf_set1(-1.453152027f));
    p = vf_fma(p, t, vf_set1(1.421413741f));
    p = vf_fma(p, t, vf_set1(-0.284496736f));
    p = vf_fma(p, t, vf_set1(0.254829592f));
    vf q = vf_mul(vf_mul(p, t), vf_exp(vf_mul(vf_mul(x, x), vf_set1(-0.5f))));
    return vf_add(q, vf_keep_ge(vf_sub(vf_set1(2.0f), vf_add(q, q)), x, vf_zero()));
}

static inline vf gelu_of(vf x)
{
    vf c = vf_max(vf_set1(-40.0f), x);
    return vf_mul(vf_mul(c, vf_set1(0.5f)), one_plus_erf(c));
}

/* 0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static inline vf gelu_tanh_of(vf x)
{
    vf c = vf_max(vf_set1(-40.0f), x);
    vf u = vf_mul(c, vf_fma(vf_mul(c, c), vf_set1(2.0f * 0.79788456080286536f * 0.044715f), vf_set1(2.0f * 0.79788456080286536f)));
    return vf_mul(c, sigmoid_of(u));
}

/* log(1 + e) for e in 0..1: 2 atanh(s), s = e / (2 + e) at most 1/3. */
static inline vf log1p_of(vf e)
{
    vf s = vf_div(e, vf_add(e, vf_set1(2.0f))), z = vf_mul(s, s);
    vf p = vf_fma(vf_set1(2.0f / 15.0f), z, vf_set1(2.0f / 13.0f));
    for (int i = 11; i > 0; i -= 2) p = vf_fma(p, z, vf_set1(2.0f / (float)i));
    return vf_mul(p, s);
}

static inline vf softplus_of(vf x)
{
    return vf_add(vf_max(vf_zero(), x), log1p_of(vf_exp(vf_sub(vf_zero(), vf_abs(x)))));
}

/* x min(max(x + 3, 0), 6) / 6, and -0 from -3 down. */
static inline vf hardswish_of(vf x)
{
    vf c = vf_max(vf_set1(-3.0f), x);
    return vf_mul(c, vf_mul(vf_min(vf_set1(6.0f), vf_add(c, vf_set1(3.0f))), vf_set1(1.0f / 6.0f)));
}

/* From 88.3 on infinite, below -87.3 zero. */
static inline vf exp_of(vf x)
{
    return vf_add(vf_add(vf_exp(x), vf_keep_ge(vf_set1(INFINITY), x, vf_set1(88.3f))), nan_of(x));
}

/* f(x) for all n elements; the last few pass through a vector of their own. */
#define EACH_VECTOR(f)                                                                             \
    {                                                                                              \
        int32_t i = 0;                                                                             \
        for (; i + 8 <= n; i += 8) {                                                               \
            vf v = vf_load(x + i);                                                                 \
            vf_store(y + i, f);                                                                    \
        }                                                                                          \
        if (i < n) {                                                                               \
            vf v = vf_load_part(x + i, n - i);                                                     \
            vf_store_part(y + i, n - i, f);                                                        \
        }                                                                                          \
    }
#define ACTIVATION(name, f) static void CLAW_FN(name)(const float *x, int32_t n, float *y) EACH_VECTOR(f)

ACTIVATION(relu_f32, vf_max(vf_zero(), v))
ACTIVATION(sigmoid_f32, vf_add(sigmoid_of(v), nan_of(v)))
ACTIVATION(tanh_f32, tanh_of(v))
ACTIVATION(silu_f32, swish_of(v, vf_set1(1.0f)))
ACTIVATION(quick_gelu_f32, swish_of(v, vf_set1(1.702f)))
ACTIVATION(gelu_f32, gelu_of(v))
ACTIVATION(gelu_tanh_f32, gelu_tanh_of(v))
ACTIVATION(hardswish_f32, hardswish_of(v))
ACTIVATION(softplus_f32, softplus_of(v))
ACTIVATION(exp_f32, exp_of(v))

static void CLAW_FN(leaky_relu_f32)(const float *x, int32_t n, float slope, float *y)
{
    const vf zero = vf_zero(), a = vf_set1(slope);
    EACH_VECTOR(vf_add(vf_max(zero, v), vf_mul(a, vf_min(zero, v))))
}

static void CLAW_FN(clamp_f32)(const float *x, int32_t n, float low, float high, float *y)
{
    const vf l = vf_set1(low), h = vf_set1(high);
    EACH_VECTOR(vf_min(h, vf_max(l, v)))
}

static void CLAW_FN(softcap_f32)(const float *x, int32_t n, float cap, float *y)
{
    const vf c = vf_set1(cap), inverse = vf_set1(1.0f / cap);
    EACH_VECTOR(vf_mul(c, tanh_of(vf_mul(v, inverse))))
}

/* ---- gates: f(gate) * up ---- */

#define GATE(name, f)                                                                              \
    static void CLAW_FN(name)(const float *gate, const float *up, int32_t n, float *y)             \
    {                                                                                              \
        int32_t i = 0;                                                                             \
        for (; i + 8 <= n; i += 8) {                                                               \
            vf v = vf_load(gate + i);                                                              \
            vf_store(y + i, vf_mul(f, vf_load(up + i)));                                           \
        }                                                                                          \
        if (i < n) {                                                                               \
            vf v = vf_load_part(gate + i, n - i);                                                  \
            vf_store_part(y + i, n - i, vf_mul(f, vf_load_part(up + i, n - i)));                   \
        }                                                                                          \
    }

GATE(geglu_f32, gelu_tanh_of(v))

/* As silu_mul_tile. */
static void CLAW_FN(gelu_mul_tile)(const float *tile, int32_t n, float *y, int32_t ystride)
{
    for (int32_t i = 0; i < n; i++, tile += 16, y += ystride)
        vf_store(y, vf_mul(gelu_tanh_of(vf_load(tile)), vf_load(tile + 8)));
}
GATE(glu_f32, vf_add(sigmoid_of(v), nan_of(v)))

/* The same on the way to int8: the bits of the gate, then of quantize_q8. */
#define GATE_Q8(name, f)                                                                           \
    static void CLAW_FN(name)(const float *gate, const float *up, int32_t n, int8_t *q, float *d, float *s) \
    {                                                                                              \
        for (int32_t g = 0; g < n / 32; g++, gate += 32, up += 32) {                               \
            vf y[4];                                                                               \
            for (int j = 0; j < 4; j++) {                                                          \
                vf v = vf_load(gate + 8 * j), u = vf_load(up + 8 * j);                             \
                y[j] = f;                                                                          \
            }                                                                                      \
            quantize_group(y, 127.0f, q + 32 * g, d + g, s + g);                                   \
        }                                                                                          \
    }

GATE_Q8(silu_mul_q8, silu_times(v, u))
GATE_Q8(geglu_q8, vf_mul(gelu_tanh_of(v), u))
