/* What the attempts in C share. Each is `long try_NAME(const struct facts *)`: negative is an errno,
 * anything else is evidence for the judge in from_c.py. They are compiled into one shared object,
 * which the worker loads before the filter against new code; C99 with GNU names, x86-64. */
#ifndef ESCAPE_H
#define ESCAPE_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct facts {
    const char *name, *folder, *file, *victim, *tmp;
    int post, memfd, control, segment, terminal;
    int sibling, held, fast, key, restart_keys;
    unsigned long address;
};

/* Send a message, with a descriptor unless it is negative, and wait until the outside has looked. */
long tell(const struct facts *f, const char *text, int fd);
/* `folder/name`, in a buffer that the next call overwrites. */
const char *below(const struct facts *f, const char *name);
/* A system call that says -errno. */
#define CALL(...) sure(syscall(__VA_ARGS__))
long sure(long result);
/* Tell, with the descriptor that a call gave, or say why it gave none. */
long show(const struct facts *f, long fd);

#define ATTEMPT(name) long try_##name(const struct facts *f)
#define SIGNAL(n) (SIGRTMIN + (n))
#endif
