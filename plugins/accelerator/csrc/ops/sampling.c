/* Choosing among logits. Of equal ones the lowest index wins; a NaN never does. */

/* The largest of up to 8 * vectors elements; NaN are passed over. */
static inline float best_of(const float *x, int32_t n)
{
    vf m[4] = {vf_set1(-INFINITY), vf_set1(-INFINITY), vf_set1(-INFINITY), vf_set1(-INFINITY)};
    int32_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) m[j] = vf_max(vf_load(x + i + 8 * j), m[j]);
    float best = vf_hmax(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

#define SEARCH 512 /* elements whose maximum is taken before they are looked at one by one */

static void CLAW_FN(argmax_f32)(const float *x, int32_t n, int32_t *index)
{
    float best = -INFINITY;
    int32_t block = 0;
    for (int32_t i = 0; i < n; i += SEARCH) {
        const float top = best_of(x + i, n - i < SEARCH ? n - i : SEARCH);
        if (top > best) {
            best = top;
            block = i;
        }
    }
    *index = -1;
    for (int32_t i = block; i < n; i++)
        if (x[i] == best) {
            *index = i;
            return;
        }
}

/* Whether a is to be dropped before b. */
static inline int is_worse(float a, int32_t ia, float b, int32_t ib) { return a < b || (a == b && ia > ib); }

/* (value, index) goes into the heap of n whose root is the worst, from place `at` downwards. */
static inline void sift(float *v, int32_t *id, int32_t n, int32_t at, float value, int32_t index)
{
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_worse(v[child + 1], id[child + 1], v[child], id[child])) child++;
        if (!is_worse(v[child], id[child], value, index)) break;
        v[at] = v[child];
        id[at] = id[child];
    }
    v[at] = value;
    id[at] = index;
}

static void CLAW_FN(topk_f32)(const float *x, int32_t n, int32_t k, float *values, int32_t *indices)
{
    /* Places without an element: worse than any, so that even -inf displaces them. */
    for (int32_t i = 0; i < k; i++) {
        values[i] = -INFINITY;
        indices[i] = INT32_MAX;
    }
    for (int32_t i = 0; i < n; i += 32) {
        const int32_t end = n - i < 32 ? n : i + 32;
        if (indices[0] != INT32_MAX && !(best_of(x + i, end - i) > values[0])) continue;
        for (int32_t j = i; j < end; j++)
            if (x[j] == x[j] && is_worse(values[0], indices[0], x[j], j)) sift(values, indices, k, 0, x[j], j);
    }
    for (int32_t last = k - 1; last > 0; last--) { /* the worst to the end: descending order */
        const float v = values[0];
        const int32_t id = indices[0];
        sift(values, indices, last, 0, values[last], indices[last]);
        values[last] = v;
        indices[last] = id;
    }
    for (int32_t i = k - 1; i >= 0 && indices[i] == INT32_MAX; i--) indices[i] = -1;
}
