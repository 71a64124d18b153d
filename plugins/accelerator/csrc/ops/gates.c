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

/* Vectors of 8 and a rest that goes through small copies. */
#define GATES(count, body)                                                      \
    for (int32_t i = 0; i < (count); i += 8) {                                  \
        int part = (count) - i < 8 ? (int)((count) - i) : 8;                    \
        body                                                                    \
    }
#define GATE(p) (part == 8 ? vf_load((p) + i) : vf_load_part((p) + i, part))
static inline void gate_store(float *y, int part, vf v)
{
    if (part == 8) vf_store(y, v);
    else vf_store_part(y, part, v);
}

static void CLAW_FN(lstm_gates_f32)(const float *in, const float *forget, const float *cell, const float *out,
                                    const float *before, int32_t n, float *after, float *hidden)
{
    GATES(n, {
        vf kept = vf_mul(gate_sigmoid(GATE(forget)), GATE(before));
        vf c = vf_fma(gate_sigmoid(GATE(in)), gate_tanh(GATE(cell)), kept);
        vf h = vf_mul(gate_sigmoid(GATE(out)), gate_tanh(c));
        gate_store(after + i, part, c);
        gate_store(hidden + i, part, h);
    })
}

static void CLAW_FN(gru_reset_f32)(const float *reset, const float *before, int32_t n, float *y)
{
    GATES(n, gate_store(y + i, part, vf_mul(gate_sigmoid(GATE(reset)), GATE(before)));)
}

/* (1 - z) n + z h */
static inline vf gru_mix(vf z, vf fresh, vf before) { return vf_fma(z, vf_sub(before, fresh), fresh); }

static void CLAW_FN(gru_update_f32)(const float *update, const float *fresh, const float *before, int32_t n, float *y)
{
    GATES(n, gate_store(y + i, part, gru_mix(gate_sigmoid(GATE(update)), gate_tanh(GATE(fresh)), GATE(before)));)
}

static void CLAW_FN(gru_gates_f32)(const float *update, const float *reset, const float *fresh, const float *recurrent,
                                   const float *before, int32_t n, float *y)
{
    GATES(n, {
        vf t = gate_tanh(vf_fma(gate_sigmoid(GATE(reset)), GATE(recurrent), GATE(fresh)));
        gate_store(y + i, part, gru_mix(gate_sigmoid(GATE(update)), t, GATE(before)));
    })
}
