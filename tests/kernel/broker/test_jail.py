"""What the broker's process cannot do, tried in one; and that it can still do its work."""

import json
import socket
import subprocess
import sys
from pathlib import Path

TRIES = """
import errno, json, os, socket, subprocess, sys
from clawai.kernel.broker import jail, keeper

def attempt(call):
    try:
        return call() or "worked"
    except OSError as error:
        return errno.errorcode.get(error.errno, "failed")

def connects():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "worked"

folder, port = sys.argv[1], int(sys.argv[2])
own = os.access("/etc/shadow", os.R_OK)
was_root = os.geteuid() == 0
held = jail.enter(keeper.UID)
said = {
    "write": attempt(lambda: open(folder + "/new", "w")),
    "truncate": attempt(lambda: os.open(folder + "/secret", os.O_RDONLY | os.O_TRUNC)),
    "read": attempt(lambda: open(folder + "/secret").read()),
    "home": attempt(lambda: os.listdir(os.path.expanduser("~"))),
    "proc": attempt(lambda: open("/proc/1/cmdline").read()),
    "unlink": attempt(lambda: os.unlink(folder + "/secret")),
    "exec": attempt(lambda: os.execv("/bin/true", ["true"])),
    "fork": attempt(os.fork),
    "unix": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "raw": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "packet": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "listen": attempt(connects),
    "kill": attempt(lambda: os.kill(os.getppid(), 9)),
    "setuid": attempt(lambda: os.setuid(0)),
    "memfd": attempt(lambda: os.memfd_create("x")),
}
if was_root or not own:
    said["shadow"] = attempt(lambda: open("/etc/shadow").read())
works = {
    "hosts": attempt(lambda: open("/etc/hosts").read()),
    "resolve": attempt(lambda: socket.getaddrinfo(b"localhost", 80) and "worked"),
    "connect": attempt(lambda: socket.socket().connect(("127.0.0.1", port))),
    "pair": attempt(lambda: socket.socketpair() and "worked"),
}
sys.stdout.write(json.dumps([held, said, works]))
sys.stdout.flush()
"""


def test_it_cannot_do_what_it_need_not(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", TRIES, str(tmp_path), str(server.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    held, said, works = json.loads(done.stdout)
    assert {"capabilities", "landlock", "seccomp"} <= set(held)
    assert set(said.values()) <= {"EPERM", "EACCES", "ENOENT"}, said
    assert works.pop("hosts") not in ("EPERM", "EACCES")
    assert set(works.values()) == {"worked"}, works
    assert (tmp_path / "secret").read_text() == "secret"
