"""pytest for plugins: ``claw`` runs the plugin whose folder the test is in.

    def test_it_greets(claw):
        assert claw.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"

``claw`` is a ``FakeKernel`` (``clawai.sdk.testing``); under ``--claw-sandbox`` the same test runs
the plugin in the real sandbox. ``claw_clock`` is the clock of its deadlines. A test that needs what
only the fake can do is marked ``@pytest.mark.claw_fake`` and is left out there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clawai.sdk.sandboxed import SandboxKernel
    from clawai.sdk.testing import FakeClock, FakeKernel, RealClock


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--claw-sandbox``, ``--claw-plugin``."""
    group = parser.getgroup("clawai", "plugins of ClawAI")
    group.addoption(
        "--claw-sandbox", action="store_true", help="run the plugin in the real sandbox"
    )
    group.addoption(
        "--claw-plugin", metavar="FOLDER", help="the plugin's folder, if the tests are elsewhere"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "claw_fake: only with the fake kernel")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the fake kernel can do."""
    if not config.getoption("--claw-sandbox"):
        return
    left = [item for item in items if item.get_closest_marker("claw_fake")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def claw_kernels() -> Iterator[dict[Path, Any]]:
    """The kernels of this session by the folder of their plugin; closed at its end."""
    kernels: dict[Path, Any] = {}
    yield kernels
    for kernel in kernels.values():
        kernel.close()


@pytest.fixture
def claw_clock(request: pytest.FixtureRequest) -> "FakeClock | RealClock":
    """The clock of deadlines: it moves when it is told to, or really, in the sandbox."""
    from clawai.sdk.testing import FakeClock, RealClock

    return RealClock() if request.config.getoption("--claw-sandbox") else FakeClock()


@pytest.fixture
def claw(
    request: pytest.FixtureRequest,
    claw_kernels: dict[Path, Any],
    claw_clock: "FakeClock | RealClock",
) -> "FakeKernel | SandboxKernel":
    """The plugin, in the fake kernel or in the real sandbox."""
    from clawai.sdk.sandboxed import SandboxKernel
    from clawai.sdk.testing import FakeKernel

    folder = _folder(request)
    if folder not in claw_kernels:
        sandboxed = request.config.getoption("--claw-sandbox")
        claw_kernels[folder] = SandboxKernel(folder) if sandboxed else FakeKernel(folder)
    kernel: FakeKernel | SandboxKernel = claw_kernels[folder]
    if isinstance(kernel, FakeKernel):
        kernel.clock = claw_clock
        kernel.reset()
    return kernel


def _folder(request: pytest.FixtureRequest) -> Path:
    """The folder that was named, else the nearest one above the test that holds a plugin."""
    if named := request.config.getoption("--claw-plugin"):
        return Path(named).resolve()
    for folder in request.path.resolve().parents:
        if (folder / "plugin.toml").is_file():
            return folder
    raise pytest.UsageError(f"no plugin.toml above {request.path}; name it with --claw-plugin")
