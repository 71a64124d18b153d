"""A process that has imported what bundled workers need, and forks the stage of each of them.

Run by clawai.sandbox.forking as ``python -I -m clawai.sandbox.zygote SOCKET_FD PARENT_PID``. It
is told two things over its SEQPACKET pair, and answers each:

    {"import": [MODULE, ...]}              -> {"imported": [those that could be]}
    {"config": N, "numbers": [...], "stdout": N, "stderr": N} + descriptors
                                           -> {"pid": of the stage} or {"error": "..."}

``numbers`` are the descriptors as the asker numbers them, in the order in which they came.

What it imports are libraries and the SDK, never a plugin: no plugin's code runs outside of the
sandbox. It has one thread (seen to before each fork), the clean environment of every worker, no
descriptor but its socket and the standard three, and no secret: nothing that a worker could find
in the memory that it inherits. The child applies every layer itself, as a stage that was executed
does. All children share one address-space layout, which is why only bundled plugins are forked.

A stage is forked twice, so that it becomes the child of the launcher (a subreaper for that
moment): its end, its exit code and its signals are the launcher's, and whoever kills the zygote
ends no worker.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any

from clawai.sandbox import paths, stage
from clawai.sandbox import syscalls as sc

_MAX_BYTES = 16_384
_MAX_FDS = 64

Born = tuple[int, dict[int, int], int]
"""What ``stage.run`` takes."""


def main() -> None:
    """Serve; in a child, be its stage."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sock = socket.socket(fileno=int(sys.argv[1]))
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return
    sc.close_all_but([0, 1, 2, sock.fileno()])
    sc.set_name("claw-zygote")
    if born := serve(sock):
        stage.run(*born)


def serve(sock: socket.socket) -> Born | None:
    """Do what is asked until the asker is gone (None); returns in each child that was forked."""
    while True:
        data, fds, _, _ = socket.recv_fds(sock, _MAX_BYTES, _MAX_FDS)
        if not data:
            return None
        asked = json.loads(data)
        if "import" in asked:
            answer: dict[str, Any] = {"imported": load(asked["import"])}
        else:
            try:
                pid, parent = fork()
            except OSError as error:
                answer = {"error": str(error)}
            else:
                if pid == 0:
                    here = dict(zip(asked["numbers"], fds, strict=True))
                    _take_output(asked, here)
                    return here[asked["config"]], here, parent
                answer = {"pid": pid}
        for fd in fds:
            os.close(fd)
        try:
            sock.send(json.dumps(answer).encode())
        except BrokenPipeError:
            return None


def load(modules: list[str]) -> list[str]:
    """Import what is there; what is not, the worker that needs it reports."""
    found = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        found.append(name)
    paths.runtime_paths([])  # a child need not work it out again
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it looks at
    return found


def fork() -> tuple[int, int]:
    """The pid of a stage, which is no child of ours; 0 and its first parent in the stage.

    Raises:
        OSError: no process could be had, or there is a second thread, whose locks a child would
            inherit as they are.
    """
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    if threads != 1:
        raise OSError(f"{threads} threads in the zygote, which forks with one only")
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        return _in_the_middle(writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read()
    os.waitpid(middle, 0)  # from now on the stage is the launcher's
    if not text.isdigit():
        raise OSError(f"the stage was not forked: {text.decode(errors='replace')}")
    return int(text), middle


def _in_the_middle(writing: int) -> tuple[int, int]:
    """Fork the stage, tell its pid, and end; returns in the stage."""
    me = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        os.write(writing, str(error).encode())
        os._exit(1)
    if child:
        os.write(writing, str(child).encode())
        os._exit(0)
    os.close(writing)
    return 0, me


def _take_output(asked: dict[str, Any], here: dict[int, int]) -> None:
    """Standard output and error are what the asker says, else nothing."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if asked[name] is None:
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, number)
            os.close(null)
        else:
            os.dup2(here[asked[name]], number)


if __name__ == "__main__":
    main()
