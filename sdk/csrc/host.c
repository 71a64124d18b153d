/* Loads a plugin, checks what it says of itself, and offers it the host table. See host.h. */
#define _GNU_SOURCE
#include "host.h"
#include "guard.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What a struct of version 1.0 holds at least. */
#define UP_TO(type, member) ((uint32_t)(offsetof(type, member) + sizeof(((type *)NULL)->member)))
#define LARGEST_STRUCT 65536u
#define MOST_OPERATIONS 256u
#define MOST_PARAMS 256u
#define LONGEST_TEXT 8192u

typedef struct native_made {
    claw_operation operation; /* a copy of our size, whose text and table are ours too */
    void *state;
    int32_t created;
} native_made;

struct native_library {
    void *handle;
    uint32_t version;
    claw_factory factory;
    const claw_factory *theirs;
    uint32_t count;
    native_made made[MOST_OPERATIONS];
};

static void say(native_error *error, const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    snprintf(error->code, sizeof error->code, "%s", code);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
}

/* Whether memory can be read: the system call says so where a look would be a fault. */
static int readable(const void *at, size_t size) {
    int ends[2], fine = at != NULL;
    const char *byte = at, *last = byte + size - 1;
    if (!fine || last < byte || pipe2(ends, O_CLOEXEC)) {
        return 0;
    }
    while (fine) {
        char sink;
        fine = write(ends[1], byte, 1) == 1 && read(ends[0], &sink, 1) == 1;
        if (byte == last) {
            break;
        }
        byte = (size_t)(last - byte) > 4096 ? byte + 4096 : last;
    }
    close(ends[0]);
    close(ends[1]);
    return fine;
}

/* Whether a function lies in something that was loaded. */
static int is_code(const void *function) {
    Dl_info found;
    return function && dladdr(function, &found);
}

/* Copy a struct of the plugin's by its own size; 0 if it cannot be one. */
static int copy(void *into, size_t size, const void *from, uint32_t least, const char *what,
                native_error *error) {
    uint32_t head[2];
    if (!readable(from, sizeof head)) {
        say(error, "bad_config", "%s is at %p, where nothing can be read", what, from);
        return 0;
    }
    memcpy(head, from, sizeof head);
    uint32_t major = head[1] >> 16, minor = head[1] & 0xffff;
    if (major != CLAW_VERSION_MAJOR || minor > CLAW_VERSION_MINOR) {
        say(error, "bad_version",
            "%s: it was built for version %u.%u of clawai.h, and this ClawAI offers %u.%u%s", what,
            major, minor, CLAW_VERSION_MAJOR, CLAW_VERSION_MINOR,
            major == CLAW_VERSION_MAJOR ? "" : ", which is not compatible");
        return 0;
    }
    if (head[0] < least || head[0] > LARGEST_STRUCT || !readable(from, head[0])) {
        say(error, "bad_config", "%s: struct_size is %u, allowed: %u to %u", what, head[0], least,
            LARGEST_STRUCT);
        return 0;
    }
    memset(into, 0, size);
    memcpy(into, from, head[0] < size ? head[0] : size);
    return 1;
}

/* A copy of a text of the plugin's; NULL if it is none. An absent description is empty. */
static char *text_of(const char *from, int required, const char *what, native_error *error) {
    if (!from && !required) {
        return calloc(1, 1);
    }
    for (size_t length = 0; from && length < LONGEST_TEXT; length++) {
        if ((length == 0 || ((uintptr_t)(from + length) & 4095) == 0) &&
            !readable(from + length, 1)) {
            break;
        }
        if (!from[length]) {
            char *made = malloc(length + 1);
            return made ? memcpy(made, from, length + 1) : NULL;
        }
    }
    say(error, "bad_config", "%s is not a text of at most %u bytes with a 0 at its end", what,
        LONGEST_TEXT);
    return NULL;
}

static int copy_param(claw_param *param, const char *from, uint32_t number, native_error *error) {
    char what[64];
    snprintf(what, sizeof what, "parameter %u", number);
    if (!copy(param, sizeof *param, from, UP_TO(claw_param, maximum), what, error)) {
        return 0;
    }
    /* Whatever follows, no pointer of theirs is left where ours are freed. */
    const char *name = param->name, *text = param->text, *description = param->description;
    param->name = param->text = param->description = NULL;
    uint32_t known = CLAW_HAS_DEFAULT | CLAW_IS_OPTIONAL | CLAW_HAS_RANGE;
    if (param->type < CLAW_TYPE_I64 || param->type > CLAW_TYPE_TENSOR || param->has & ~known) {
        say(error, "bad_config", "%s: type %u, allowed: %d to %d; has %u, allowed: up to %u", what,
            param->type, CLAW_TYPE_I64, CLAW_TYPE_TENSOR, param->has, known);
        return 0;
    }
    param->name = text_of(name, 1, "the name of a parameter", error);
    param->description = text_of(description, 0, "the description of a parameter", error);
    int has_text = param->type == CLAW_TYPE_STR && param->has & CLAW_HAS_DEFAULT;
    param->text = text_of(has_text ? text : NULL, has_text, "the default of a text", error);
    return param->name && param->description && param->text;
}

static int copy_params(claw_operation *operation, native_error *error) {
    const char *from = (const char *)operation->params;
    uint32_t head, count = operation->param_count;
    operation->params = NULL;
    operation->param_count = 0;
    if (count > MOST_PARAMS || (count && !readable(from, sizeof head))) {
        say(error, "bad_config", "%s: its table of %u parameters cannot be read (at most %u)",
            operation->name, count, MOST_PARAMS);
        return 0;
    }
    claw_param *params = calloc(count + 1, sizeof *params);
    operation->params = params;
    for (uint32_t number = 0; params && number < count; number++) {
        operation->param_count = number + 1; /* so that what is half made is freed too */
        memcpy(&head, from, sizeof head);
        if (!copy_param(&params[number], from, number, error)) {
            return 0;
        }
        from += head;
    }
    return params != NULL;
}

static int copy_operation(claw_operation *operation, const claw_operation *from,
                          native_error *error) {
    if (!copy(operation, sizeof *operation, from, UP_TO(claw_operation, destroy), "an operation",
              error)) {
        return 0;
    }
    const char *description = operation->description;
    operation->description = NULL;
    operation->name = text_of(operation->name, 1, "the name of an operation", error);
    if (!operation->name) {
        operation->params = NULL, operation->param_count = 0;
        return 0;
    }
    if (!copy_params(operation, error)) {
        return 0;
    }
    operation->description = text_of(description, 0, "the description of an operation", error);
    if (!is_code((const void *)(uintptr_t)operation->run)) {
        say(error, "bad_config", "%s: run is not a function", operation->name);
        return 0;
    }
    return operation->description != NULL;
}

static int list_operations(native_library *library, native_error *error) {
    uint32_t count = library->factory.count(library->theirs);
    if (!count || count > MOST_OPERATIONS) {
        say(error, "bad_config", "the factory lists %u operations, allowed: 1 to %u", count,
            MOST_OPERATIONS);
        return 0;
    }
    for (uint32_t number = 0; number < count; number++) {
        const claw_operation *from = library->factory.describe(library->theirs, number);
        library->count = number + 1;
        if (!copy_operation(&library->made[number].operation, from, error)) {
            return 0;
        }
    }
    return 1;
}

static int take_factory(native_library *library, native_error *error) {
    claw_entry_point entry;
    const void *symbol = dlsym(library->handle, "claw_entry");
    if (!symbol) {
        say(error, "bad_config", "it exports no symbol claw_entry");
        return 0;
    }
    if (!copy(&entry, sizeof entry, symbol, UP_TO(claw_entry_point, factory), "claw_entry",
              error)) {
        return 0;
    }
    library->version = entry.version;
    if (!is_code((const void *)(uintptr_t)entry.factory)) {
        say(error, "bad_config", "claw_entry: factory is not a function");
        return 0;
    }
    library->theirs = entry.factory(CLAW_FACTORY);
    if (!library->theirs) {
        say(error, "bad_config", "claw_entry: it has no factory %s", CLAW_FACTORY);
        return 0;
    }
    claw_factory *factory = &library->factory;
    if (!copy(factory, sizeof *factory, library->theirs, UP_TO(claw_factory, destroy),
              "the factory", error)) {
        return 0;
    }
    if (!is_code((const void *)(uintptr_t)factory->count) ||
        !is_code((const void *)(uintptr_t)factory->describe) ||
        !is_code((const void *)(uintptr_t)factory->create) ||
        !is_code((const void *)(uintptr_t)factory->destroy)) {
        say(error, "bad_config", "the factory: one of its functions is not a function");
        return 0;
    }
    return list_operations(library, error);
}

native_library *native_open(const char *path, native_error *error) {
    native_library *library = calloc(1, sizeof *library);
    if (!library) {
        say(error, "no_memory", "there is no memory for its description");
        return NULL;
    }
    guard_enter("its load");
    library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    int fine = library->handle != NULL;
    if (!fine) {
        say(error, "bad_config", "%s", dlerror());
    }
    if (!fine || !take_factory(library, error)) {
        native_close(library);
        library = NULL;
    }
    guard_leave();
    return library;
}

void native_close(native_library *library) {
    for (uint32_t number = 0; number < library->count; number++) {
        native_made *made = &library->made[number];
        if (made->created) {
            library->factory.destroy(library->theirs, made->operation.name, made->state);
        }
        for (uint32_t each = 0; each < made->operation.param_count; each++) {
            const claw_param *param = &made->operation.params[each];
            free((void *)param->name);
            free((void *)param->description);
            free((void *)param->text);
        }
        free((void *)made->operation.params);
        free((void *)made->operation.name);
        free((void *)made->operation.description);
    }
    if (library->handle) {
        dlclose(library->handle);
    }
    free(library);
}

uint32_t native_count(const native_library *library) {
    return library->count;
}

const claw_operation *native_operation(const native_library *library, uint32_t index) {
    return &library->made[index].operation;
}

uint32_t native_version(const native_library *library) {
    return library->version;
}

/* The host table. */

static native_call *call_of(claw_task *task) {
    return (native_call *)task; /* its first member */
}

/* The first thing that went wrong is what the task fails with. */
static void go_wrong(native_call *call, const char *code, const char *format, ...) {
    if (!call->failed) {
        va_list arguments;
        va_start(arguments, format);
        call->failed = 1;
        snprintf(call->error.code, sizeof call->error.code, "%s", code);
        vsnprintf(call->error.message, sizeof call->error.message, format, arguments);
        va_end(arguments);
    }
}

static const native_value *value_of(native_call *call, const char *name, uint32_t type) {
    static const char *const kinds[] = {"", "i64", "f64", "bool", "str", "bytes", "tensor"};
    const claw_operation *operation = native_operation(call->library, call->operation);
    for (uint32_t number = 0; call->values && number < operation->param_count; number++) {
        const claw_param *param = &operation->params[number];
        if (name && strcmp(param->name, name) == 0) {
            if (param->type != type) {
                go_wrong(call, "worker_failed", "%s: parameter %s is declared as %s, read as %s",
                         operation->name, name, kinds[param->type], kinds[type]);
                return NULL;
            }
            return call->values[number].given ? &call->values[number] : NULL;
        }
    }
    go_wrong(call, "worker_failed", "%s: it reads a parameter %s that it does not declare",
             operation->name, name ? name : "(null)");
    return NULL;
}

static int64_t param_i64(claw_task *task, const char *name, int64_t otherwise) {
    const native_value *value = value_of(call_of(task), name, CLAW_TYPE_I64);
    return value ? value->i64 : otherwise;
}

static double param_f64(claw_task *task, const char *name, double otherwise) {
    const native_value *value = value_of(call_of(task), name, CLAW_TYPE_F64);
    return value ? value->f64 : otherwise;
}

static int32_t param_bool(claw_task *task, const char *name, int32_t otherwise) {
    const native_value *value = value_of(call_of(task), name, CLAW_TYPE_BOOL);
    return value ? value->i64 != 0 : otherwise;
}

static const char *param_str(claw_task *task, const char *name, const char *otherwise,
                             uint64_t *size) {
    const native_value *value = value_of(call_of(task), name, CLAW_TYPE_STR);
    const char *text = value ? value->data : otherwise;
    if (size) {
        *size = value ? value->size : otherwise ? strlen(otherwise) : 0;
    }
    return text;
}

static const uint8_t *param_bytes(claw_task *task, const char *name, uint64_t *size) {
    const native_value *value = value_of(call_of(task), name, CLAW_TYPE_BYTES);
    if (size) {
        *size = value ? value->size : 0;
    }
    return value ? value->data : NULL;
}

static const claw_tensor *param_tensor(claw_task *task, const char *name) {
    const native_value *value = value_of(call_of(task), name, CLAW_TYPE_TENSOR);
    return value ? value->tensor : NULL;
}

static const native_setting *setting(claw_task *task, const char *name, uint32_t type) {
    native_call *call = call_of(task);
    for (uint32_t number = 0; name && number < call->setting_count; number++) {
        const native_setting *found = &call->settings[number];
        if (found->type == type && strcmp(found->name, name) == 0) {
            return found;
        }
    }
    return NULL;
}

static int64_t config_i64(claw_task *task, const char *name, int64_t otherwise) {
    const native_setting *found = setting(task, name, CLAW_TYPE_I64);
    return found ? found->i64 : otherwise;
}

static double config_f64(claw_task *task, const char *name, double otherwise) {
    const native_setting *found = setting(task, name, CLAW_TYPE_F64);
    if (!found) {
        found = setting(task, name, CLAW_TYPE_I64);
        return found ? (double)found->i64 : otherwise;
    }
    return found->f64;
}

static int32_t config_bool(claw_task *task, const char *name, int32_t otherwise) {
    const native_setting *found = setting(task, name, CLAW_TYPE_BOOL);
    return found ? found->i64 != 0 : otherwise;
}

static const char *config_str(claw_task *task, const char *name, const char *otherwise) {
    const native_setting *found = setting(task, name, CLAW_TYPE_STR);
    return found ? found->text : otherwise;
}

/* The result as msgpack; containers have headers of five bytes, whose counts are filled in. */

static uint8_t *room(native_call *call, uint64_t size) {
    if (call->failed) {
        return NULL;
    }
    if (size > call->most_result || call->result_size + size > call->most_result) {
        go_wrong(call, "too_large", "the result has more than %llu bytes; stream it in chunks",
                 (unsigned long long)call->most_result);
        return NULL;
    }
    if (call->result_size + size > call->result_room) {
        uint64_t wanted = 2 * call->result_room + size + 256;
        uint8_t *grown = realloc(call->result, wanted);
        if (!grown) {
            go_wrong(call, "no_memory", "there is no memory for the result");
            return NULL;
        }
        call->result = grown;
        call->result_room = wanted;
    }
    uint8_t *at = call->result + call->result_size;
    call->result_size += size;
    return at;
}

static void put_big_endian(uint8_t *at, uint64_t value, int bytes) {
    for (int place = bytes; place-- > 0; value >>= 8) {
        at[place] = (uint8_t)value;
    }
}

/* A byte that says the type, and a number of so many bytes behind it. */
static void put_head(native_call *call, uint8_t type, uint64_t value, int bytes) {
    uint8_t *at = room(call, (uint64_t)bytes + 1);
    if (at) {
        at[0] = type;
        put_big_endian(at + 1, value, bytes);
    }
}

static void put_integer(native_call *call, int64_t value) {
    if (value >= 0 && value < 128) {
        put_head(call, (uint8_t)value, 0, 0);
    } else {
        put_head(call, 0xd3, (uint64_t)value, 8);
    }
}

static void put_sized(native_call *call, uint8_t type, const void *data, uint64_t size) {
    if (size > call->most_result) { /* before it is cut to 32 bits */
        room(call, size);
        return;
    }
    if (type == 0xdb && size < 32) {
        put_head(call, (uint8_t)(0xa0 | size), 0, 0);
    } else {
        put_head(call, type, size, 4);
    }
    uint8_t *at = room(call, size);
    if (at && size) {
        memcpy(at, data, size);
    }
}

/* How many bytes of a text are UTF-8 (RFC 3629: no surrogates, nothing longer than needed). */
static uint64_t valid_utf8(const uint8_t *text, uint64_t size) {
    uint64_t at = 0;
    while (at < size) {
        uint8_t first = text[at];
        uint64_t more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if ((first >= 0x80 && first < 0xc2) || first > 0xf4 || size - at <= more) {
            return at;
        }
        for (uint64_t next = 1; next <= more; next++) {
            uint8_t byte = text[at + next];
            if (byte < (next == 1 ? low : 0x80) || byte > (next == 1 ? high : 0xbf)) {
                return at;
            }
        }
        at += more + 1;
    }
    return size;
}

static void put_text(native_call *call, const char *text, uint64_t size) {
    if (!text) {
        go_wrong(call, "worker_failed", "a text of the result is NULL");
        return;
    }
    size = size == UINT64_MAX ? strlen(text) : size;
    uint64_t valid = size > call->most_result ? size : valid_utf8((const uint8_t *)text, size);
    if (valid != size) {
        go_wrong(call, "worker_failed",
                 "a text of the result is not UTF-8 at byte %llu; send other bytes with "
                 "claw_put_bytes",
                 (unsigned long long)valid);
        return;
    }
    put_sized(call, 0xdb, text, size);
}

/* What comes before a value: its place in the map or list, and its key. 0 if it has no place. */
static int place(native_call *call, const char *key) {
    if (call->failed) {
        return 0;
    }
    if (!call->depth) {
        if (call->single || (!key && call->result_size)) {
            go_wrong(call, "worker_failed", "a value without a key must be the only one");
            return 0;
        }
        if (!key) {
            call->single = 1;
            return 1;
        }
        call->levels[0] = (native_level){.at = 0, .count = 0, .list = 0};
        call->depth = 1;
        put_head(call, 0xdf, 0, 4);
    }
    native_level *level = &call->levels[call->depth - 1];
    if (!key != !!level->list) {
        go_wrong(call, "worker_failed",
                 key ? "in a list the key is NULL; got %.100s" : "in a map each value needs a key",
                 key);
        return 0;
    }
    level->count++;
    if (key) {
        put_text(call, key, UINT64_MAX);
    }
    return !call->failed;
}

static void put_nil(claw_task *task, const char *key) {
    if (place(call_of(task), key)) {
        put_head(call_of(task), 0xc0, 0, 0);
    }
}

static void put_bool(claw_task *task, const char *key, int32_t value) {
    if (place(call_of(task), key)) {
        put_head(call_of(task), value ? 0xc3 : 0xc2, 0, 0);
    }
}

static void put_i64(claw_task *task, const char *key, int64_t value) {
    if (place(call_of(task), key)) {
        put_integer(call_of(task), value);
    }
}

static void put_f64(claw_task *task, const char *key, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (place(call_of(task), key)) {
        put_head(call_of(task), 0xcb, bits, 8);
    }
}

static void put_str(claw_task *task, const char *key, const char *text, uint64_t size) {
    if (place(call_of(task), key)) {
        put_text(call_of(task), text, size);
    }
}

static void put_bytes(claw_task *task, const char *key, const void *data, uint64_t size) {
    native_call *call = call_of(task);
    if (place(call, key)) {
        if (!data && size) {
            go_wrong(call, "worker_failed", "bytes of the result are NULL");
        }
        put_sized(call, 0xc6, data, size);
    }
}

static void open_level(native_call *call, const char *key, uint32_t list) {
    if (!place(call, key)) {
        return;
    }
    if (call->depth == NATIVE_LEVELS) {
        go_wrong(call, "worker_failed", "maps and lists within each other, at most %d levels",
                 NATIVE_LEVELS);
        return;
    }
    call->levels[call->depth++] = (native_level){.at = call->result_size, .count = 0, .list = list};
    put_head(call, list ? 0xdd : 0xdf, 0, 4);
}

static void open_map(claw_task *task, const char *key) {
    open_level(call_of(task), key, 0);
}

static void open_list(claw_task *task, const char *key) {
    open_level(call_of(task), key, 1);
}

static void finish_level(native_call *call) {
    const native_level *level = &call->levels[--call->depth];
    if (!call->failed) {
        put_big_endian(call->result + level->at + 1, level->count, 4);
    }
}

static void close_level(claw_task *task) {
    native_call *call = call_of(task);
    if (call->depth < (call->single ? 1u : 2u)) {
        go_wrong(call, "worker_failed", "claw_close() without an open map or list");
        return;
    }
    finish_level(call);
}

/* End what was put: it is whole msgpack then. */
static void finish(native_call *call) {
    if (call->depth > (call->single ? 0u : 1u)) {
        go_wrong(call, "worker_failed", "claw_close() is missing: a map or list is still open");
    }
    while (call->depth) {
        finish_level(call);
    }
    if (!call->failed && !call->result_size) {
        put_head(call, 0xc0, 0, 0);
    }
    call->single = 0;
}

/* Arrays of the result. */

static const char *dtype_name(uint32_t dtype) {
    static const struct {
        uint32_t dtype;
        const char *name;
    } names[] = {{CLAW_BOOL, "|b1"}, {CLAW_I8, "|i1"},  {CLAW_I16, "<i2"}, {CLAW_I32, "<i4"},
                 {CLAW_I64, "<i8"},  {CLAW_U8, "|u1"},  {CLAW_U16, "<u2"}, {CLAW_U32, "<u4"},
                 {CLAW_U64, "<u8"},  {CLAW_F16, "<f2"}, {CLAW_F32, "<f4"}, {CLAW_F64, "<f8"}};
    for (size_t each = 0; each < sizeof names / sizeof names[0]; each++) {
        if (names[each].dtype == dtype) {
            return names[each].name;
        }
    }
    return NULL;
}

/* Bytes of an array; UINT64_MAX if that is no array. */
static uint64_t bytes_of(uint32_t dtype, uint32_t ndim, const int64_t *shape) {
    uint64_t bytes = dtype & 0xff;
    if (!dtype_name(dtype) || ndim > CLAW_MAX_DIMENSIONS || (ndim && !shape)) {
        return UINT64_MAX;
    }
    for (uint32_t axis = 0; axis < ndim; axis++) {
        if (shape[axis] < 0 || __builtin_mul_overflow(bytes, (uint64_t)shape[axis], &bytes)) {
            return UINT64_MAX;
        }
    }
    return bytes;
}

static void put_tensor_map(native_call *call, uint32_t dtype, uint32_t ndim, const int64_t *shape,
                           int32_t lease) {
    put_head(call, 0x83, 0, 0);
    put_text(call, "dtype", UINT64_MAX);
    put_text(call, dtype_name(dtype), UINT64_MAX);
    put_text(call, "shape", UINT64_MAX);
    put_head(call, (uint8_t)0xdc, ndim, 2);
    for (uint32_t axis = 0; axis < ndim; axis++) {
        put_integer(call, shape[axis]);
    }
    put_text(call, lease < 0 ? "frame" : "lease", UINT64_MAX);
    put_integer(call, lease < 0 ? (int64_t)call->frame_count : lease);
}

static void *new_frame(native_call *call, uint64_t bytes) {
    if (bytes > call->most_frame || call->frame_count == NATIVE_FRAMES) {
        go_wrong(call, "too_large",
                 "an array of the result has %llu bytes, allowed: %d arrays of %llu bytes; have "
                 "the caller lend memory for it",
                 (unsigned long long)bytes, NATIVE_FRAMES, (unsigned long long)call->most_frame);
        return NULL;
    }
    void *data = NULL;
    if (posix_memalign(&data, 64, bytes ? bytes : 1)) {
        go_wrong(call, "no_memory", "there is no memory for an array of %llu bytes",
                 (unsigned long long)bytes);
        return NULL;
    }
    memset(data, 0, bytes);
    call->frames[call->frame_count++] = (native_frame){.data = data, .size = bytes};
    return data;
}

static const native_tensor *lent(native_call *call, const claw_tensor *into, uint64_t bytes) {
    for (uint32_t number = 0; into && number < call->tensor_count; number++) {
        const native_tensor *tensor = &call->tensors[number];
        if (&tensor->view == into && tensor->lease >= 0 && tensor->view.writable &&
            bytes <= tensor->room) {
            return tensor;
        }
    }
    return NULL;
}

static void *put_tensor(claw_task *task, const char *key, const claw_tensor *into, uint32_t dtype,
                        uint32_t ndim, const int64_t *shape) {
    native_call *call = call_of(task);
    uint64_t bytes = bytes_of(dtype, ndim, shape);
    if (bytes == UINT64_MAX) {
        go_wrong(call, "worker_failed", "an array of the result has no proper dtype or shape");
    }
    if (!place(call, key)) {
        return NULL;
    }
    const native_tensor *target = lent(call, into, bytes);
    put_tensor_map(call, dtype, ndim, shape, target ? target->lease : -1);
    if (call->failed) {
        return NULL;
    }
    if (!target) {
        return new_frame(call, bytes);
    }
    return target->view.writable;
}

/* While it runs. */

enum { WORD_STOP = 1, WORD_HOLD = 2, WORD_YIELD = 3 };

static claw_signal checkpoint(claw_task *task) {
    const native_call *call = call_of(task);
    if (call->look) {
        call->look(call->user);
    }
    long pause = 200000; /* ns, doubling to 2 ms: a page that is only read can wake nobody */
    for (;;) {
        uint32_t word = __atomic_load_n(call->control, __ATOMIC_RELAXED) & 0xff;
        if (word == WORD_STOP) {
            return CLAW_STOP;
        }
        if (word == WORD_YIELD && call->may_yield) {
            return CLAW_YIELD;
        }
        if (word != WORD_HOLD) {
            return CLAW_GO;
        }
        struct timespec wait = {0, pause};
        nanosleep(&wait, NULL);
        pause = pause < 1000000 ? 2 * pause : 2000000;
    }
}

static claw_signal chunk(claw_task *task) {
    native_call *call = call_of(task);
    finish(call);
    if (call->failed) {
        return CLAW_STOP;
    }
    if (call->frame_count) {
        go_wrong(call, "worker_failed", "a chunk carries no arrays; put them into the result");
        return CLAW_STOP;
    }
    call->may_yield = 0; /* the client has seen its beginning */
    if (call->chunk(call->user, call->result, call->result_size)) {
        go_wrong(call, "worker_failed", "the chunk could not be sent");
        return CLAW_STOP;
    }
    call->result_size = 0;
    return checkpoint(task);
}

static void progress(claw_task *task, double fraction, const char *note) {
    const native_call *call = call_of(task);
    call->progress(call->user, fraction, note ? note : "");
}

static void write_log(claw_task *task, int32_t level, const char *text) {
    const native_call *call = call_of(task);
    call->log(call->user, level, text ? text : "");
}

static uint32_t threads(claw_task *task) {
    const native_call *call = call_of(task);
    uint32_t granted = __atomic_load_n(call->control, __ATOMIC_RELAXED) >> 8 & 0xff;
    return granted ? granted : call->most_threads;
}

static int64_t remaining_ms(claw_task *task) {
    const native_call *call = call_of(task);
    struct timespec now;
    if (call->deadline_ns < 0) {
        return INT64_MAX;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (call->deadline_ns - (now.tv_sec * INT64_C(1000000000) + now.tv_nsec)) / 1000000;
}

static claw_status fail(claw_task *task, const char *code, const char *message) {
    go_wrong(call_of(task), code ? code : "worker_failed", "%s", message ? message : "");
    return CLAW_FAILED;
}

static const claw_host HOST = {
    .struct_size = sizeof(claw_host),
    .version = CLAW_VERSION,
    .param_i64 = param_i64,
    .param_f64 = param_f64,
    .param_bool = param_bool,
    .param_str = param_str,
    .param_bytes = param_bytes,
    .param_tensor = param_tensor,
    .config_i64 = config_i64,
    .config_f64 = config_f64,
    .config_bool = config_bool,
    .config_str = config_str,
    .put_nil = put_nil,
    .put_bool = put_bool,
    .put_i64 = put_i64,
    .put_f64 = put_f64,
    .put_str = put_str,
    .put_bytes = put_bytes,
    .put_tensor = put_tensor,
    .open_map = open_map,
    .open_list = open_list,
    .close = close_level,
    .chunk = chunk,
    .checkpoint = checkpoint,
    .progress = progress,
    .log = write_log,
    .threads = threads,
    .remaining_ms = remaining_ms,
    .fail = fail,
};

static void begin(native_call *call) {
    call->task = (claw_task){(uint32_t)sizeof(claw_task), CLAW_VERSION, &HOST};
    guard_enter(native_operation(call->library, call->operation)->name);
}

/* What went wrong first counts, whatever the operation returns then. */
static void end(native_call *call) {
    guard_leave();
    uint32_t word = __atomic_load_n(call->control, __ATOMIC_RELAXED) & 0xff;
    if (call->status < CLAW_OK || call->status > CLAW_YIELDED) {
        go_wrong(call, "worker_failed", "the operation returned %d, which is no claw_status",
                 call->status);
    } else if (call->status == CLAW_FAILED) {
        go_wrong(call, "worker_failed", "the operation returned CLAW_FAILED without claw_fail()");
    } else if (call->status == CLAW_STOPPED && word != WORD_STOP) {
        go_wrong(call, "worker_failed", "the operation stopped, and nobody had asked it to");
    } else if (call->status == CLAW_OK) {
        finish(call);
    }
    if (call->failed) {
        call->status = CLAW_FAILED;
    }
}

int32_t native_create(native_library *library, native_call *call) {
    native_made *made = &library->made[call->operation];
    begin(call);
    call->status = library->factory.create(library->theirs, made->operation.name, &call->task,
                                           &made->state);
    end(call);
    made->created = call->status == CLAW_OK;
    return call->status;
}

void native_run(native_call *call) {
    const native_made *made = &call->library->made[call->operation];
    begin(call);
    call->status = made->operation.run(&call->task, made->state);
    end(call);
}

void native_release(native_call *call) {
    for (uint32_t number = 0; number < call->frame_count; number++) {
        free(call->frames[number].data);
    }
    free(call->result);
    call->result = NULL;
    call->frame_count = 0;
}
