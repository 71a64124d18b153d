"""What the pieces of an answer tell besides text: log-probabilities, calls of functions."""

from typing import Any

from clawai.plugins.engine.generate import Outcome
from clawai.plugins.engine.rules import Witness
from clawai.plugins.engine.tools import Splitter


class News:
    """Of one answer; most have none."""

    def __init__(self, witness: Witness | None = None, splitter: Splitter | None = None) -> None:
        self._witness, self._splitter = witness, splitter

    def of(self, text: str) -> dict[str, Any]:
        """The piece for some text of the model; empty: there is nothing to send yet."""
        if self._splitter is None:
            return {"text": text} | self._seen()
        return self._piece(*self._splitter.feed(text))

    def rest(self, outcome: Outcome) -> dict[str, Any]:
        """The last piece, if there is anything left to tell."""
        if self._splitter is None:
            return self._piece("", [])
        return self._piece(*self._splitter.finish(outcome.finish_reason == "stop"))

    def result(self, outcome: Outcome) -> dict[str, Any]:
        """What the answer's end says otherwise where functions were called."""
        if self._splitter is None:
            return {}
        found: dict[str, Any] = {"text": self._splitter.text, "tool_calls": self._splitter.calls}
        if self._splitter.calls and outcome.finish_reason == "stop":
            found["finish_reason"] = "tool_calls"
        return found

    def _piece(self, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        told = ({"calls": calls} if calls else {}) | self._seen()
        return {"text": text} | told if text or told else {}

    def _seen(self) -> dict[str, Any]:
        seen = self._witness.taken() if self._witness else None
        return {"logprobs": seen} if seen else {}
