/* ClawAI plugins in C: the whole interface, in one C99 header (docs/plugin-c.md is the guide).
 *
 *     #include <clawai.h>
 *
 *     static const claw_param params[] = {
 *         CLAW_STR_OR("name", "world", "who is greeted"),
 *     };
 *
 *     static claw_status greet(claw_task *task, void *state) {
 *         (void)state;
 *         claw_put_str(task, "greeting", "Hello");
 *         claw_put_str(task, "name", claw_param_str(task, "name", ""));
 *         return CLAW_OK;
 *     }
 *
 *     static const claw_operation op = CLAW_OPERATION("hello.greet", "Greet", params, greet);
 *     CLAW_PLUGIN(&op)
 *
 * A plugin is a shared object that exports one symbol, `claw_entry`, and needs none of the host's.
 * Everything that it may ask for is reached through the task that it is given.
 *
 * How the interface grows: each struct begins with its size and the version that it was compiled
 * with. A minor version adds members at the end of structs, so an older binary goes on loading; a
 * binary that is newer than its host is refused with a clear error. The major version changes only
 * if a member changes its meaning. No type here has another size on another system.
 *
 * Nobody owns what the other side allocated: text and arrays that the host gives out live until the
 * operation returns, what the plugin hands over is copied before the call returns.
 */
#ifndef CLAWAI_H
#define CLAWAI_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLAW_VERSION_MAJOR 1
#define CLAW_VERSION_MINOR 0
#define CLAW_VERSION ((uint32_t)CLAW_VERSION_MAJOR << 16 | (uint32_t)CLAW_VERSION_MINOR)

/* How an operation ended. CLAW_FAILED: claw_fail() has said why. */
typedef int32_t claw_status;
enum { CLAW_OK = 0, CLAW_FAILED = 1, CLAW_STOPPED = 2, CLAW_YIELDED = 3 };

/* What a checkpoint asks for. CLAW_STOP: clean up and return CLAW_STOPPED. CLAW_YIELD: clean up and
 * return CLAW_YIELDED; the task begins anew later (only operations that are idempotent in
 * plugin.toml and have streamed nothing are asked that). */
typedef int32_t claw_signal;
enum { CLAW_GO = 0, CLAW_STOP = 1, CLAW_YIELD = 3 };

/* Types of parameters. */
enum {
    CLAW_TYPE_I64 = 1,
    CLAW_TYPE_F64 = 2,
    CLAW_TYPE_BOOL = 3,
    CLAW_TYPE_STR = 4,
    CLAW_TYPE_BYTES = 5,
    CLAW_TYPE_TENSOR = 6
};

/* Types of the elements of a tensor: the low byte is the size of one in bytes. */
enum {
    CLAW_BOOL = 0x001,
    CLAW_I8 = 0x101,
    CLAW_I16 = 0x102,
    CLAW_I32 = 0x104,
    CLAW_I64 = 0x108,
    CLAW_U8 = 0x201,
    CLAW_U16 = 0x202,
    CLAW_U32 = 0x204,
    CLAW_U64 = 0x208,
    CLAW_F16 = 0x302,
    CLAW_F32 = 0x304,
    CLAW_F64 = 0x308
};
#define CLAW_MAX_DIMENSIONS 16

/* Levels of claw_log(). */
enum { CLAW_DEBUG = 0, CLAW_INFO = 1, CLAW_WARNING = 2, CLAW_ERROR = 3 };

typedef struct claw_host claw_host;

/* One task. What follows these members is the host's own. */
typedef struct claw_task {
    uint32_t struct_size;
    uint32_t version;
    const claw_host *host;
} claw_task;

/* A view of an array of the request: row by row, without gaps, aligned to its elements. */
typedef struct claw_tensor {
    uint32_t struct_size;
    uint32_t version;
    uint32_t dtype;
    uint32_t ndim;
    const int64_t *shape;   /* elements in each dimension */
    const int64_t *strides; /* bytes from one to the next in each dimension */
    uint64_t bytes;
    const void *data;
    void *writable; /* the same memory, or NULL where the caller lent it for reading only */
} claw_tensor;

/* What an operation takes. `has`: which of the members below it are set. */
enum { CLAW_HAS_DEFAULT = 1, CLAW_IS_OPTIONAL = 2, CLAW_HAS_RANGE = 4 };
typedef struct claw_param {
    uint32_t struct_size;
    uint32_t version;
    uint32_t type;
    uint32_t has;
    const char *name;
    const char *description;
    int64_t i64;      /* default of an integer; of a bool 0 or 1 */
    double f64;       /* default of a number */
    const char *text; /* default of a text */
    double minimum, maximum;
} claw_param;

/* What an operation is. `params` are `param_count` structs that lie one behind the other. */
typedef struct claw_operation {
    uint32_t struct_size;
    uint32_t version;
    const char *name; /* as in plugin.toml: "hello.greet" */
    const char *description;
    const claw_param *params;
    uint32_t param_count;
    uint32_t reserved; /* 0 */
    /* Runs one task; with more than one slot in plugin.toml on several threads at once. */
    claw_status (*run)(claw_task *task, void *state);
    /* Both may be NULL. Called once before the first task, to load what all tasks share. */
    claw_status (*create)(claw_task *task, void **state);
    void (*destroy)(void *state);
} claw_operation;

/* Lists the operations and makes them by name. */
#define CLAW_FACTORY "clawai.operations"
typedef struct claw_factory claw_factory;
struct claw_factory {
    uint32_t struct_size;
    uint32_t version;
    uint32_t (*count)(const claw_factory *self);
    const claw_operation *(*describe)(const claw_factory *self, uint32_t index);
    claw_status (*create)(const claw_factory *self, const char *name, claw_task *task,
                          void **state);
    void (*destroy)(const claw_factory *self, const char *name, void *state);
};

/* The one exported symbol: `claw_entry`. */
typedef struct claw_entry_point {
    uint32_t struct_size;
    uint32_t version;
    const void *(*factory)(const char *id); /* NULL for an id that it does not know */
} claw_entry_point;

/* What the host offers; call it through the functions below. */
struct claw_host {
    uint32_t struct_size;
    uint32_t version;
    int64_t (*param_i64)(claw_task *, const char *name, int64_t otherwise);
    double (*param_f64)(claw_task *, const char *name, double otherwise);
    int32_t (*param_bool)(claw_task *, const char *name, int32_t otherwise);
    const char *(*param_str)(claw_task *, const char *name, const char *otherwise, uint64_t *size);
    const uint8_t *(*param_bytes)(claw_task *, const char *name, uint64_t *size);
    const claw_tensor *(*param_tensor)(claw_task *, const char *name);
    int64_t (*config_i64)(claw_task *, const char *name, int64_t otherwise);
    double (*config_f64)(claw_task *, const char *name, double otherwise);
    int32_t (*config_bool)(claw_task *, const char *name, int32_t otherwise);
    const char *(*config_str)(claw_task *, const char *name, const char *otherwise);
    void (*put_nil)(claw_task *, const char *key);
    void (*put_bool)(claw_task *, const char *key, int32_t value);
    void (*put_i64)(claw_task *, const char *key, int64_t value);
    void (*put_f64)(claw_task *, const char *key, double value);
    void (*put_str)(claw_task *, const char *key, const char *text, uint64_t size);
    void (*put_bytes)(claw_task *, const char *key, const void *data, uint64_t size);
    void *(*put_tensor)(claw_task *, const char *key, const claw_tensor *into, uint32_t dtype,
                        uint32_t ndim, const int64_t *shape);
    void (*open_map)(claw_task *, const char *key);
    void (*open_list)(claw_task *, const char *key);
    void (*close)(claw_task *);
    claw_signal (*chunk)(claw_task *);
    claw_signal (*checkpoint)(claw_task *);
    void (*progress)(claw_task *, double fraction, const char *note);
    void (*log)(claw_task *, int32_t level, const char *text);
    uint32_t (*threads)(claw_task *);
    int64_t (*remaining_ms)(claw_task *);
    claw_status (*fail)(claw_task *, const char *code, const char *message);
};

/* Parameters, by the names of the operation's table. What is neither given nor has a default there
 * is `otherwise`, NULL or empty. A name or a type that the table does not have fails the task. */
static inline int64_t claw_param_i64(claw_task *task, const char *name, int64_t otherwise) {
    return task->host->param_i64(task, name, otherwise);
}
static inline double claw_param_f64(claw_task *task, const char *name, double otherwise) {
    return task->host->param_f64(task, name, otherwise);
}
static inline int32_t claw_param_bool(claw_task *task, const char *name, int32_t otherwise) {
    return task->host->param_bool(task, name, otherwise);
}
/* UTF-8, with a 0 at the end; the second also says how long it is, as it may hold a 0 itself. */
static inline const char *claw_param_str(claw_task *task, const char *name, const char *otherwise) {
    return task->host->param_str(task, name, otherwise, NULL);
}
static inline const char *claw_param_text(claw_task *task, const char *name, uint64_t *size) {
    return task->host->param_str(task, name, "", size);
}
static inline const uint8_t *claw_param_bytes(claw_task *task, const char *name, uint64_t *size) {
    return task->host->param_bytes(task, name, size);
}
/* NULL if it is optional and was not given. */
static inline const claw_tensor *claw_param_tensor(claw_task *task, const char *name) {
    return task->host->param_tensor(task, name);
}

/* Configuration of the plugin, as its owner has set it. */
static inline int64_t claw_config_i64(claw_task *task, const char *name, int64_t otherwise) {
    return task->host->config_i64(task, name, otherwise);
}
static inline double claw_config_f64(claw_task *task, const char *name, double otherwise) {
    return task->host->config_f64(task, name, otherwise);
}
static inline int32_t claw_config_bool(claw_task *task, const char *name, int32_t otherwise) {
    return task->host->config_bool(task, name, otherwise);
}
static inline const char *claw_config_str(claw_task *task, const char *name,
                                          const char *otherwise) {
    return task->host->config_str(task, name, otherwise);
}

/* The result, piece by piece: a map of what is put with a key; or, put once with the key NULL, that
 * value alone. Between claw_open_map() or claw_open_list() and claw_close() what is put goes in
 * there; in a list the key is NULL. What cannot be sent (text that is not UTF-8, a map without a
 * key, too many bytes) fails the task when it returns; nothing needs to be checked in between. */
static inline void claw_put_nil(claw_task *task, const char *key) {
    task->host->put_nil(task, key);
}
static inline void claw_put_bool(claw_task *task, const char *key, int32_t value) {
    task->host->put_bool(task, key, value);
}
static inline void claw_put_i64(claw_task *task, const char *key, int64_t value) {
    task->host->put_i64(task, key, value);
}
static inline void claw_put_f64(claw_task *task, const char *key, double value) {
    task->host->put_f64(task, key, value);
}
static inline void claw_put_str(claw_task *task, const char *key, const char *text) {
    task->host->put_str(task, key, text, UINT64_MAX); /* up to its 0 */
}
static inline void claw_put_text(claw_task *task, const char *key, const char *text,
                                 uint64_t size) {
    task->host->put_str(task, key, text, size);
}
static inline void claw_put_bytes(claw_task *task, const char *key, const void *data,
                                  uint64_t size) {
    task->host->put_bytes(task, key, data, size);
}
/* Memory for an array of the result, to be filled before the operation returns: zeroed, or with
 * `into`, a tensor of the request, that one's own if there is room and it may be written to; then
 * nothing is copied. NULL if the shape is wrong or too large, which has failed the task. */
static inline void *claw_put_tensor(claw_task *task, const char *key, const claw_tensor *into,
                                    uint32_t dtype, uint32_t ndim, const int64_t *shape) {
    return task->host->put_tensor(task, key, into, dtype, ndim, shape);
}
static inline void claw_open_map(claw_task *task, const char *key) {
    task->host->open_map(task, key);
}
static inline void claw_open_list(claw_task *task, const char *key) {
    task->host->open_list(task, key);
}
static inline void claw_close(claw_task *task) {
    task->host->close(task);
}

/* Send what was put so far as a chunk of a stream, and begin anew; then a checkpoint. */
static inline claw_signal claw_chunk(claw_task *task) {
    return task->host->chunk(task);
}
/* Call it often in long work: it costs a few nanoseconds, and waits here while a more urgent task
 * uses the processor. A plugin that never calls it can be ended only by killing it. */
static inline claw_signal claw_checkpoint(claw_task *task) {
    return task->host->checkpoint(task);
}
/* What to return after a checkpoint that was not CLAW_GO. */
static inline claw_status claw_end(claw_signal asked) {
    return asked == CLAW_YIELD ? CLAW_YIELDED : CLAW_STOPPED;
}
/* Tell the owner how far the task is, 0 to 1 (less than 0: not known); `note` may be NULL. */
static inline void claw_progress(claw_task *task, double fraction, const char *note) {
    task->host->progress(task, fraction, note);
}
/* A line of the kernel's log (`claw logs`). */
static inline void claw_log(claw_task *task, int32_t level, const char *text) {
    task->host->log(task, level, text);
}
/* How many threads the task may use now; the kernel changes this while it runs. */
static inline uint32_t claw_threads(claw_task *task) {
    return task->host->threads(task);
}
/* Until the deadline; INT64_MAX if there is none. */
static inline int64_t claw_remaining_ms(claw_task *task) {
    return task->host->remaining_ms(task);
}
/* End the task with an error: return claw_fail(task, "bad_params", "..."). The codes stand in
 * WIRE.md, section Errors; any other is sent as worker_failed. */
static inline claw_status claw_fail(claw_task *task, const char *code, const char *message) {
    return task->host->fail(task, code, message);
}
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static inline claw_status claw_failf(claw_task *task, const char *code, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return task->host->fail(task, code, text);
}

/* Rows of a table of parameters: NAME(name, description) must be given, NAME_OR has a default,
 * CLAW_TENSOR_OPT may be left out; the forms with _IN have a range as well. */
#define CLAW_ROW(type, has, name, description, i64, f64, text, low, high)                         \
    {                                                                                              \
        (uint32_t)sizeof(claw_param), CLAW_VERSION, (type), (has), (name), (description), (i64),   \
            (f64), (text), (low), (high)                                                           \
    }
#define CLAW_I64_PARAM(name, description)                                                          \
    CLAW_ROW(CLAW_TYPE_I64, 0, name, description, 0, 0, NULL, 0, 0)
#define CLAW_I64_OR(name, value, description)                                                      \
    CLAW_ROW(CLAW_TYPE_I64, CLAW_HAS_DEFAULT, name, description, value, 0, NULL, 0, 0)
#define CLAW_I64_IN(name, value, low, high, description)                                           \
    CLAW_ROW(CLAW_TYPE_I64, CLAW_HAS_DEFAULT | CLAW_HAS_RANGE, name, description, value, 0, NULL,  \
             low, high)
#define CLAW_F64_PARAM(name, description)                                                          \
    CLAW_ROW(CLAW_TYPE_F64, 0, name, description, 0, 0, NULL, 0, 0)
#define CLAW_F64_OR(name, value, description)                                                      \
    CLAW_ROW(CLAW_TYPE_F64, CLAW_HAS_DEFAULT, name, description, 0, value, NULL, 0, 0)
#define CLAW_F64_IN(name, value, low, high, description)                                           \
    CLAW_ROW(CLAW_TYPE_F64, CLAW_HAS_DEFAULT | CLAW_HAS_RANGE, name, description, 0, value, NULL,  \
             low, high)
#define CLAW_BOOL_PARAM(name, description)                                                         \
    CLAW_ROW(CLAW_TYPE_BOOL, 0, name, description, 0, 0, NULL, 0, 0)
#define CLAW_BOOL_OR(name, value, description)                                                     \
    CLAW_ROW(CLAW_TYPE_BOOL, CLAW_HAS_DEFAULT, name, description, value, 0, NULL, 0, 0)
#define CLAW_STR_PARAM(name, description)                                                          \
    CLAW_ROW(CLAW_TYPE_STR, 0, name, description, 0, 0, NULL, 0, 0)
#define CLAW_STR_OR(name, value, description)                                                      \
    CLAW_ROW(CLAW_TYPE_STR, CLAW_HAS_DEFAULT, name, description, 0, 0, value, 0, 0)
#define CLAW_BYTES_PARAM(name, description)                                                        \
    CLAW_ROW(CLAW_TYPE_BYTES, 0, name, description, 0, 0, NULL, 0, 0)
#define CLAW_TENSOR_PARAM(name, description)                                                       \
    CLAW_ROW(CLAW_TYPE_TENSOR, 0, name, description, 0, 0, NULL, 0, 0)
#define CLAW_TENSOR_OPT(name, description)                                                         \
    CLAW_ROW(CLAW_TYPE_TENSOR, CLAW_IS_OPTIONAL, name, description, 0, 0, NULL, 0, 0)

/* An operation with a table of parameters; the forms without one, and with a state of its own. */
#define CLAW_STATEFUL(name, description, params, run, create, destroy)                             \
    {                                                                                              \
        (uint32_t)sizeof(claw_operation), CLAW_VERSION, (name), (description), (params),           \
            (uint32_t)(sizeof(params) / sizeof((params)[0])), 0, (run), (create), (destroy)        \
    }
#define CLAW_OPERATION(name, description, params, run)                                             \
    CLAW_STATEFUL(name, description, params, run, NULL, NULL)
#define CLAW_PLAIN(name, description, run)                                                         \
    {                                                                                              \
        (uint32_t)sizeof(claw_operation), CLAW_VERSION, (name), (description), NULL, 0, 0, (run),  \
            NULL, NULL                                                                             \
    }

#if defined(__GNUC__)
#define CLAW_EXPORT __attribute__((visibility("default")))
#else
#define CLAW_EXPORT
#endif

/* The entry of a plugin with these operations (pointers to static ones). Once in one file. */
#define CLAW_PLUGIN(...)                                                                           \
    static const claw_operation *const claw_operations_[] = {__VA_ARGS__};                         \
    static uint32_t claw_count_(const claw_factory *self) {                                        \
        (void)self;                                                                                \
        return (uint32_t)(sizeof claw_operations_ / sizeof claw_operations_[0]);                   \
    }                                                                                              \
    static const claw_operation *claw_describe_(const claw_factory *self, uint32_t index) {        \
        return index < claw_count_(self) ? claw_operations_[index] : NULL;                         \
    }                                                                                              \
    static const claw_operation *claw_find_(const char *name) {                                    \
        uint32_t index;                                                                            \
        for (index = 0; index < claw_count_(NULL); index++) {                                      \
            const char *a = claw_operations_[index]->name, *b = name;                              \
            while (*a && *a == *b) {                                                               \
                a++, b++;                                                                          \
            }                                                                                      \
            if (*a == *b) {                                                                        \
                return claw_operations_[index];                                                    \
            }                                                                                      \
        }                                                                                          \
        return NULL;                                                                               \
    }                                                                                              \
    static claw_status claw_create_(const claw_factory *self, const char *name, claw_task *task,   \
                                    void **state) {                                                \
        const claw_operation *found = claw_find_(name);                                            \
        (void)self;                                                                                \
        return found && found->create ? found->create(task, state) : CLAW_OK;                      \
    }                                                                                              \
    static void claw_destroy_(const claw_factory *self, const char *name, void *state) {           \
        const claw_operation *found = claw_find_(name);                                            \
        (void)self;                                                                                \
        if (found && found->destroy) {                                                             \
            found->destroy(state);                                                                 \
        }                                                                                          \
    }                                                                                              \
    static const claw_factory claw_factory_ = {(uint32_t)sizeof(claw_factory),                     \
                                               CLAW_VERSION,                                       \
                                               claw_count_,                                        \
                                               claw_describe_,                                     \
                                               claw_create_,                                       \
                                               claw_destroy_};                                     \
    static const void *claw_get_factory_(const char *id) {                                         \
        const char *a = CLAW_FACTORY;                                                              \
        while (*a && *a == *id) {                                                                  \
            a++, id++;                                                                             \
        }                                                                                          \
        return *a == *id ? &claw_factory_ : NULL;                                                  \
    }                                                                                              \
    CLAW_EXPORT extern const claw_entry_point claw_entry;                                          \
    const claw_entry_point claw_entry = {(uint32_t)sizeof(claw_entry_point), CLAW_VERSION,         \
                                         claw_get_factory_};

#ifdef __cplusplus
}
#endif
#endif
