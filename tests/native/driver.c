/* Runs an operation of a plugin without Python: for the sanitizers, and for a host that has grown.
 *
 *     driver PLUGIN.so OPERATION [NAME=VALUE ...] [--stop N]
 *
 * A tensor is given as TYPE:BYTES (its elements are 0, 1, 2, ...), such as 257:6 for 2 x 3 bytes
 * (always of two rows). Prints the status, then the error, or the result and the frames in hex.
 */
#include "host.h"

#include <stdlib.h>
#include <string.h>

#define MOST 32

static uint32_t control;
static int stop_after = -1, chunks;

static void hex(const char *what, const uint8_t *data, uint64_t size) {
    printf("%s ", what);
    for (uint64_t at = 0; at < size; at++)
        printf("%02x", data[at]);
    printf("\n");
}

static int32_t on_chunk(void *user, const uint8_t *data, uint64_t size) {
    (void)user;
    hex("chunk", data, size);
    if (++chunks == stop_after)
        control = CLAW_STOP;
    return 0;
}

static void on_progress(void *user, double fraction, const char *note) {
    (void)user;
    printf("progress %g %s\n", fraction, note);
}

static void on_log(void *user, int32_t level, const char *text) {
    (void)user;
    printf("log %d %s\n", level, text);
}

typedef struct array {
    int64_t shape[3], strides[3];
} array;

/* A tensor with a picture's shape if it is of bytes, else a matrix of two rows. */
static void fill(native_tensor *tensor, array *of, const char *text) {
    char *rest;
    uint32_t dtype = (uint32_t)strtoul(text, &rest, 10);
    uint64_t bytes = strtoull(rest + 1, NULL, 10);
    int64_t item = dtype & 0xff, ndim = dtype == CLAW_U8 ? 3 : 2;
    uint8_t *data = calloc(bytes + 1, 1);
    for (uint64_t at = 0; at < bytes; at++)
        data[at] = (uint8_t)at;
    of->shape[0] = 2;
    of->shape[1] = (int64_t)bytes / item / 2 / (ndim == 3 ? 3 : 1);
    of->shape[2] = 3;
    of->strides[ndim - 1] = item;
    for (int64_t axis = ndim - 1; axis > 0; axis--)
        of->strides[axis - 1] = of->strides[axis] * of->shape[axis];
    tensor->view = (claw_tensor){.struct_size = sizeof tensor->view,
                                 .version = CLAW_VERSION,
                                 .dtype = dtype,
                                 .ndim = (uint32_t)ndim,
                                 .shape = of->shape,
                                 .strides = of->strides,
                                 .bytes = bytes,
                                 .data = data};
    tensor->lease = -1;
}

static void give(native_value *value, const claw_param *param, const char *text,
                 native_call *call, native_tensor *tensors, array *arrays) {
    value->given = text || param->has & CLAW_HAS_DEFAULT;
    value->i64 = text ? strtoll(text, NULL, 10) : param->i64;
    value->f64 = text ? strtod(text, NULL) : param->f64;
    value->data = text ? text : param->text;
    value->size = value->data ? strlen(value->data) : 0;
    if (param->type == CLAW_TYPE_TENSOR && text) {
        fill(&tensors[call->tensor_count], &arrays[call->tensor_count], text);
        value->tensor = &tensors[call->tensor_count++].view;
    }
}

static const char *argument(int count, char **arguments, const char *name) {
    size_t length = strlen(name);
    for (int each = 3; each < count; each++)
        if (!strncmp(arguments[each], name, length) && arguments[each][length] == '=')
            return arguments[each] + length + 1;
    return NULL;
}

static void show(const native_call *call) {
    printf("status %d\n", call->status);
    if (call->failed) {
        printf("error %s %s\n", call->error.code, call->error.message);
    } else if (call->status == CLAW_OK) {
        hex("result", call->result, call->result_size);
        for (uint32_t each = 0; each < call->frame_count; each++)
            hex("frame", call->frames[each].data, call->frames[each].size);
    }
}

static int run(native_library *library, uint32_t index, int count, char **arguments) {
    native_call call = {.library = library, .operation = index, .control = &control,
                        .most_threads = 1, .deadline_ns = -1, .most_result = 1 << 22,
                        .most_frame = 1 << 22, .chunk = on_chunk, .progress = on_progress,
                        .log = on_log};
    const claw_operation *operation = native_operation(library, index);
    native_value values[MOST] = {{0}};
    native_tensor tensors[MOST];
    array arrays[MOST];
    if (native_create(library, &call)) {
        show(&call);
        native_release(&call);
        return 1;
    }
    native_release(&call);
    call.result_size = call.result_room = 0;
    call.values = values;
    call.tensors = tensors;
    for (uint32_t each = 0; each < operation->param_count && each < MOST; each++)
        give(&values[each], &operation->params[each],
             argument(count, arguments, operation->params[each].name), &call, tensors, arrays);
    native_run(&call);
    show(&call);
    int status = call.status;
    native_release(&call);
    for (uint32_t each = 0; each < call.tensor_count; each++)
        free((void *)tensors[each].view.data);
    return status;
}

int main(int count, char **arguments) {
    native_error error;
    native_library *library = native_open(arguments[1], &error);
    int status = 3;
    if (!library) {
        printf("refused %s %s\n", error.code, error.message);
        return 2;
    }
    const char *stop = argument(count, arguments, "--stop");
    if (stop)
        stop_after = (int)strtol(stop, NULL, 10);
    for (uint32_t index = 0; index < native_count(library); index++)
        if (count > 2 && !strcmp(native_operation(library, index)->name, arguments[2]))
            status = run(library, index, count, arguments);
    native_close(library);
    return status;
}
