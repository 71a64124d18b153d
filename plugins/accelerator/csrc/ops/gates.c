/* What recurrent networks do between two matrix products, element by element. */

static inline vf gate_sigmoid(vf x)
{
    vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
}
/* 1 - 2 / (1 + exp(2x)): ends at exactly 1 and -1. */
static inline vf gate_tanh(vf x)
{
    vf e = vf_exp(vf_add(x, x)), one = vf_set1(1.0f);
    return vf_sub(one, vf_div(vf_set1(2.0f), vf_add(one, e)));
}

/* Pointers into up to 5 inputs at element i; of the last few elements a copy with zeros behind. */
typedef struct { const float *p[5]; float copy[5][8]; } gate_in;

static inline int gate_at(gate_in *g, int count, const float *const from[], int32_t i, int32_t n)
{
    int part = n - i < 8 ? (int)(n - i) : 8;
    for (int k = 0; k < count; k++) {
        g->p[k] = from[k] + i;
        if (part < 8) {
            memset(g->copy[k], 0, sizeof g->copy[k]);
            memcpy(g->copy[k], from[k] + i, (size_t)part * sizeof(float));
            g->p[k] = g->copy[k];
        }
    }
    return part;
}
static inline void gate_put(float *y, int part, vf v)
{
    if (part == 8) vf_store(y, v);
    else vf_store_part(y, part, v);
}

static void CLAW_FN(lstm_gates_f32)(const float *in, const float *forget, const float *cell, const float *out,
                                    const float *before, int32_t n, float *after, float *hidden)
{
    const float *const from[] = {in, forget, cell, out, before};
    gate_in g;
    for (int32_t i = 0; i < n; i += 8) {
        int part = gate_at(&g, 5, from, i, n);
        vf kept = vf_mul(gate_sigmoid(vf_load(g.p[1])), vf_load(g.p[4]));
        vf c = vf_fma(gate_sigmoid(vf_load(g.p[0])), gate_tanh(vf_load(g.p[2])), kept);
        vf h = vf_mul(gate_sigmoid(vf_load(g.p[3])), gate_tanh(c));
        gate_put(after + i, part, c);
        gate_put(hidden + i, part, h);
    }
}

static void CLAW_FN(gru_reset_f32)(const float *reset, const float *before, int32_t n, float *y)
{
    const float *const from[] = {reset, before};
    gate_in g;
    for (int32_t i = 0; i < n; i += 8) {
        int part = gate_at(&g, 2, from, i, n);
        gate_put(y + i, part, vf_mul(gate_sigmoid(vf_load(g.p[0])), vf_load(g.p[1])));
    }
}

/* (1 - z) n + z h */
static inline vf gru_mix(vf update, vf fresh, vf before)
{
    return vf_fma(gate_sigmoid(update), vf_sub(before, fresh), fresh);
}

static void CLAW_FN(gru_update_f32)(const float *update, const float *fresh, const float *before, int32_t n, float *y)
{
    const float *const from[] = {update, fresh, before};
    gate_in g;
    for (int32_t i = 0; i < n; i += 8) {
        int part = gate_at(&g, 3, from, i, n);
        gate_put(y + i, part, gru_mix(vf_load(g.p[0]), gate_tanh(vf_load(g.p[1])), vf_load(g.p[2])));
    }
}

static void CLAW_FN(gru_gates_f32)(const float *update, const float *reset, const float *fresh, const float *recurrent,
                                   const float *before, int32_t n, float *y)
{
    const float *const from[] = {update, reset, fresh, recurrent, before};
    gate_in g;
    for (int32_t i = 0; i < n; i += 8) {
        int part = gate_at(&g, 5, from, i, n);
        vf t = gate_tanh(vf_fma(gate_sigmoid(vf_load(g.p[1])), vf_load(g.p[3]), vf_load(g.p[2])));
        gate_put(y + i, part, gru_mix(vf_load(g.p[0]), t, vf_load(g.p[4])));
    }
}
