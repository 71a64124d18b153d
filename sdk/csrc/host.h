/* The C half of the host of C and C++ plugins: loads one shared object and runs its operations.
 *
 * Knows nothing of Python or of the wire: whoever uses it (sdk/native.py, or the driver of the
 * sanitizer test) fills in a native_call and gets msgpack and frames back. Everything that comes
 * from the shared object is copied by its own struct_size and checked before use.
 */
#ifndef CLAW_NATIVE_HOST_H
#define CLAW_NATIVE_HOST_H

#include <clawai.h>

/* BEGIN CDEF */
typedef struct native_error {
    char code[64];
    char message[4096];
} native_error;

typedef struct native_library native_library;

/* One parameter as the caller gave it; `given` is 0 where it was left out and has no default. */
typedef struct native_value {
    uint32_t given;
    int64_t i64;
    double f64;
    const void *data;
    uint64_t size;
    const claw_tensor *tensor;
} native_value;

/* One setting of the plugin. */
typedef struct native_setting {
    const char *name;
    uint32_t type;
    int64_t i64;
    double f64;
    const char *text;
} native_setting;

/* A tensor of the request, and where it lies. `lease` is -1 for a frame; `room`: bytes there. */
typedef struct native_tensor {
    claw_tensor view;
    int32_t lease;
    uint64_t room;
} native_tensor;

typedef struct native_frame {
    uint8_t *data;
    uint64_t size;
} native_frame;

/* One open map or list of the result. */
typedef struct native_level {
    uint64_t at; /* of its header */
    uint32_t count;
    uint32_t list;
} native_level;

#define NATIVE_LEVELS 16
#define NATIVE_FRAMES 63

/* A call: the first part is the caller's, the second what came of it. */
typedef struct native_call {
    claw_task task;
    const native_library *library;
    uint32_t operation;
    const native_value *values;
    const native_tensor *tensors;
    uint32_t tensor_count;
    const native_setting *settings;
    uint32_t setting_count;
    const uint32_t *control; /* the control word; the kernel changes it at any time */
    int32_t may_yield;
    uint32_t most_threads;
    int64_t deadline_ns; /* on CLOCK_MONOTONIC; -1: none */
    uint64_t most_result; /* bytes of a result or chunk */
    uint64_t most_frame;  /* bytes of one array of the result */
    void *user;
    int32_t (*chunk)(void *user, const uint8_t *data, uint64_t size);
    void (*progress)(void *user, double fraction, const char *note);
    void (*log)(void *user, int32_t level, const char *text);
    void (*look)(void *user); /* NULL, or called at each look at the control word */

    int32_t status;
    uint32_t failed;
    native_error error;
    uint8_t *result;
    uint64_t result_size, result_room;
    native_frame frames[NATIVE_FRAMES];
    uint32_t frame_count;
    native_level levels[NATIVE_LEVELS];
    uint32_t depth;
    uint32_t single; /* the result is one value, without a key */
} native_call;

/* Load a shared object; NULL and `error` if it cannot be used. */
native_library *native_open(const char *path, native_error *error);
/* Destroy what was created, and unload. */
void native_close(native_library *library);
uint32_t native_count(const native_library *library);
const claw_operation *native_operation(const native_library *library, uint32_t index);
uint32_t native_version(const native_library *library);

/* Make the operation's state (call->operation), before its first task; 0 if it is made. */
int32_t native_create(native_library *library, native_call *call);
/* Run a task, and finish what it has put. */
void native_run(native_call *call);
/* Free what a call holds. */
void native_release(native_call *call);

/* Report in words, on standard error, why this process is about to die: a fault, abort(), exit(),
 * or fork() over and over. For a process that runs nothing but one plugin. */
void native_guard(void);
/* END CDEF */

#endif
