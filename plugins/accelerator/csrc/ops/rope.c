/* Rotary position embedding (Su et al., 2021) of one head; y may be x.
 *
 * split: pairs (i, i + rot/2); table = rot/2 cosines, then rot/2 sines.
 * interleaved: pairs (2i, 2i+1); table = each cosine twice, then each sine twice, its first copy
 * negated, so that y = x * cos + swapped(x) * sin. Elements from rot_dim on pass unchanged. */

static void CLAW_FN(rope_split)(const float *x, const float *table, int32_t head_dim, int32_t rot_dim, float *y)
{
    const int32_t half = rot_dim / 2;
    const float *sine = table + half;
    int32_t i = 0;
    for (; i + 8 <= half; i += 8) {
        vf a = vf_load(x + i), b = vf_load(x + half + i), c = vf_load(table + i), s = vf_load(sine + i);
        vf_store(y + i, vf_sub(vf_mul(a, c), vf_mul(b, s)));
        vf_store(y + half + i, vf_add(vf_mul(a, s), vf_mul(b, c)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        y[i] = a * table[i] - b * sine[i];
        y[half + i] = a * sine[i] + b * table[i];
    }
    if (x != y) memmove(y + rot_dim, x + rot_dim, (size_t)(head_dim - rot_dim) * sizeof *y);
}

static void CLAW_FN(rope_interleaved)(const float *x, const float *table, int32_t head_dim, int32_t rot_dim, float *y)
{
    const float *sine = table + rot_dim;
    int32_t i = 0;
    for (; i + 8 <= rot_dim; i += 8) {
        vf v = vf_load(x + i);
        vf_store(y + i, vf_add(vf_mul(v, vf_load(table + i)), vf_mul(vf_swap(v), vf_load(sine + i))));
    }
    for (; i < rot_dim; i += 2) {
        float a = x[i], b = x[i + 1];
        y[i] = a * table[i] + b * sine[i];
        y[i + 1] = b * table[i + 1] + a * sine[i + 1];
    }
    if (x != y) memmove(y + rot_dim, x + rot_dim, (size_t)(head_dim - rot_dim) * sizeof *y);
}
