"""Files, folders, devices. Landlock alone misses the attributes, the private root nothing."""

import os
from pathlib import Path
from typing import Any

from registry import Facts, attempt, is_open, is_secret, tell


def _hold(facts: Facts, path: str, flags: int) -> None:
    fd = os.open(path, flags)
    tell(facts, fds=(fd,))
    os.close(fd)


def _victim(facts: Facts) -> Path:
    return Path(facts["folder"], f"{facts['name']}.victim")


def _changed(name: str) -> Any:
    return lambda bait, _: bait.changed(name)


@attempt(is_secret)
def read_file(facts: Facts) -> str:
    return Path(facts["file"]).read_text()


@attempt(_changed("write_file"))
def write_file(facts: Facts) -> None:
    with _victim(facts).open("a") as file:
        file.write("more")


@attempt(lambda bait, _: bait.made("created"))
def create_file(facts: Facts) -> None:
    Path(facts["folder"], "created").touch()


@attempt(lambda bait, evidence: evidence == [bait.file.stat().st_ino, bait.file.stat().st_size])
def stat_file(facts: Facts) -> list[int]:
    status = Path(facts["file"]).stat()
    return [status.st_ino, status.st_size]


@attempt(lambda _, evidence: evidence == [True, False])
def probe_names(facts: Facts) -> list[bool]:
    return [os.access(facts["file"] + end, os.F_OK) for end in ("", ".not-there")]


@attempt(is_secret)
def read_link(facts: Facts) -> str:
    return os.readlink(f"{facts['folder']}/link")  # noqa: PTH115


@attempt(lambda bait, evidence: evidence is not None and "secret" in evidence)
def list_folder(facts: Facts) -> list[str]:
    return sorted(entry.name for entry in Path(facts["folder"]).iterdir())


@attempt(lambda bait, evidence: evidence is not None and "secret" in evidence)
def enter_folder(facts: Facts) -> list[str]:
    before = Path.cwd()
    os.chdir(facts["folder"])
    try:
        return os.listdir(".")  # noqa: PTH208 - relative is the point
    finally:
        os.chdir(before)


@attempt(lambda bait, _: bait.victim("chmod_file").stat().st_mode & 0o777 == 0o604)
def chmod_file(facts: Facts) -> None:
    _victim(facts).chmod(0o604)


@attempt(lambda bait, _: bait.victim("set_times").stat().st_mtime != 1)
def set_times(facts: Facts) -> None:
    os.utime(_victim(facts))


@attempt(lambda bait, _: os.listxattr(bait.victim("set_xattr")) == ["user.claw"])
def set_xattr(facts: Facts) -> None:
    os.setxattr(_victim(facts), "user.claw", b"1")


@attempt(_changed("truncate_file"))
def truncate_file(facts: Facts) -> None:
    os.truncate(_victim(facts), 0)


@attempt(_changed("open_to_truncate"))
def open_to_truncate(facts: Facts) -> None:
    os.close(os.open(_victim(facts), os.O_RDONLY | os.O_TRUNC))


@attempt(lambda bait, _: bait.made("hard"))
def hard_link(facts: Facts) -> None:
    os.link(facts["file"], f"{facts['folder']}/hard")


@attempt(lambda bait, _: bait.made("soft"))
def soft_link(facts: Facts) -> None:
    Path(facts["folder"], "soft").symlink_to("secret")


@attempt(is_secret)
def link_from_tmp(facts: Facts) -> str:
    link = Path(os.environ.get("TMPDIR", facts["folder"]), f"link-{facts['key']}")
    link.symlink_to(facts["file"])
    try:
        return link.read_text()
    finally:
        link.unlink()


@attempt(lambda bait, _: bait.made("fifo"))
def make_fifo(facts: Facts) -> None:
    os.mkfifo(f"{facts['folder']}/fifo")


@attempt(lambda bait, _: bait.made("made-folder"))
def make_folder(facts: Facts) -> None:
    Path(facts["folder"], "made-folder").mkdir()


@attempt(_changed("rename_over"))
def rename_over(facts: Facts) -> None:
    own = Path(os.environ.get("TMPDIR", "/tmp"), f"own-{facts['key']}")
    own.write_text("mine")
    try:
        own.rename(_victim(facts))
    finally:
        own.unlink(missing_ok=True)


@attempt(lambda bait, _: not bait.victim("unlink_file").exists())
def unlink_file(facts: Facts) -> None:
    _victim(facts).unlink()


@attempt(is_secret)
def climb_out_of_tmp(facts: Facts) -> str:
    tmp = os.environ.get("TMPDIR", "/tmp")
    return Path(f"{tmp}/{'../' * 40}{facts['file']}").read_text()


@attempt(is_secret)
def root_of_sibling(facts: Facts) -> str:
    return Path(f"/proc/{facts['sibling']}/root{facts['file']}").read_text()


@attempt(is_secret)
def descriptor_of_sibling(facts: Facts) -> str:
    return Path(f"/proc/{facts['sibling']}/fd/{facts['held']}").read_text()


@attempt(lambda bait, evidence: evidence is not None and evidence == bait.sibling_environment())
def environment_of_sibling(facts: Facts) -> str:
    return Path(f"/proc/{facts['sibling']}/environ").read_text()


@attempt(lambda bait, evidence: evidence is not None and str(bait.sibling) in evidence)
def see_processes(_: Facts) -> list[str]:
    return os.listdir("/proc")  # noqa: PTH208


@attempt(lambda bait, evidence: bait.sibling_holds() != bait.secret, alone=True)
def write_memory_file(facts: Facts) -> None:
    with Path(f"/proc/{facts['sibling']}/mem").open("r+b", buffering=0) as memory:
        memory.seek(facts["address"])
        memory.write(b"overwritten here")


@attempt(look=is_open("/etc/shadow"))
def open_shadow(facts: Facts) -> None:
    _hold(facts, "/etc/shadow", os.O_RDONLY)


@attempt(look=is_open("/proc/sys/kernel/core_pattern"))
def open_core_pattern(facts: Facts) -> None:
    _hold(facts, "/proc/sys/kernel/core_pattern", os.O_WRONLY)


@attempt(look=is_open("/dev/kmsg"))
def open_kernel_log(facts: Facts) -> None:
    _hold(facts, "/dev/kmsg", os.O_RDONLY)


@attempt(look=is_open("/dev/net/tun"))
def open_network_device(facts: Facts) -> None:
    _hold(facts, "/dev/net/tun", os.O_RDWR)


@attempt(look=is_open("/dev/fuse"))
def open_file_system_device(facts: Facts) -> None:
    _hold(facts, "/dev/fuse", os.O_RDWR)


@attempt(look=is_open("/dev/"))
def open_disk(facts: Facts) -> None:
    for disk in ("vda", "sda", "nvme0n1", "mmcblk0", "loop0"):
        if Path("/dev", disk).exists():
            return _hold(facts, f"/dev/{disk}", os.O_RDONLY)
    raise FileNotFoundError("no disk has a name in here")


@attempt(look=is_open("/dev/pts/", "/dev/ptmx"))
def open_terminal(facts: Facts) -> None:
    _hold(facts, "/dev/ptmx", os.O_RDWR | os.O_NOCTTY)


@attempt(look=is_open("/sys/fs/cgroup"))
def open_cgroup(facts: Facts) -> None:
    for group in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if Path(group, "cgroup.procs").exists():
            _hold(facts, f"{group}/cgroup.procs", os.O_WRONLY)


@attempt(is_secret)
def read_leaked_descriptor(facts: Facts) -> str:
    return os.pread(facts["leaked"], 64, 0).decode()


def _said(bait: Any, _: Any) -> bool:
    try:
        return bool(os.read(bait.pipe, 64))
    except BlockingIOError:
        return False


@attempt(_said)
def write_leaked_pipe(facts: Facts) -> None:
    os.write(facts["leaked_pipe"], b'{"event": "started", "pid": 1}\n')


@attempt(lambda bait, _: os.pread(bait.memfd, 9, 0) == b"rewritten")
def reopen_memfd(facts: Facts) -> None:
    fd = os.open(f"/proc/self/fd/{facts['memfd']}", os.O_RDWR)
    os.write(fd, b"rewritten")
    os.close(fd)
