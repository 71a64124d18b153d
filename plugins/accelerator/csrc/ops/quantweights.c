/* Weights to GGUF's blocks of 32: what `claw quantize` writes. y gets n / 32 records, each a scale d
 * in f16, then (Q4_1) a minimum m in f16, then codes; nibbles hold element i low and i + 16 high.
 *
 * Q8_0 d * code, code in -127..127. Q4_0 d * (code - 8): the value of largest magnitude gets code 0.
 * Both by the usual rule of GGUF, bit for bit. Q4_1 d * code + m: by search, see below.
 * A block with a value that f16 cannot span (NaN, infinity, beyond 65504) gets scale (and minimum)
 * NaN and codes 0, so that the fault shows; blocks too small for a scale in float32 become zeros. */

#define NAN_F16 0x7e00u
#define LARGEST 65504.0f

static inline void put_half(uint8_t *y, uint16_t h) { memcpy(y, &h, 2); }

static inline int spannable(const float *x)
{
    int good = 1;
    for (int i = 0; i < 32; i++) good &= fabsf(x[i]) <= LARGEST; /* false for NaN */
    return good;
}

/* The largest magnitude; no value is NaN. */
static inline float magnitude(const float *x)
{
    vf most = vf_zero();
    for (int i = 0; i < 32; i += 8) most = vf_max(most, vf_abs(vf_load(x + i)));
    return vf_hmax(most);
}

/* 1 / d, or 0 where that is no finite number. */
static inline float inverse(float d)
{
    float id = d != 0.0f ? 1.0f / d : 0.0f;
    return fabsf(id) <= 3.4e38f ? id : 0.0f;
}

static inline void put_nibbles(uint8_t *y, const int8_t *codes)
{
    for (int i = 0; i < 16; i++) y[i] = (uint8_t)(codes[i] | codes[i + 16] << 4);
}

static void CLAW_FN(weights_q8_0)(const float *x, int32_t n, uint8_t *y)
{
    for (int32_t b = 0; b < n / 32; b++, x += 32, y += 34) {
        memset(y, 0, 34);
        put_half(y, NAN_F16);
        if (!spannable(x)) continue;
        const float d = magnitude(x) / 127.0f, id = inverse(d);
        put_half(y, f32_to_f16(d));
        for (int i = 0; i < 32; i++) { /* to nearest, halves away from zero */
            const float v = x[i] * id, a = fabsf(v);
            const int32_t whole = (int32_t)a, up = a - (float)whole >= 0.5f;
            y[2 + i] = (uint8_t)(int8_t)(v < 0.0f ? -(whole + up) : whole + up);
        }
    }
}

static void CLAW_FN(weights_q4_0)(const float *x, int32_t n, uint8_t *y)
{
    for (int32_t b = 0; b < n / 32; b++, x += 32, y += 18) {
        memset(y, 0, 18);
        put_half(y, NAN_F16);
        if (!spannable(x)) continue;
        const float most = magnitude(x);
        int at = 0;
        while (fabsf(x[at]) < most) at++; /* the first of equals gives the sign */
        const float d = (most > 0.0f ? x[at] : 0.0f) / -8.0f, id = inverse(d);
        put_half(y, f32_to_f16(d));
        int8_t codes[32];
        for (int i = 0; i < 32; i++) {
            const int32_t code = (int32_t)(x[i] * id + 8.5f);
            codes[i] = (int8_t)(code < 15 ? code : 15);
        }
        put_nibbles(y + 2, codes);
    }
}

/* One block of Q4_1 while it is searched: v holds the values less their minimum, p their weights. */
typedef struct q4_search {
    vf v[4], p[4];
    float low, sum_p, sum_pv;
    vf codes[4]; /* the best so far, with its error, scale and minimum */
    float error;
    uint16_t d, m;
} q4_search;

static inline vf q4_codes(vf v, vf m, vf id)
{
    vf c = vf_round(vf_mul(vf_sub(v, m), id));
    return vf_min(vf_max(c, vf_zero()), vf_set1(15.0f));
}

/* Keep scale and minimum (less `low`), rounded to f16, if they give the smallest error so far. */
static inline void q4_try(q4_search *s, float d, float m)
{
    const uint16_t dh = f32_to_f16(d), mh = f32_to_f16(m + s->low);
    const float dr = f16_to_f32(dh), mr = f16_to_f32(mh) - s->low;
    const vf scale = vf_set1(dr), least = vf_set1(mr), id = vf_set1(inverse(dr));
    vf c[4], total = vf_zero();
    for (int i = 0; i < 4; i++) {
        c[i] = q4_codes(s->v[i], least, id);
        vf e = vf_sub(vf_add(vf_mul(scale, c[i]), least), s->v[i]);
        total = vf_add(total, vf_mul(s->p[i], vf_mul(e, e)));
    }
    const float error = vf_sum(total);
    if (!(error < s->error)) return;
    s->error = error;
    s->d = dh;
    s->m = mh;
    for (int i = 0; i < 4; i++) s->codes[i] = c[i];
}

/* Codes for a range, then the scale and minimum that fit these codes best (least squares). */
static inline void q4_refit(q4_search *s, float m, float d)
{
    vf l = vf_zero(), ll = vf_zero(), lv = vf_zero();
    const vf least = vf_set1(m), id = vf_set1(inverse(d));
    for (int i = 0; i < 4; i++) {
        vf c = q4_codes(s->v[i], least, id), pc = vf_mul(s->p[i], c);
        l = vf_add(l, pc);
        ll = vf_add(ll, vf_mul(pc, c));
        lv = vf_add(lv, vf_mul(pc, s->v[i]));
    }
    const float sl = vf_sum(l), sll = vf_sum(ll), slv = vf_sum(lv);
    const float spread = s->sum_p * sll - sl * sl;
    if (!(spread > 1e-6f * s->sum_p * sll)) return; /* all codes alike */
    const float scale = (s->sum_p * slv - s->sum_pv * sl) / spread;
    if (scale > 0.0f) q4_try(s, scale, (s->sum_pv - scale * sl) / s->sum_p);
}

/* Begin with the usual rule: scale and minimum from the range. Returns the range. */
static inline float q4_begin(q4_search *s, const float *x, const float *importance)
{
    float low = x[0], high = x[0], most = 0.0f;
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    for (int i = 0; i < 32; i++) most = importance[i] > most ? importance[i] : most;
    /* Only their ratios matter: at most 1, no sum can overflow. */
    const int weighted = most > 1e-30f && most <= 3.4e38f;
    vf p = vf_zero(), pv = vf_zero();
    for (int i = 0; i < 4; i++) {
        vf given = vf_div(vf_load(importance + 8 * i), vf_set1(most));
        s->p[i] = weighted ? vf_max(given, vf_zero()) : vf_set1(1.0f);
        s->v[i] = vf_sub(vf_load(x + 8 * i), vf_set1(low));
        p = vf_add(p, s->p[i]);
        pv = vf_add(pv, vf_mul(s->p[i], s->v[i]));
    }
    s->low = low;
    s->sum_p = vf_sum(p);
    s->sum_pv = vf_sum(pv);
    s->error = 3.4e38f;
    s->d = s->m = NAN_F16;
    for (int i = 0; i < 4; i++) s->codes[i] = vf_zero();
    q4_try(s, (high - low) / 15.0f, 0.0f);
    return high - low;
}

/* x: `rows` of k weights. importance: k numbers, how much the error of each column counts (mean
 * square of its input); all alike if none is positive. Searches 9 ranges, each up to 8 % narrower at
 * either end, refits scale and minimum to the codes of each by least squares, and keeps what has the
 * smallest weighted error with the scale and minimum as f16: never more than the usual rule's. */
static void CLAW_FN(weights_q4_1)(const float *x, const float *importance, int32_t rows, int32_t k, uint8_t *y)
{
    for (int32_t r = 0; r < rows; r++) {
        for (int32_t at = 0; at + 32 <= k; at += 32, x += 32, y += 20) {
            memset(y, 0, 20);
            put_half(y, NAN_F16);
            put_half(y + 2, NAN_F16);
            if (!spannable(x)) continue;
            q4_search s;
            const float range = q4_begin(&s, x, importance + at);
            for (int i = 0; i < 9; i++) {
                const float below = 0.04f * (float)(i % 3), above = 0.04f * (float)(i / 3);
                q4_refit(&s, range * below, range * (1.0f - below - above) / 15.0f);
            }
            put_half(y, s.d);
            put_half(y + 2, s.m);
            int8_t codes[32];
            for (int i = 0; i < 4; i++) vf_store_i8(codes + 8 * i, s.codes[i]);
            put_nibbles(y + 4, codes);
        }
    }
}
#undef NAN_F16
#undef LARGEST
