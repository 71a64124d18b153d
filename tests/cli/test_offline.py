"""Every verb but `pull` works where there is no network, the kernel and its workers too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.cli.main import SECTIONS
from gguf_files import tiny_llama
from offline import Share

OFFLINE = Path(__file__).parents[1] / "offline.py"
VERBS = {name for section in SECTIONS.values() for name in section} - {"pull"}
STEPS = [
    ("version", "--json"),
    ("help", "run"),
    ("up",),
    ("models",),
    ("show", "tiny"),
    ("call", "echo.say", "text=hello"),
    ("call", "--durable", "echo.say", "text=kept"),
    ("jobs",),
    ("run", "tiny", "hello", "--max-tokens", "4"),
    ("chat", "tiny", "--max-tokens", "4"),
    ("pin", "tiny"),
    ("unpin", "tiny"),
    ("suspend", "echo"),
    ("resume", "echo"),
    ("ps",),
    ("plugins",),
    ("plugin", "list"),
    ("logs",),
    ("doctor",),
    ("config", "path"),
    ("stop", "tiny"),
    ("replay",),
    ("bench", "compare", "{home}/report.json", "{home}/report.json"),
    ("simulate", "--list"),
    ("rm", "tiny"),
    ("down",),
    ("serve", "--help"),
]
"""A session of somebody whose cable is unplugged. `up` starts what `serve` runs."""


PROGRAM = """
import json, sys
from click.testing import CliRunner
from clawai.sdk.cli.main import claw
for step in json.loads(sys.argv[1]):
    done = CliRunner().invoke(claw, step, input="hi\\n", prog_name="claw")
    print("STEP", json.dumps([step, done.exit_code, done.output[-300:]]), flush=True)
"""


def test_every_verb_works_without_a_network(box):
    path = box.home / "tiny.gguf"
    path.write_bytes(tiny_llama(context=4096))
    box.run("pull", str(path), "--name", "tiny")
    report = {"made": "", "reports": [], "failed": {}}
    (box.home / "report.json").write_text(json.dumps(report))
    known = {step[0] for step in STEPS}
    assert known <= VERBS, "no step is of a verb that is gone"
    # A verb that came later has at least its help.
    steps = [[word.replace("{home}", str(box.home)) for word in step] for step in STEPS]
    steps += ([verb, "--help"] for verb in sorted(VERBS - known))
    command = [sys.executable, str(OFFLINE), "--exec", sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        [*command, json.dumps(steps)],
        env=box.env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("STEP ")]
    found = [json.loads(line.removeprefix("STEP ")) for line in said]
    assert [row for row in found if row[1]] == []
    assert len(found) == len(steps), done.stderr


def test_nothing_of_the_network_is_there(box):
    program = (
        "import socket, json\n"
        "said = []\n"
        "for host in ('192.0.2.1', '2001:db8::1', 'example.org'):\n"
        "    try:\n"
        "        socket.create_connection((host, 80), 2).close()\n"
        "    except OSError as error:\n"
        "        said.append(host)\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(listener.getsockname(), 2).close()\n"
        "print(json.dumps(said))\n"
    )
    command = [sys.executable, str(OFFLINE), "--exec", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == ["192.0.2.1", "2001:db8::1", "example.org"]


@pytest.mark.parametrize(("failed", "reached"), [(5, True), (6, False)])
def test_the_share_that_is_printed(failed, reached):
    share = Share()

    class Report:
        def __init__(self, nodeid: str, outcome: str) -> None:
            self.nodeid, self.outcome = nodeid, outcome

    for number in range(100):
        for phase in ("setup", "call", "teardown"):
            bad = number < failed and phase == "call"
            share.pytest_runtest_logreport(Report(f"t{number}", "failed" if bad else "passed"))
    share.pytest_runtest_logreport(Report("left out", "skipped"))
    text, enough = share.told()
    assert f"{100 - failed} of 100 tests passed: {100 - failed}.0% (1 left out" in text
    assert enough is reached
