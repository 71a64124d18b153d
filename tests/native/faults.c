/* Everything that a plugin in C should not do, each when it is asked to. */
#define _GNU_SOURCE
#include <clawai.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const claw_param params[] = {CLAW_STR_OR("how", "", "what to do")};

static volatile int64_t zero;
static const char constant[4096] = "constant";

static int64_t recurse(int64_t depth) {
    volatile char block[256];
    block[depth & 255] = (char)depth;
    return depth < zero ? 0 : recurse(depth + 1) + block[depth & 127];
}

static void large_frame(void) {
    volatile char block[64 << 20];
    block[0] = 1;
    zero = block[0] - 1;
}

static claw_status fault(claw_task *task, void *state) {
    const char *how = claw_param_str(task, "how", "");
    char *volatile memory = NULL;
    (void)state;
    claw_progress(task, -1, how);
    if (!strcmp(how, "loop"))
        while (!zero)
            ;
    if (!strcmp(how, "stack"))
        claw_put_i64(task, "x", recurse(0));
    if (!strcmp(how, "frame"))
        large_frame();
    if (!strcmp(how, "wild"))
        *(volatile char *)(uintptr_t)0x123456789000 = 1;
    if (!strcmp(how, "impossible"))
        *(volatile char *)(uintptr_t)0x4141414141414141 = 1;
    if (!strcmp(how, "null"))
        zero = memory[16];
    if (!strcmp(how, "constant"))
        *(volatile char *)(uintptr_t)constant = 1;
    if (!strcmp(how, "call"))
        ((void (*)(void))(uintptr_t)&zero)();
    if (!strcmp(how, "forks"))
        for (;;)
            if (fork() == 0)
                _exit(0);
    if (!strcmp(how, "fork"))
        claw_put_i64(task, "pid", fork());
    if (!strcmp(how, "abort"))
        abort();
    if (!strcmp(how, "exit"))
        exit(3);
    if (!strcmp(how, "_exit"))
        _exit(4);
    if (!strcmp(how, "free")) {
        memory = malloc(64);
        free(memory);
        free(memory);
    }
    if (!strcmp(how, "divide"))
        claw_put_i64(task, "x", 1000 / zero);
    if (!strcmp(how, "illegal"))
        __builtin_trap();
    if (!strcmp(how, "text"))
        claw_put_text(task, "x", (const char *)8, 100);
    if (!strcmp(how, "code"))
        claw_put_bool(task, "executable",
                      mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    claw_put_str(task, "how", how);
    return CLAW_OK;
}

#ifdef AT_LOAD
__attribute__((constructor)) static void at_load(void) {
    abort();
}
#endif

static const claw_operation op = CLAW_OPERATION("faults.do", "Do what one should not", params, fault);
CLAW_PLUGIN(&op)
