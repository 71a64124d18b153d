"""The host of plugins in C and C++, without a sandbox: what it accepts, gives and refuses."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.sdk import wire
from clawai.sdk.context import Context, Yielded
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin
from clawai.sdk.native import DTYPES, Library, Plugin
from clawai.sdk.plain import unpack
from clawai.sdk.testing import FakeKernel
from native_build import Build

MANIFEST = """
[plugin]
name = "{name}"
version = "1"
language = "c"
module = "{module}"
"""


def fake(folder: Path, library: Path, *operations: str) -> FakeKernel:
    """A plugin's folder with this shared object, in the fake kernel."""
    shutil.copy(library, folder)
    entries = "".join(f'[[operation]]\nname = "{name}"\nidempotent = true\n' for name in operations)
    text = MANIFEST.format(name=library.stem, module=library.name) + entries
    (folder / "plugin.toml").write_text(text)
    return FakeKernel(folder)


@pytest.fixture
def every(build: Build, tmp_path: Path) -> FakeKernel:
    names = [f"every.{name}" for name in ("give", "stream", "wait", "misuse")]
    return fake(tmp_path, build("every.c"), *names)


@pytest.fixture
def throws(build: Build, tmp_path: Path) -> FakeKernel:
    names = [f"throws.{name}" for name in ("raise", "typed", "through")]
    return fake(tmp_path, build("throws.cpp"), *names)


def refused(kernel: FakeKernel, op: str, params: dict[str, Any], **options: Any) -> ClawError:
    with pytest.raises(ClawError) as caught:
        kernel.call(op, params, **options)
    return caught.value


# Parameters and results.


def test_every_type_goes_in_and_comes_out(every: FakeKernel) -> None:
    given = {"needed": 7, "i64": -(1 << 40), "f64": -0.5, "flag": False, "text": "x\0ü😀"}
    task = every.submit("every.give", given, threads=3)
    value = task.result().value
    assert {key: value[key] for key in given} == given
    assert value["up to its 0"] == "x"
    assert (value["bytes"], value["nil"], value["state"]) == (b"\0\xff", None, 42)
    assert (value["threads"], value["deadline"]) == (3, False)
    assert [(e.fraction, e.note) for e in task.events] == [(0.5, "half")]


def test_defaults_are_those_of_the_table(every: FakeKernel) -> None:
    value = every.call("every.give", {"needed": 0}, deadline=1e12).value
    expected = {"i64": -5, "f64": 2.5, "flag": True, "text": "aä", "deadline": True}
    assert {key: value[key] for key in expected} == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type(every: FakeKernel, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tensor = {"dtype": array.dtype.str, "shape": array.shape, "frame": 0}
    result = every.call("every.give", {"needed": 1, "tensor": tensor}, frames=[array.tobytes()])
    copy = result.value["copy"]
    assert copy == {"dtype": array.dtype.str, "shape": [2, 3, 4], "frame": 0}
    assert result.frames[0] == array.tobytes()
    assert tuple(result.value["strides"]) == array.strides
    assert not result.value["writable"]
    tensor["dtype"] = array.dtype.name
    again = every.call("every.give", {"needed": 1, "tensor": tensor}, frames=[array.tobytes()])
    assert again.frames == result.frames


def test_an_empty_array_and_one_without_dimensions(every: FakeKernel) -> None:
    for shape, data in (([0, 4], b""), ([], b"abcd")):
        tensor = {"dtype": "<f4", "shape": shape, "frame": 0}
        result = every.call("every.give", {"needed": 1, "tensor": tensor}, frames=[data])
        assert result.frames == (data,)
        assert result.value["copy"]["shape"] == shape


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ({"dtype": "<f4", "shape": [7], "frame": 0}, "larger than its buffer"),
        ({"dtype": "<f4", "shape": [1 << 40, 1 << 40], "frame": 0}, "larger than its buffer"),
        ({"dtype": "<f4", "shape": [1 << 60, 0], "frame": 0}, "not a shape"),
        ({"dtype": "<f4", "shape": [-1], "frame": 0}, "not a shape"),
        ({"dtype": "<f4", "shape": [1] * 17, "frame": 0}, "not a shape"),
        ({"dtype": ">f4", "shape": [1], "frame": 0}, "not a dtype"),
        ({"dtype": "O", "shape": [1], "frame": 0}, "not a dtype"),
        ({"dtype": "<f4", "shape": [1], "frame": 1}, "names a frame or a lease"),
        ({"dtype": "<f4", "shape": [1], "lease": 0}, "names a frame or a lease"),
    ],
)
def test_an_array_that_is_none(every: FakeKernel, tensor: dict[str, Any], part: str) -> None:
    error = refused(every, "every.give", {"needed": 1, "tensor": tensor}, frames=[bytes(24)])
    assert error.code == "bad_params"
    assert part in error.message


@pytest.mark.parametrize(
    ("params", "part"),
    [
        ({}, "missing required field `needed`"),
        ({"needed": 1 << 63}, "needed"),
        ({"needed": 1.5}, "Expected `int`, got `float`"),
        ({"needed": 1, "i64": 1 << 60}, "Expected `int` <= 9000000000000000"),
        ({"needed": 1, "text": 3}, "Expected `str`"),
        ({"needed": 1, "flag": 1}, "Expected `bool`"),
        ({"needed": 1, "neded": 1}, "unknown field `neded`"),
    ],
)
def test_parameters_are_checked_by_the_table(
    every: FakeKernel, params: dict[str, Any], part: str
) -> None:
    error = refused(every, "every.give", params)
    assert error.code == "bad_params"
    assert part in error.message


def test_the_schema_says_what_the_table_does(every: FakeKernel) -> None:
    schema = unpack(every.operations["every.give"].info().params)
    told = schema["$defs"]["every_give"]["properties"]
    assert told["needed"]["description"] == "must be given"
    assert (told["f64"]["type"], told["f64"]["default"]) == ("number", 2.5)
    assert told["i64"]["minimum"] == -9_000_000_000_000_000
    assert schema["$defs"]["every_give"]["required"] == ["needed"]
    assert every.operations["every.give"].summary == "Give back"


MISUSES = {
    "unknown": "does not declare",
    "type": "declared as str, read as i64",
    "utf8": "not UTF-8 at byte 1",
    "surrogate": "not UTF-8 at byte 0",
    "null": "a text of the result is NULL",
    "open": r"claw_close\(\) is missing",
    "close": "without an open map",
    "key": "in a list the key is NULL; got key",
    "nokey": "each value needs a key",
    "two": "must be the only one",
    "deep": "at most 16 levels",
    "large": "more than .* bytes; stream it",
    "huge": "more than .* bytes; stream it",
    "claimed": "more than .* bytes; stream it",
    "dtype": "no proper dtype or shape",
    "shape": "no proper dtype or shape",
    "tensor": "no proper dtype or shape",
    "frames": "5242880 bytes, allowed: 63 arrays of 4194304",
    "status": "returned 99",
    "failed": r"without claw_fail\(\)",
    "stop": "nobody had asked it to",
    "chunk": "a chunk carries no arrays",
    "code": "said 7",
    "none": "no such misuse",
}


@pytest.mark.parametrize("how", MISUSES)
def test_a_misuse_of_the_host_fails_the_task_only(every: FakeKernel, how: str) -> None:
    with pytest.raises(ClawError, match=MISUSES[how]):
        every.call("every.misuse", {"how": how})
    assert every.call("every.give", {"needed": 1}).value["needed"] == 1


def test_yielding_unasked_is_not_a_result(every: FakeKernel) -> None:
    with pytest.raises(Yielded):  # the runner makes an error of it where the task cannot begin anew
        every.call("every.misuse", {"how": "yield"})


# Streams and the control word.


def test_chunks_come_as_they_are_put_and_a_stop_ends_them(every: FakeKernel) -> None:
    task = every.submit("every.stream", {"data": b"\1\2\3"})
    assert (task.chunks, task.result().value) == ([1, 2, 3], 3)
    task = every.submit("every.stream", {"data": bytes(1000)}, stop_after=2)
    assert len(task.chunks) == 2
    assert isinstance(task.end, ClawError) and task.end.code == "cancelled"


def test_a_checkpoint_obeys_the_control_word(every: FakeKernel) -> None:
    stopped = every.submit("every.wait", word=wire.STOP)
    assert isinstance(stopped.end, ClawError) and stopped.end.code == "cancelled"
    assert isinstance(every.submit("every.wait", word=wire.YIELD).end, Yielded)
    # A task that has streamed cannot begin anew, so it is not asked to.
    task = every.submit("every.stream", {"data": b"\1\2"}, word=wire.YIELD)
    assert (task.chunks, task.result().value) == ([1, 2], 2)


class Configured(Context):
    """A context as a kernel with configuration makes it."""

    config: Any = None


def test_configuration_reaches_c(build: Build) -> None:
    library = Library(build("every.c"))
    plugin = Plugin(library)
    worker = type("Worker", (), {"args": {"config": {"broken": False}}, "threads": 2})
    plugin.claw_start(worker)
    (give,) = (op for op in plugin.claw_operations() if op.name == "every.give")
    outlet = type("Outlet", (), {"progress": lambda *_: None})()
    context = Configured(1, outlet, memoryview(bytearray(4)).cast("I"), most_threads=2)
    context.config = {"depth": 9, "scale": 2.5, "loud": True, "name": "Ü", "list": [1]}
    value = unpack(give.function(**give.arguments(wire.pack({"needed": 1}), context)))
    assert value["config"] == {"depth": 9, "scale": 2.5, "loud": True, "name": "Ü"}
    assert value["threads"] == 2
    worker.args = {"config": {"broken": True}}  # type: ignore[attr-defined]
    with pytest.raises(ClawError, match="broken as configured"):
        plugin.claw_start(worker)


def test_what_was_created_is_destroyed_at_the_close(build: Build) -> None:
    library = Library(build("every.c"))
    assert library.version == (1, 0)
    assert len(library.operations()) == 4
    library.close()


# C++.


def test_typed_parameters_and_results_in_cpp(throws: FakeKernel) -> None:
    view = np.arange(6, dtype="<f4").reshape(2, 3)
    given = {"bytes": b"\0x", "view": {"dtype": "<f4", "shape": [2, 3], "frame": 0}}
    task = throws.submit("throws.typed", given | {"scale": 2}, frames=[view.tobytes()])
    result = task.result()
    value = result.value
    assert (value["number"], value["flag"], value["text"]) == (3, False, "t")
    assert (value["bytes"], value["nothing"]) == (b"\0x", None)
    assert value["nested"] == {"a": [1, 2]} and value["map"] == {"list": [1.5]}
    assert value["sums"] == list(2.0 * view.sum(1))
    assert np.frombuffer(result.frames[0], "<f8").tolist() == value["sums"]
    wrong = given | {"view": {"dtype": "<f8", "shape": [3], "frame": 0}}
    error = refused(throws, "throws.typed", wrong, frames=[view.tobytes()])
    assert (error.code, "another type" in error.message) == ("bad_params", True)
    into = given | {"into": {"dtype": "<f8", "shape": [2], "frame": 1}}
    error = refused(throws, "throws.typed", into, frames=[view.tobytes(), bytes(16)])
    assert "lent for reading" in error.message
    error = refused(throws, "throws.typed", given | {"number": 11}, frames=[view.tobytes()])
    assert "<= 10" in error.message


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ("error", "too_large", "so it is"),
        ("standard", "worker_failed", "out of range"),
        ("memory", "no_memory", "no memory left"),
        ("int", "worker_failed", "something unknown"),
    ],
)
def test_no_exception_crosses_the_boundary(
    throws: FakeKernel, how: str, code: str, text: str
) -> None:
    error = refused(throws, "throws.raise", {"how": how})
    assert error.code == code
    assert text in error.message
    assert throws.call("throws.raise").value == "none"


def test_a_stop_passes_through_cpp(throws: FakeKernel) -> None:
    task = throws.submit("throws.raise", {"how": "stop"}, word=wire.STOP)
    assert isinstance(task.end, ClawError) and task.end.code == "cancelled"


# What cannot be loaded.

GARBAGE = {
    1: "parameter 0: struct_size is 7",
    2: "type 77",
    3: "has 4294967295",
    4: "the name of a parameter is not a text",
    5: "cannot be called 'from'",
    6: "cannot be called 'two words'",
    7: "the description of a parameter is not a text",
    8: "the default of a text is not a text",
    9: r"declared twice: \['x'\]",
    10: "an operation: struct_size is 7",
    11: "the name of an operation is not a text",
    12: "the description of an operation is not a text",
    13: "its table of 2 parameters cannot be read",
    14: "its table of 4000000000 parameters",
    15: r"parameter 2: .* version 0\.0",
    16: "run is not a function",
    17: "run is not a function",
    18: "lists 0 operations",
    19: "lists 4000000000 operations",
    20: "an operation is at .*, where nothing can be read",
    21: "an operation is at 0x123456789000, where nothing",
    22: "returned 1234",
    23: "the factory: struct_size is 7",
    24: "one of its functions is not a function",
    25: "one of its functions is not a function",
    26: "no factory clawai.operations",
    27: "the factory is at 0x123456789000",
    28: "claw_entry: struct_size is 4294967295",
    29: "claw_entry: struct_size is 7",
    30: "factory is not a function",
}


@pytest.mark.parametrize("number", GARBAGE)
def test_garbage_in_the_structs_is_refused(build: Build, number: int) -> None:
    library = build("garbage.c", f"-DGARBAGE={number}", name=f"garbage{number}.so")
    with pytest.raises(ClawError, match=GARBAGE[number]):
        Library(library).operations()


def test_without_garbage_it_loads(build: Build) -> None:
    assert [op.name for op in Library(build("garbage.c")).operations()] == ["garbage.run"]


def test_what_is_no_plugin_is_refused_with_the_next_step(build: Build, tmp_path: Path) -> None:
    every = build("every.c").read_bytes()
    foreign = bytearray(every)
    foreign[18:20] = (243).to_bytes(2, "little")

    def compile(name: str, code: str, *flags: str) -> None:  # noqa: A001
        source = tmp_path / f"{name}.c"
        source.write_text(code)
        command = ["cc", "-fPIC", "-shared", source, "-o", tmp_path / f"{name}.so", *flags]
        subprocess.run(command, check=True, capture_output=True)

    (tmp_path / "text.so").write_text("not a library at all")
    (tmp_path / "foreign.so").write_bytes(foreign)
    (tmp_path / "cut.so").write_bytes(every[:2000])
    (tmp_path / "link.so").symlink_to("/etc/hostname")
    compile("empty", "int x;")
    compile("unresolved", "void nowhere(void); void f(void) { nowhere(); }")
    compile("libneeded", "void nowhere(void) { }")
    compile("needs", "void nowhere(void); void f(void) { nowhere(); }", f"-L{tmp_path}", "-lneeded")
    (tmp_path / "libneeded.so").unlink()
    expected = {
        "missing.so": ("No such file", "build it: make -C"),
        "text.so": ("not a 64-bit shared object", "-shared"),
        "foreign.so": ("another processor", "clean all"),
        "cut.so": ("cut short", "clean all"),
        "link.so": ("out of the plugin's folder", "put the file itself there"),
        "empty.so": ("no symbol claw_entry", "CLAW_PLUGIN"),
        "unresolved.so": ("undefined symbol: nowhere", "-l..."),
        "needs.so": ("libneeded.so", "-rpath,'$ORIGIN'"),
    }
    for name, (part, step) in expected.items():
        with pytest.raises(ClawError) as caught:
            Library(tmp_path / name)
        assert caught.value.code == "bad_config", name
        assert part in caught.value.message, name
        assert step in caught.value.hint, name


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ('module = "x"', "plugin.module"),
        ('module = "../x.so"', "plugin.module"),
        ('module = "/usr/lib/x.so"', "plugin.module"),
        ('module = "x.so"\nkind = "engine"', "plugin.kind"),
    ],
)
def test_the_manifest_names_a_file_beside_it(tmp_path: Path, lines: str, part: str) -> None:
    text = f'[plugin]\nname = "x"\nversion = "1"\nlanguage = "c"\n{lines}\n'
    (tmp_path / "plugin.toml").write_text(text)
    with pytest.raises(ClawError, match=part):
        read_plugin(tmp_path)
    text = '[plugin]\nname = "x"\nversion = "1"\nmodule = "x.so/y"\n'
    (tmp_path / "plugin.toml").write_text(text)
    with pytest.raises(ClawError, match=r"plugin\.module"):
        read_plugin(tmp_path)


def test_the_fake_kernel_counts_checkpoints_in_c_and_hears_its_log(every: FakeKernel) -> None:
    task = every.submit("every.wait", cancel_at=5)
    assert isinstance(task.end, ClawError) and task.end.code == "cancelled"
    task = every.submit("every.give", {"needed": 1})
    assert task.logs == [("warning", "every says so")]
