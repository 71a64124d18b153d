"""The rules that run a plugin: in the real sandbox, by a kernel of its own."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clawai.sdk.errors import ClawError
from clawai.sdk.lint.subject import NotChecked, Rule, Subject
from clawai.sdk.manifest import OperationEntry
from clawai.sdk.testing import FakeTask

CANCEL_S = 1.0
TRIAL_S = 30.0
_DIED = ("worker_died", "worker_hung")


def _loads(subject: Subject) -> Iterator[str]:
    if subject.plugin.plugin.kind == "driver":
        return
    try:
        found = set(subject.described)
    except NotChecked as why:
        if subject.manifest and any(entry.needs_model for entry in subject.manifest.operation):
            raise
        yield str(why)
        return
    for entry in subject.plugin.operation:
        if entry.name not in found:
            yield f"it does not offer {entry.name}"


def _answers(subject: Subject) -> Iterator[str]:
    for entry, example in subject.trials():
        end = _try(subject, entry, example).end
        if isinstance(end, ClawError):
            yield f"{entry.name} with its example: {end.message}"


def _try(subject: Subject, entry: OperationEntry, params: Mapping[str, Any]) -> FakeTask:
    deadline = subject.kernel.clock.monotonic() + TRIAL_S
    return subject.kernel.submit(entry.name, params, deadline=deadline)


def _passes(subject: Subject) -> Iterator[str]:
    if not subject.tests:
        raise NotChecked("its tests run with your rights; allow that with --tests")
    from clawai.sdk.cli.plugin import test

    for sandbox in (False, True):
        done = test.run(subject.folder, sandbox, ("-q",), quiet=True)
        if done.returncode:
            where = "in the sandbox" if sandbox else "in the fake kernel"
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            yield f"the tests fail {where}: {''.join(last)}"
            return


def _cancels(subject: Subject) -> Iterator[str]:
    for entry, example in subject.trials():
        task = subject.kernel.client.submit(entry.name, example, deadline=TRIAL_S)
        asked = 0.0
        for event in task:
            if not asked and (event.kind == "chunk" or event.state == "running"):
                asked = time.monotonic()
                task.cancel()
        took = time.monotonic() - asked if asked else 0.0
        end = _end(task)
        if not asked and _code(end):
            yield f"{entry.name} with its example: {end}"
        elif asked and (took > CANCEL_S or _code(end) in _DIED):
            yield f"{entry.name} took {took:.1f} s to stop when it was cancelled"


def _end(task: Any) -> Any:
    try:
        return task.result()
    except ClawError as error:
        return error


def _code(end: Any) -> str:
    return end.code if isinstance(end, ClawError) else ""


def _memory(subject: Subject) -> Iterator[str]:
    if not (trials := subject.trials()):
        return
    for entry, example in trials:
        end = _try(subject, entry, example).end
        if _code(end) in _DIED:  # whatever watches its memory was faster than we
            yield f"{entry.name} with its example: {end}"
    limit = subject.plugin.limits.memory_mib
    for worker in subject.kernel.client.query("workers")["workers"]:
        if worker["plugin"] == subject.plugin.plugin.name:
            peak = _peak_mib(worker["pid"])
            if peak > limit:
                yield f"it held {peak} MiB at its peak, and [limits] says memory_mib = {limit}"


def _peak_mib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NotChecked(f"its worker has ended: {error}") from None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise NotChecked("this system does not say how much memory a process has held")


def _edges(subject: Subject) -> Iterator[str]:
    for entry, example in subject.trials():
        found = subject.described[entry.name]
        for key, field in found.fields.items():
            for value in _strange(field):
                end = _try(subject, entry, {**example, key: value}).end
                if _code(end) in ("worker_failed", *_DIED):
                    shown = repr(value)[:20]
                    yield f"{entry.name} with {key} = {shown}: {end.message}"  # type: ignore[union-attr]


def _strange(field: Mapping[str, Any]) -> list[Any]:
    """Values at the edges of what a schema allows."""
    low, high = field.get("minimum"), field.get("maximum")
    kind = field.get("type")
    if "enum" in field or kind not in ("string", "integer", "number", "array", "object"):
        return []
    if kind == "integer":
        return [low if low is not None else -1, 0 if (low or 0) <= 0 else low, min(high or 1, 1)]
    if kind == "number":
        return [0.0 if low is None else low, float("nan")]
    others: dict[str, list[Any]] = {"string": ["", "\0é\U0001f600"], "array": [[]]}
    return others.get(kind, [{}])


RULES = (
    Rule("loads", "bronze", "it must start in the sandbox, and offer what plugin.toml says",
         _loads),
    Rule("answers", "gold", "an example that fails is worse than none", _answers),
    Rule("tests-pass", "gold", "tests that fail say that something is broken", _passes),
    Rule("cancels", "platinum", "a cancelled task must be gone within a second", _cancels),
    Rule("memory", "platinum", "who holds more than it says is ended when memory is short",
         _memory),
    Rule("edges", "platinum", "a strange value is the caller's fault, and no crash", _edges),
)  # fmt: skip
