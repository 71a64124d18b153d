/* Last words: says on standard error why the process dies while a plugin's code runs. */
#ifndef CLAW_NATIVE_GUARD_H
#define CLAW_NATIVE_GUARD_H

/* Code of the plugin begins (and what it is for people), or ends, on this thread. */
void guard_enter(const char *what);
void guard_leave(void);

#endif
