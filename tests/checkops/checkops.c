/* Runs cases of ops on one target: checkops TARGET CASES RESULTS
 *
 * A program of its own, so that it can be built for another architecture, run there by an emulator
 * that is started once a target, and die at a forbidden page with a message. Cases come from Python
 * (stream.py; the structs below), and so does calls.inc, the table of calls made from ops.def.
 *
 * Each case runs three times: with every array flush with a forbidden page at its start, with one at
 * its end, and with every array one element off. Inputs can only be read; the bytes beside outputs
 * and scratch must stay as they were. Results: the outputs of each run, in order.
 *
 * Exit: 0 done, 1 an op broke a promise, 2 bad use or a broken stream, 3 the target cannot run here. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api.h"

#define MAX_ARGS 32
#define PATTERN 0xa5

typedef union {
    int64_t i;
    double f;
    void *p;
} value;

#include "calls.inc"

#ifdef CHECKOPS_TABLE /* an emulated target: the processor need not have it, so nobody is asked */
extern const claw_ops CHECKOPS_TABLE;
#endif

typedef struct {
    char magic[8];
    uint32_t cases, args; /* args: the largest number of any case */
} head;

typedef struct {
    char op[48], kind[16];
    uint32_t args, pad;
} case_head;

/* kind: 'i' and 'f' numbers, 'r' input, 'u' input that is also output, 'w' output, 's' scratch. */
typedef struct {
    char kind;
    uint8_t item; /* bytes of an element */
    uint8_t pad[6];
    uint64_t bytes;
    value number;
} arg_head;

typedef struct {
    uint8_t *body; /* between two forbidden pages */
    size_t room;
    uint8_t *at;
    size_t bytes;
    int read_only;
} slot;

enum { START, END, OFF, SIDES };
static const char *const SIDE[] = {"flush at the start", "flush at the end", "one element off"};

static slot slots[MAX_ARGS];
static size_t page;
static const char *target;
static const case_head *now;
static int side_now;
static FILE *results;

static void stop(int code, const char *what, const char *which)
{
    fprintf(stderr, "checkops: %s%s\n", what, which);
    exit(code);
}

static void broken(const char *what, unsigned argument)
{
    fprintf(stderr, "checkops: %s %s on %s, %s: argument %u %s\n", now->op, now->kind, target, SIDE[side_now], argument,
            what);
    exit(1);
}

/* Says which op died where, and of which array the address is next. */
static void died(int signal, siginfo_t *info, void *context)
{
    char text[400];
    const char *const name = strsignal(signal);
    int n = snprintf(text, sizeof text, "checkops: %s %s on %s, %s: %s", now ? now->op : "?", now ? now->kind : "?",
                     target, SIDE[side_now], name ? name : "?");
    const uint8_t *at = info->si_addr;
    (void)context;
    for (unsigned i = 0; i < MAX_ARGS && (signal == SIGSEGV || signal == SIGBUS); i++) {
        const slot *s = slots + i;
        if (!s->body || at < s->body - page || at >= s->body + s->room + page) continue;
        const char *const how = at < s->at ? "before" : at < s->at + s->bytes ? "into" : "behind";
        n += snprintf(text + n, sizeof text - (size_t)n, ", %s argument %u (byte %td of %zu)", how, i, at - s->at, s->bytes);
        break;
    }
    text[n++] = '\n';
    if (write(2, text, (size_t)n) < 0) _exit(5);
    _exit(4);
}

static void catch_signals(void)
{
    static uint8_t stack[65536];
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    struct sigaction action = {.sa_sigaction = died, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&other, NULL);
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) sigaction(caught[i], &action, NULL);
}

static void protect(void *at, size_t bytes, int how)
{
    if (mprotect(at, bytes, how)) stop(2, "mprotect failed", "");
}

/* Room for `bytes` between two forbidden pages; what an earlier case left is used again. */
static void make_room(slot *s, size_t bytes)
{
    const size_t room = (bytes + 2 * page - 1) / page * page;
    if (s->body && s->room >= room) {
        if (s->read_only) protect(s->body, s->room, PROT_READ | PROT_WRITE);
        s->read_only = 0;
        return;
    }
    if (s->body) munmap(s->body - page, s->room + 2 * page);
    uint8_t *map = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) stop(2, "mmap failed", "");
    protect(map + page, room, PROT_READ | PROT_WRITE);
    *s = (slot){.body = map + page, .room = room};
}

/* The bytes beside an array, at most a page on either side. */
static uint8_t *slack_before(const slot *s) { return s->at - s->body > (ptrdiff_t)page ? s->at - page : s->body; }
static uint8_t *slack_after(const slot *s)
{
    uint8_t *const end = s->body + s->room, *const near = s->at + s->bytes + page;
    return near < end ? near : end;
}

static void *place(slot *s, const arg_head *a, const uint8_t *data)
{
    const size_t off = a->kind == 's' ? 16 : a->item; /* scratch is always aligned */
    make_room(s, a->bytes + off);
    s->bytes = a->bytes;
    s->at = side_now == END ? s->body + s->room - a->bytes : s->body + (side_now == OFF ? off : 0);
    memset(slack_before(s), PATTERN, (size_t)(s->at - slack_before(s)));
    memset(s->at + s->bytes, PATTERN, (size_t)(slack_after(s) - s->at) - s->bytes);
    if (data) memcpy(s->at, data, a->bytes);
    else memset(s->at, 0, a->bytes);
    if (a->kind == 'r') {
        protect(s->body, s->room, PROT_READ);
        s->read_only = 1;
    }
    return s->at;
}

static void check_slack(const slot *s, unsigned argument)
{
    for (const uint8_t *p = slack_before(s); p < s->at; p++)
        if (*p != PATTERN) broken("was written before its first byte", argument);
    for (const uint8_t *p = s->at + s->bytes; p < slack_after(s); p++)
        if (*p != PATTERN) broken("was written behind its last byte", argument);
}

static caller find_call(const char *op)
{
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (!strcmp(CALLS[i].name, op)) return CALLS[i].call;
    stop(2, "no such op: ", op);
    return NULL;
}

/* One run of a case, whose arguments start at `p`; returns where the next case is. */
static const uint8_t *run_once(const claw_ops *ops, caller call, const uint8_t *p, const uint8_t *end)
{
    value values[MAX_ARGS];
    char kinds[MAX_ARGS];
    for (unsigned i = 0; i < now->args; i++) {
        arg_head a;
        if ((size_t)(end - p) < sizeof a) stop(2, "the stream ends early", "");
        memcpy(&a, p, sizeof a);
        p += sizeof a;
        const int carries = a.kind == 'r' || a.kind == 'u';
        if (carries && a.bytes > (size_t)(end - p)) stop(2, "the stream ends early", "");
        kinds[i] = a.kind;
        values[i] = a.number;
        if (a.kind != 'i' && a.kind != 'f') values[i].p = place(slots + i, &a, carries ? p : NULL);
        if (carries) p += a.bytes;
    }
    call(ops, values);
    for (unsigned i = 0; i < now->args; i++) {
        if (kinds[i] == 'i' || kinds[i] == 'f') continue;
        if (kinds[i] != 'r') check_slack(slots + i, i);
        if (kinds[i] == 'u' || kinds[i] == 'w') fwrite(slots[i].at, 1, slots[i].bytes, results);
    }
    return p;
}

static uint8_t *read_all(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) stop(2, "cannot read ", path);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *all = malloc(*size);
    if (!all || fread(all, 1, *size, f) != *size) stop(2, "cannot read ", path);
    fclose(f);
    return all;
}

static void run_all(const claw_ops *ops, const uint8_t *p, size_t size)
{
    const uint8_t *const end = p + size;
    head h;
    if (size < sizeof h || memcmp(p, "CLAWOPS1", 8)) stop(2, "not a stream of cases", "");
    memcpy(&h, p, sizeof h);
    if (h.args > MAX_ARGS) stop(2, "too many arguments", "");
    p += sizeof h;
    for (uint32_t i = 0; i < h.cases; i++) {
        static case_head c;
        if ((size_t)(end - p) < sizeof c) stop(2, "the stream ends early", "");
        memcpy(&c, p, sizeof c);
        now = &c;
        caller call = find_call(c.op);
        const uint8_t *next = NULL;
        for (side_now = 0; side_now < SIDES; side_now++) next = run_once(ops, call, p + sizeof c, end);
        p = next;
    }
}

int main(int argc, char **argv)
{
    size_t size;
    if (argc != 4) stop(2, "usage: checkops TARGET CASES RESULTS", "");
    target = argv[1];
#ifdef CHECKOPS_TABLE
    const claw_ops *ops = strcmp(target, CHECKOPS_TABLE.isa) ? NULL : &CHECKOPS_TABLE;
#else
    const claw_ops *ops = claw_ops_named(target);
#endif
    if (!ops) stop(3, "this processor cannot run ", target);
    page = (size_t)sysconf(_SC_PAGESIZE);
    catch_signals();
    uint8_t *cases = read_all(argv[2], &size);
    results = fopen(argv[3], "wb");
    if (!results) stop(2, "cannot write ", argv[3]);
    run_all(ops, cases, size);
    free(cases);
    if (fclose(results)) stop(2, "cannot write ", argv[3]);
    return 0;
}
