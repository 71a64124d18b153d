/* Memory that nobody counts, memory of others, and memory that becomes code. */
#include "escape.h"
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/uio.h>

ATTEMPT(memory_object) {
    int fd = (int)CALL(SYS_memfd_create, "claw", 0);
    if (fd >= 0 && ftruncate(fd, 1 << 20) < 0) return -errno;
    return show(f, fd);
}

ATTEMPT(secret_memory) { return show(f, CALL(447, 0)); }

ATTEMPT(write_control_page) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f->control, 0);
    if (page == MAP_FAILED) return -errno;
    memcpy(page, "taken", 5);
    return 0;
}

ATTEMPT(unprotect_control_page) {
    char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, f->control, 0);
    if (page == MAP_FAILED) return -errno;
    if (mprotect(page, 4096, PROT_READ | PROT_WRITE) < 0) return -errno;
    memcpy(page + 64, "taken", 5);
    return 0;
}

ATTEMPT(reopen_control_page) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", f->control);
    int fd = open(link, O_RDWR);
    if (fd < 0) return -errno;
    return sure(pwrite(fd, "taken", 5, 128));
}

ATTEMPT(shrink_segment) { return sure(ftruncate(f->segment, 0)); }

ATTEMPT(grow_segment) { return sure(fallocate(f->segment, 0, 0, 1 << 20)); }

ATTEMPT(punch_control_page) {
    return sure(fallocate(f->control, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
}

ATTEMPT(remove_control_page) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f->control, 0);
    if (page == MAP_FAILED) page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, f->control, 0);
    if (page == MAP_FAILED) return -errno;
    return sure(madvise(page, 4096, MADV_REMOVE));
}

static long bomb(const struct facts *f, char *area, size_t size, size_t step, int write) {
    volatile char *touched = area;
    if (area == MAP_FAILED) return -errno;
    for (size_t at = 0; at < size; at += step) {
        if (write) touched[at] = 1;
        else (void)touched[at];
    }
    long said = tell(f, "", -1);
    munmap(area, size);
    return said;
}

/* A shared map of /dev/zero is shared memory without a name, asked for by a descriptor. */
ATTEMPT(zero_device_bomb) {
    size_t size = 48ul << 20;
    int fd = open("/dev/zero", O_RDWR);
    if (fd < 0) return -errno;
    void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return bomb(f, area, size, 4096, 1);
}

/* What grows downwards counts as a stack, which the limit of private memory does not see. */
ATTEMPT(stack_memory_bomb) {
    size_t size = 112ul << 20;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE;
    return bomb(f, mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0), size, 4096, 1);
}

/* Reading what was never written costs no page, but the tables that lead there. */
ATTEMPT(page_table_bomb) {
    size_t size = 16ul << 30;
    char *area = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area != MAP_FAILED) madvise(area, size, MADV_NOHUGEPAGE);
    return bomb(f, area, size, 2ul << 20, 0);
}

ATTEMPT(system_v_memory) { return sure(shmget(f->key, 4096, IPC_CREAT | 0600)); }

ATTEMPT(system_v_semaphore) { return sure(semget(f->key, 1, IPC_CREAT | 0600)); }

ATTEMPT(system_v_queue) { return sure(msgget(f->key, IPC_CREAT | 0600)); }

ATTEMPT(message_queue) {
    char name[32];
    struct mq_attr small = {.mq_maxmsg = 1, .mq_msgsize = 8};
    snprintf(name, sizeof name, "/claw-%d", f->key);
    long fd = sure(mq_open(name, O_CREAT | O_RDWR, 0600, &small));
    if (fd >= 0) mq_unlink(name);
    return show(f, fd);
}

ATTEMPT(read_sibling) {
    char text[17] = {0};
    struct iovec here = {text, 16}, there = {(void *)f->address, 16};
    long got = sure(process_vm_readv(f->sibling, &here, 1, &there, 1, 0));
    return got < 0 ? got : tell(f, text, -1);
}

ATTEMPT(write_sibling) {
    char text[17] = "overwritten here";
    struct iovec here = {text, 16}, there = {(void *)f->address, 16};
    return sure(process_vm_writev(f->sibling, &here, 1, &there, 1, 0));
}

ATTEMPT(trace_sibling) {
    long seized = sure(ptrace(PTRACE_SEIZE, f->sibling, NULL, NULL));
    return seized < 0 ? seized : tell(f, "", -1);
}

ATTEMPT(take_descriptor) {
    long sibling = CALL(434, f->sibling, 0);
    if (sibling < 0) return sibling;
    return show(f, CALL(438, (int)sibling, f->held, 0));
}

ATTEMPT(compare_sibling) {
    /* KCMP_FILE: whether the same number is the same open file. The leaked one here is not. */
    return CALL(SYS_kcmp, f->sibling, f->sibling, 0, f->held, f->held) == 0 ? 1 : -errno;
}

ATTEMPT(pages_of_sibling) {
    void *page = (void *)(f->address & ~4095ul);
    int status = -1;
    long result = CALL(SYS_move_pages, f->sibling, 1ul, &page, NULL, &status, 0);
    return result < 0 ? result : status;
}

ATTEMPT(advise_sibling) {
    struct iovec page = {(void *)(f->address & ~4095ul), 4096};
    long sibling = CALL(434, f->sibling, 0);
    if (sibling < 0) return sibling;
    return CALL(440, (int)sibling, &page, 1ul, 20 /* MADV_COLD */, 0);
}

ATTEMPT(fault_handler) {
    return show(f, CALL(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
}

ATTEMPT(lock_memory) {
    struct rlimit all;
    getrlimit(RLIMIT_MEMLOCK, &all);
    all.rlim_cur = all.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &all);
    void *page = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || mlock(page, 1 << 16) < 0) return -errno;
    long said = tell(f, "", -1);
    munmap(page, 1 << 16);
    return said;
}

ATTEMPT(widen_pipe) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
    long size = sure(fcntl(ends[0], F_SETPIPE_SZ, 1 << 20));
    long said = size < 0 ? size : tell(f, "", ends[0]);
    close(ends[0]);
    close(ends[1]);
    return said;
}

/* New code: mov eax, 0x1234; ret. Only what runs it can say so. */
static const unsigned char CODE[] = {0xB8, 0x34, 0x12, 0, 0, 0xC3};

static long run(const struct facts *f, void *area) {
    int (*function)(void);
    memcpy(&function, &area, sizeof function);
    return function() == 0x1234 ? tell(f, "ran", -1) : -EINVAL;
}

static char *writable(void) {
    char *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area != MAP_FAILED) memcpy(area, CODE, sizeof CODE);
    return area;
}

ATTEMPT(map_code) {
    char *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) return -errno;
    memcpy(area, CODE, sizeof CODE);
    return run(f, area);
}

ATTEMPT(protect_code) {
    char *area = writable();
    if (area == MAP_FAILED || mprotect(area, 4096, PROT_READ | PROT_EXEC) < 0) return -errno;
    return run(f, area);
}

ATTEMPT(protect_code_by_key) {
    char *area = writable();
    if (area == MAP_FAILED) return -errno;
    long done = CALL(SYS_pkey_mprotect, area, 4096ul, PROT_READ | PROT_EXEC, -1);
    return done < 0 ? done : run(f, area);
}

ATTEMPT(map_code_from_tmp) {
    char path[256];
    snprintf(path, sizeof path, "%s/code-%d", f->tmp, f->key);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    if (fd < 0) return -errno;
    unlink(path);
    if (write(fd, CODE, sizeof CODE) < 0 || ftruncate(fd, 4096) < 0) return -errno;
    void *area = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    long failed = -errno;
    close(fd);
    return area == MAP_FAILED ? failed : run(f, area);
}

ATTEMPT(map_code_from_segment) {
    if (pwrite(f->segment, CODE, sizeof CODE, 0) < 0) return -errno;
    void *area = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, f->segment, 0);
    return area == MAP_FAILED ? -errno : run(f, area);
}

ATTEMPT(code_by_personality) {
    if (CALL(SYS_personality, 0x0400000 /* READ_IMPLIES_EXEC */) < 0) return -errno;
    char *area = writable();
    return area == MAP_FAILED ? -errno : run(f, area);
}

/* A page of this file's own code, written through /proc: no new mapping is asked for. */
__attribute__((noinline, aligned(4096))) static int own_code(void) { return 1; }

ATTEMPT(write_own_code) {
    int (*volatile function)(void) = own_code;
    void *area;
    memcpy(&area, (void *)&function, sizeof area);
    int fd = open("/proc/self/mem", O_RDWR);
    if (fd < 0) return -errno;
    long written = sure(pwrite(fd, CODE, sizeof CODE, (off_t)(uintptr_t)area));
    close(fd);
    return written < 0 ? written : run(f, area);
}

ATTEMPT(map_shared_memory_code) {
    int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0700);
    if (id < 0) return -errno;
    char *area = shmat(id, NULL, SHM_EXEC);
    long failed = -errno;
    shmctl(id, IPC_RMID, NULL);
    if ((void *)area == (void *)-1) return failed;
    memcpy(area, CODE, sizeof CODE);
    return run(f, area);
}
