"""Timed calls of the ops of images; see ``timed``. Layouts: ``csrc/images.h``."""

import math
from collections.abc import Callable

import numpy as np

from clawai.plugins.accelerator.timed import (
    Args,
    Array,
    Case,
    Maker,
    Out,
    Y,
    bytes_out,
    case,
    codes,
    floats,
    scratch,
)

INF = math.inf
SIDE, WIDE = 28, 128
"""A map of the third stage of ResNet-50."""
PIXELS = SIDE * 7
"""A part of it, as a step takes."""
MAP = "7 rows of 28, 128 channels, ResNet-50"
FULL = "28 x 28 of 128 channels"
HEIGHT, WIDTH = 1080, 1920
FRAME, INPUT = "1920 x 1080 to 640 x 360", "640 x 640, YOLO"
LINE = "1920 pixels"
N = 640 * 640


def table(channels: int) -> Array:
    """Where the inputs of a 3 x 3 kernel lie, padded by 1."""
    at = np.full((SIDE + 2, SIDE + 2), -1, np.int32)
    at[1:-1, 1:-1] = np.arange(SIDE * SIDE, dtype=np.int32).reshape(SIDE, SIDE) * channels
    views = [at[i : i + SIDE, j : j + SIDE].reshape(-1) for j in range(3) for i in range(3)]
    return np.ascontiguousarray(np.stack(views, 1)[:PIXELS].reshape(-1))


def u8(n: int) -> Array:
    """Codes of a map or an image."""
    return codes(n, np.uint8)


def _joined(*parts: Array) -> Array:
    rows = [np.ascontiguousarray(p).view(np.uint8).reshape(len(p), -1) for p in parts]
    return np.concatenate(rows, 1).reshape(-1)


def kernel_u8(taps: int, k: int) -> Array:
    """Records of WIDE outputs."""
    blocks = WIDE // 8
    w = codes(blocks * taps * k * 8).reshape(blocks, taps * k // 4, 8, 4)
    sums = w.sum((1, 3), dtype=np.int32)
    scales = floats(WIDE, 0.0001, 0.0005).reshape(blocks, 8)
    return _joined(-128 * sums, sums, scales, w.reshape(blocks, -1))


def depthwise_kernel_u8(taps: int) -> Array:
    """The same for a kernel of each channel alone."""
    blocks = WIDE // 8
    w = np.zeros((blocks, 8, taps + taps % 2), np.int16)
    w[:, :, :taps] = codes(WIDE * taps).reshape(blocks, 8, taps)
    sums = w.sum(2, dtype=np.int32)
    scales = floats(WIDE, 0.001, 0.005).reshape(blocks, 8)
    return _joined(-128 * sums, scales, w.reshape(blocks, 8, -1, 2).transpose(0, 2, 1, 3))


def weights(taps: int, k: int, channels: int = WIDE) -> Array:
    """Records of f32."""
    return floats(channels * (1 + taps * k), -0.1, 0.1)


def maps(integer: bool) -> tuple[Array, Array]:
    """A map and its padding."""
    if integer:
        return u8(SIDE * SIDE * WIDE), np.full(WIDE, 128, np.uint8)
    return floats(SIDE * SIDE * WIDE), np.zeros(WIDE, np.float32)


def limits(integer: bool) -> tuple[float, ...]:
    """What comes before the output: of codes the zero point, then the lowest and the highest."""
    return (128, 0, 255) if integer else (0.0, INF)


def out_map(integer: bool) -> tuple[Out, int]:
    """The part of the output, and its stride."""
    return Out(PIXELS * WIDE, np.uint8 if integer else np.float32), WIDE


def conv(integer: bool) -> Case:
    kernel = kernel_u8(9, WIDE) if integer else weights(9, WIDE)
    shape = (table(WIDE), 9, 9, WIDE, kernel, WIDE // 8, PIXELS)
    args = (*maps(integer), *shape, *limits(integer), *out_map(integer))
    return Case(MAP, args, ops=18.0 * PIXELS * WIDE * WIDE, unit="int8" if integer else "fma")


def pointwise(integer: bool) -> Case:
    kernel = kernel_u8(1, WIDE) if integer else weights(1, WIDE)
    x = maps(integer)[0][: PIXELS * WIDE]
    args = (x, WIDE, WIDE, kernel, WIDE // 8, PIXELS, *limits(integer), *out_map(integer))
    return Case(MAP, args, ops=2.0 * PIXELS * WIDE * WIDE, unit="int8" if integer else "fma")


def deconv() -> Case:
    k, channels, n = 64, 32, 128
    y = Y(4 * n * channels)
    args = (floats(n * k), k, k, weights(4, k, channels), channels // 8, n, 0.0, INF, y)
    ops = 8.0 * n * k * channels
    return Case("a row of 128, U-Net", (*args, channels, 2 * n * channels), ops=ops, unit="fma")


def conv_image() -> Case:
    side, channels, n = 224, 64, 112
    kernel = weights(49, 3, channels)
    x = floats(side * side * 3)
    args: Args = (x, side, side, 3, 3 * side, 7, 7, 2, 3, 3, kernel, channels // 8, 50, n, 0.0, INF)
    ops = 2.0 * n * 147 * channels
    reads = 4 * (7 * side * 3 + kernel.size + n * channels)
    args = (*args, Y(n * channels), channels)
    return Case("a row of 112, first layer of ResNet-50", args, False, ops, "fma", reads)


def depthwise(integer: bool) -> Case:
    kernel = depthwise_kernel_u8(9) if integer else weights(9, 1)
    shape = (table(WIDE), 9, 9, WIDE, kernel, PIXELS)
    args = (*maps(integer), *shape, *limits(integer), *out_map(integer))
    return Case(MAP, args, ops=18.0 * PIXELS * WIDE)


def pool(integer: bool, *numbers: float) -> Maker:
    def make() -> Case:
        shape = (table(WIDE), 9, 9, WIDE, PIXELS)
        return case(MAP, maps(integer)[0], *shape, *numbers, *out_map(integer))

    return make


def whole(integer: bool, *numbers: float) -> Maker:
    """All pixels of a map to one."""

    def make() -> Case:
        out = Out(WIDE, np.uint8 if integer else np.float32)
        return case(FULL, maps(integer)[0], WIDE, SIDE * SIDE, WIDE, *numbers, out)

    return make


def channels(*vectors: int, numbers: tuple[float, ...] = ()) -> Maker:
    """Each pixel with a vector of its channels."""

    def make() -> Case:
        n = SIDE * SIDE
        given = [floats(WIDE) for _ in vectors]
        return case(FULL, floats(n * WIDE), WIDE, n, WIDE, *given, *numbers, Y(n * WIDE), WIDE)

    return make


def codes_of_map(*args: Callable[[int], object] | float) -> Maker:
    """Arguments in order; a function stands for what has as many elements as a map."""

    def make() -> Case:
        n = SIDE * SIDE * WIDE
        return case(FULL, *[a(n) if callable(a) else a for a in args])

    return make


def scale_channels_u8() -> Case:
    n = SIDE * SIDE
    args = (u8(n * WIDE), WIDE, n, WIDE, 128, u8(WIDE), 128, 0.01, 128)
    return Case(FULL, (*args, bytes_out(n * WIDE), WIDE))


def add_clamp() -> Case:
    n = SIDE * SIDE * WIDE
    return case(FULL, floats(n), floats(n), n, 0.0, 6.0, Y(n))


def shrunk(*work: Out) -> Maker:
    """A frame of a camera to the input of a model."""

    def make() -> Case:
        head = (u8(HEIGHT * WIDTH * 3), HEIGHT, WIDTH, 3, 3 * WIDTH, 360, 640, 0, 360)
        return case(FRAME, *head, *work, bytes_out(360 * 640 * 3), 640 * 3, cold=True)

    return make


def grown(width: int, out: Out, x: Maker | Callable[[int], Array]) -> Maker:
    """A map of 40 x 40 pixels of ``width`` elements to 80 x 80."""
    about = "40 x 40 to 80 x 80, YOLO"
    made: Callable[[int], object] = x  # type: ignore[assignment]
    tail = (out, 80 * width)
    return lambda: case(about, made(1600 * width), 40, 40, width, 40 * width, 80, 80, 0, 80, *tail)


def warp() -> Case:
    m = np.array([2.9, -0.3, 40, 0.25, 2.8, 9, 0, 0, 1.0])
    args = (u8(HEIGHT * WIDTH * 3), HEIGHT, WIDTH, 3, 3 * WIDTH, m, 640, 0, 360)
    return case(FRAME, *args, bytes_out(360 * 640 * 3), 640 * 3, cold=True)


def colors() -> tuple[Array, Array]:
    """Scale and shift of three channels."""
    return floats(3, 0.01, 0.02), floats(3)


def line(*parts: int, order: tuple[int, ...] = ()) -> Maker:
    """A line of a video frame to RGB."""
    return lambda: case(LINE, *map(u8, parts), WIDTH, *order, bytes_out(3 * WIDTH))


def padded(integer: bool) -> Maker:
    def make() -> Case:
        n, rows = 640 * 3, 360
        x = u8(n * rows) if integer else floats(n * rows)
        out = Out((n + 96) * rows, x.dtype)
        fill = 114 if integer else 0.5
        return case("360 rows of 640 pixels", x, n, n, rows, 48, 48, fill, out, n + 96, cold=True)

    return make


def transposed(dtype: type) -> Maker:
    def make() -> Case:
        n = 1024
        x = floats(n * n) if dtype is np.float32 else codes(n * n, dtype)
        return case("1024 x 1024", x, n, n, n, Out(n * n, dtype), n, cold=True)

    return make


def iou() -> Case:
    n = 8400
    boxes = floats(4 * n, 1, 600)
    boxes[2 * n :] += boxes[: 2 * n]
    return case("8400 boxes, YOLO", boxes[::n].copy(), boxes, n, n, Y(n))


def copied() -> Case:
    nbytes, rows = 640 * 3, 360
    x, y = u8(WIDTH * 3 * rows), bytes_out(nbytes * rows)
    about, moved = "360 rows of 640 pixels", 2 * nbytes * rows
    return Case(about, (x, WIDTH * 3, nbytes, rows, y, nbytes), True, reads=moved)


def _rgb() -> Array:
    """An image."""
    return u8(3 * N)


CASES: dict[str, Maker] = {
    "conv_f32": lambda: conv(False),
    "pointwise_f32": lambda: pointwise(False),
    "deconv2x2_f32": deconv,
    "conv_image_f32": conv_image,
    "conv_u8": lambda: conv(True),
    "pointwise_u8": lambda: pointwise(True),
    "depthwise_f32": lambda: depthwise(False),
    "depthwise_u8": lambda: depthwise(True),
    "maxpool_f32": pool(False),
    "maxpool_u8": pool(True),
    "avgpool_f32": pool(False, 0),
    "avgpool_u8": pool(True, 0, 128, 1.1, 128),
    "global_avgpool_f32": whole(False),
    "global_avgpool_u8": whole(True, 128, 1.1, 128),
    "global_maxpool_f32": whole(False),
    "add_u8": codes_of_map(*(u8, 128, 0.7, u8, 128, 0.6), lambda n: n, 128, 0, 255, bytes_out),
    "mul_u8": codes_of_map(u8, 128, u8, 128, 0.01, lambda n: n, 128, bytes_out),
    "lut_u8": codes_of_map(u8, lambda _: u8(256), lambda n: n, bytes_out),
    "scale_channels_u8": scale_channels_u8,
    "scale_channels_f32": channels(1),
    "affine_channels_f32": channels(1, 1, numbers=(0.0, 6.0)),
    "prelu_f32": channels(1),
    "add_clamp_f32": add_clamp,
    "resize_bilinear_u8": shrunk(scratch(WIDTH * 3 + 2 * 640, np.int32)),
    "resize_bilinear_f32": grown(WIDE, Y(6400 * WIDE), floats),
    "resize_nearest": grown(4 * WIDE, bytes_out(6400 * 4 * WIDE), u8),
    "resize_area_u8": shrunk(scratch(WIDTH * 3)),
    "warp_u8": warp,
    "normalize_hwc": lambda: case(INPUT, _rgb(), N, 3, *colors(), Y(3 * N), cold=True),
    "normalize_chw": lambda: case(INPUT, _rgb(), N, 3, *colors(), Y(3 * N), N, cold=True),
    "quantize_image": lambda: case(
        INPUT, _rgb(), N, 3, *colors(), bytes_out(8 * N), 8, 128, cold=True
    ),
    "denormalize_u8": lambda: case(
        INPUT,
        floats(3 * N),
        3,
        N,
        3,
        floats(3, 30, 60),
        floats(3, 90, 99),
        bytes_out(3 * N),
        cold=True,
    ),
    "swap_rb_u8": lambda: case(INPUT, _rgb(), N, 3, bytes_out(3 * N), cold=True),
    "gray_u8": lambda: case(INPUT, _rgb(), N, bytes_out(N), cold=True),
    "nv12_rgb": line(WIDTH, WIDTH, order=(0,)),
    "yuv420_rgb": line(WIDTH, WIDTH // 2, WIDTH // 2),
    "yuyv_rgb": line(2 * WIDTH),
    "pad_u8": padded(True),
    "pad_f32": padded(False),
    "copy_rows": copied,
    "transpose_f32": transposed(np.float32),
    "transpose_u16": transposed(np.uint16),
    "transpose_u8": transposed(np.uint8),
    "threshold_u8": lambda: case(INPUT, floats(N), N, 0.5, bytes_out(N), cold=True),
    "iou_f32": iou,
}
