"""The engine in a worker: check one model, reserve what it needs, load it, then run it.

ONNX Runtime is a large library that reads a stranger's file; that is why it runs here, in the
sandbox, and why the file is looked at first by ``clawai.sdk.model.onnx``. It never has more threads
than the kernel grants: a session has a fixed number, so there is one with all of them and, once the
kernel grants fewer, one with a single thread.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec

from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.model import onnx
from clawai.sdk.plugin import Cancelled, Context, Operation, Start, Tensor, operation, operations_of

LOOK = 0.005
"""Seconds between two looks of a running model at whether it is to stop."""
HOLDS = 3
"""How often the weights are in memory while a model loads: the file, what is parsed, what is
packed."""
MIB = 1 << 20
Many = msgspec.Meta(max_length=256)


class Engine:
    """The plugin object: its hooks and its operations."""

    def __init__(self) -> None:
        self._data = b""
        self._sessions: dict[int, Any] = {}
        self._described: dict[str, Any] = {}
        self._threads = 1

    @hookimpl
    def claw_prepare(self) -> None:
        """Load the library, which takes longer than most models."""
        _runtime()

    @hookimpl
    def claw_start(self, worker: Start) -> None:
        """Look at the model, reserve what it needs, load it."""
        size = os.fstat(worker.model_fd).st_size
        name = str(worker.model.get("name", "the model"))
        header = onnx.read(worker.model_fd, name)
        settings = worker.args.get("config", {})
        self._threads = worker.threads
        sessions = 2 if worker.threads > 1 else 1
        held = HOLDS * size + (sessions - 1) * 2 * size
        worker.reserve(held + int(settings.get("activations_mib", 64)) * MIB)
        self._data = os.pread(worker.model_fd, size, 0)
        while len(self._data) < size:  # one read gives 2 GiB at most, less than a file may have
            more = os.pread(worker.model_fd, size - len(self._data), len(self._data))
            if not more:
                raise ClawError("bad_model", f"{name}: the file became shorter")
            self._data += more
        session = self._session(self._threads)
        self._described = _described(session, header, name)
        if sessions == 1:
            self._data = b""

    @hookimpl
    def claw_operations(self) -> Iterable[Operation]:
        """The methods below."""
        return operations_of(self)

    def _session(self, threads: int) -> Any:
        """The session with all threads, or the one with a single one."""
        wanted = self._threads if threads >= self._threads else 1
        if wanted not in self._sessions:
            self._sessions[wanted] = _load(self._data, wanted)
        return self._sessions[wanted]

    @operation("tensor.describe")
    def describe(self) -> dict[str, Any]:
        """What the model takes and gives: its inputs and outputs with name, dtype and shape.

        A size of -1 is free. The dtype is numpy's name; ``|S`` is text in UTF-8.
        """
        return self._described

    @operation("tensor.infer")
    def infer(
        self,
        ctx: Context,
        inputs: Annotated[dict[str, Tensor], Many],
        outputs: Annotated[list[str], Many] | None = None,
        into: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Run the model.

        Args:
            inputs: an array for each of its inputs, by name.
            outputs: names of the outputs that are wanted; else all.
            into: leases that outputs are written to, by name; the others come in frames.
        """
        feed = self._feed(ctx, inputs)
        known = [each["name"] for each in self._described["outputs"]]
        names = known if outputs is None else list(dict.fromkeys(outputs))
        for name in [*names, *(into or {})]:
            if name not in known:
                raise ClawError("bad_params", "the model has no such output", name[:200], known)
        ctx.checkpoint()
        began = time.perf_counter_ns()
        with _stopping(ctx) as options:
            try:
                found = self._session(ctx.threads).run(names, feed, options)
            except Exception as error:  # its own classes of errors have no common root but this
                if ctx.stopped:
                    raise Cancelled from None
                raise _failed("the model cannot run on these inputs", error) from None
        ctx.compute_us = (time.perf_counter_ns() - began) // 1000
        ctx.checkpoint()
        from clawai.plugins.onnx.tensors import given

        arrays = zip(names, found, strict=True)
        return {name: ctx.reply(given(array), (into or {}).get(name)) for name, array in arrays}

    def _feed(self, ctx: Context, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The inputs as arrays that nobody else can change.

        Raises:
            ClawError: bad_params, if one is missing, unknown or of another kind.
        """
        from clawai.plugins.onnx.tensors import taken

        told = {each["name"]: each for each in self._described["inputs"]}
        if set(inputs) != set(told):
            raise ClawError(
                "bad_params",
                "the inputs are not those of the model",
                sorted(name[:200] for name in inputs),
                sorted(told),
                "`claw call tensor.describe --model NAME` shows them",
            )
        return {name: taken(name, ctx.array(each), told[name]) for name, each in inputs.items()}


def _runtime() -> Any:
    """ONNX Runtime.

    Raises:
        ClawError: unsupported_system, with the command that brings it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ClawError(
            "unsupported_system",
            f"models in ONNX files need the package {error.name}",
            hint="pip install 'clawai[onnx]'",
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _load(data: bytes, threads: int) -> Any:
    """A session that keeps nothing of its caller's and no more memory than it needs.

    Raises:
        ClawError: bad_model.
    """
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # what a run took is given back after it
    options.log_severity_level = 3
    # A thread that spins would take a processor that the kernel has given to somebody else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes of errors have no common root but this
        raise _failed("ONNX Runtime cannot load the model", error, "bad_model") from None


def _described(session: Any, header: onnx.Header, name: str) -> dict[str, Any]:
    """What the model takes and gives, in plain values.

    Raises:
        ClawError: bad_model, if it takes or gives what is no array.
    """
    from clawai.plugins.onnx.tensors import dtype, shape

    def told(each: Any) -> dict[str, Any]:
        kind = dtype(each.type)
        if not kind:
            raise ClawError("bad_model", f"{name}: {each.name!r} is a {each.type}", each.type)
        return {"name": each.name, "dtype": kind, "shape": shape(each.shape)}

    meta = session.get_modelmeta()
    return {
        "platform": "onnxruntime_onnx",
        "inputs": [told(each) for each in session.get_inputs()],
        "outputs": [told(each) for each in session.get_outputs()],
        "producer": header.producer,
        "opset": header.opset,
        "metadata": {str(k)[:200]: str(v)[:4000] for k, v in meta.custom_metadata_map.items()},
    }


def _failed(what: str, error: Exception, code: str = "bad_params") -> ClawError:
    """ONNX Runtime's errors begin with names of its own; the rest is worth reading."""
    text = f"{what}: {' '.join(str(error).split())[:1000]}"
    return ClawError("bad_model", text) if code == "bad_model" else ClawError("bad_params", text)


@contextmanager
def _stopping(ctx: Context) -> Iterator[Any]:
    """Options of a run that ends, between two of its nodes, when the task is to stop."""
    options = _runtime().RunOptions()
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            if ctx.stopped:
                options.terminate = True
                return

    watcher = threading.Thread(target=look, name="watcher", daemon=True)
    watcher.start()
    try:
        yield options
    finally:
        done.set()
        watcher.join()
