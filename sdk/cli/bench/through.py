"""Our engine through kernel, sandbox and client, as a side of `claw bench decode --daemon`.

    python -m clawai.sdk.cli.bench.through MODEL.gguf THREADS CONTEXT 1 KV

A kernel of the benchmark's own serves the model; answers are streamed, as `claw run` has them. It
takes one order, and its prompts are texts, chosen so that each is a beginning of the next one and
no answer ends early; ``prompt`` of its facts are the longest one's tokens, for the other sides:

    {"through": P, "count": N}
        {"client": ..., "engine": ...}   seconds for N more tokens after the prompt's first P tokens
                                         and one: from the first piece at the client to the end,
                                         and by the engine's own clock, first token included

The prompt itself is kept from the last time (the engine's prefix cache), so it costs next to
nothing and is in neither figure.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from clawai.sdk.cli.bench import peer
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError

NAME = "model"
LENGTH = 1024
"""Tokens of the longest prompt."""
ENOUGH = 65
"""Tokens that an answer must have."""
TRIES = 12
WORDS = (
    "the old man walked to a river and saw boats while rain fell on quiet roofs "
    "where seven letters went before winter because every lamp was lit by them"
)


class Through:
    """A private kernel that serves the model, and its client."""

    def __init__(self, box: Private, model: Path) -> None:
        box.model(NAME, model)
        self.box = box.start()
        self.client: Client = box.client(timeout=300)
        self._texts: dict[int, str] = {}
        self.prompt: list[int] = []
        self._choose()

    def _choose(self) -> None:
        """Texts of one token and of LENGTH, whose answers are long enough."""
        words = self._single([f" {word}" for word in WORDS.split()]) or self._single(
            list("bcdfgklmnpqrsvwxz")  # a vocabulary without words
        )
        for first in range(min(TRIES, len(words))):
            chosen = [
                words[(first + at * (1 + at // len(words))) % len(words)] for at in range(LENGTH)
            ]
            self._texts = {1: chosen[0], LENGTH: "".join(chosen)}
            tokens = {count: self._tokens(text) for count, text in self._texts.items()}
            if any(len(tokens[count]) != count for count in tokens):
                continue
            if all(self._answer(count, ENOUGH - 1) for count in self._texts):
                self.prompt = tokens[LENGTH]
                return
        raise ClawError(
            "bad_model",
            "the benchmark found no prompt that this model answers at length",
            got=f"{len(words)} words of one token, {TRIES} tries",
        )

    def _single(self, texts: list[str]) -> list[str]:
        """Those that are one token each."""
        return [text for text in texts if len(self._tokens(text)) == 1]

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.client.call("llm.tokenize", {"text": text}, model=NAME).value[
            "tokens"
        ]
        return found

    def _answer(self, prompt: int, count: int) -> dict[str, float]:
        """The two clocks; empty if the model ended before."""
        params = {"prompt": self._texts[prompt], "max_tokens": count + 1}
        task = self.client.submit("llm.generate", params, model=NAME)
        first = 0.0
        for event in task:
            if event.kind == "chunk":
                first = first or time.perf_counter()
        result = task.result().value
        ended = time.perf_counter()
        if result["usage"]["completion_tokens"] != count + 1 or not first:
            return {}
        return {"client": ended - first, "engine": result["decode_us"] / 1e6}

    def answer(self, order: dict[str, Any]) -> dict[str, float]:
        """See the module.

        Raises:
            ClawError: worker_failed.
        """
        found = self._answer(order["through"], order["count"])
        if not found:
            raise ClawError("worker_failed", "an answer ended before it was long enough", got=order)
        return found


def main() -> None:
    """Start a kernel, load the model, take orders; the kernel is gone at the end."""
    model, threads, context = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    kv = sys.argv[5]
    settings = (
        f'[workers]\nidle_minutes = 0\nthreads = {threads}\ncontext = {context}\nkv = "{kv}"\n'
    )
    box = Private(settings)
    try:
        side = Through(box, model)
        facts = {"name": "daemon", "prompt": side.prompt, "pids": box.processes()}
        print(json.dumps({"ready": facts}), flush=True)
        for line in sys.stdin:
            print(json.dumps(side.answer(json.loads(line))), flush=True)
    except ClawError as error:
        peer.fail(error)
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            box.remove()


if __name__ == "__main__":
    main()
