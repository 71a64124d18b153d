"""Every hook has a bundled plugin that uses it, a test here, and a line of documentation."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.sdk import hooks, hookspecs
from clawai.sdk.errors import ClawError
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType
from clawai.sdk.testing import FakeKernel
from support import Kernel, wait_until

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "plugin-guide.md"
HOOKS = [
    name
    for name, value in vars(hookspecs).items()
    if callable(value) and getattr(value, "clawai_spec", None) is not None
]


def users(hook: str) -> list[str]:
    """The bundled plugins that implement a hook, by their code."""
    found = set()
    for path in (ROOT / "plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == hook:
                names = [ast.unparse(each) for each in node.decorator_list]
                if any(name.partition("(")[0].endswith("hookimpl") for name in names):
                    found.add(path.relative_to(ROOT / "plugins").parts[0])
    return sorted(found)


def test_the_hooks_are_found() -> None:
    names = ("load_model", "open_device", "operations", "prepare", "quantize", "start", "stop")
    assert sorted(HOOKS) == [f"claw_{name}" for name in names]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_user_a_test_and_a_line_of_documentation(hook: str) -> None:
    bundled = users(hook)
    assert bundled, f"no bundled plugin uses {hook}"
    assert any(name.startswith(f"test_{hook}_") for name in globals()), f"no test_{hook}_..."
    assert inspect.getdoc(getattr(hookspecs, hook)), f"{hook} says nothing of itself"
    lines = [line for line in GUIDE.read_text().splitlines() if line.startswith(f"| `{hook}")]
    assert len(lines) == 1, f"{GUIDE.name} has no line for {hook}"
    assert any(f"`{name}`" in lines[0] for name in bundled), f"its line names none of {bundled}"


# The tests, one a hook at least.


def prepared(modules: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A worker that waits, outside of the sandbox; it ends as nobody has orders."""
    code = (
        "import socket, sys\n"
        "from clawai.sdk import spare\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "ours.close()\n"
        f"spare.main({{'orders': theirs.detach()}}, {{'modules': {modules}, 'ops': ''}})\n"
        "print('waited', 'clawai.plugins.accelerator.driver' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)


def test_claw_prepare_is_called_while_a_worker_waits(tmp_path: Path) -> None:
    done = prepared(["clawai.plugins.accelerator", "clawai.plugins.engine"], tmp_path)
    assert (done.stdout, done.stderr) == ("waited True\n", "")


def test_claw_prepare_that_fails_is_printed_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "poor.py").write_text(
        "from clawai.sdk.hookspecs import hookimpl\n"
        "@hookimpl\ndef claw_prepare():\n    raise RuntimeError('no tables')\n"
    )
    done = prepared(["poor"], tmp_path)
    assert done.stdout == "waited False\n" and "RuntimeError: no tables" in done.stderr


def test_claw_start_is_called_before_the_worker_is_ready(shared_kernel: Kernel) -> None:
    code = """
    from clawai.sdk import operation
    from clawai.sdk.hookspecs import hookimpl
    seen = []
    @hookimpl
    def claw_start(worker):
        seen.append([worker.model_fd, worker.threads >= 1, worker.args["slots"]])
    @operation("begin.seen")
    def tell() -> list:
        return seen
    """
    shared_kernel.plugin("begin", code, {"begin.seen": ""})
    with shared_kernel.client() as client:
        assert client.call("begin.seen").value == [[-1, True, 1]]


def test_claw_stop_is_called_when_a_worker_ends_in_good_order(shared_kernel: Kernel) -> None:
    shared_kernel.mark()
    with shared_kernel.client() as client:
        for text in ("a", "b"):
            client.call("echo.say", {"text": text})
        client.admin("unload", "echo")
    wait_until(lambda: "] answered 2 tasks in " in shared_kernel.log(), "echo says what it did")


def test_claw_stop_that_fails_or_hangs_keeps_nobody(shared_kernel: Kernel) -> None:
    code = """
    import time
    from clawai.sdk import operation
    from clawai.sdk.hookspecs import hookimpl
    @hookimpl
    def claw_stop():
        print("about to {what}", flush=True)
        {what}
    @operation("{name}.say")
    def say() -> str:
        return "x"
    """
    shared_kernel.mark()
    with shared_kernel.client() as client:
        for name, what in (("fails", "raise SystemExit(3)"), ("hangs", "time.sleep(1000)")):
            text = code.replace("{name}", name).replace("{what}", what)
            shared_kernel.plugin(name, text, {f"{name}.say": ""})
            client.call(f"{name}.say")
            client.admin("unload", name)
            assert client.call(f"{name}.say").value == "x", "its next worker serves"
            assert f"about to {what}" in shared_kernel.log()


def test_claw_operations_adds_the_methods_of_an_object(tmp_path: Path) -> None:
    (tmp_path / "hook_object.py").write_text(
        "from clawai.sdk import operation\n"
        "from clawai.sdk.hookspecs import hookimpl\n"
        "from clawai.sdk.plugin import operations_of\n"
        "class Counter:\n"
        "    total = 0\n"
        "    @property\n"
        "    def ready(self):\n"
        "        raise AssertionError('a property must not run')\n"
        "    @operation('counter.add')\n"
        "    def add(self, by: int = 1) -> int:\n"
        "        self.total += by\n"
        "        return self.total\n"
        "    @hookimpl\n"
        "    def claw_operations(self):\n"
        "        return list(operations_of(self))\n"
        "claw_plugin = Counter()\n"
    )
    (tmp_path / "plugin.toml").write_text(
        '[plugin]\nname = "counter"\nversion = "1"\nmodule = "hook_object"\n'
        '[[operation]]\nname = "counter.add"\n'
    )
    kernel = FakeKernel(tmp_path)
    assert [kernel.call("counter.add").value, kernel.call("counter.add", {"by": 4}).value] == [1, 5]


def test_claw_open_device_is_answered_by_the_first_that_drives_the_device() -> None:
    from clawai.plugins import accelerator

    plugins = hooks.manager()
    plugins.register(accelerator)
    assert plugins.hook.claw_open_device(device="toaster") is None
    driver = hooks.open_device(plugins, "cpu")
    assert callable(driver.compile)
    assert callable(driver.footprint)
    with pytest.raises(ClawError, match="no plugin of this worker drives 'toaster'") as caught:
        hooks.open_device(plugins, "toaster")
    assert "drivers" in caught.value.hint


FORMAT = """
# A made-up format: "NEXT", the number of tokens n, then n x n weights: what follows what.
import os, struct
from clawai.sdk import ClawError
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor
from clawai.sdk.model.loaded import LoadedModel, described

@hookimpl
def claw_load_model(fd):
    if os.pread(fd, 4, 0) != b"NEXT":
        return None
    size = os.fstat(fd).st_size
    n = int.from_bytes(os.pread(fd, 4, 4), "little")
    if size != 8 + 4 * n * n or not 1 <= n <= 256:
        raise ClawError("bad_model", "the table is cut off", got=size, allowed=8 + 4 * n * n)
    table = memoryview(os.pread(fd, 4 * n * n, 8))
    ones = [float(i == j) for i in range(n) for j in range(n)]
    one = memoryview(struct.pack(f"<{n * n}f", *ones))
    tensors = {
        "one": Tensor("one", (n, n), DType.F32, one),
        "table": Tensor("table", (n, n), DType.F32, table),
    }
    nodes = (
        Node(Op.EMBED, ("tokens", "one"), "x"),
        Node(Op.LAST, ("x",), "last"),
        Node(Op.MATMUL, ("last", "table"), "logits"),
    )
    graph = Graph(tensors, nodes, ("tokens",), ("logits",), 64, n, 1)
    return LoadedModel(graph, described({"tokenizer.ggml.tokens": ["a", "b", "c", "d"][:n]}))
"""
ENGINE = """
import mmap
from clawai.sdk import operation
from clawai.sdk.hookspecs import hookimpl

class Follower:
    @hookimpl
    def claw_start(self, worker):
        model, driver = worker.load_model(), worker.driver("cpu")
        self.words = list(model.text.metadata["tokenizer.ggml.tokens"])
        need = driver.footprint(model.graph, context=16, threads=1)
        worker.reserve(need.total)
        give = lambda size, purpose: memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE))
        weights = give(need.weights, "weights")
        driver.pack(model.graph, weights)
        plan = driver.compile(
            model.graph, context=16, threads=1, weights=weights, allocate=give
        )
        (self.sequence,) = plan.sequences

    @hookimpl
    def claw_operations(self):
        from clawai.sdk.plugin import operations_of
        return list(operations_of(self))

    @operation("follow.next")
    def next(self, word: str) -> str:
        self.sequence.rewind(0)
        return self.words[int(self.sequence.run([self.words.index(word)])[0].argmax())]

claw_plugin = Follower()
"""


def test_claw_load_model_adds_a_format_that_a_driver_knows(shared_kernel: Kernel) -> None:
    """A folder with the format, a folder with an engine that names it, and the bundled ops."""
    driver = shared_kernel.plugin("nextformat", FORMAT)
    shared_kernel.plugin("follow", ENGINE, {"follow.next": "needs_model = true"})
    for name, lines in (
        ("nextformat", 'kind = "driver"'),
        ("follow", 'kind = "engine"\ndrivers = ["accelerator", "nextformat"]'),
    ):
        path = driver.parent / name / "plugin.toml"
        kept = path.read_text() if name == "follow" else path.read_text().split("[[")[0]
        path.write_text(kept.replace('version = "1"', f'version = "1"\n{lines}'))
    table = np.zeros((4, 4), "<f4")
    for now, then in ((0, 2), (2, 1), (1, 3)):
        table[then, now] = 1.0  # rows are what comes out
    whole = b"NEXT" + (4).to_bytes(4, "little") + table.tobytes()
    for name, data in (("order", whole), ("cut", whole[:-4]), ("other", b"ZIP!" + whole[4:])):
        (shared_kernel.base / f"{name}.next").write_bytes(data)
        shared_kernel.model(name, shared_kernel.base / f"{name}.next")
    with shared_kernel.client() as client:
        told = [client.call("follow.next", {"word": w}, model="order").value for w in "acb"]
        assert told == ["c", "b", "d"]
        with pytest.raises(ClawError, match="the table is cut off") as caught:
            client.call("follow.next", {"word": "a"}, model="cut")
        assert caught.value.code == "bad_model"
        for op, params in (("follow.next", {"word": "a"}), ("llm.tokenize", {"text": "a"})):
            with pytest.raises(ClawError, match="knows the format") as caught:
                client.call(op, params, model="other")
            assert caught.value.code == "bad_model" and "ZIP!" in str(caught.value.got)


def test_claw_load_model_is_asked_for_what_is_a_model(tmp_path: Path) -> None:
    class Odd:
        @hookspecs.hookimpl
        def claw_load_model(self, fd: int) -> Any:
            return os.pread(fd, 4, 0) or None

    plugins = hooks.manager()
    plugins.register(Odd())
    path = tmp_path / "odd"
    path.write_bytes(b"odd")
    with path.open("rb") as file, pytest.raises(ClawError, match="no LoadedModel"):
        hooks.load_model(plugins, file.fileno())
    path.write_bytes(b"")
    with path.open("rb") as file, pytest.raises(ClawError, match="knows the format"):
        hooks.load_model(plugins, file.fileno())
    with pytest.raises(ClawError, match="without a model"):
        hooks.load_model(plugins, -1)


class Halves:
    """Knows one type, and makes what it is told to."""

    made: Any = bytes(2 * 18)

    @hookspecs.hookimpl
    def claw_quantize(self, weights: Any, dtype: Any, importance: Any) -> Any:
        return self.made if dtype is DType.Q4_0 else None


def test_claw_quantize_is_answered_by_the_first_that_makes_the_type() -> None:
    from clawai.plugins import accelerator

    plugins = hooks.manager()
    plugins.register(accelerator)
    plugins.register(Halves())  # a worker's own plugin comes last, and is asked first
    weights = np.ones((2, 32), np.float32)
    assert bytes(hooks.quantize(plugins, weights, DType.Q4_0)) == bytes(36)
    q8 = bytes(hooks.quantize(plugins, weights, DType.Q8_0))
    np.testing.assert_allclose(dequantize(q8, DType.Q8_0, (2, 32)), weights, rtol=1e-3)
    with pytest.raises(ClawError, match="no plugin of this worker quantizes to Q6_K"):
        hooks.quantize(plugins, np.ones((1, 256), np.float32), DType.Q6_K)


@pytest.mark.parametrize(
    ("weights", "importance", "why"),
    [
        (np.ones((2, 33), np.float32), None, "cannot be weights of Q4_0"),
        (np.ones((2, 32)), None, "cannot be weights of Q4_0"),
        (np.ones(32, np.float32), None, "cannot be weights of Q4_0"),
        (np.full((1, 32), np.nan, np.float32), None, "cannot be quantized"),
        (np.full((1, 32), 1e6, np.float32), None, "cannot be quantized"),
        (np.ones((2, 32), np.float32), np.ones(31, np.float32), "of each column"),
        (np.ones((2, 32), np.float32), np.full(32, -1, np.float32), "importance"),
        (np.ones((2, 32), np.float32), np.full(32, np.nan, np.float32), "importance"),
        (np.ones((4, 32), np.float32), None, "bytes of 4 x 32"),
    ],
)
def test_claw_quantize_is_asked_and_answers_in_order(
    weights: Any, importance: Any, why: str
) -> None:
    plugins = hooks.manager()
    plugins.register(Halves())
    with pytest.raises(ClawError, match=why):
        hooks.quantize(plugins, weights, DType.Q4_0, importance)
