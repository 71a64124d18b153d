/* More rights, and the doors of the kernel that most programs never use. */
#include "escape.h"
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <time.h>

ATTEMPT(set_uid) {
    if (CALL(SYS_setresuid, 4242, 4242, 4242) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(set_groups) {
    unsigned group = 4242;
    if (CALL(SYS_setgroups, 1, &group) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(pass_on_capability) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2];
    if (CALL(SYS_capget, &head, sets) < 0) return -errno;
    sets[0].inheritable |= 1u << CAP_KILL;
    if (CALL(SYS_capset, &head, sets) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(add_key) { return CALL(SYS_add_key, "user", "claw-key", f->file, 6ul, -2 /* process */); }

ATTEMPT(join_keyring) { return CALL(SYS_keyctl, 1, "claw-session", 0, 0, 0); }

ATTEMPT(bpf_map) {
    union bpf_attr map = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
    return show(f, CALL(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
}

ATTEMPT(perf_event) {
    struct perf_event_attr event = {
        .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_TASK_CLOCK};
    event.exclude_kernel = event.exclude_hv = 1;
    return show(f, CALL(SYS_perf_event_open, &event, 0, -1, -1, 0ul));
}

static long filter(unsigned flags) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

ATTEMPT(filter_listener) { return show(f, filter(SECCOMP_FILTER_FLAG_NEW_LISTENER)); }

/* As a process may today, and wide: the flags of seccomp are an unsigned int. */
ATTEMPT(filter_listener_wide) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return show(f, CALL(SYS_seccomp, 0x100000001ul,
                        0x100000000ul | SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

ATTEMPT(further_filter) {
    long done = filter(SECCOMP_FILTER_FLAG_TSYNC);
    return done < 0 ? done : tell(f, "", -1);
}

ATTEMPT(filter_by_prctl) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0) return -errno;
    return tell(f, "", -1);
}

ATTEMPT(ruleset) {
    struct landlock_ruleset_attr files = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};
    return show(f, CALL(SYS_landlock_create_ruleset, &files, sizeof files, 0));
}

/* kill(2) of the 32-bit table, whose number 37 is alarm(2) of ours. */
ATTEMPT(int_0x80) {
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(37l), "b"((long)f->sibling), "c"((long)SIGNAL(10))
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

ATTEMPT(x32_call) { return CALL(0x40000000 + SYS_kill, f->sibling, SIGNAL(11)); }

ATTEMPT(local_descriptor_table) {
    struct {
        unsigned number, base, limit, flags;
    } entry = {0, 0, 0xFFFFF, 0x51 /* 32 bit, limit in pages, usable */};
    char table[64] = {0};
    long done = CALL(SYS_modify_ldt, 1, &entry, sizeof entry);
    if (done < 0) return done;
    return CALL(SYS_modify_ldt, 0, table, sizeof table);
}

ATTEMPT(host_name) { return CALL(SYS_sethostname, f->name, strlen(f->name)); }

ATTEMPT(domain_name) { return CALL(SYS_setdomainname, f->name, strlen(f->name)); }

/* To what it says anyway: the kernel tells those who wait for a change all the same. */
ATTEMPT(set_clock) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return CALL(SYS_clock_settime, CLOCK_REALTIME, &now);
}

ATTEMPT(set_time_of_day) {
    struct timeval now;
    gettimeofday(&now, NULL);
    return CALL(SYS_settimeofday, &now, NULL);
}

/* What Ctrl-Alt-Del does, the other way round; LINUX_REBOOT_CMD_CAD_ON and _OFF. */
ATTEMPT(restart_keys) {
    return CALL(SYS_reboot, 0xfee1dead, 672274793, f->restart_keys ? 0u : 0x89ABCDEFu, NULL);
}

ATTEMPT(swap_on) {
    char page[4096] = {0};
    unsigned head[3] = {1 /* version */, 15 /* last page */, 0};
    int fd = open(below(f, "swap"), O_CREAT | O_RDWR, 0600);
    if (fd < 0) return -errno;
    memcpy(page + 1024, head, sizeof head);
    memcpy(page + 4086, "SWAPSPACE2", 10);
    if (write(fd, page, sizeof page) < 0) return -errno;
    for (int more = 1; more < 16; more++) {
        memset(page, 0, sizeof page);
        if (write(fd, page, sizeof page) < 0) return -errno;
    }
    fsync(fd);
    close(fd);
    return sure(swapon(below(f, "swap"), 0));
}

ATTEMPT(accounting) { return CALL(SYS_acct, f->victim); }

ATTEMPT(kernel_log) {
    static char text[1 << 18];
    long got = CALL(SYS_syslog, 3, text, (int)sizeof text - 1);
    if (got < 0) return got;
    char *found = NULL, *next = text;
    while ((next = strstr(next, f->name))) found = next++; /* the last one is this run's */
    if (!found) return -ENODATA;
    found += strlen(f->name) + 1;
    found[16] = 0;
    return tell(f, found, -1);
}

ATTEMPT(old_asynchronous_io) {
    aio_context_t context = 0;
    long done = CALL(SYS_io_setup, 64, &context);
    if (done < 0) return done;
    done = tell(f, "", -1);
    syscall(SYS_io_destroy, context);
    return done;
}

/* Open and read the secret without a call of open: what io_uring is known for. */
ATTEMPT(io_uring_read) {
    struct io_uring_params setup = {0};
    char text[17] = {0};
    int ring = (int)CALL(SYS_io_uring_setup, 4, &setup);
    if (ring < 0) return ring;
    size_t size = setup.cq_off.cqes + setup.cq_entries * sizeof(struct io_uring_cqe);
    char *rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, 4 * sizeof *entries, PROT_READ | PROT_WRITE,
                                        MAP_SHARED, ring, IORING_OFF_SQES);
    if (rings == MAP_FAILED || (void *)entries == MAP_FAILED) return -errno;
    unsigned *tail = (unsigned *)(rings + setup.sq_off.tail);
    unsigned *order = (unsigned *)(rings + setup.sq_off.array);
    struct io_uring_cqe *done = (struct io_uring_cqe *)(rings + setup.cq_off.cqes);
    long result = 0;
    for (unsigned step = 0; step < 2 && result >= 0; step++) {
        struct io_uring_sqe open_it = {
            .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)f->file};
        struct io_uring_sqe read_it = {
            .opcode = IORING_OP_READ, .fd = (int)result, .addr = (uintptr_t)text, .len = 16};
        entries[step] = step ? read_it : open_it;
        order[step] = step;
        __atomic_store_n(tail, step + 1, __ATOMIC_RELEASE);
        if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0ul) < 0)
            return -errno;
        result = done[step].res;
    }
    close(ring);
    return result < 0 ? result : tell(f, text, -1);
}

/* A connection without a call of connect. */
ATTEMPT(fast_open) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)f->fast),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return -errno;
    long sent = sure(sendto(fd, "out", 3, MSG_FASTOPEN, (struct sockaddr *)&to, sizeof to));
    close(fd);
    return sent;
}

/* A program on our own socket that drops what the other side says. */
ATTEMPT(filter_on_socket) {
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {1, &drop};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) return -errno;
    long done = sure(setsockopt(pair[0], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    if (done == 0) done = tell(f, "", pair[0]);
    close(pair[0]);
    close(pair[1]);
    return done;
}
