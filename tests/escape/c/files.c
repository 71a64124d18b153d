/* Files by the ways that the standard library of Python does not have. */
#include "escape.h"
#include <linux/fs.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

static long tell_content(const struct facts *f, long fd) {
    char text[17] = {0};
    if (fd < 0) return fd;
    long got = sure(pread((int)fd, text, 16, 0));
    close((int)fd);
    return got < 0 ? got : tell(f, text, -1);
}

ATTEMPT(open_by_handle) {
    struct {
        struct file_handle head;
        char room[128];
    } handle = {.head.handle_bytes = 128};
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, f->file, &handle.head, &mount_id, 0) < 0) return -errno;
    int folder = open(f->folder, O_RDONLY | O_DIRECTORY);
    if (folder < 0) return -errno;
    long fd = sure(open_by_handle_at(folder, &handle.head, O_RDONLY));
    close(folder);
    return tell_content(f, fd);
}

ATTEMPT(reopen_path_descriptor) {
    char link[64];
    int path = open(f->victim, O_PATH);
    if (path < 0) return -errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", path);
    int fd = open(link, O_WRONLY | O_APPEND);
    long result = fd < 0 ? -errno : sure(write(fd, "more", 4));
    close(path);
    return result;
}

ATTEMPT(openat2_read) {
    uint64_t how[3] = {O_RDONLY, 0, 0};
    return tell_content(f, CALL(437, AT_FDCWD, f->file, how, sizeof how));
}

/* The flags are an int: what lies above must not hide them from a filter. */
ATTEMPT(open_wide_flags) {
    return tell_content(f, CALL(SYS_openat, AT_FDCWD, f->file, 0xFFFFFFFF00000000ul | O_RDONLY));
}

ATTEMPT(create_over) { return CALL(SYS_creat, f->victim, 0600); }

ATTEMPT(make_device) {
    return sure(mknod(below(f, "device"), S_IFCHR | 0600, makedev(1, 5)));
}

ATTEMPT(change_owner) { return sure(fchownat(AT_FDCWD, f->victim, 1, 1, 0)); }

ATTEMPT(exchange_files) {
    char other[512];
    snprintf(other, sizeof other, "%s/secret-of-%s", f->folder, f->name);
    int fd = open(other, O_CREAT | O_WRONLY, 0600);
    if (fd < 0) return -errno;
    close(fd);
    return CALL(SYS_renameat2, AT_FDCWD, other, AT_FDCWD, f->victim, 2);
}

ATTEMPT(set_file_flags) {
    int flags = 0x40; /* FS_NODUMP_FL, which an owner may set */
    int fd = open(f->victim, O_RDONLY);
    if (fd < 0) return -errno;
    long result = sure(ioctl(fd, FS_IOC_SETFLAGS, &flags));
    close(fd);
    return result;
}

ATTEMPT(lock_file) {
    int fd = open(f->victim, O_RDONLY);
    if (fd < 0) return -errno;
    long result = sure(flock(fd, LOCK_EX));
    if (result == 0) result = tell(f, "", -1);
    close(fd);
    return result;
}

ATTEMPT(watch_folder) {
    int fd = inotify_init1(IN_NONBLOCK);
    if (fd < 0) return -errno;
    if (inotify_add_watch(fd, f->folder, IN_CREATE) < 0) return -errno;
    return show(f, fd);
}

ATTEMPT(watch_file_system) {
    int fd = fanotify_init(FAN_CLASS_NOTIF | 0x200 /* FAN_REPORT_FID */, O_RDONLY);
    if (fd < 0) return -errno;
    if (fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, f->folder) < 0) return -errno;
    return show(f, fd);
}

ATTEMPT(mount_over) { return sure(mount("none", below(f, "mount"), "tmpfs", 0, NULL)); }

ATTEMPT(new_file_system) { return show(f, CALL(430, "tmpfs", 0)); }

ATTEMPT(tree_of_mounts) { return show(f, CALL(428, AT_FDCWD, f->folder, O_CLOEXEC)); }

ATTEMPT(change_root) {
    if (chroot(f->folder) < 0) {
        if (unshare(CLONE_NEWUSER) < 0) return -errno;
        if (chroot(f->folder) < 0) return -errno;
    }
    return tell(f, "", -1);
}

ATTEMPT(pivot_root) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return -errno;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return -errno;
    if (mount("none", "/tmp", "tmpfs", 0, NULL) < 0) return -errno;
    if (chdir("/tmp") < 0) return -errno;
    if (syscall(SYS_pivot_root, ".", ".") < 0) return -errno;
    return tell(f, "", -1);
}
