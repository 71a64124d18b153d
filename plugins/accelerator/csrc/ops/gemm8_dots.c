/* int8 products on sums of four byte products; vq_dot8 multiplies with activations plus CLAW_DOT8_OFFSET.
 *
 * The instruction is one a cycle at best, and a tile within the caches comes as near as 2 % to that; what costs is all
 * else. So sums stay in registers for thousands of k and y is written once and hardly ever read, and the rows that come
 * next are asked for into the second-level cache, a line at a time. It need not be the first-level one: what a tile
 * reads of it is 10 bytes a cycle. Activations are copied since signs may have to change; reading them where they
 * are, where they need not, was no faster. */

#ifndef CLAW_DOT8_VECTORS /* vectors of rows x tokens of a tile, and 8 rows a vector */
#define CLAW_DOT8_VECTORS 2
#define CLAW_DOT8_TOKENS 4
#define CLAW_DOT8_BLOCKS 1
typedef vi vq;
static inline vq vq_load(const int32_t *p) { return vi_load(p); }
static inline void vq_store(int32_t *p, vq a) { vi_store(p, a); }
static inline vb vq_rows(const uint8_t *w, size_t block) { (void)block; return vb_load(w); }
static inline vb vq_bcast(const int8_t *p) { return vb_bcast(p); }
static inline vq vq_dot8(vq acc, vb w, vb a) { return vi_dot8(acc, w, a); }
typedef vb vqb;
#endif

enum {
    FLIP_S8 = CLAW_DOT8_OFFSET,
    FLIP_U8 = 128 - CLAW_DOT8_OFFSET,
    OFFSET_S8 = -CLAW_DOT8_OFFSET,
    OFFSET_U8 = 128 - CLAW_DOT8_OFFSET,
    TOKEN8 = CLAW_GEMM8_CHUNK + 64,               /* bytes of a token's chunk in the scratch: tokens do not all share sets of a cache */
    EACH8 = CLAW_DOT8_VECTORS * CLAW_DOT8_BLOCKS, /* blocks of a panel */
    RUN8 = 8                                      /* quads between two lines that are asked for */
};
_Static_assert(TOKEN8 <= CLAW_GEMM8_TOKEN, "the room of a token");

/* What the tiles of a panel share. y: of the first token. from: where sums begin, y or, apart from 0, start. */
typedef struct panel8 {
    const uint8_t *w;
    size_t block;
    int32_t quads, lines; /* lines to ask for with each run */
    const int32_t *from;
    size_t apart, ystride;
    int32_t *y;
} panel8;

/* A chunk of n activations of a token; elements beyond a quad's end meet weights of 0. */
static inline void prepare8(const uint8_t *a, int32_t n, int flip, uint8_t *out)
{
    for (int32_t i = 0; i < n; i++) out[i] = a[i] ^ (uint8_t)flip;
    for (int32_t i = n; i % 4; i++) out[i] = 0;
}

/* Tokens t.. t + nt - 1 of a panel; returns the line of the next panel that is to be asked for next. */
static inline __attribute__((always_inline)) int32_t tile8(int nt, const panel8 *p, int32_t t, const uint8_t *a, int32_t line)
{
    vq acc[CLAW_DOT8_TOKENS][CLAW_DOT8_VECTORS];
    const int width = 8 * CLAW_DOT8_BLOCKS;
    const uint8_t *w = p->w, *next = w + EACH8 * p->block;
    const int32_t *from = p->from + (size_t)t * p->apart;
    int32_t *y = p->y + (size_t)t * p->ystride;
    a += (size_t)t * TOKEN8;
    for (int i = 0; i < nt; i++)
        for (int v = 0; v < CLAW_DOT8_VECTORS; v++) acc[i][v] = vq_load(from + (size_t)i * p->apart + width * v);
    for (int32_t j = 0; j < p->quads;) {
        const int32_t end = p->quads - j < RUN8 ? p->quads : j + RUN8;
        for (int i = 0; i < p->lines; i++, line++) PREFETCH_FAR(next + (size_t)(line % EACH8) * p->block + (size_t)(line / EACH8) * 64);
        for (; j < end; j++, w += 32, a += 4) {
            vqb rows[CLAW_DOT8_VECTORS];
            for (int v = 0; v < CLAW_DOT8_VECTORS; v++) rows[v] = vq_rows(w + (size_t)(v * CLAW_DOT8_BLOCKS) * p->block, p->block);
            for (int i = 0; i < nt; i++) {
                const vqb x = vq_bcast((const int8_t *)a + i * TOKEN8);
                for (int v = 0; v < CLAW_DOT8_VECTORS; v++) {
                    acc[i][v] = vq_dot8(acc[i][v], rows[v], x);
                    KEEP(acc[i][v]);
                }
            }
        }
    }
    for (int i = 0; i < nt; i++)
        for (int v = 0; v < CLAW_DOT8_VECTORS; v++) vq_store(y + (size_t)i * p->ystride + width * v, acc[i][v]);
    return line;
}

static inline void tiles8(const panel8 *p, const uint8_t *a, int32_t tokens)
{
    int32_t t = 0, line = 0;
    for (; t + CLAW_DOT8_TOKENS <= tokens; t += CLAW_DOT8_TOKENS) line = tile8(CLAW_DOT8_TOKENS, p, t, a, line);
    for (; CLAW_DOT8_TOKENS > 4 && t + 4 <= tokens; t += 4) line = tile8(4, p, t, a, line);
    for (; t < tokens; t++) line = tile8(1, p, t, a, line);
}

/* A block that is left when panels are full. */
static inline void rest8(const panel8 *p, const uint8_t *a, int32_t tokens)
{
    for (int32_t t = 0; t < tokens; t++, a += TOKEN8) {
        vi acc = vi_load(p->from + (size_t)t * p->apart);
        for (int32_t j = 0; j < p->quads; j++) acc = vi_dot8(acc, vb_load(p->w + 32 * j), vb_bcast((const int8_t *)a + 4 * j));
        vi_store(p->y + (size_t)t * p->ystride, acc);
    }
}

static inline void product8(const uint8_t *w, int32_t blocks, int32_t k, const uint8_t *a, int32_t stride, int flip, int32_t factor,
                            int32_t tokens, uint8_t *scratch, int32_t *y, int32_t ystride)
{
    const size_t block = block8_bytes(k);
    const int32_t tiles = (tokens + CLAW_DOT8_TOKENS - 1) / CLAW_DOT8_TOKENS;
    for (int32_t at = 0; at < k; at += CLAW_GEMM8_CHUNK) {
        const int32_t n = k - at < CLAW_GEMM8_CHUNK ? k - at : CLAW_GEMM8_CHUNK;
        for (int32_t t = 0; t < tokens; t++)
            prepare8(a + (size_t)t * (size_t)stride + (size_t)at, n, flip, scratch + (size_t)t * TOKEN8);
        for (int32_t b = 0, left; (left = blocks - b) > 0; b += left < EACH8 ? 1 : EACH8) {
            int32_t start[8 * EACH8], *out = y + 8 * b;
            const uint8_t *rows = w + (size_t)b * block;
            panel8 p = {rows + (size_t)at * 8, block, (n + 3) / 4, (RUN8 / 2 * EACH8 + tiles - 1) / tiles, out, (size_t)ystride, (size_t)ystride, out};
            if (!at) {
                start8(rows, left < EACH8 ? 1 : EACH8, block, factor, start);
                p.from = start;
                p.apart = 0;
            }
            if (left < EACH8) rest8(&p, scratch, tokens);
            else tiles8(&p, scratch, tokens);
        }
    }
}

static inline vi step8(vi acc, vb w, const uint8_t *a) { return vi_dot8(acc, w, vb_bcast((const int8_t *)a)); }
