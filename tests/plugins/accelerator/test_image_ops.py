"""The ops of images put together: layers as ONNX defines them, a letterbox, work cut into ranges.

References here work on channels-first arrays, straight from the definitions of the operators; they
share nothing with the layouts that the ops read.
"""

from typing import Any

import numpy as np
import pytest

from clawai.plugins.accelerator._ops import ffi, lib
from clawai.plugins.accelerator.native import available_isas
from op_cases import images
from op_cases.parts import Array, Case, Out

INF = float("inf")
pytestmark = pytest.mark.parametrize("target", available_isas())


def call(target: str, name: str, *args: Any) -> None:
    """Call an op; arrays are passed as they are, also as parts of others."""
    function = getattr(lib.claw_ops_named(target.encode()), name)
    kinds = [kind.cname.replace("const ", "") for kind in ffi.typeof(function).args]
    function(
        *(
            a if isinstance(a, int | float) else ffi.cast(k, a.ctypes.data)
            for a, k in zip(args, kinds, strict=True)
        )
    )


def onnx_conv(x: Array, w: Array, stride: int, pads: tuple[int, int], groups: int) -> Array:
    """Conv of (c, h, w) with (o, c / groups, kh, kw); pads before and after both axes."""
    before, after = pads
    x = np.pad(x, ((0, 0), (before, after), (before, after)))
    o, cg, kh, kw = w.shape
    oh, ow = ((n - k) // stride + 1 for n, k in zip(x.shape[1:], (kh, kw), strict=True))
    y = np.zeros((o, oh, ow), np.result_type(x, w))
    for i in range(kh):
        for j in range(kw):
            part = x[:, i : i + stride * oh : stride, j : j + stride * ow : stride]
            part = part[:, :oh, :ow].reshape(groups, cg, oh, ow)
            kernel = w[:, :, i, j].reshape(groups, o // groups, cg)
            y += np.einsum("gcyx,goc->goyx", part, kernel).reshape(y.shape)
    return y


def last(x: Array) -> Array:
    """(c, h, w) to pixels of c channels."""
    return np.ascontiguousarray(x.reshape(len(x), -1).T)


def taps_last(w: Array) -> Array:
    """(o, c, kh, kw) to (o, taps, c)."""
    return w.transpose(0, 2, 3, 1).reshape(len(w), -1, w.shape[1])


def test_a_mobile_block_in_f32_is_what_onnx_says(target: str) -> None:
    """First layer 3x3 stride 2, depthwise 3x3, expansion, projection, residual, global mean."""
    rng = np.random.default_rng(5)
    h, w = 17, 23

    def weights(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def bias(n: int) -> Array:
        return rng.standard_normal(n).astype(np.float32)

    image, wf, bf = (
        rng.standard_normal((3, h, w)).astype(np.float32),
        weights(16, 3, 3, 3),
        bias(16),
    )
    wd, bd, wp, bp = weights(16, 1, 3, 3), bias(16), weights(16, 16, 1, 1), bias(16)
    oh, ow = (h + 1) // 2, (w + 1) // 2
    first = np.zeros((oh * ow, 16), np.float32)
    kernel = images.pack_f32(taps_last(wf).reshape(16, -1), bf)
    for row in range(oh):
        shape = (h, w, 3, 3 * w, 3, 3, 2, 1, 1)
        rows = first[row * ow :]
        call(target, "conv_image_f32", last(image), *shape, kernel, 2, row, ow, 0.0, 6.0, rows, 16)
    t = images.table(oh, ow, 3, 1, 1)
    deep, out, total = (np.zeros_like(first) for _ in range(3))
    packed, zero = images.pack_f32(wd.reshape(16, 9), bd), np.zeros(16, np.float32)
    given = (first, zero, t.offsets(16), 9, 9, 16, packed, len(first), 0.0, 6.0, deep, 16)
    call(target, "depthwise_f32", *given)
    projection = images.pack_f32(wp.reshape(16, 16), bp)
    call(target, "pointwise_f32", deep, 16, 16, projection, 2, len(deep), -INF, INF, out, 16)
    call(target, "add_clamp_f32", out, first, out.size, -INF, INF, total)
    mean = np.zeros(16, np.float32)
    call(target, "global_avgpool_f32", total, 16, len(total), 16, mean)

    def layer(x: Array, w: Array, b: Array, **how: Any) -> Array:
        return onnx_conv(x, w.astype(np.float64), **how) + b[:, None, None]

    a = np.clip(layer(image, wf, bf, stride=2, pads=(1, 1), groups=1), 0, 6)
    b = np.clip(layer(a, wd, bd, stride=1, pads=(1, 1), groups=16), 0, 6)
    c = layer(b, wp, bp, stride=1, pads=(0, 0), groups=1) + a
    np.testing.assert_allclose(total, last(c), atol=3e-6 * np.abs(c).max())
    np.testing.assert_allclose(mean, c.mean((1, 2)), atol=3e-6 * np.abs(c).max())


def qlinear_conv(
    x: Array, xz: int, w: Array, bias: Array, scale: Array, yz: int, **how: Any
) -> Array:
    """QLinearConv with weights of zero point 0; scale: input * weight / output, one a channel."""
    sums = onnx_conv(x.astype(np.int64) - xz, w.astype(np.int64), **how) + bias[:, None, None]
    y = np.rint(sums.astype(np.float32) * scale[:, None, None])
    return np.clip(y + np.float32(yz), 0, 255).astype(np.uint8)


def test_quantized_layers_have_the_codes_of_onnx(target: str) -> None:
    """Three layers with the padding of TensorFlow's SAME (more at the end), bit for bit."""
    rng = np.random.default_rng(6)
    h, w, n = 14, 10, 24
    x = rng.integers(0, 256, (8, h, w)).astype(np.uint8)
    kernels = [rng.integers(-127, 128, s) for s in ((n, 8, 3, 3), (n, 1, 5, 5), (16, n, 1, 1))]
    biases = [rng.integers(-3000, 3000, len(k)) for k in kernels]
    scales = [
        (rng.uniform(0.5, 1.5, len(k)) / (60 * np.sqrt(k[0].size))).astype(np.float32)
        for k in kernels
    ]
    zeros = (120, 33, 90, 128)
    how = (
        {"stride": 2, "pads": (0, 1), "groups": 1},
        {"stride": 1, "pads": (2, 2), "groups": n},
        {"stride": 1, "pads": (0, 0), "groups": 1},
    )
    expected = x
    for i in range(3):
        given = (kernels[i], biases[i], scales[i], zeros[i + 1])
        expected = qlinear_conv(expected, zeros[i], *given, **how[i])
    assert len(np.unique(expected)) > 100

    # SAME: the table of an image with one row and one column of padding behind it
    padded = images.table(h + 1, w + 1, 3, 2)
    row, column = padded.pixels // (w + 1), padded.pixels % (w + 1)
    pixels = np.where((row < h) & (column < w), row * w + column, -1)
    t = images.Table(pixels, 9, pixels, padded.width)
    pixels_out, blocks = len(pixels), n // 8
    a = np.zeros((pixels_out, n), np.uint8)
    packed = images.pack_u8(taps_last(kernels[0]), biases[0], scales[0], zeros[0])
    zero = np.full(n, zeros[0], np.uint8)
    head = (last(x), zero, t.offsets(8), 9, 9, 8, packed, blocks, pixels_out)
    call(target, "conv_u8", *head, zeros[1], 0, 255, a, n)
    t, b = images.table(h // 2, w // 2, 5, 1, 2), np.zeros((pixels_out, n), np.uint8)
    packed = images.pack_depthwise_u8(kernels[1].reshape(n, 25), biases[1], scales[1], zeros[1])
    zero[:] = zeros[1]
    head = (a, zero, t.offsets(n), 25, 25, n, packed, pixels_out)
    call(target, "depthwise_u8", *head, zeros[2], 0, 255, b, n)
    packed = images.pack_u8(taps_last(kernels[2]), biases[2], scales[2], zeros[2])
    y = np.zeros((pixels_out, 16), np.uint8)
    call(target, "pointwise_u8", b, n, n, packed, 2, pixels_out, zeros[3], 0, 255, y, 16)
    np.testing.assert_array_equal(y, last(expected))


def run(target: str, name: str, args: list[Any]) -> Array:
    """The first real output of a case's arguments."""
    given = [np.zeros(a.shape, a.dtype) if isinstance(a, Out) else a for a in args]
    call(target, name, *given)
    at = next(i for i, a in enumerate(args) if isinstance(a, Out) and not a.scratch)
    return given[at]  # type: ignore[no-any-return]


def made(name: str, kind: str = "large") -> Case:
    return images.MAKERS[name](np.random.default_rng(3), kind)


@pytest.mark.parametrize("name", ["conv_f32", "conv_u8", "depthwise_f32", "depthwise_u8"])
def test_a_pixel_has_the_same_bits_in_any_range(target: str, name: str) -> None:
    args = made(name).args
    whole = run(target, name, args)
    count = next(i for i, a in enumerate(args) if isinstance(a, int) and a == len(whole) and i > 4)
    step = args[3]
    parts = []
    for first, last_ in ((0, 1), (1, 4), (4, len(whole))):
        part = list(args)
        part[2] = args[2][first * step :] if args[2].ndim == 1 else args[2][first:]
        part[count] = last_ - first
        part[-2] = Out((last_ - first, whole.shape[1]), whole.dtype)
        parts.append(run(target, name, part))
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    "name",
    ["resize_bilinear_u8", "resize_bilinear_f32", "resize_nearest", "resize_area_u8", "warp_u8"],
)
def test_a_resized_row_has_the_same_bits_in_any_range(target: str, name: str) -> None:
    args = made(name).args
    whole = run(target, name, args)
    for row in (0, len(whole) // 2, len(whole) - 1):
        part = list(args)
        part[7:9] = [row, 1]  # first, rows
        part[-2] = Out((1, whole.shape[1]), whole.dtype)
        assert run(target, name, part)[0].tobytes() == whole[row].tobytes()


def test_a_table_also_walks_a_blocked_map(target: str) -> None:
    args = made("conv_f32").args
    x, zero, offsets, _, taps, k = args[:6]
    blocked = np.ascontiguousarray(x.reshape(len(x), k // 8, 8).transpose(1, 0, 2))
    starts = np.arange(k // 8) * len(x) * 8
    table = np.where(offsets[:, :, None] < 0, -1, offsets[:, :, None] // k * 8 + starts)
    table = table.astype(np.int32)
    many = taps * k // 8
    given = [blocked, zero, table, many, many, 8, *args[6:]]
    np.testing.assert_array_equal(run(target, "conv_f32", given), run(target, "conv_f32", args))


def test_in_place(target: str) -> None:
    for name in ("add_u8", "mul_u8", "lut_u8", "swap_rb_u8", "prelu_f32", "add_clamp_f32"):
        args = made(name).args
        expected = run(target, name, args)
        y = np.array(args[0]).reshape(expected.shape)
        given = [y if i == 0 or isinstance(a, Out) else a for i, a in enumerate(args)]
        call(target, name, *given)
        np.testing.assert_array_equal(y, expected, name)


def test_a_letterbox_is_a_resize_into_a_part_of_a_canvas(target: str) -> None:
    rng = np.random.default_rng(8)
    photo = rng.integers(0, 256, (30, 50, 3)).astype(np.uint8)
    canvas = np.full((32, 32, 3), 114, np.uint8)
    part = photo[2:28, 5:45]  # only this part of the photo: 26 x 40 to 20 x 32
    scratch = np.zeros(40 * 3 + 2 * 32, np.int32)
    call(target, "resize_bilinear_u8", part, 26, 40, 3, 150, 20, 32, 0, 20, scratch, canvas[6:], 96)
    assert (canvas[:6] == 114).all() and (canvas[26:] == 114).all()
    (top, low, fy), (left, right, fx) = images.linear(26, 20), images.linear(40, 32)
    real = part.astype(float)
    real = real[top] * (1 - fy[:, None, None]) + real[low] * fy[:, None, None]
    real = real[:, left] * (1 - fx[None, :, None]) + real[:, right] * fx[None, :, None]
    assert np.abs(canvas[6:26] - real).max() < 0.63
    x, scale, shift = (
        np.zeros((3, 32, 32), np.float32),
        np.array([2.0, 3, 4]),
        np.array([1.0, 0, 2]),
    )
    given = (scale.astype(np.float32), shift.astype(np.float32), x, 32 * 32)
    call(target, "normalize_chw", canvas, 32 * 32, 3, *given)
    np.testing.assert_array_equal(x, (canvas * scale + shift).transpose(2, 0, 1))


def test_boxes_suppress_each_other(target: str) -> None:
    """Greedy suppression with iou_f32 leaves one box a cluster."""
    rng = np.random.default_rng(9)
    centres = np.array([[20, 20], [60, 25], [40, 70]])
    corners = centres[np.arange(30) % 3] + rng.uniform(-2, 2, (30, 2))
    boxes = np.ascontiguousarray(np.concatenate([corners - 8, corners + 8], 1).T, np.float32)
    alive, kept = np.ones(30, bool), []
    for i in range(30):
        if not alive[i]:
            continue
        kept.append(i)
        iou = np.zeros(30, np.float32)
        call(target, "iou_f32", np.ascontiguousarray(boxes[:, i]), boxes, 30, 30, iou)
        assert iou[i] == 1
        alive &= iou < 0.45
    assert kept == [0, 1, 2]
