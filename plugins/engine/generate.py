"""A loaded model, and what it can do with text: generate, score, count tokens.

One ``Session`` owns one plan; each task has a seat in it (``turns``), hence a sequence of its own.
A prompt that does not fit the context is refused with both lengths, never cut. A client sees whole
characters only, and never the beginning of a stop string that then completes.
"""

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clawai.plugins.engine.chat import ChatTemplate
from clawai.plugins.engine.constrain import Grammars
from clawai.plugins.engine.lookup import DRAFTS, Ahead, Costs
from clawai.plugins.engine.rules import Penalties
from clawai.plugins.engine.sampling import Rule, Sampler, Sampling
from clawai.plugins.engine.seats import Seat
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.tools import TAGS, Calls, Splitter
from clawai.plugins.engine.turns import Turns
from clawai.sdk.errors import ClawError
from clawai.sdk.model.driver import Plan, Stopped

PREFILL_CHUNK = 512
"""Tokens of one C call of a prefill; progress is told between two."""
STOP_GAP = 0.01
"""Seconds from one look for a stop string to the next, where tokens come by themselves."""
MAX_STOPS = 16
MAX_STOP_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate. Exactly one of ``prompt`` and ``messages`` is set."""

    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    calls: Calls | None = None
    """Functions that the prompt tells of."""
    max_tokens: int | None = None
    """None: until the model ends, or the context does."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    penalties: Penalties | None = None
    rules: Sequence[Rule] = ()
    """Besides them, of this one answer."""

    @property
    def ruled(self) -> bool:
        """Whether anything but its sampling has a say in its tokens, or looks at them."""
        return bool(self.rules or (self.penalties and self.penalties.rules(())))

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ClawError("bad_params", "give either prompt or messages")
        if self.calls and self.messages is None:
            raise ClawError("bad_params", "tools need messages", hint="send the prompt as one")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ClawError("bad_params", "max_tokens", got=self.max_tokens, allowed="1 or more")
        fine = all(0 < len(text) <= MAX_STOP_LENGTH for text in self.stop)
        if len(self.stop) > MAX_STOPS or not fine:
            allowed = f"up to {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters"
            raise ClawError("bad_params", "stop", got=list(self.stop)[:20], allowed=allowed)


@dataclass(slots=True)
class Outcome:
    """How it ended."""

    text: str
    finish_reason: str
    """stop (the model or a stop string), length (max_tokens or the context)."""
    prompt_tokens: int
    completion_tokens: int
    prefill_us: int
    decode_us: int
    cached_tokens: int = 0
    """Of the prompt, that an earlier task had left."""
    drafted_tokens: int = 0
    """Guessed from what was said before, and computed together with a token."""
    accepted_tokens: int = 0
    """Of those, that came into the answer."""

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "cached_tokens": self.cached_tokens,
                "drafted_tokens": self.drafted_tokens,
                "accepted_tokens": self.accepted_tokens,
            },
            "prefill_us": self.prefill_us,
            "decode_us": self.decode_us,
        }


class StopWatch:
    """Holds text back while it could be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What can be shown now; nothing comes after a stop string was seen."""
        if self.hit:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins ``stop``."""
        most = min(len(stop) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(stop[:n])), 0)


class Author:
    """Says the tokens of an answer, until the model ends it or there are enough (``Writer``)."""

    def __init__(
        self, sampler: Sampler, ends: Collection[int], limit: int, ahead: Ahead, gap: float = 0
    ) -> None:
        self.gap = gap
        self.plain = sampler.plain
        self._sampler = sampler
        self._ends = ends
        self._left = limit
        self._ahead = ahead
        self._last = 0
        self.reason = ""
        """Why it is over: stop, length; else it is not."""

    def choose(self, logits: Any, likeliest: int | None) -> list[int]:
        """The next tokens by these rows, those that end the model's text left out.

        Args:
            logits: float32 (1 + drafts, vocabulary).
            likeliest: ``argmax`` of the row if there is one, and it is known.

        Raises:
            ClawError: as ``Sampler.pick``.
        """
        tokens: list[int] = []
        self._ahead.ran()
        for row in logits:
            token = self._sampler.pick(row, likeliest if len(logits) == 1 else None)
            if token in self._ends:
                self.reason = "stop"
                break
            tokens.append(token)
            self._left -= 1
            if self._sampler.ended:
                self.reason = "stop"
                break
            if not self._left:
                self.reason = "length"
                break
            if not self._ahead.known(token):
                break
        self._last = token
        return tokens

    def next(self) -> list[int]:
        """The last token and drafts; nothing if it is over."""
        return [] if self.reason else self._ahead.next(self._last, self._left)


class Session:
    """One model, ready to answer."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.plan = plan
        self.turns = Turns(plan)
        self.tokenizer = tokenizer
        self.template = template
        self.grammars = Grammars(tokenizer)
        self.costs = Costs()
        self.drafts = DRAFTS
        """Tokens that may be guessed at a time; 0: none, for a comparison."""

    @property
    def context(self) -> int:
        """Tokens that a sequence may have."""
        return self.plan.context

    def encode(self, request: Request) -> list[int]:
        """The prompt's tokens, the chat template applied to messages.

        Raises:
            ClawError: prompt_too_long, bad_params, bad_model.
        """
        if request.messages is not None:
            if self.template is None:
                raise ClawError(
                    "bad_params",
                    "this model has no chat template",
                    hint="send prompt instead of messages (`claw run --raw`)",
                )
            size = sum(len(str(m.get("content", ""))) for m in request.messages)
            self._bound(size + (request.calls.size if request.calls else 0))
            parts = self.template.render(request.messages, calls=request.calls)
            ids = self.tokenizer.encode_parts(parts)
        else:
            prompt = request.prompt or ""
            self._bound(len(prompt))
            ids = self.tokenizer.encode(prompt)
        ids = self.tokenizer.with_bos(ids)
        if not ids:
            raise ClawError("bad_params", "the prompt is empty")
        if len(ids) >= self.context:
            raise self._too_long(f"{len(ids)} tokens")
        return ids

    def calling(self, calls: Calls) -> tuple[Rule, Splitter]:
        """The rule of an answer that may call functions, and what takes it apart.

        Raises:
            ClawError: bad_params, unsupported_system.
        """
        style = (self.template.style if self.template else None) or TAGS
        return self.grammars.constraint(calls.grammar(style)), Splitter(style, calls.must)

    def _bound(self, characters: int) -> None:
        """Refuse what is too long whatever its tokens are, before they are counted."""
        least = characters // self.tokenizer.longest_token
        if least >= self.context:
            raise self._too_long(f"{characters} characters, at least {least} tokens")

    def _too_long(self, got: str) -> ClawError:
        return ClawError(
            "prompt_too_long",
            f"the prompt has {got}; the context has {self.context}, and an answer needs one",
            got=got,
            allowed=f"{self.context - 1} tokens",
            hint="shorten the prompt, or raise workers.context (`claw config`)",
        )

    def generate(
        self,
        request: Request,
        seat: Seat,
        progress: Callable[[float], None] | None = None,
        ids: list[int] | None = None,
        gap: float = 0,
    ) -> Generator[str, None, Outcome]:
        """Yield the answer in pieces; return how it ended.

        Args:
            request: what to generate.
            seat: empty, or with a beginning of the prompt in it.
            progress: called with 0..1 while a long prompt is read.
            ids: of the prompt, if they are known (``encode``).
            gap: seconds from one piece to the next, at least about; 0: one for each token.

        Raises:
            ClawError: see ``encode``.
            Stopped: the control word was set.
        """
        ids = self.encode(request) if ids is None else ids
        cached = seat.sequence.position
        penalties = request.penalties.rules(ids) if request.penalties else ()
        sampler = Sampler(request.sampling, [*penalties, *request.rules])
        room = self.context - len(ids)
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        started = time.perf_counter_ns()
        logits = self._prefill(ids, seat, progress)
        prefilled = time.perf_counter_ns()
        watch, decoder = StopWatch(request.stop), self.tokenizer.stream()
        # What a witness has seen is told with its token: none is chosen before it is handed out.
        witnessed = any(not rule.changes for rule in request.rules)
        ahead = Ahead(seat, ids, self.costs, 0 if witnessed else self.drafts)
        if request.stop:  # so many tokens behind one would be for nothing
            gap = min(gap, STOP_GAP) if sampler.plain else 0
        elif request.ruled:
            gap = 0
        author = Author(sampler, self.tokenizer.ends, limit, ahead, gap)
        pieces: list[str] = []
        count = 0
        with closing(seat.write(author, logits)) as handfuls:
            for tokens in handfuls:
                text = ""
                for token in tokens:
                    count += 1
                    text += watch.feed(decoder.feed(token))
                    if watch.hit:
                        break
                if text:
                    pieces.append(text)
                    yield text
                if watch.hit:
                    break
        if watch.hit and seat.sequence.position >= (end := len(ids) + count):
            seat.rewind(end - 1)  # what was computed behind the stop string
        reason = "stop" if watch.hit else author.reason
        # What a model leaves unfinished at its end still is text, unless a stop string cut it off.
        rest = "" if watch.hit else watch.feed(decoder.finish()) + watch.finish()
        if rest:
            pieces.append(rest)
            yield rest
        ended = time.perf_counter_ns()
        return Outcome(
            text="".join(pieces),
            finish_reason=reason,
            prompt_tokens=len(ids),
            completion_tokens=count,
            prefill_us=(prefilled - started) // 1000,
            decode_us=(ended - prefilled) // 1000,
            cached_tokens=cached,
            drafted_tokens=ahead.drafted,
            accepted_tokens=ahead.accepted,
        )

    def _prefill(self, ids: list[int], seat: Seat, progress: Callable[[float], None] | None) -> Any:
        logits = None
        for at in range(seat.sequence.position, len(ids), PREFILL_CHUNK):
            logits = seat.run(ids[at : at + PREFILL_CHUNK])
            if progress and len(ids) > PREFILL_CHUNK:
                progress(min(1.0, (at + PREFILL_CHUNK) / len(ids)))
        assert logits is not None
        return logits[-1:]

    def score(
        self, text: str, seat: Seat, progress: Callable[[float], None] | None = None
    ) -> tuple[float, int]:
        """Mean negative log-likelihood (natural logarithm) of a text's tokens, and their number.

        ``seat`` is empty. The first token has nothing before it and is not counted.

        Raises:
            ClawError: bad_params (fewer than two tokens), prompt_too_long.
        """
        self._bound(len(text))
        ids = self.tokenizer.with_bos(self.tokenizer.encode(text))
        if len(ids) < 2:
            raise ClawError("bad_params", "a text of two tokens or more is needed", got=len(ids))
        if len(ids) > self.context:
            raise self._too_long(f"{len(ids)} tokens")
        total = 0.0
        step = 64  # logits of all tokens: 64 x vocabulary x 4 bytes at a time
        for at in range(0, len(ids) - 1, step):
            inputs = ids[at : min(at + step, len(ids) - 1)]
            logits = np.asarray(seat.run(inputs, all_logits=True), np.float64)
            targets = ids[at + 1 : at + 1 + len(inputs)]
            peak = logits.max(axis=1)
            norm = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
            total += float((norm - logits[np.arange(len(inputs)), targets]).sum())
            if progress:
                progress(min(1.0, (at + step) / len(ids)))
        return total / (len(ids) - 1), len(ids) - 1


__all__ = ["Outcome", "Request", "Session", "StopWatch", "Stopped"]
