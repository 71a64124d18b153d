"""The connections that the gateway is handed: it ends them, and the log knows of each."""

import socket

from clawai.sdk import audit
from doors_kit import Doors
from support import wait_until


def test_one_that_is_to_be_closed_is_closed_and_counted(doors: Doors) -> None:
    head = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{doors.port}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", doors.port), 30) as sock:
        me = sock.getsockname()[1]
        sock.sendall(head.encode())
        said = b""
        while part := sock.recv(65536):
            said += part
    assert said.startswith(b"HTTP/1.1 200") and said.endswith(b"ok\n")
    (taken,) = [each for each in records(doors, "accept") if each["peer_port"] == me]
    same = {"worker": taken["worker"], "n": taken["n"]}
    (end,) = wait_until(
        lambda: [each for each in records(doors, "end") if same.items() <= each.items()],
        "its end is written down",
    )
    assert (end["reason"], end["sent"], end["received"]) == ("closed", len(said), len(head))


def test_who_hangs_up_leaves_nothing_behind(doors: Doors) -> None:
    before = len(records(doors, "end"))
    for _ in range(20):
        socket.create_connection(("127.0.0.1", doors.port), 30).close()
    wait_until(lambda: len(records(doors, "end")) >= before + 20, "all have ended")


def records(doors: Doors, event: str) -> list[audit.Record]:
    found = audit.records(doors.kernel.log_file.parent)
    return [each for each in found if each["event"] == event and each["plugin"] == "gateway"]
