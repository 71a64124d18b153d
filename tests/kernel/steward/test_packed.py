"""Packed weights and the worker that waits: real kernels, a tiny and a real model."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from clawai.sdk import packed
from clawai.sdk.errors import ClawError
from gguf_files import tiny_llama
from support import Kernel, take_profile, wait_until

PARAMS = {"prompt": "the hello", "max_tokens": 8}
Fresh = Callable[..., Kernel]


@pytest.fixture
def fresh(tmp_path: Path, start_kernel: Callable[..., Kernel]) -> Fresh:
    """Starts kernels that share a cache and the file of a model."""
    (tmp_path / "tiny.gguf").write_bytes(tiny_llama(context=512))
    take_profile(tmp_path / "cache" / "clawai")

    def start(config: str = "", file: Path = tmp_path / "tiny.gguf", cache: str = "") -> Kernel:
        env = {"XDG_CACHE_HOME": cache or str(tmp_path / "cache")}
        config = f'[log]\nlevel = "debug"\n{config}'
        kernel = start_kernel(config=config, env=env, start=False)
        kernel.model("tiny", file)
        return kernel.start()

    return start


def answer(kernel: Kernel) -> str:
    text: str = kernel.client().call("llm.generate", PARAMS, model="tiny").value["text"]
    return text


def file_in(cache: Path) -> Path:
    """The packed file, once it is there."""
    folder = cache / "clawai" / "packed"
    wait_until(lambda: bool(list(folder.glob("*.claw"))), "the packed file is written")
    (found,) = folder.iterdir()
    return found


def opened(kernel: Kernel) -> list[str]:
    """Packed files that the steward holds."""
    folder = Path(f"/proc/{kernel.steward()}/fd")
    return [where for fd in folder.iterdir() if ".claw" in (where := _link(fd))]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def unloaded(kernel: Kernel) -> None:
    client = kernel.client()
    client.admin("unload", "tiny")
    wait_until(lambda: not client.query("workers")["workers"], "the worker has ended")


def spare(kernel: Kernel) -> int:
    """The stage of the worker that waits, once it is there."""
    found: list[int] = []

    def there() -> bool:
        main, worker = kernel.launchers()["main"], kernel.worker_pid("engine")
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        found[:] = [pid for pid in map(int, children) if _waits(pid, worker)]
        return bool(found)

    wait_until(there, "a spare waits")
    return found[0]


def _waits(stage: int, worker: int) -> bool:
    """A stage whose process sleeps, every layer on, and is not ``worker``."""
    try:
        inner = Path(f"/proc/{stage}/task/{stage}/children").read_text().split()
        name = Path(f"/proc/{stage}/comm").read_text().strip()
        return name == "claw-stage" and inner not in ([], [str(worker)]) and _sleeps(int(inner[0]))
    except OSError:
        return False


def _sleeps(pid: int) -> bool:
    name, state = Path(f"/proc/{pid}/comm").read_text(), Path(f"/proc/{pid}/stat").read_text()
    return name == "claw-engine\n" and state.rpartition(")")[2].split()[0] == "S"


def test_a_later_kernel_reads_no_model_and_answers_alike(fresh: Fresh, tmp_path: Path) -> None:
    first = fresh()
    text = answer(first)
    path = file_in(tmp_path / "cache")
    assert path.parent.stat().st_mode & 0o077 == 0
    with path.open("rb") as file:
        assert packed.intact(file.fileno())
    before = path.stat()
    later = fresh()
    assert answer(later) == text
    assert opened(later), "the steward looks for it"
    assert path.stat().st_ino == before.st_ino, "it is not written again"
    assert answer(fresh("[workers]\npacked = false\n")) == text


def test_what_is_not_kept_leaves_no_file(fresh: Fresh, tmp_path: Path) -> None:
    answer(fresh("[workers]\npacked = false\n"))
    answer(fresh('[workers]\nweights = "private"\n'))
    assert not (tmp_path / "cache" / "clawai" / "packed").exists()


def test_another_model_file_is_packed_anew(fresh: Fresh, tmp_path: Path) -> None:
    answer(fresh())
    path = file_in(tmp_path / "cache")
    other = tmp_path / "other" / "tiny.gguf"
    other.parent.mkdir()
    other.write_bytes(tiny_llama(context=512, seed=1))
    answer(fresh(file=other))
    wait_until(lambda: not path.exists(), "what it replaces is gone")
    assert file_in(tmp_path / "cache") != path


@pytest.fixture
def middling(tmp_path: Path) -> Path:
    """A model of some huge pages."""
    path = tmp_path / "middling.gguf"
    path.write_bytes(tiny_llama(layers=3, width=256, hidden=1024, context=512))
    return path


@pytest.mark.parametrize("where", [3, packed.DATA_AT + 4096])
def test_a_damaged_file_costs_a_start_and_no_answer(
    fresh: Fresh, tmp_path: Path, middling: Path, where: int
) -> None:
    """A damaged header is seen before it is used, the rest by who checks it meanwhile."""
    text = answer(fresh(file=middling))
    damage(file_in(tmp_path / "cache"), where)
    kernel = fresh(file=middling)
    found_out(kernel, in_use=where > packed.TITLE_AT)
    assert answer(kernel) == text
    with file_in(tmp_path / "cache").open("rb") as anew:
        assert packed.intact(anew.fileno())


def damage(path: Path, where: int) -> None:
    with path.open("r+b") as file:
        file.seek(where)
        byte = file.read(1)
        file.seek(where)
        file.write(bytes([byte[0] ^ 0x40]))


def found_out(kernel: Kernel, in_use: bool) -> None:
    """Ask for an answer, and wait until the damage is found."""
    try:
        answer(kernel)
    except ClawError as error:  # its worker was ended in the middle
        assert error.code == "worker_died"
        assert "damaged" in error.message
    wait_until(lambda: "are removed" in kernel.log(), "the damage is found")
    if in_use:
        wait_until(lambda: "died: its packed weights" in kernel.log(), "its worker is ended")


def test_without_huge_pages_it_is_copied(fresh: Fresh, middling: Path) -> None:
    """A file system in memory has no large folios here."""
    cache = Path("/dev/shm") / f"claw-test-{os.getpid()}"
    take_profile(cache / "clawai")
    try:
        text = answer(fresh(file=middling, cache=str(cache)))
        damage(file_in(cache), packed.DATA_AT + 4096)
        kernel = fresh(file=middling, cache=str(cache))
        found_out(kernel, in_use=True)
        assert answer(kernel) == text
        file_in(cache)
        assert answer(fresh(file=middling, cache=str(cache))) == text
    finally:
        shutil.rmtree(cache)


def test_the_next_worker_is_one_that_waited(fresh: Fresh) -> None:
    kernel = fresh()
    text = answer(kernel)
    stage = spare(kernel)
    unloaded(kernel)
    assert answer(kernel) == text
    assert "was waiting as a spare" in kernel.log()
    assert "is not prepared" not in kernel.log() and "denied" not in kernel.log()
    wait_until(lambda: spare(kernel) != stage, "another one waits")
    kernel.mark()
    os.kill(spare(kernel), signal.SIGKILL)
    unloaded(kernel)
    assert answer(kernel) == text, "a worker is started as before"
    assert "was waiting as a spare" not in kernel.log()
    assert "its output" not in kernel.log()


def test_what_a_spare_becomes_is_held_to_everything(fresh: Fresh) -> None:
    """It is in its worker's groups, its output is logged as that worker's, it can be killed."""
    kernel = fresh()
    answer(kernel)
    spare(kernel)
    unloaded(kernel)
    kernel.mark()
    answer(kernel)
    assert "was waiting as a spare" in kernel.log()
    os.kill(kernel.worker_pid("engine"), signal.SIGKILL)
    wait_until(lambda: "engine tiny died: killed by SIGKILL" in kernel.log(), "its end is seen")
    assert answer(kernel)
