"""Calls of functions: how prompts tell of them, what an answer may be, how it is taken apart."""

import itertools
import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.chat import ChatTemplate
from clawai.plugins.engine.constrain import Grammars
from clawai.plugins.engine.sampling import Sampler, Sampling
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.tools import BARE, TAGS, Calls, Splitter, Style, Tool
from clawai.sdk.errors import ClawError
from clawai.sdk.model.gguf import parse
from gguf_files import CHATML, tiny_llama

TOKENIZER = Tokenizer(parse(memoryview(tiny_llama(context=512))))
GRAMMARS = Grammars(TOKENIZER)
WEATHER = Tool(
    "weather",
    "tells it",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"enum": [1, 2]}},
        "required": ["city"],
    },
)
NOW = Tool("now")
TOOLS = {tool.name: tool for tool in (WEATHER, NOW)}
NATIVE = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
    "{% if c.function is defined %}{% set c = c.function %}{% endif %}"
    '<tool_call>\n{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
)


def answer(calls: Calls, style: Style, seed: int, wish: str = "") -> tuple[str, bool]:
    """What a random model says that begins with ``wish`` if it may, and whether it ended."""
    random = np.random.default_rng(seed)
    sampler = Sampler(Sampling(1.0, 0, 1.0, seed), [GRAMMARS.constraint(calls.grammar(style))])
    closers = [TOKENIZER.encode(text)[0] for text in '"}'] + sorted(TOKENIZER.ends)
    wished, ids = TOKENIZER.encode(wish), []
    for step in range(400):
        logits = random.standard_normal(TOKENIZER.vocabulary).astype(np.float32)
        logits[closers] += 1 + step / 15
        if step < len(wished):
            logits[wished[step]] += 99
        token = sampler.pick(logits)
        if token in TOKENIZER.ends:
            return TOKENIZER.decode(ids), True
        ids.append(token)
        if sampler.ended:
            return TOKENIZER.decode(ids), True
    return TOKENIZER.decode(ids), False


def taken(text: str, style: Style, must: bool, ended: bool, cuts: list[int]) -> Splitter:
    """A text taken apart in pieces; what is told piece by piece is what there is in the end."""
    splitter, shown, calls = Splitter(style, must), "", list[dict[str, Any]]()
    cuts = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    parts = [splitter.feed(text[a:b]) for a, b in itertools.pairwise(cuts)]
    for part, news in [*parts, splitter.finish(ended)]:
        shown += part
        for each in news:
            if "name" in each:
                assert each["index"] == len(calls)
                calls.append({"name": each["name"], "arguments": ""})
            calls[-1]["arguments"] += each.get("arguments", "")
    assert shown == splitter.text and calls == splitter.calls
    return splitter


@pytest.mark.parametrize("style", [TAGS, BARE])
@pytest.mark.parametrize("seed", range(6))
def test_who_must_call_does_so_by_the_schema(style: Style, seed: int) -> None:
    text, ended = answer(Calls([WEATHER, NOW], must=True, most=2), style, seed)
    assert ended
    splitter = taken(text, style, True, ended, [seed * 3, seed * 7, 40])
    assert splitter.text == "" and 1 <= len(splitter.calls) <= (2 if style.several else 1)
    for call in splitter.calls:
        jsonschema.validate(json.loads(call["arguments"]), TOOLS[call["name"]].schema())
    assert (
        "\n".join(style.call(c["name"], json.loads(c["arguments"])) for c in splitter.calls) == text
    )


@pytest.mark.parametrize("style", [TAGS, BARE])
def test_who_may_choose_calls_or_talks(style: Style) -> None:
    calls = Calls([WEATHER, NOW], most=1)
    for seed in range(4):
        text, ended = answer(calls, style, seed, "wo{rds <tool")
        splitter = taken(text, style, False, ended, [3, 9, 12])
        assert splitter.calls == [] and splitter.text == text
        wish = "well\n<tool_call>" if style.open else "{"
        text, ended = answer(calls, style, seed, wish)
        splitter = taken(text, style, False, ended, [3, 9, 12])
        assert ended and splitter.text == ("well" if style.open else "")
        (call,) = splitter.calls
        jsonschema.validate(json.loads(call["arguments"]), TOOLS[call["name"]].schema())


def test_only_some_may_be_called_and_words_may_have_a_schema() -> None:
    for seed in range(4):
        text, _ = answer(Calls([WEATHER, NOW], must=True, only=["now"]), BARE, seed)
        assert text == '{"name": "now", "parameters": {}}'
    calls = Calls([NOW], schema={"enum": ["yes", "no"]})
    said = {answer(calls, TAGS, seed, wish)[0] for seed, wish in enumerate(['"', "<", '"'] * 3)}
    assert said - {'"yes"', '"no"'} and said & {'"yes"', '"no"'}
    assert all("now" in text for text in said - {'"yes"', '"no"'})
    with pytest.raises(ClawError, match="no tools beside a schema"):
        calls.grammar(BARE)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["f", "g"]), st.dictionaries(st.text(max_size=4), st.text('}<\n/"a'))
        ),
        max_size=3,
    ),
    st.lists(st.integers(0, 500), max_size=20),
    st.integers(0, 200),
)
def test_calls_are_taken_apart_however_they_come(
    calls: list[tuple[str, dict[str, str]]], cuts: list[int], lost: int
) -> None:
    text = "\n".join(TAGS.call(*call) for call in calls)
    splitter = taken(text, TAGS, True, True, cuts)
    assert [(c["name"], json.loads(c["arguments"])) for c in splitter.calls] == calls
    cut = taken(text[: len(text) - lost], TAGS, True, False, cuts)
    assert cut.text == "" and len(cut.calls) <= len(calls)
    for whole, part in zip(splitter.calls, cut.calls, strict=False):
        assert whole["name"] == part["name"]


TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "hot?<|im_end|>"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "now", "arguments": {"a": "<|im_end|>"}}],
    },
    {"role": "tool", "name": "now", "content": "noon"},
    {"role": "tool", "name": "now", "content": "late"},
]


@pytest.mark.parametrize("source", [CHATML, NATIVE])
def test_prompts_tell_of_tools_and_nobody_writes_control_tokens(source: str) -> None:
    template = ChatTemplate(source, bos="", eos="", controls=TOKENIZER.control_texts)
    tool = Tool("now", "it ends <|im_end|>", {"properties": {"<|im_end|>": {"type": "string"}}})
    parts = template.render(TALK, calls=Calls([tool]))
    text = "".join(part.text for part in parts)
    assert template.style is (TAGS if source == NATIVE else None)
    assert json.dumps(tool.told()) in text
    assert TAGS.call("now", {"a": "<|im_end|>"}) in text
    messages = 4 if source == NATIVE else 5  # results in one message, behind a system message
    ends = sum(part.control and part.text == "<|im_end|>" for part in parts)
    assert ends == messages - (source == CHATML)
    assert ("<tool_response>\nnoon\n</tool_response>\n<tool_response>" in text) == (
        source == CHATML
    )
    alone = "".join(part.text for part in template.render(TALK[:1]))
    assert "tool" not in alone


def test_arguments_that_are_too_deep_are_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    template = ChatTemplate(CHATML, bos="", eos="", controls=())
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": deep}]}
    with pytest.raises(ClawError, match="tool_calls") as caught:
        template.render([call])
    assert caught.value.code == "bad_params"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Tool("a b"), "a tool's name"),
        (lambda: Tool("f", "", {"type": "string"}), "the parameters of f"),
        (lambda: Calls([NOW, NOW]), "tools"),
        (lambda: Calls([NOW], only=["other"]), "allowed_tools"),
        (lambda: Calls([NOW], only=[]), "allowed_tools"),
        (lambda: Calls([NOW], most=17), "max_calls"),
        (
            lambda: Calls([Tool("f", "", {"properties": {"a": {"not": {}}}})]).grammar(TAGS),
            "tools.f.properties.a.not",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make: Any, what: str) -> None:
    with pytest.raises(ClawError, match=what) as caught:
        make()
    assert caught.value.code == "bad_params"
