"""The engine in a worker: load one model inside the sandbox, then offer its operations."""

import mmap
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import msgspec

from clawai.plugins.engine import notes, xray
from clawai.plugins.engine.chat import ChatTemplate
from clawai.plugins.engine.flow import GAP, joined
from clawai.plugins.engine.generate import Request, Session
from clawai.plugins.engine.news import News
from clawai.plugins.engine.rules import Biases, Penalties, Witness
from clawai.plugins.engine.sampling import Rule, Sampling, warm_draws
from clawai.plugins.engine.seats import Seat
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.tools import MAX_CALLS, Calls, Tool
from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.model import gguf, llama
from clawai.sdk.model.driver import Driver, Plan, Stopped, UnsupportedGraph
from clawai.sdk.model.graph import Graph
from clawai.sdk.model.loaded import LoadedModel
from clawai.sdk.plugin import Cancelled, Context, Operation, Start, operation, operations_of

_ANY_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + message['content'] | trim }}{% endfor %}"
)
_HUGE_ARENA = 32 << 20
Text = Annotated[str, msgspec.Meta(max_length=4_000_000)]


class Called(msgspec.Struct, forbid_unknown_fields=True):
    """A call that the assistant made."""

    name: str
    arguments: dict[str, Any]


class Message(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One message of a conversation."""

    role: str
    content: Text
    tool_calls: list[Called] = []
    """Of the assistant."""
    name: str = ""
    """Of the function whose result a message of a tool is."""


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """One that the answer may call."""

    name: str
    description: Text = ""
    parameters: dict[str, Any] = {}
    """A JSON schema of an object."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model, but for its packed weights."""

    graph: Graph
    tokenizer: Tokenizer
    template: str | None
    notes: bytes | memoryview = b""
    """Where it comes from, if not from its file: the graph is an outline then."""
    encoded: bytes | memoryview = b""
    """The whole graph, in these."""


class Engine:
    """The plugin object: its hooks and its operations."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.graph: Callable[[], Graph] | None = None
        """Gives that of the model, without its weights."""
        self.device = ""
        self._kept: list[mmap.mmap] = []
        self._operations: list[Operation] = []
        """Found before there is a model, if there was time."""

    @hookimpl
    def claw_prepare(self) -> None:
        """Use once what is slow at first: templates, notes, random numbers, our own signatures."""
        ChatTemplate(_ANY_TEMPLATE, bos="", eos="", controls=()).render(
            [{"role": "user", "content": "x"}]
        )
        notes.warm()
        warm_draws()
        self._operations = list(operations_of(self))
        for each in self._operations:
            each.info()

    @hookimpl
    def claw_load_model(self, fd: int) -> LoadedModel | None:
        """GGUF files of the Llama family; no other format is known here."""
        if os.pread(fd, len(gguf.MAGIC), 0) != gguf.MAGIC:
            return None
        file = gguf.read(fd)
        return LoadedModel(llama.graph(file), file)

    @hookimpl
    def claw_start(self, worker: Start) -> None:
        """Read the model, reserve what it needs, pack it."""
        driver = worker.driver("cpu")
        model = _restored(worker, driver) or _read(worker)
        tokenizer = model.tokenizer
        if tokenizer.vocabulary != model.graph.vocabulary:
            raise ClawError(
                "bad_model",
                "the vocabulary of the tokenizer differs from the model's",
                got=tokenizer.vocabulary,
                allowed=model.graph.vocabulary,
            )
        template = _template(model)
        try:
            plan = self._plan(worker, driver, model)
        except UnsupportedGraph as error:
            raise ClawError("bad_model", f"this engine cannot run the model: {error}") from error
        kept = model.encoded
        graph = xray.light(model.graph)
        self.graph = partial(notes.graph, kept) if kept else lambda: graph
        self.device = driver.name
        self.session = Session(plan, tokenizer, template)

    def _plan(self, worker: Start, driver: Driver, model: Model) -> Plan:
        """Reserve what the plan needs, worst case, and get the weights: packed, or mapped."""
        graph, wanted = model.graph, _kind(worker, model.graph.context)
        kind: dict[str, Any] = {"context": wanted.context, "kv": wanted.kv}
        shape = kind | {"threads": worker.threads, "sequences": worker.args["slots"]}
        need = driver.footprint(graph, **shape)

        def pack(memory: memoryview) -> None:
            driver.pack(worker.load_model().graph if model.notes else graph, memory)

        weights = None
        if not shares_weights(worker.args.get("weights", "auto")):
            worker.reserve(need.total)
        else:
            behind = model.notes or notes.write(
                graph, model.tokenizer, model.template, wanted, driver.saved(graph, **kind)
            )
            layout = driver.layout(graph)
            weights = worker.weights(layout, need.weights, need.private, pack, behind)
        if weights is None:
            weights = self._allocate(need.weights, "weights")
            pack(weights)
        return driver.compile(graph, **shape, weights=weights, allocate=self._allocate)

    def _allocate(self, nbytes: int, purpose: str) -> memoryview:
        """Private zeroed memory, charged to this worker by ``reserve``.

        In huge pages where much of it is read for every token. A small arena is not: a first
        prompt touches little of it, and a huge page costs half a millisecond to make.
        """
        # Private: RLIMIT_DATA counts it, and shared memory would get no huge pages.
        mapping = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if nbytes >= (_HUGE_ARENA if purpose == "arena" else 2 << 20):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        self._kept.append(mapping)
        return memoryview(mapping)[:nbytes]

    @hookimpl
    def claw_operations(self) -> Iterable[Operation]:
        """The methods below."""
        return self._operations or list(operations_of(self))

    @property
    def _loaded(self) -> Session:
        assert self.session is not None
        return self.session

    @contextmanager
    def _seat(self, ctx: Context, prompt: Sequence[int] = ()) -> Iterator[Seat]:
        """A place at the model for a task; what it computed there goes into its timings.

        With a prompt, what the same principal has left of it is taken, and left again.
        """
        who = ctx.principal if prompt else ""
        with self._loaded.turns.seat(
            ctx.control, ctx.checkpoint, ctx.priority, ctx.deadline, prompt, who
        ) as seat:
            yield seat
            ctx.compute_us = seat.spent // 1000

    @operation("llm.generate")
    def generate(
        self,
        ctx: Context,
        prompt: Text | None = None,
        messages: list[Message] | None = None,
        max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        seed: int | None = None,
        stop: list[str] | None = None,
        min_p: float = 0.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        logit_bias: dict[str, float] | None = None,
        logprobs: int | None = None,
        schema: dict[str, Any] | None = None,
        tools: list[Function] | None = None,
        tool_choice: Literal["auto", "none", "required"] = "auto",
        allowed_tools: list[str] | None = None,
        max_calls: int = MAX_CALLS,
        whole: bool = False,
    ) -> Any:
        """Answer a prompt or a conversation, piece by piece.

        Args:
            prompt: a text to go on with, as it is; or
            messages: a conversation, each with role (system, user, assistant) and content.
            max_tokens: the longest answer; else what the context has room for.
            temperature: randomness; 0 takes the likeliest token each time.
            top_k: only so many of the likeliest tokens; 0 is all.
            top_p: only the likeliest that hold this part of the probability.
            seed: makes the same question give the same answer.
            stop: the answer ends before any of these texts.
            min_p: only tokens with this part of the likeliest one's probability.
            frequency_penalty: taken from a token's logit for each time that the answer has it.
            presence_penalty: taken from it once if the answer has it.
            repeat_penalty: divides the logits of the last tokens, the prompt's too; 1: none.
            repeat_last_n: how many tokens those are; -1 is all.
            logit_bias: added to the logits of tokens, by their ids.
            logprobs: each piece tells its tokens' log-probabilities, and so many of the likeliest
                ones in their place (0 to 20).
            schema: the answer is JSON that this JSON schema allows.
            tools: functions that the answer may call: name, description, parameters.
            tool_choice: auto leaves it to the model, required calls one at least, none none.
            allowed_tools: names of those that may be called; else all.
            max_calls: how many calls there may be in the answer, up to 16.
            whole: the text comes with the result only, not piece by piece, so without logprobs.
        """
        if whole and logprobs is not None:
            text = "logprobs come with the pieces, and whole leaves those away"
            raise ClawError("bad_params", text, hint="leave one of both away")
        rules: list[Rule] = []
        calls = splitter = None
        if tools and tool_choice != "none":
            offered = [Tool(each.name, each.description, each.parameters) for each in tools]
            must = tool_choice == "required"
            calls = Calls(offered, must, allowed_tools, max_calls, schema)
            rule, splitter = self._loaded.calling(calls)
            rules.append(rule)
        elif schema is not None:
            rules.append(self._loaded.grammars.json(schema))
        if logit_bias:
            rules.append(Biases(logit_bias, self._loaded.tokenizer.vocabulary))
        witness = None if logprobs is None else Witness(self._loaded.tokenizer, logprobs)
        request = Request(
            prompt=prompt,
            messages=None if messages is None else msgspec.to_builtins(messages),
            calls=calls,
            max_tokens=max_tokens,
            sampling=Sampling(temperature, top_k, top_p, seed, min_p),
            stop=stop or (),
            penalties=Penalties(frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n),
            rules=[*rules, witness] if witness else rules,
        )
        return self._stream(ctx, request, News(witness, splitter), whole)

    def _stream(self, ctx: Context, request: Request, news: News, whole: bool) -> Any:
        try:
            ids = self._loaded.encode(request)
            with self._seat(ctx, ids) as seat:
                texts = self._loaded.generate(
                    request,
                    seat,
                    lambda part: ctx.progress(part, "reading the prompt"),
                    ids,
                    GAP,
                )
                # With stop strings or rules they come sooner than anyone reads.
                generator = joined(texts) if request.stop or request.ruled else texts
                while True:
                    try:
                        text = next(generator)
                    except StopIteration as end:
                        outcome = end.value
                        break
                    if (piece := news.of(text)) and not whole:
                        yield piece
                if (piece := news.rest(outcome)) and not whole:
                    yield piece
        except Stopped:
            raise Cancelled from None
        return outcome.as_dict() | news.result(outcome)

    @operation("llm.score")
    def score(self, ctx: Context, text: Text) -> dict[str, Any]:
        """Mean negative log-likelihood of a text, in nats a token.

        Args:
            text: what is scored; it must fit the context.
        """
        try:
            with self._seat(ctx) as seat:
                mean, tokens = self._loaded.score(text, seat, ctx.progress)
        except Stopped:
            raise Cancelled from None
        return {"mean_nll": mean, "tokens": tokens}

    @operation("llm.tokenize")
    def tokenize(self, text: Text) -> dict[str, Any]:
        """The token ids of a text, and how many the context takes.

        Args:
            text: what is taken apart.
        """
        ids = self._loaded.tokenizer.encode(text)
        return {"tokens": ids, "count": len(ids), "context": self._loaded.context}

    @operation("model.graph")
    def model_graph(self) -> dict[str, Any]:
        """The model as steps of its plan: what each computes, reads and weighs, and from what."""
        assert self.graph
        return xray.describe(self.graph(), self._loaded.plan, self.device)

    @operation("model.profile")
    def model_profile(
        self,
        ctx: Context,
        prompt: Annotated[int, msgspec.Meta(ge=2, le=4096)] = 64,
        decode: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16,
        live: bool = False,
    ) -> dict[str, Any]:
        """The graph, and the nanoseconds that each of its steps takes here and now.

        Args:
            prompt: tokens that are read at once.
            decode: tokens that follow, one by one; of their times the median is told.
            live: run nothing: tell what ran last, for whomever.
        """
        session = self._loaded
        graph: dict[str, Any] = self.model_graph()
        if live:
            return graph | xray.live(session.plan)
        try:
            with self._seat(ctx) as seat:
                vocabulary = session.tokenizer.vocabulary
                took = xray.measure(seat, session.plan, vocabulary, prompt, decode, ctx.progress)
        except Stopped:
            raise Cancelled from None
        return graph | took


def shares_weights(setting: str, release: str = "") -> bool:
    """Whether weights go into an object that outlives the worker.

    Args:
        setting: ``workers.weights``. auto: where they get huge pages whatever the system's settings
            are, from Linux 6.1 on; with 4 KiB pages decoding would lose a sixth.
        release: of Linux; "": the one that runs.
    """
    if setting != "auto":
        return setting == "shared"
    numbers = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    return numbers is not None and tuple(map(int, numbers.groups())) >= (6, 1)


def _kind(worker: Start, most: int) -> notes.Kind:
    """What the worker's plan is made for, with a model whose context has ``most`` tokens."""
    return notes.Kind(min(worker.context or most, most), worker.args.get("kv", "f16"))


def _restored(worker: Start, driver: Driver) -> Model | None:
    """What an earlier worker has left of the model, if it can be used."""
    kept = worker.notes() or b""
    found = notes.read(kept)
    if found is None:
        return None
    told, tokenizer = found
    try:
        graph = told.graph(_kind(worker, told.context))
        driver.restore(graph, told.plan)
    except ValueError as error:
        print(f"the packed notes are not used: {error}", file=sys.stderr)
        return None
    return Model(graph, tokenizer, told.template, kept, told.encoded)


def _read(worker: Start) -> Model:
    """The model, from its file."""
    model = worker.load_model()
    template = model.text.get("tokenizer.chat_template", str)
    return Model(model.graph, Tokenizer(model.text), template)


def _template(model: Model) -> ChatTemplate | None:
    if model.template is None:
        return None
    tokenizer = model.tokenizer
    return ChatTemplate(
        model.template,
        bos=tokenizer.token(tokenizer.bos),
        eos=tokenizer.token(tokenizer.eos),
        controls=tokenizer.control_texts,
        later=bool(model.notes),
    )
