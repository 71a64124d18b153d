"""Every verb but `pull` works where there is no network, the kernel and its workers too.

The table below is a session of somebody whose cable is unplugged: every verb and every verb below
it is run as a program, and what it says is looked at. Benchmarks have a table of their own, which
runs with ``-m soak``.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from clawai.sdk.cli.main import claw
from gguf_files import tiny_llama
from offline import Share

OFFLINE = Path(__file__).parents[1] / "offline.py"


class Step(NamedTuple):
    """A command, and what shows that it did what it is for."""

    words: str
    """As they are typed after ``claw``; ``{home}`` is the box's folder, ``{job}`` what was kept."""
    shows: str
    """A regular expression that is found in what it prints."""
    typed: str = ""
    code: int = 0
    keeps: str = ""
    """A name under which the first group of ``shows`` is kept for later steps."""
    behind: bool = False
    """It goes on behind those that follow; once it has said a line, they begin."""
    interrupted: bool = False
    """Ctrl-C ends it, after the last step."""


STEPS = [
    Step("version --json", r'"clawai": "\d'),
    Step("help run", r"(?s)claw run.*--max-tokens"),
    Step("config path", r"config\.toml"),
    Step("config set log.level debug", r"log\.level"),
    Step("config get log.level", r"debug"),
    Step("config unset log.level", r"log\.level"),
    Step("config --json", r'(?s)"log\.level": {\s+"value": "info"'),
    Step("pull {home}/tiny.gguf --name tiny", r"tiny is stored"),
    Step("models --stored", r"tiny .*llm"),
    Step("show tiny --verify", r"verified +yes"),
    Step("serve", r"serves", behind=True),
    Step("ps", r"no worker runs"),
    Step("call echo.say text=hello", r"hello"),
    Step("call --durable --json echo.say text=kept", r'"job": "([^"]+)"', keeps="job"),
    Step("jobs", r"{job}"),
    Step("jobs wait {job}", r"kept"),
    Step("jobs show {job}", r"echo\.say"),
    Step("jobs rm {job}", r"is forgotten"),
    Step("call --durable echo.count upto=900 pause_ms=100", r"cancelled", code=1, behind=True),
    Step("jobs --json", r'"job": "(\w+)"', keeps="job"),
    Step("jobs cancel {job}", r"{job}: cancelled"),
    Step("run tiny hello --max-tokens 4 --json", r'"text": "'),
    Step("ps", r"engine +tiny"),
    Step("top", r"(?s)sandbox.*processor.*waiting.*engine +tiny"),
    Step("graph tiny --prompt 4 --decode 2", r"(?s)logits.*longest chain"),
    Step("trace --minutes 2 --perfetto {home}/trace.json", r"llm\.generate .* done"),
    Step("chat tiny --max-tokens 4", r"tiny: type a message", typed="hi\n"),
    Step("pin tiny", r"stays in memory"),
    Step("unpin tiny", r"may be unloaded"),
    Step("suspend echo", r"echo is suspended"),
    Step("resume echo", r"echo goes on"),
    Step("http key add anna --priority normal", r"claw-[\w-]{43}"),
    Step("http key list", r"anna +llm\.\*, metrics +\* +normal"),
    Step("http key revoke anna", r"opens nothing any more"),
    Step("http", r"(?s)OpenAI's API.*stopped by its owner", code=1, behind=True),
    Step("stop gateway", r"gateway is unloaded"),
    Step("stop tiny", r"tiny is unloaded"),
    Step("plugins", r"echo\.say"),
    Step("logs -n 100", r"echo starts"),
    Step("ops", r"gemv_int +4"),
    Step("doctor", r"(?s)sandbox.*kernel +runs as pid"),
    Step("down", r"has stopped"),
    Step("replay --until 20", r"20 events: the same"),
    Step("up", r"the kernel runs"),
    Step("plugin new hello --dir {home}/hello", r"hello\.py"),
    Step("plugin dev {home}/hello --once --call hello.greet", r"hello serves after"),
    Step("plugin test {home}/hello", r"2 passed"),
    Step("plugin test {home}/hello --sandbox", r"2 passed"),
    Step("plugin lint {home}/hello --at-least silver", r"level: "),
    Step("plugin docs {home}/hello", r"# hello"),
    Step("plugin pack {home}/hello -o {home}/hello.clawplugin", r"hello"),
    Step("plugin keygen ada", r"(ed25519:\S+)", keeps="key"),
    Step("plugin sign {home}/hello.clawplugin --key ada", r"is signed by"),
    Step("plugin trust {key} --name ada", r"trusted"),
    Step("plugin trust", r"ada"),
    Step("plugin verify {home}/hello.clawplugin --trusted", r"ada"),
    Step("plugin install {home}/hello.clawplugin --yes", r"is installed"),
    Step("call hello.greet", r"Hello, world!"),
    Step("plugin list", r"hello .*ready"),
    Step("plugin info hello", r"hello\.greet"),
    Step("plugin remove hello", r"hello is removed"),
    Step("plugin install {home}/keeper --yes", r"is installed"),
    Step("plugin config keeper greeting=Salut", r"Salut"),
    Step("plugin secret keeper word", r"kept", typed="hush\n"),
    Step("call keeper.say", r"Salut, 4 letters"),
    Step("plugin include-dir", r"/include"),
    Step("audit", r"keeper .*may listen on 8097"),
    Step("audit --verify", r"the chain is whole"),
    Step("quantize tiny --to q8_0", r"tiny-q8_0"),
    Step("rm tiny", r"tiny is deleted"),
    Step("boxes key", r"([0-9a-f]{64})", keeps="box"),
    Step("boxes add self {box}", r"self may ship here"),
    Step("boxes collect --listen 127.0.0.1:7187", r"listens at", code=130, behind=True,
         interrupted=True),
    Step("boxes ship tcp://127.0.0.1:7187 --server-key {box} --once", r"ships as self"),
    Step("boxes", r"self .* ago"),
    Step("boxes remove self", r"no more"),
    Step("simulate quiet-office --tasks 50", r"every invariant held"),
    Step("down", r"has stopped"),
]  # fmt: skip
"""`up` starts in the background what `serve` runs."""

BENCHES = [
    Step("pull {home}/tiny.gguf --name tiny", r"tiny is stored"),
    Step("pull smollm2 --json", r'"code": "network"', code=1),
    Step("bench decode --model tiny --rounds 1", r"decode_64"),
    Step("bench parallel --model tiny --sequences 2 --rounds 1", r"(?i)parallel"),
    Step("bench start --model tiny --rounds 1", r"warm_ms"),
    Step("bench prefix --model tiny --rounds 1", r"warm_ratio"),
    Step("bench speculate --model tiny --rounds 1 --tokens 8", r"same_ratio"),
    Step("bench roofline", r"int8_gop_s"),
    Step("bench ops --quick --family gemv_int", r"gemv_q4a +scalar"),
    Step("bench gateway --model tiny --samples 10 --streams 20 --seconds 0.2", r"idle_streams"),
    Step("bench page --samples 1", r"first_paint"),
    Step("bench gemm --shape 16x256x256 --rounds 1", r"int4_symmetric_gop_s"),
    Step("bench urgent --quick", r"bulk_kept_ratio"),
    Step("bench wire --quick", r"rps_32"),
    Step("bench tensor --quick", r"lease_64mb_p50_us"),
    Step("bench pool --quick", r"utilisation_ratio"),
    Step("bench sched --quick", r"decision_100_us"),
    Step("bench batch --quick", r"chosen_ratio"),
    Step("bench faults --quick", r"recovery_p99_ms"),
    Step("bench sandbox --quick", r"start_added_ms"),
    Step("bench soak --quick", r"evicted_in_use"),
    Step("bench share --model tiny --quick", r"shared_ratio"),
    Step("bench all --quick --only tensor --output {home}/all.json", r"all\.json"),
    Step("bench compare {home}/all.json {home}/all.json", r"lease_64mb_p50_us"),
]

EXCEPTIONS: dict[str, str] = {}
"""Verbs that are not run here, each with the reason. There are none: `pull` of a file that is here
is a step above, and what it says of one that is elsewhere is one, too."""

PROGRAM = r"""
# Runs the steps one after the other as programs.
import json, re, signal, subprocess, sys
claw, steps = sys.argv[1], json.loads(sys.argv[2])
kept, found, behind = {}, [], {}
pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
for step in steps:
    words = [re.sub(r"\{(\w+)\}", lambda m: kept.get(m[1], m[0]), word) for word in step["words"]]
    if step["behind"]:
        started = subprocess.Popen([claw, *words], stdin=subprocess.DEVNULL, **pipes)
        behind[len(found)] = started, started.stdout.readline()
        found.append([words])
        continue
    done = subprocess.run([claw, *words], input=step["typed"], **pipes, timeout=400)
    found.append([words, done.returncode, done.stdout])
    match = re.search(step["shows"], done.stdout)
    if step["keeps"] and match:
        kept[step["keeps"]] = match[1]
for place, (started, first) in behind.items():
    if steps[place]["interrupted"]:
        started.send_signal(signal.SIGINT)
    rest, _ = started.communicate(timeout=60)
    found[place] += [started.returncode, first + rest]
json.dump(found, sys.stdout)
"""

KEEPER = {
    "plugin.toml": """
[plugin]
name = "keeper"
version = "1.0.0"
module = "keeper"
[[operation]]
name = "keeper.say"
[limits]
data_mib = 1
[permissions.listen]
8097 = "to be written down"
[config.greeting]
default = "Hello"
description = "How it begins."
[secrets]
word = "to be let in"
""",
    "keeper.py": """
from clawai.sdk import Context, operation

@operation("keeper.say")
def say(ctx: Context) -> str:
    (ctx.data / "seen").write_text("yes")
    return f"{ctx.config['greeting']}, {len(ctx.secret('word'))} letters"
""",
}


def leaves(command: click.Command, *path: str) -> Iterator[str]:
    """Every verb below a command, written out; a group that does something by itself, too."""
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    if command.invoke_without_command:
        yield " ".join(path)
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, *path, name)


def verb(step: Step) -> str:
    """The verb that a step runs."""
    command: click.Command | None = claw
    path: list[str] = []
    for word in step.words.split():
        if not isinstance(command, click.Group):
            break
        inner = command.get_command(click.Context(command), word)
        if inner is None:
            break
        path.append(word)
        command = inner
    return " ".join(path)


def session(box: Any, steps: Sequence[Step], limit: float) -> list[str]:
    """Run steps where there is no network; what was wrong."""
    (box.home / "tiny.gguf").write_bytes(tiny_llama(context=4096))
    (box.home / "keeper").mkdir()
    for name, text in KEEPER.items():
        (box.home / "keeper" / name).write_text(text)
    told = []
    for step in steps:
        words = shlex.split(step.words.replace("{home}", str(box.home)))
        told.append(step._asdict() | {"words": words})
    command = [sys.executable, str(OFFLINE), "--exec", sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        [*command, box.command[0], json.dumps(told)],
        env=box.env,
        cwd=box.home,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wrong = []
    for step, (words, code, said) in zip(steps, json.loads(done.stdout), strict=True):
        if code != step.code or not re.search(step.shows.replace("{job}", r"\w{16}"), said):
            wrong.append(f"claw {shlex.join(words)}: exit code {code}\n{said}")
    return wrong


def test_every_verb_has_a_step() -> None:
    there = set(leaves(claw))
    run = {verb(step) for step in (*STEPS, *BENCHES)}
    assert there - run - set(EXCEPTIONS) == set(), "these have no step in the tables above"
    assert run <= there
    assert all(EXCEPTIONS.values())


def test_every_verb_works_without_a_network(box: Any) -> None:
    assert session(box, STEPS, 300) == []


@pytest.mark.soak
def test_every_benchmark_works_without_a_network(box: Any) -> None:
    assert session(box, BENCHES, 1200) == []


def test_nothing_of_the_network_is_there(box: Any) -> None:
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
def test_the_share_that_is_printed(failed: int, reached: bool) -> None:
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
