/* A library whose mere loading is the effect: it says so to the outside. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

__attribute__((constructor)) static void loaded(void) {
    const char *post = getenv("CLAW_POST"), *name = getenv("CLAW_ATTEMPT");
    char line[128] = "n";
    if (!post || !name || strlen(name) > 100) return;
    strcat(line, name);
    size_t length = strlen(line) + 1;
    memcpy(line + length, "loaded", 6);
    send(atoi(post), line, length + 6, 0);
}
