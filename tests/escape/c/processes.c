/* Children by every call that makes one, programs by descriptor, signals by every call that sends. */
#include "escape.h"
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static long child(const struct facts *f, long pid) {
    if (pid == 0) {
        tell(f, "child", -1);
        _exit(0);
    }
    if (pid > 0) waitpid((pid_t)pid, NULL, 0);
    return pid;
}

ATTEMPT(fork_by_call) { return child(f, CALL(SYS_fork)); }

/* The C library's own, in assembly: the child shares our stack until it ends. */
ATTEMPT(vfork_process) {
    long pid = vfork();
    if (pid == 0) {
        tell(f, "child", -1);
        _exit(0);
    }
    return pid < 0 ? -errno : pid;
}

ATTEMPT(clone_process) { return child(f, CALL(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }

ATTEMPT(clone_wide_flags) {
    return child(f, CALL(SYS_clone, 0x700000000ul | SIGCHLD, 0, 0, 0, 0));
}

ATTEMPT(clone3_process) {
    uint64_t request[11] = {[4] = SIGCHLD};
    return child(f, CALL(435, request, sizeof request));
}

ATTEMPT(clone_in_namespace) {
    return child(f, CALL(SYS_clone, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
}

static int speak(void *facts) {
    tell(facts, "child", -1);
    return 0;
}

ATTEMPT(clone_sharing_memory) {
    static char stack[65536] __attribute__((aligned(16)));
    int pid = clone(speak, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, (void *)f);
    if (pid < 0) return -errno;
    waitpid(pid, NULL, 0);
    return pid;
}

static const char *const PROGRAM = "/usr/bin/touch";

ATTEMPT(run_descriptor) {
    char *words[] = {"touch", (char *)below(f, "by-descriptor"), NULL}, *none[] = {NULL};
    int fd = open(PROGRAM, O_PATH | O_CLOEXEC);
    if (fd < 0) return -errno;
    return CALL(SYS_execveat, fd, "", words, none, AT_EMPTY_PATH);
}

ATTEMPT(run_memory_object) {
    char *words[] = {"touch", (char *)below(f, "from-memory"), NULL}, *none[] = {NULL};
    char buffer[65536];
    ssize_t got;
    int from = open(PROGRAM, O_RDONLY), fd = (int)CALL(SYS_memfd_create, "program", 1);
    if (fd < 0) return fd;
    if (from < 0) return -ENOENT;
    while ((got = read(from, buffer, sizeof buffer)) > 0)
        if (write(fd, buffer, (size_t)got) != got) return -errno;
    return CALL(SYS_execveat, fd, "", words, none, AT_EMPTY_PATH);
}

ATTEMPT(run_loader) {
    char *words[] = {"ld.so", (char *)PROGRAM, (char *)below(f, "by-loader"), NULL};
    char *none[] = {NULL};
    return CALL(SYS_execve, "/lib64/ld-linux-x86-64.so.2", words, none);
}

ATTEMPT(kill_wide) { return CALL(SYS_kill, 0x100000000ul | (unsigned)f->sibling, SIGNAL(3)); }

ATTEMPT(kill_thread) { return CALL(SYS_tkill, f->sibling, SIGNAL(4)); }

ATTEMPT(kill_thread_of_group) { return CALL(SYS_tgkill, f->sibling, f->sibling, SIGNAL(5)); }

static void fill(siginfo_t *info, int number) {
    memset(info, 0, sizeof *info);
    info->si_signo = number;
    info->si_code = SI_QUEUE;
}

ATTEMPT(queue_signal) {
    siginfo_t info;
    fill(&info, SIGNAL(6));
    return CALL(SYS_rt_sigqueueinfo, f->sibling, SIGNAL(6), &info);
}

ATTEMPT(queue_signal_to_thread) {
    siginfo_t info;
    fill(&info, SIGNAL(7));
    return CALL(SYS_rt_tgsigqueueinfo, f->sibling, f->sibling, SIGNAL(7), &info);
}

ATTEMPT(signal_by_descriptor) {
    long fd = CALL(434, f->sibling, 0);
    if (fd < 0) {
        char path[32];
        snprintf(path, sizeof path, "/proc/%d", f->sibling);
        fd = sure(open(path, O_RDONLY | O_DIRECTORY));
    }
    return fd < 0 ? fd : CALL(424, (int)fd, SIGNAL(8), NULL, 0);
}

ATTEMPT(own_sibling_by_record) {
    int pair[2], on = 1;
    struct f_owner_ex owner = {F_OWNER_PID, f->sibling};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return -errno;
    fcntl(pair[0], F_SETSIG, SIGNAL(9));
    long result = sure(fcntl(pair[0], F_SETOWN_EX, &owner));
    if (result == 0 && ioctl(pair[0], 0x5452 /* FIOASYNC */, &on) < 0) result = -errno;
    if (result == 0) result = sure(send(pair[1], "wake", 4, 0));
    close(pair[0]);
    close(pair[1]);
    return result;
}

ATTEMPT(hold_process) { return show(f, CALL(434, f->sibling, 0)); }

ATTEMPT(hold_peer) {
    int fd = -1;
    socklen_t size = sizeof fd;
    if (getsockopt(f->post, SOL_SOCKET, 77 /* SO_PEERPIDFD */, &fd, &size) < 0) return -errno;
    return show(f, fd);
}

ATTEMPT(pin_sibling) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    return sure(sched_setaffinity(f->sibling, sizeof one, &one));
}

ATTEMPT(starve_disk_of_sibling) {
    return CALL(SYS_ioprio_set, 1, f->sibling, 3 << 13 /* idle */);
}

ATTEMPT(schedule_by_attributes) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t times[3];
    } attributes = {.size = 48, .policy = 3 /* SCHED_BATCH */, .nice = 3};
    long done = CALL(SYS_sched_setattr, 0, &attributes, 0);
    return done < 0 ? done : tell(f, "", -1);
}

ATTEMPT(real_time_class) {
    struct sched_param priority = {.sched_priority = 1};
    long done = CALL(SYS_sched_setscheduler, 0, SCHED_RR, &priority);
    return done < 0 ? done : tell(f, "", -1);
}

ATTEMPT(leave_group) {
    if (CALL(SYS_setpgid, 0, 0) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(adopt_orphans) { return sure(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)); }

ATTEMPT(disarm_death_signal) { return sure(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)); }

ATTEMPT(enter_namespace) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/uts", f->sibling);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -errno;
    if (setns(fd, CLONE_NEWUTS) < 0) return -errno;
    return show(f, fd);
}

ATTEMPT(new_user_namespace) {
    if (unshare(CLONE_NEWUSER) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(new_network_namespace) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) return -errno;
    return tell(f, "", -1);
}

/* TIOCSTI: type for the owner. Some kernels want the terminal to be one's own. */
static long push(const struct facts *f, unsigned long request) {
    long done = CALL(SYS_ioctl, f->terminal, request, "x");
    if (done < 0 && setsid() >= 0 && ioctl(f->terminal, 0x540E, 1) == 0)
        done = CALL(SYS_ioctl, f->terminal, request, "x");
    return done < 0 ? done : CALL(SYS_ioctl, f->terminal, request, "\n");
}

ATTEMPT(push_input) { return push(f, 0x5412); }

ATTEMPT(push_input_wide) { return push(f, 0x100005412ul); }

ATTEMPT(take_terminal) {
    if (setsid() < 0) {
        pid_t pid = fork();
        if (pid < 0) return -errno;
        if (pid > 0) _exit(0);
        setsid();
    }
    if (ioctl(f->terminal, 0x540E /* TIOCSCTTY */, 0) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(resize_terminal) {
    unsigned short size[4] = {7, 77, 0, 0};
    return sure(ioctl(f->terminal, 0x5414 /* TIOCSWINSZ */, size));
}
