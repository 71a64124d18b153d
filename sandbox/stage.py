"""The process between the daemon and one worker: applies every layer, then waits.

Run by clawai.sandbox.launch as ``python -I -m clawai.sandbox.stage CONFIG_FD``, or forked from a
``zygote`` with libraries that are imported already; one thread, and nothing more is imported but
the standard library until every layer is on. The order is the point: descriptors,
identity, namespaces, private root, fork; then in the child (process 1 of its namespace) death
signal, limits, capabilities, Landlock, system call filter, and only then the plugin's code.

The outer half dies with the daemon and takes the worker along: the lifeline pipe ends when the
daemon's last descriptor closes, PDEATHSIG when its thread ends, and the worker's own PDEATHSIG
when the stage is killed first. It reports in JSON lines (launch.Status) and is the only writer of
the status pipe: what the worker says on the report pipe is text, cut to a length, never trusted.
It answers the calls that the filter denies, so that they get a name (``denials``).

A worker that may start programs leads, with them, a process group of its own: whoever suspends it
reaches them all, and its filter keeps them in there.

Refuses silently weaker runs: a layer that fails ends the worker and is named in the report.
"""

import _socket
import contextlib
import errno
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clawai.sandbox import filters, landlock, namespaces, paths, privileges, rlimits
from clawai.sandbox import syscalls as sc
from clawai.sandbox.denials import Denials
from clawai.sandbox.policy import LEVELS, Policy
from clawai.sandbox.programs import Programs, resolve

SETUP_FAILED = 78
_MAX_REPORT_BYTES = 3000
_STARTED = b"started\n"


@dataclass(slots=True)
class Run:
    """What launch.spawn asked for, and what the stage adds; written by this module alone."""

    target: str
    preload: list[str]
    import_paths: list[str]
    policy: Policy
    level: str
    uid: int
    fds: dict[str, int]
    args: dict[str, Any]
    status: int
    lifeline: int
    programs: list[bytes]
    forked_by: int = 0
    """The parent that a forked stage is about to lose, for the one that it answers to."""
    layer: str = "start"
    visible: tuple[str, ...] = ()
    own_user_count: bool = False
    in_namespaces: bool = False
    tmp: str = "/tmp"
    tmp_held: int = -1
    """The stage's lock on it, if it is in the system's own /tmp."""
    executables: Programs = field(default_factory=Programs)

    def has(self, layer: str) -> bool:
        """Whether the level promises ``layer``; "weaker" takes what it can get."""
        missing = {"no-landlock": ("landlock",), "no-userns": ("namespaces",)}
        return layer not in missing.get(self.level, ()) and self.level in LEVELS[:3]


def main() -> None:
    """A stage that was executed."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    run(int(sys.argv[1]))


def run(config: int, here: Mapping[int, int] | None = None, forked_by: int = 0) -> None:
    """Set up outside, fork, set up inside, call the target; the parent half never returns.

    Args:
        config: descriptor of what launch.spawn has written.
        here: what the descriptors that it names are called here, in a forked stage.
        forked_by: the process that forked it, and is about to end.
    """
    run = read_run(config, here or {})
    run.forked_by = forked_by
    try:
        _prepare(run)
        report, report_end = os.pipe()
        listens, hands_over = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        worker = os.fork()
    except Exception as error:
        _tell(run.status, event="failed", layer=run.layer, error=_describe(error))
        os._exit(SETUP_FAILED)
    if worker:
        os.close(report_end)
        hands_over.close()
        _watch(run, worker, report, listens)
    os.close(report)
    listens.close()
    _work(run, report_end, hands_over)


def read_run(fd: int, here: Mapping[int, int]) -> Run:
    """What launch.spawn has written to ``fd``; ``here``: see ``run``."""
    with os.fdopen(fd, "rb") as file:
        head = json.loads(file.readline())
        programs = filters.unpack(file.read())
    head["fds"] = {name: here.get(number, number) for name, number in head["fds"].items()}
    head |= {name: here.get(head[name], head[name]) for name in ("status", "lifeline")}
    return Run(policy=Policy.from_dict(head.pop("policy")), programs=programs, **head)


def _prepare(run: Run) -> None:
    """The layers that the worker inherits through the fork."""
    run.layer = "descriptors"
    keep = [0, 1, 2, run.status, run.lifeline, *run.fds.values()]
    sc.close_all_but(keep)
    os.umask(0o077)
    sc.set_name("claw-stage")
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:  # Landlock and the namespaces would hold for this one only
        raise OSError(11, f"the stage has {threads} threads before its layers are on")
    run.visible = tuple(paths.runtime_paths(run.import_paths))
    is_root = os.geteuid() == 0
    _prepare_programs(run)
    if run.has("namespaces"):
        run.layer = "namespaces"
        run.in_namespaces = True
        entered = namespaces.enter(run.policy, list(run.visible), run.uid, run.executables)
        run.own_user_count = entered or is_root
    else:
        run.layer = "identity"
        _make_tmp(run)
        if is_root:
            os.chown(run.tmp, run.uid, run.uid)
        privileges.drop_root(run.uid, namespaces.device_groups(run.policy))
        run.own_user_count = is_root
    while os.getppid() == run.forked_by:
        time.sleep(0.0001)  # or its end would be ours
    # After the last change of identity, which clears it.
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)


def _make_tmp(run: Run) -> None:
    """A folder of its own for a worker that has no mounts of its own."""
    # Here, for _watch needs it too and may no longer reach the library then.
    from clawai.sandbox import leftovers

    run.tmp = f"/tmp/claw-worker-{os.urandom(8).hex()}"
    os.mkdir(run.tmp, 0o700)  # noqa: PTH102 - pathlib would only be loaded for this
    run.tmp_held = leftovers.hold(run.tmp)


def _prepare_programs(run: Run) -> None:
    """Find what the declared programs need, while the whole box can be seen."""
    if not run.policy.programs:
        return
    run.layer = "programs"
    if not run.has("namespaces"):
        raise OSError(
            1,
            "a plugin that starts programs needs process namespaces, in which they die with it; "
            f"level {run.level!r} has none",
        )
    run.executables = resolve(run.policy.programs)
    os.setpgid(0, 0)


def _work(run: Run, report: int, hands_over: _socket.socket) -> None:
    """The worker: the remaining layers, then the target; returns when the target does."""
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(report, b"armed\n")  # fails when the stage died before the line above
        if run.tmp_held >= 0:
            os.close(run.tmp_held)
        os.close(run.status)
        os.close(run.lifeline)
        _restrict(run, hands_over)
        os.write(report, _STARTED)
        run.layer = "import"
        function = load_target(run)
        os.close(report)
    except BaseException as error:
        os.write(report, f"{run.layer}\n{_describe(error)}"[:_MAX_REPORT_BYTES].encode())
        if run.layer == "import":
            raise
        os._exit(SETUP_FAILED)
    function(run.fds, run.args)


def _restrict(run: Run, hands_over: _socket.socket) -> None:
    # Process 1 ignores SIGTERM by default; the daemon ends a worker with SIGKILL through its pidfd.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sc.set_name(f"claw-{run.policy.name}")
    os.environ["HOME"] = os.environ["TMPDIR"] = run.tmp
    sys.dont_write_bytecode = True
    os.chdir(run.tmp)
    run.layer = "paths"
    _check_access(run)
    run.layer = "rlimits"
    rlimits.apply(run.policy, run.own_user_count)
    if run.policy.slice_us:
        with contextlib.suppress(OSError):  # as of containers that allow no such call
            sc.set_slice(run.policy.slice_us)
    run.layer = "capabilities"
    privileges.drop_capabilities()
    if run.policy.explain:
        # The stage reads paths out of the worker's memory; nobody but the owner's own processes
        # could do so too, and no worker may.
        sc.prctl(sc.PR_SET_DUMPABLE, 1)
    if run.has("landlock") or (run.level == "weaker" and landlock.abi() > 0):
        run.layer = "landlock"
        landlock.restrict(run.policy, run.visible, run.tmp, run.executables)
    if run.has("seccomp") or run.programs:
        run.layer = "seccomp"
        _filter(run, hands_over)
    hands_over.close()


def _check_access(run: Run) -> None:
    """Say now, in words, what the worker's identity would be refused later."""
    policy = run.policy
    wanted = [(path, os.W_OK, "write") for path in policy.write_paths]
    wanted += [(path, os.R_OK | os.W_OK, "use") for path in policy.devices]
    wanted += [(path, os.X_OK, "execute") for path in policy.programs]
    for path, mode, verb in wanted:
        # A path that is not there is for the layers to name.
        if os.path.lexists(path) and not os.access(path, mode):
            raise OSError(
                13,
                f"{path}: the worker may not {verb} it: it runs as uid {run.uid}; change the owner "
                "or the mode of that path",
            )


def _filter(run: Run, hands_over: _socket.socket) -> None:
    """Load the allow-list, and hand the stage the descriptor on which denied calls wait."""
    policy = run.policy
    features = {
        "more": not policy.executable_memory,
        "programs": bool(policy.programs),
        "accept": policy.accept,
        "connections": policy.accept or policy.connections,
        "devices": bool(policy.devices),
    }
    chosen = [name for name, wanted in features.items() if wanted]
    try:
        listener = filters.load(
            run.programs, filters.BASE, chosen, listen=True, observe=policy.explain
        )
    except OSError:
        # Somebody outside listens already, as some containers do: the same filter, without names.
        filters.load(run.programs, filters.BASE, chosen)
        return
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener.to_bytes(4, sys.byteorder))
    hands_over.sendmsg([b"."], [rights])
    os.close(listener)


def load_target(run: Run) -> Any:
    """Import the plugin's code; from then on nothing new may be executed, if so asked."""
    sys.path[:0] = run.import_paths
    module, _, name = run.target.partition(":")
    loaded = importlib.import_module(module)
    function = getattr(loaded, name)
    if prepare := getattr(loaded, "prepare", None):
        prepare(run.args)  # such as to load a shared object, which may be forbidden next
    for extra in run.preload:
        importlib.import_module(extra)
    if not run.policy.executable_memory and run.programs:
        filters.load(run.programs, filters.NO_NEW_CODE)
    return function


def _watch(run: Run, worker: int, report: int, listens: _socket.socket) -> None:
    """The stage's rest of life: relay reports, die with the daemon, keep the worker's pid."""
    keep = {0, 1, 2, run.status, run.lifeline, report, listens.fileno(), run.tmp_held}
    pidfd = os.pidfd_open(worker)
    sc.close_all_but([*keep, pidfd])  # the worker's sockets must close when the worker dies
    privileges.drop_capabilities()  # of the user namespace; the worker never had them
    started = _relay(run, worker, report, pidfd, listens)
    if started:
        _await_acknowledgement(run.lifeline)
    _, wait_status = os.waitpid(worker, 0)
    if run.tmp != "/tmp":
        from clawai.sandbox import leftovers

        # At the end of this one, not at the start of the next: no worker waits for it.
        leftovers.remove(run.tmp)
        leftovers.clear("/tmp", "claw-worker-[0-9a-f]{16}", os.geteuid())
    code = os.waitstatus_to_exitcode(wait_status)
    os._exit(code if code >= 0 else 128 - code)


def _relay(run: Run, worker: int, report: int, pidfd: int, listens: _socket.socket) -> bool:
    """Until the worker is dead; True when it was reported as started."""
    poller = select.poll()
    for fd in (report, pidfd, run.lifeline, listens.fileno()):
        poller.register(fd, select.POLLIN)
    text, started, acknowledged = b"", False, False
    denials: Denials | None = None
    while True:
        ready = dict(poller.poll())
        if report in ready:
            data = os.read(report, _MAX_REPORT_BYTES)
            text = (text + data)[:_MAX_REPORT_BYTES]
            if not started and _STARTED in text:
                started, text = True, text.partition(_STARTED)[2]
                _tell(run.status, event="started", pid=worker)
            if not data:
                poller.unregister(report)
                _finish_report(run, text, started)
        if run.lifeline in ready:
            if os.read(run.lifeline, 1):
                acknowledged = True
            else:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poller.unregister(run.lifeline)
                acknowledged = True
        if listens.fileno() in ready:
            poller.unregister(listens)
            denials = _listen(run, listens)
            if denials:
                poller.register(denials.listener, select.POLLIN)
        elif denials and denials.listener in ready:
            if ready[denials.listener] & select.POLLIN:
                denials.answer()
            else:  # nobody is left who could ask
                poller.unregister(denials.listener)
        if pidfd in ready and report not in ready:
            if denials:
                denials.end()
            os.close(run.status)
            return started and not acknowledged


def _listen(run: Run, listens: _socket.socket) -> Denials | None:
    """Take the descriptor on which denied calls wait; None when there is none."""
    _, rights, _, _ = listens.recvmsg(1, _socket.CMSG_LEN(4))
    if not rights:
        return None
    # A reader that is slow must not hold up the worker's calls.
    os.set_blocking(run.status, False)
    policy = run.policy
    writable = (*policy.write_paths, *policy.devices, *paths.DEVICES)
    return Denials(
        listener=int.from_bytes(rights[0][2], sys.byteorder),
        names=filters.names(run.programs),
        explain=policy.explain,
        readable=(
            *run.visible,
            *policy.read_paths,
            *policy.programs,
            *paths.STATIC_COPIES,
            *writable,
        ),
        writable=writable,
        tell=lambda **said: _tell(run.status, event="denied", **said),
        tmp=run.tmp,
        absent=errno.ENOENT if run.in_namespaces else errno.EACCES,
    )


def _finish_report(run: Run, text: bytes, started: bool) -> None:
    layer, _, error = text.removeprefix(b"armed\n").decode(errors="replace").partition("\n")
    if not started and not layer:
        layer, error = "setup", "the worker died before its layers were on"
    if layer:
        _tell(run.status, event="failed", layer=layer, error=error)
    else:
        _tell(run.status, event="running")


def _await_acknowledgement(lifeline: int) -> None:
    """Until the daemon has opened the worker's pidfd (a byte) or is gone (end of file)."""
    select.select([lifeline], [], [])


def _tell(status: int, **report: str | int) -> None:
    try:
        os.write(status, json.dumps(report).encode() + b"\n")
    except OSError:
        pass  # the daemon is gone; the lifeline says so too


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
