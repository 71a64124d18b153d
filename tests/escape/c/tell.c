/* How an attempt in C speaks to the outside; the form is registry.tell's. */
#include "escape.h"

long sure(long result) { return result < 0 ? -errno : result; }

long tell(const struct facts *f, const char *text, int fd) {
    char line[256], room[CMSG_SPACE(sizeof fd)] = {0}, answer;
    int length = snprintf(line, sizeof line, "w%s%c%s", f->name, 0, text);
    struct iovec part = {line, (size_t)length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = room;
        message.msg_controllen = sizeof room;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    if (sendmsg(f->post, &message, 0) < 0) return -errno;
    return recv(f->post, &answer, 1, 0) < 0 ? -errno : 0;
}

const char *below(const struct facts *f, const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return path;
}

long show(const struct facts *f, long fd) {
    if (fd < 0) return fd;
    long said = tell(f, "", (int)fd);
    close((int)fd);
    return said;
}
