/* Uses all that clawai.h 1.0 offers; the tests compare what comes back, and misuse it. */
#include <clawai.h>
#include <stdlib.h>
#include <string.h>

static const claw_param params[] = {
    CLAW_I64_IN("i64", -5, -9e15, 9e15, "an integer"),
    CLAW_F64_OR("f64", 2.5, "a number"),
    CLAW_BOOL_OR("flag", 1, "a bool"),
    CLAW_STR_OR("text", "a\xc3\xa4", "a text"),
    CLAW_TENSOR_OPT("tensor", "an array"),
    CLAW_TENSOR_OPT("into", "where to"),
    CLAW_I64_PARAM("needed", "must be given"),
};

static claw_status give(claw_task *task, void *state) {
    const claw_tensor *tensor = claw_param_tensor(task, "tensor");
    uint64_t size = 0;
    const char *text = claw_param_text(task, "text", &size);
    uint32_t axis;
    claw_put_i64(task, "i64", claw_param_i64(task, "i64", 0));
    claw_put_i64(task, "needed", claw_param_i64(task, "needed", 0));
    claw_put_f64(task, "f64", claw_param_f64(task, "f64", 0));
    claw_put_bool(task, "flag", claw_param_bool(task, "flag", 0));
    claw_put_text(task, "text", text, size);
    claw_put_str(task, "up to its 0", claw_param_str(task, "text", ""));
    claw_put_bytes(task, "bytes", "\0\xff", 2);
    claw_put_nil(task, "nil");
    claw_put_i64(task, "state", *(int *)state);
    claw_put_i64(task, "threads", claw_threads(task));
    claw_put_bool(task, "deadline", claw_remaining_ms(task) != INT64_MAX);
    claw_open_map(task, "config");
    claw_put_i64(task, "depth", claw_config_i64(task, "depth", -1));
    claw_put_f64(task, "scale", claw_config_f64(task, "scale", -1));
    claw_put_bool(task, "loud", claw_config_bool(task, "loud", 0));
    claw_put_str(task, "name", claw_config_str(task, "name", "none"));
    claw_close(task);
    if (tensor) {
        void *out = claw_put_tensor(task, "copy", claw_param_tensor(task, "into"), tensor->dtype,
                                    tensor->ndim, tensor->shape);
        if (out)
            memcpy(out, tensor->data, tensor->bytes);
        claw_open_list(task, "strides");
        for (axis = 0; axis < tensor->ndim; axis++)
            claw_put_i64(task, NULL, tensor->strides[axis]);
        claw_close(task);
        claw_put_bool(task, "writable", tensor->writable != NULL);
    }
    claw_progress(task, 0.5, "half");
    claw_log(task, CLAW_WARNING, "every says so");
    return CLAW_OK;
}

static claw_status create(claw_task *task, void **state) {
    int *made = malloc(sizeof *made);
    *made = claw_config_bool(task, "broken", 0) ? 0 : 42;
    *state = made;
    return *made ? CLAW_OK : claw_fail(task, "bad_config", "it is broken as configured");
}

static const claw_param blob[] = {CLAW_BYTES_PARAM("data", "bytes")};

static claw_status stream(claw_task *task, void *state) {
    uint64_t size = 0, at;
    const uint8_t *data = claw_param_bytes(task, "data", &size);
    (void)state;
    for (at = 0; at < size; at++) {
        claw_signal asked;
        claw_put_i64(task, NULL, data[at]);
        asked = claw_chunk(task);
        if (asked != CLAW_GO)
            return claw_end(asked);
    }
    claw_put_i64(task, NULL, (int64_t)size);
    return CLAW_OK;
}

static claw_status wait(claw_task *task, void *state) {
    (void)state;
    claw_progress(task, -1, "waits");
    for (;;) {
        claw_signal asked = claw_checkpoint(task);
        if (asked != CLAW_GO)
            return claw_end(asked);
    }
}

static const claw_param how_params[] = {CLAW_STR_PARAM("how", "what to do wrong")};

static claw_status misuse(claw_task *task, void *state) {
    static const char *const names[] = {"unknown", "type",   "utf8",    "null",    "open",
                                        "close",   "key",    "nokey",   "two",     "deep",
                                        "large",   "huge",   "dtype",   "shape",   "status",
                                        "failed",  "stop",   "yield",   "frames",  "code",
                                        "chunk",   "tensor", "surrogate", "claimed"};
    static const int64_t overflow[2] = {INT64_MAX, 4}, bad[1] = {-1}, large[1] = {5 << 20};
    const char *how = claw_param_str(task, "how", "");
    size_t at, number = 0;
    (void)state;
    for (at = 0; at < sizeof names / sizeof names[0]; at++)
        if (strcmp(names[at], how) == 0)
            number = at + 1;
    switch (number) {
    case 1: claw_put_i64(task, "x", claw_param_i64(task, "not there", 7)); break;
    case 2: claw_put_i64(task, "x", claw_param_i64(task, "how", 7)); break;
    case 3: claw_put_str(task, "x", "a\xff"); break;
    case 4: claw_put_str(task, "x", NULL); break;
    case 5: claw_open_map(task, "x"); break;
    case 6: claw_close(task); break;
    case 7: claw_open_list(task, "x"), claw_put_i64(task, "key", 1), claw_close(task); break;
    case 8: claw_put_i64(task, "x", 1), claw_put_i64(task, NULL, 1); break;
    case 9: claw_put_i64(task, NULL, 1), claw_put_i64(task, "x", 1); break;
    case 10: for (at = 0; at < 100; at++) claw_open_list(task, at ? NULL : "x"); break;
    case 11: for (at = 0; at < 100000; at++) claw_put_text(task, "x", how, 5), claw_put_str(task, "y",
        "................................................................................"); break;
    case 12: claw_put_bytes(task, "x", how, UINT64_MAX / 2); break;
    case 13: claw_put_tensor(task, "x", NULL, 77, 1, large); break;
    case 14: claw_put_tensor(task, "x", NULL, CLAW_F64, 2, overflow); break;
    case 15: return 99;
    case 16: return CLAW_FAILED;
    case 17: return CLAW_STOPPED;
    case 18: return CLAW_YIELDED;
    case 19: claw_put_tensor(task, "x", NULL, CLAW_U8, 1, large); break;
    case 20: return claw_failf(task, "no code of ours", "%s %d", "said", 7);
    case 21: claw_put_tensor(task, "x", NULL, CLAW_U8, 0, NULL), claw_chunk(task); break;
    case 22: claw_put_tensor(task, "x", NULL, CLAW_U8, 1, bad); break;
    case 23: claw_put_text(task, "x", "\xed\xa0\x80", 3); break;
    case 24: claw_put_text(task, "x", "abc", UINT64_MAX - 1); break;
    default: claw_fail(task, "bad_params", "no such misuse");
    }
    return CLAW_OK;
}

static const claw_operation every = CLAW_STATEFUL("every.give", "Give back", params, give, create,
                                                  free);
static const claw_operation streams = CLAW_OPERATION("every.stream", "Stream", blob, stream);
static const claw_operation waits = CLAW_PLAIN("every.wait", "Wait to be stopped", wait);
static const claw_operation wrong = CLAW_OPERATION("every.misuse", "Misuse", how_params, misuse);
CLAW_PLUGIN(&every, &streams, &waits, &wrong)
