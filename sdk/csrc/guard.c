/* Last words of a worker that runs a stranger's C: the cause, in a line that the steward reads.
 *
 * A handler on a stack of its own (a stack overflow leaves no other) looks at what the kernel says
 * of the fault, writes one line and ends the process with the status that the signal would have
 * given. Only what can be known is said: the address, what was tried there, and how near it is to
 * the stack. Everything in the handlers is safe in a signal handler. Process 1 of a namespace, which
 * a worker is, ignores what it sends itself, so a signal is never raised again: the status says it.
 */
#define _GNU_SOURCE
#include "guard.h"
#include "host.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <ucontext.h>
#include <unistd.h>

#define FORKS 64 /* calls of fork() after which a loop of them is ended */
#define NEAR 65536u
#define ALTERNATE 65536

static _Thread_local unsigned char alternate[ALTERNATE];
static _Thread_local int armed;
static _Thread_local const char *running;
static int guarding;
static unsigned forks;

typedef struct line {
    char text[512];
    size_t size;
} line;

static void add(line *to, const char *text) {
    while (*text && to->size < sizeof to->text - 1) {
        to->text[to->size++] = *text++;
    }
}

static void add_number(line *to, uint64_t value, unsigned base) {
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = 0;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    add(to, digits + at);
}

static void add_address(line *to, uintptr_t address) {
    add(to, "0x");
    add_number(to, address, 16);
}

/* The marker that the steward looks for; with `-after` it adds the line that was printed before. */
static void begin_line(line *to, int after) {
    to->size = 0;
    add(to, after ? "\nclaw-fault-after: " : "\nclaw-fault: ");
}

static void send_line(line *to, const char *where) {
    if (where) {
        add(to, ", in ");
        add(to, where);
    }
    to->text[to->size++] = '\n';
    if (write(STDERR_FILENO, to->text, to->size) < 0) {
        return; /* nobody reads it */
    }
}

#if defined(__x86_64__)
static uintptr_t stack_pointer(const ucontext_t *context) {
    return (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
}
static const char *tried(const ucontext_t *context) {
    long long bits = context->uc_mcontext.gregs[REG_ERR];
    return bits & 16 ? "a call of code" : bits & 2 ? "a write" : "a read";
}
#elif defined(__aarch64__)
static uintptr_t stack_pointer(const ucontext_t *context) {
    return (uintptr_t)context->uc_mcontext.sp;
}
static const char *tried(const ucontext_t *context) {
    (void)context;
    return "an access";
}
#else
static uintptr_t stack_pointer(const ucontext_t *context) {
    (void)context;
    return 0;
}
static const char *tried(const ucontext_t *context) {
    (void)context;
    return "an access";
}
#endif

static void describe_access(line *to, const siginfo_t *info, const ucontext_t *context) {
    uintptr_t at = (uintptr_t)info->si_addr, stack = stack_pointer(context);
    if (info->si_code == SI_KERNEL) {
        add(to, "an access through a pointer that cannot be one (not a canonical address)");
    } else if (stack && at + NEAR >= stack && at < stack + 4096) {
        add(to, "stack overflow suspected: ");
        add(to, tried(context));
        add(to, " at ");
        add_address(to, at);
        add(to, ", ");
        add_number(to, at < stack ? stack - at : at - stack, 10);
        add(to, " bytes from the stack pointer; recursion without end, or large local arrays");
    } else {
        add(to, tried(context));
        add(to, " at ");
        add_address(to, at);
        add(to, at < 4096                           ? ": a NULL pointer"
                : info->si_code == SEGV_ACCERR ? ": memory that does not permit that"
                                               : ": no memory is there");
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    line last;
    begin_line(&last, number == SIGABRT);
    if (number == SIGSEGV) {
        describe_access(&last, info, context);
    } else if (number == SIGBUS) {
        add(&last, "an access to mapped memory that is not there, or not aligned");
    } else if (number == SIGFPE) {
        add(&last, "a division by zero, or one whose result does not fit");
    } else if (number == SIGILL) {
        add(&last, "an instruction that this processor does not have, or a trap of the compiler; "
                   "was it built with -march=native elsewhere?");
    } else {
        add(&last, "abort() was called");
    }
    send_line(&last, running);
    _exit(128 + number);
}

static void on_exit_called(void) {
    line last;
    begin_line(&last, 0);
    add(&last, "exit() was called");
    send_line(&last, running);
}

static void on_fork(void) {
    line last;
    unsigned count = __atomic_add_fetch(&forks, 1, __ATOMIC_RELAXED);
    if (count != 1 && count < FORKS) {
        return;
    }
    if (count < FORKS) { /* for the log: this one is no reason to die */
        last.size = 0;
        add(&last, "fork() was called");
    } else {
        begin_line(&last, 0);
        add(&last, "fork() was called ");
        add_number(&last, count, 10);
        add(&last, " times");
    }
    add(&last, "; a plugin may not start processes, and each call has failed");
    send_line(&last, running);
    if (count >= FORKS) {
        _exit(1);
    }
}

static void arm(void) {
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    armed = sigaltstack(&stack, NULL) == 0;
}

void guard_enter(const char *what) {
    running = what;
    if (guarding && !armed) {
        arm();
    }
}

void guard_leave(void) {
    running = NULL;
}

void native_guard(void) {
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (guarding) {
        return;
    }
    guarding = 1;
    sigfillset(&action.sa_mask);
    for (size_t each = 0; each < sizeof numbers / sizeof numbers[0]; each++) {
        sigaction(numbers[each], &action, NULL);
    }
    atexit(on_exit_called);
    pthread_atfork(on_fork, NULL, NULL);
}
