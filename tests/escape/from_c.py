"""The attempts in C (folder ``c``): loads the shared object that holds them, and judges each.

It is loaded when this module is, from wherever the import path has it: in a worker that is before
the filter against new code.
"""

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from registry import ATTEMPTS, MEMORY_BYTES, Facts, Judge, Sighting, add, is_open, is_secret, told
from registry import unless_unreadable as careful

FOLDER = next((Path(p) for p in sys.path if Path(p, "libescape.so").exists()), None)
_TEXTS = ("name", "folder", "file", "victim", "tmp")
_NUMBERS = (
    "post",
    "memfd",
    "control",
    "segment",
    "terminal",
    "sibling",
    "held",
    "fast",
    "key",
    "restart_keys",
)
_libc = ctypes.CDLL(None, use_errno=True)


class _Facts(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_char_p) for name in _TEXTS),
        *((name, ctypes.c_int) for name in _NUMBERS),
        ("address", ctypes.c_ulong),
    )


_library = ctypes.CDLL(str(FOLDER / "libescape.so"), use_errno=True) if FOLDER else None


def _call(facts: Facts) -> int:
    assert _library, "the attempts in C are not compiled: see build.py"
    function = getattr(_library, f"try_{facts['name']}")
    function.restype = ctypes.c_long
    more = {
        "victim": f"{facts['folder']}/{facts['name']}.victim",
        "tmp": os.environ.get("TMPDIR", facts["folder"]),
    }
    known = {**facts, **more}
    record = _Facts(
        *(str(known[name]).encode() for name in _TEXTS),
        *(known[name] for name in _NUMBERS),
        known["address"],
    )
    result = int(function(ctypes.byref(record)))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def c(name: str, worked: Judge | None = None, **options: Any) -> None:
    """Register the attempt ``try_NAME``."""
    add(name, _GROUP, "C", _call, worked=worked, **options)


def did(_: Any, evidence: Any) -> bool:
    """The call said that it was done, and nothing else can be seen of it."""
    return evidence is not None


def _changed(name: str) -> Judge:
    return lambda bait, _: bait.changed(name)


def _pending(number: int) -> Judge:
    return lambda bait, _: bait.pending(signal.SIGRTMIN + number)


def _status(key: str, *words: str) -> Judge:
    return lambda _, seen: set(words) & set(seen.status(key)) != set()


# Files.
_GROUP = "files"


def _hears(bait: Any, seen: Sighting) -> bool:
    (bait.folder / "noise").touch()
    return len(os.read(seen.fds[0], 4096)) > 0


def _is_locked(bait: Any, seen: Sighting) -> bool:
    with bait.victim(seen.name).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _flags(bait: Any, _: Any) -> bool:
    with bait.victim("set_file_flags").open() as file:
        return bool(struct.unpack("i", fcntl.ioctl(file, 0x80086601, bytes(4)))[0] & 0x40)


def _other_root(_: Any, seen: Sighting) -> bool:
    return not os.path.samestat(os.stat(f"/proc/{seen.pid}/root"), os.stat("/"))  # noqa: PTH116


c("open_by_handle", look=is_secret)
c("reopen_path_descriptor", _changed("reopen_path_descriptor"))
c("openat2_read", look=is_secret)
c("open_wide_flags", look=is_secret)
c("create_over", _changed("create_over"))
c("make_device", lambda bait, _: bait.made("device"))
c("change_owner", lambda bait, _: bait.victim("change_owner").stat().st_uid == 1)
c("exchange_files", _changed("exchange_files"))
c("set_file_flags", _flags)
c("lock_file", look=_is_locked)
c("watch_folder", look=_hears)
c("watch_file_system", look=is_open("anon_inode:[fanotify]"))
c("mount_over", lambda bait, _: (bait.folder / "mount").is_mount())
c("new_file_system", look=is_open("anon_inode:[fscontext]"))
c("tree_of_mounts", look=lambda bait, seen: seen.link == str(bait.folder))
c("change_root", look=careful(_other_root), alone=True)
c("pivot_root", look=careful(_other_root), alone=True)

# Memory.
_GROUP = "memory"


def _page(offset: int) -> Judge:
    return lambda bait, _: os.pread(bait.control_fd, 5, offset) == b"taken"


def _size(judge: Any) -> Judge:
    return lambda bait, _: bool(judge(os.fstat(bait.segment).st_size))


def _listed(kind: str) -> Judge:
    def worked(bait: Any, _: Any) -> bool:
        rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
        return any(int(row.split()[0]) == bait.facts["key"] for row in rows)

    return worked


def _holds(key: str, more_than: int) -> Judge:
    return lambda _, seen: int(seen.status(key)[0]) << 10 > more_than


c("memory_object", look=is_open("/memfd:"))
c("secret_memory", look=is_open("/secretmem"))
c("write_control_page", _page(0))
c("unprotect_control_page", _page(64))
c("reopen_control_page", _page(128))
c("punch_control_page", lambda bait, _: os.pread(bait.control_fd, 1, 256) != b"\7", alone=True)
c("remove_control_page", lambda bait, _: os.pread(bait.control_fd, 1, 256) != b"\7", alone=True)
c("shrink_segment", _size(lambda size: size == 0), alone=True)
c("grow_segment", _size(lambda size: size > resource.getpagesize()), alone=True)
c("system_v_memory", _listed("shm"))
c("system_v_semaphore", _listed("sem"))
c("system_v_queue", _listed("msg"))
c("message_queue", look=is_open("/claw-"))
c("read_sibling", look=is_secret)
c("write_sibling", lambda bait, _: bait.sibling_holds() != bait.secret, alone=True)
c("trace_sibling", look=lambda bait, _: bait.traced())
c("take_descriptor", look=lambda bait, seen: seen.link == str(bait.file))
c("compare_sibling", did)
c("pages_of_sibling", did)
c("advise_sibling", did)
c("fault_handler", look=is_open("anon_inode:[userfaultfd]"))
c("zero_device_bomb", look=_holds("RssShmem", 32 << 20), alone=True)
c("stack_memory_bomb", look=_holds("VmRSS", MEMORY_BYTES), alone=True)
c("page_table_bomb", look=_holds("VmPTE", 24 << 20), alone=True)
c("lock_memory", look=lambda _, seen: int(seen.status("VmLck")[0]) > 0)
c("widen_pipe", look=lambda _, seen: fcntl.fcntl(seen.fds[0], fcntl.F_GETPIPE_SZ) > 1 << 16)

# Code, under a profile without executable memory.
_GROUP = "code"
for _name in (
    "map_code",
    "protect_code",
    "protect_code_by_key",
    "map_code_from_tmp",
    "map_code_from_segment",
    "code_by_personality",
    "write_own_code",
    "map_shared_memory_code",
):
    c(_name, look=told, alone=True, strict=True)


def _load(facts: Facts, fd: int, path: str) -> None:
    assert FOLDER
    with open(fd, "wb") as file:
        file.write((FOLDER / "payload.so").read_bytes())
        file.flush()
        os.environ["CLAW_POST"], os.environ["CLAW_ATTEMPT"] = str(facts["post"]), facts["name"]
        ctypes.CDLL(path)


def _load_from_tmp(facts: Facts) -> None:
    path = f"{os.environ.get('TMPDIR', facts['folder'])}/library-{facts['name']}.so"
    try:
        _load(facts, os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o700), path)
    finally:
        os.unlink(path)  # noqa: PTH108


def _load_memory_object(facts: Facts) -> None:
    fd = os.memfd_create("code")
    _load(facts, fd, f"/proc/self/fd/{fd}")


for _strict, _ending in ((False, ""), (True, "_strict")):
    add(f"dlopen_tmp{_ending}", "code", "Python", _load_from_tmp, look=told, strict=_strict)
    add(
        f"dlopen_memory_object{_ending}",
        "code",
        "Python",
        _load_memory_object,
        look=told,
        strict=_strict,
    )

# Processes.
_GROUP = "processes"


def _another(bait: Any, seen: Sighting) -> bool:
    return seen.pid not in bait.workers


def _ioprio(bait: Any, _: Any) -> bool:
    return bool(_libc.syscall(252, 1, bait.sibling) == 3 << 13)


def _namespace(kind: str) -> Judge:
    def look(_: Any, seen: Sighting) -> bool:
        ours, theirs = (os.stat(f"/proc/{p}/ns/{kind}") for p in ("self", seen.pid))  # noqa: PTH116
        return not os.path.samestat(ours, theirs)

    return careful(look)


def _input(bait: Any, _: Any) -> bool:
    return bool(struct.unpack("i", fcntl.ioctl(bait.terminal_end, 0x541B, bytes(4)))[0])


def _resized(bait: Any, _: Any) -> bool:
    return os.get_terminal_size(bait.terminal) == (77, 7)


for _name in (
    "fork_by_call",
    "vfork_process",
    "clone_process",
    "clone_wide_flags",
    "clone3_process",
    "clone_in_namespace",
    "clone_sharing_memory",
):
    c(_name, look=_another, alone=True)
for _name, _file in (
    ("run_descriptor", "by-descriptor"),
    ("run_memory_object", "from-memory"),
    ("run_loader", "by-loader"),
):
    c(_name, lambda bait, _, file=_file: bait.made(file), alone=True)
for _number, _name in enumerate(
    (
        "kill_wide",
        "kill_thread",
        "kill_thread_of_group",
        "queue_signal",
        "queue_signal_to_thread",
        "signal_by_descriptor",
        "own_sibling_by_record",
    ),
    3,
):
    c(_name, _pending(_number))
c("hold_process", look=is_open("anon_inode:[pidfd]", "pidfd:"))
c("hold_peer", look=is_open("anon_inode:[pidfd]", "pidfd:"))
c("pin_sibling", lambda bait, _: os.sched_getaffinity(bait.sibling) == {0})
c("starve_disk_of_sibling", _ioprio)
c("schedule_by_attributes", look=lambda _, seen: os.sched_getscheduler(seen.pid) == 3, alone=True)
c("real_time_class", look=lambda _, seen: os.sched_getscheduler(seen.pid) == 2, alone=True)
c("leave_group", look=lambda _, seen: seen.stat(5) == seen.pid, alone=True)
c("adopt_orphans", did, alone=True)
c("disarm_death_signal", did, alone=True)
c("enter_namespace", look=is_open("uts:"), alone=True)
c("new_user_namespace", look=_namespace("user"), alone=True)
c("new_network_namespace", look=_namespace("net"), alone=True)
c("push_input", _input, alone=True)
c("push_input_wide", _input, alone=True)
c("take_terminal", look=lambda bait, seen: seen.stat(7) != 0, alone=True)
c("resize_terminal", _resized, alone=True)

# Privileges and the rarer doors of the kernel.
_GROUP = "privileges"


def _swaps(bait: Any, _: Any) -> bool:
    file = str(bait.folder / "swap")
    used = file in Path("/proc/swaps").read_text()
    if used:
        _libc.swapoff(file.encode())
    return used


def _accounts(bait: Any, _: Any) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    found = bait.victim("accounting").stat().st_size > 64
    if found:
        _libc.acct(None)
    return found


def _keys(bait: Any, _: Any) -> bool:
    now = int(Path("/proc/sys/kernel/ctrl-alt-del").read_text())
    if now != bait.restart_keys:
        _libc.reboot(0x89ABCDEF if bait.restart_keys else 0)  # back to what it was
    return bool(now != bait.restart_keys)


def _named(file: str, name: str) -> Judge:
    def worked(_: Any, __: Any) -> bool:
        path = Path("/proc/sys/kernel", file)
        found = path.read_text() == f"{name}\n"
        if found:
            path.write_text("claw-bait\n")  # of the namespace that root runs this in
        return found

    return worked


def _filter_of(_: Any, seen: Sighting) -> bool:
    with socket.socket(fileno=os.dup(seen.fds[0])) as sock:
        length = sock.getsockopt(socket.SOL_SOCKET, 26, 8)  # SO_GET_FILTER
        return len(length) > 0


c("set_uid", look=lambda _, seen: seen.status("Uid")[0] == "4242", alone=True)
c("set_groups", look=_status("Groups", "4242"), alone=True)
c(
    "pass_on_capability",
    look=lambda _, seen: int(seen.status("CapInh")[0], 16) & 1 << 5 != 0,
    alone=True,
)
c("add_key", did)
c("join_keyring", did, alone=True)
c("bpf_map", look=is_open("anon_inode:bpf-map"))
c("perf_event", look=is_open("anon_inode:[perf_event]"))
c("filter_listener", look=is_open("anon_inode:seccomp notify"), alone=True)
c("filter_listener_wide", look=is_open("anon_inode:seccomp notify"), alone=True)
c("further_filter", look=told, alone=True)
c("filter_by_prctl", look=told, alone=True)
c("ruleset", look=is_open("anon_inode:[landlock-ruleset]"))
c("int_0x80", _pending(10), alone=True, ends=True)
c("x32_call", _pending(11), alone=True, ends=True)
c("local_descriptor_table", did, alone=True)
c("host_name", _named("hostname", "host_name"), alone=True)
c("domain_name", _named("domainname", "domain_name"), alone=True)
c("set_clock", lambda bait, _: bait.clock_was_set(), alone=True)
c("set_time_of_day", lambda bait, _: bait.clock_was_set(), alone=True)
c("restart_keys", _keys, alone=True)
c("swap_on", _swaps, alone=True)
c("accounting", _accounts, alone=True)
c("kernel_log", look=is_secret, alone=True)
c("old_asynchronous_io", look=lambda bait, _: bait.queues_grew(), alone=True)
c("io_uring_read", look=is_secret)
c("fast_open", lambda bait, _: bait.reached(bait.fast))
c("filter_on_socket", look=_filter_of)

assert all(entry.group != "from_c" for entry in ATTEMPTS.values())
