"""Every hook has a bundled plugin that uses it, a test here, and a line of documentation."""

import ast
import inspect
from pathlib import Path

import pluggy
import pytest

from clawai.sdk import hookspecs
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
    assert sorted(HOOKS) == ["claw_driver", "claw_operations", "claw_start", "claw_stop"]


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


def test_claw_driver_is_answered_by_the_first_that_drives_the_device() -> None:
    from clawai.plugins import accelerator

    plugins = pluggy.PluginManager("clawai")
    plugins.add_hookspecs(hookspecs)
    plugins.register(accelerator)
    assert plugins.hook.claw_driver(device="toaster") is None
    driver = plugins.hook.claw_driver(device="cpu")
    assert callable(driver.compile)
    assert callable(driver.footprint)
