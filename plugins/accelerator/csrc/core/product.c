/* One matrix product outside of a plan, shared by a team of threads: `claw bench gemm` measures it.
 *
 * Units are panels of 16 rows of the weights, and before them rows of activations where these are
 * quantized first. Threads take long runs of panels, so that what an op does once a call stays rare. */
#include <stdlib.h>
#include <string.h>

#include "../api.h"
#include "../layout.h"
#include "threads.h"

enum { QUANTIZE, MULTIPLY, OVER };

typedef struct job {
    const claw_ops *ops;
    const claw_product *p;
    uint8_t *quantized, *scratch; /* codes, scales, sums of all rows; `room` bytes a thread */
    size_t room;
} job;

static size_t groups_of(const claw_product *p) { return (size_t)(p->k / CLAW_GROUP); }
static int8_t *codes_of(const job *j) { return (int8_t *)j->quantized; }
static float *scales_of(const job *j) { return (float *)(void *)(j->quantized + (size_t)j->p->m * (size_t)j->p->k); }
static float *sums_of(const job *j) { return scales_of(j) + (size_t)j->p->m * groups_of(j->p); }

static void quantize(const job *j, uint32_t first, uint32_t last)
{
    const claw_product *p = j->p;
    for (size_t t = first; t < last; t++)
        j->ops->quantize_q8(p->x + t * (size_t)p->k, p->k, codes_of(j) + t * (size_t)p->k, scales_of(j) + t * groups_of(p),
                            sums_of(j) + t * groups_of(p));
}

static void multiply(const job *j, uint32_t first, uint32_t last, uint8_t *scratch)
{
    const claw_product *p = j->p;
    if (p->a) {
        const size_t block = (size_t)((p->k + 3) / 4) * 32 + 32;
        j->ops->gemm_u8s8_s32(p->w + 2 * first * block, (int32_t)(2 * (last - first)), p->k, p->a, p->k, 0, p->m, scratch,
                              p->sums + CLAW_PANEL * (size_t)first, p->n);
        return;
    }
    const size_t panel = 2 * claw_block_bytes(p->format, (uint32_t)p->k);
    for (size_t i = first; i < last; i++)
        (p->format == CLAW_Q4A ? j->ops->gemm_q4a : j->ops->gemm_q4s)(
            p->w + i * panel, 2, p->k, codes_of(j), scales_of(j), sums_of(j), p->m, scratch, p->y + CLAW_PANEL * i, p->n);
}

static void work(void *state, uint32_t step, uint32_t first, uint32_t last, uint32_t thread, int fresh)
{
    const job *j = state;
    (void)fresh;
    if (step == QUANTIZE) quantize(j, first, last);
    else multiply(j, first, last, j->scratch + thread * j->room);
}

static int next(void *state, uint32_t finished, team_step *step)
{
    const job *j = state;
    *step = (team_step){finished == TEAM_NONE ? (j->p->a ? MULTIPLY : QUANTIZE) : finished + 1, 0};
    return step->step != OVER;
}

static uint32_t units(void *state, uint32_t step, uint32_t *grab, uint32_t *next_step)
{
    (void)next_step;
    const claw_product *p = ((job *)state)->p;
    *grab = step == QUANTIZE ? 1 : p->a ? 8 : 2; /* each call on bytes prepares all activations */
    return (uint32_t)(step == QUANTIZE ? p->m : p->n / CLAW_PANEL);
}

static int fits(const claw_product *p)
{
    const int most = p->a ? 65535 : CLAW_MAX_WIDTH;
    return p->m > 0 && p->m <= CLAW_MAX_CHUNK && p->n > 0 && p->n <= CLAW_MAX_ROWS && !(p->n % CLAW_PANEL) && p->k > 0 && p->k <= most
        && (p->a || (!(p->k % CLAW_GROUP) && p->format <= CLAW_Q4S));
}

int32_t claw_product_run(const claw_ops *ops, const claw_product *p, uint32_t threads, uint32_t rounds, uint64_t *ns)
{
    team *t = aligned_alloc(64, (sizeof *t + 63) / 64 * 64);
    job j = {ops, p, NULL, NULL, 0};
    int32_t code = !fits(p) || !threads || threads > CLAW_MAX_THREADS ? CLAW_BAD_PLAN : CLAW_NO_MEMORY;
    if (code == CLAW_NO_MEMORY) {
        const size_t need = p->a ? CLAW_GEMM8_SCRATCH(p->m) : CLAW_GEMM_SCRATCH(p->k);
        j.room = (need + 4095) / 4096 * 4096;
        j.scratch = aligned_alloc(4096, j.room * threads);
        j.quantized = p->a ? NULL : aligned_alloc(64, (size_t)p->m * ((size_t)p->k + 8 * groups_of(p)) / 64 * 64 + 64);
    }
    if (t && j.scratch && (p->a || j.quantized)) {
        memset(j.scratch, 0, j.room * threads); /* pages are there when the clock starts */
        code = team_start(t, threads, (team_calls){work, next, units, NULL, &j, NULL}) ? CLAW_NO_THREAD : CLAW_OK;
        for (uint32_t i = 0; code == CLAW_OK && i < rounds; i++) {
            const uint64_t start = claw_now();
            team_run(t);
            ns[i] = claw_now() - start;
        }
        if (code == CLAW_OK) team_end(t);
    }
    free(j.quantized);
    free(j.scratch);
    free(t);
    return code;
}
