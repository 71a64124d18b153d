/* A picture in shades of grey, and how often each shade occurs. */
#include <clawai.h>
#include <math.h>

static const claw_param params[] = {
    CLAW_TENSOR_PARAM("picture", "u8: rows x columns x 3 (red, green, blue)"),
    CLAW_TENSOR_OPT("into", "lent memory for the answer, such as the picture itself"),
    CLAW_F64_IN("gamma", 1.0, 0.1, 10.0, "1 leaves the brightness as it is, more makes it darker"),
};

static claw_status grey(claw_task *task, void *state) {
    const claw_tensor *picture = claw_param_tensor(task, "picture");
    double gamma = claw_param_f64(task, "gamma", 1.0);
    uint8_t shade[256];
    int64_t count[256] = {0}, row, column;
    (void)state;
    if (picture->dtype != CLAW_U8 || picture->ndim != 3 || picture->shape[2] != 3)
        return claw_fail(task, "bad_params", "picture must be u8, rows x columns x 3");
    for (row = 0; row < 256; row++)
        shade[row] = (uint8_t)(255.0 * pow((double)row / 255.0, gamma) + 0.5);
    const uint8_t *in = picture->data;
    uint8_t *out = claw_put_tensor(task, "grey", claw_param_tensor(task, "into"), CLAW_U8, 2,
                                   picture->shape);
    for (row = 0; out && row < picture->shape[0]; row++) {
        claw_signal asked = claw_checkpoint(task);
        if (asked != CLAW_GO)
            return claw_end(asked);
        for (column = 0; column < picture->shape[1]; column++, in += 3, out++)
            count[*out = shade[(299 * in[0] + 587 * in[1] + 114 * in[2] + 500) / 1000]]++;
    }
    claw_open_list(task, "histogram");
    for (row = 0; row < 256; row++)
        claw_put_i64(task, NULL, count[row]);
    claw_close(task);
    return CLAW_OK;
}

static const claw_operation op = CLAW_OPERATION("grey.convert", "To grey", params, grey);
CLAW_PLUGIN(&op)
