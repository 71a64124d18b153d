"""Stream the answer of one task to standard output; Ctrl-C cancels the task, not the program."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

if TYPE_CHECKING:
    from clawai.sdk.client import Client

PRIORITIES = ("critical", "interactive", "normal", "batch")
WAITS = {
    "held": "held while something more urgent runs ...",
    "suspended": "suspended; `claw resume` lets it go on",
}


@dataclass
class Answer:
    """What came of one task."""

    text: str = ""
    pieces: int = 0
    """Chunks that arrived: one a token, unless the engine joins some."""
    cancelled: bool = False
    value: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, int] = field(default_factory=dict)
    job: str = ""
    """Of a durable task."""


def ask(
    client: "Client",
    params: dict[str, Any],
    *,
    model: str,
    priority: str = "interactive",
    deadline: float | None = None,
    durable: bool = False,
    show: bool = True,
) -> Answer:
    """Run ``llm.generate``; with ``show`` its text goes to standard output as it comes.

    Ctrl-C cancels the task, unless it is durable: that goes on, and ``Answer.job`` names it.

    Raises:
        ClawError: whatever ended the task, but not the cancel of Ctrl-C.
    """
    answer, status = Answer(), output.Status()
    task = client.submit(
        "llm.generate", params, model=model, priority=priority, deadline=deadline, durable=durable
    )
    try:
        for event in task:
            answer.job = answer.job or event.job
            if event.kind == "chunk":
                status.clear()
                _take(answer, event.data, show)
            elif not answer.pieces:
                status.show(waiting(event, model))
        result = task.result()
        answer.value, answer.timings = result.value or {}, dict(result.timings)
    except KeyboardInterrupt:
        answer.cancelled = True
        status.clear()
        if not answer.job:
            _cancel(task)
    finally:
        status.clear()
    if show and answer.text and not answer.text.endswith("\n"):
        print(flush=True)
    return answer


def _take(answer: Answer, data: Any, show: bool) -> None:
    text = data.get("text", "") if isinstance(data, dict) else ""
    answer.pieces += 1
    answer.text += text
    if show:
        # Only a terminal obeys control characters; a file gets what the model said.
        sys.stdout.write(output.clean(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()


def _cancel(task: Any) -> None:
    """Cancel and wait for the kernel's word, unless Ctrl-C comes again."""
    try:
        task.cancel()
        for _ in task:
            pass
        task.result()
    except (ClawError, KeyboardInterrupt):
        pass


def waiting(event: Any, model: str) -> str:
    """What is going on before the first token, for the status line."""
    if note := getattr(event, "note", ""):
        fraction = getattr(event, "fraction", None)
        return f"{note} {fraction:.0%}" if fraction is not None else str(note)
    position, state = getattr(event, "position", None), getattr(event, "state", "")
    estimate = getattr(event, "estimate_ms", None)
    about = f"about {output.duration(estimate / 1000)}" if estimate else ""
    if position:
        return f"{position} in the queue before this" + (f", {about}" if about else "")
    if state in WAITS:
        return WAITS[state]
    return f"{state or 'starting'} {model} ... {about}".rstrip()


def left_running(job: str) -> str:
    """What is said when somebody leaves a durable task."""
    return f"job {job} goes on without you; `claw jobs` shows what came of it"


def summary(answer: Answer) -> str:
    """One line of figures about a finished answer."""
    usage = answer.value.get("usage") or {}
    tokens, prompt = usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
    parts = [f"{tokens} tokens"]
    if decode := answer.value.get("decode_us"):
        parts.append(f"{tokens / decode * 1e6:.1f} tokens/s")
    if prefill := answer.value.get("prefill_us"):
        parts.append(f"prompt of {prompt} in {output.duration(prefill / 1e6)}")
    for name in ("queue", "load"):
        if (spent := answer.timings.get(f"{name}_us", 0)) >= 10_000:
            parts.append(f"{name} {output.duration(spent / 1e6)}")
    if answer.value.get("finish_reason") == "length":
        parts.append("cut at --max-tokens")
    return " · ".join(parts)
