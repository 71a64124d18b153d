"""Constrained answers: whatever a model would rather say, what ends parses and validates."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawai.plugins.engine import constrain
from clawai.plugins.engine.constrain import Grammars
from clawai.plugins.engine.generate import Request, Session
from clawai.plugins.engine.rules import Penalties
from clawai.plugins.engine.sampling import Sampler, Sampling
from clawai.plugins.engine.schema import ANY_OBJECT, KEYWORDS, MAX_DEPTH, checked
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.errors import ClawError
from clawai.sdk.model import llama
from clawai.sdk.model.gguf import parse
from gguf_files import File, tiny_llama
from reference import ReferenceDriver

FILE = parse(memoryview(tiny_llama(context=512)))
TOKENIZER = Tokenizer(FILE)
GRAMMARS = Grammars(TOKENIZER)
CLOSERS = [TOKENIZER.encode(text)[0] for text in '"]},:'] + sorted(TOKENIZER.ends)


def said(
    schema: dict[str, Any], seed: int, most: int = 400, grammars: Grammars = GRAMMARS
) -> str | None:
    """What a model says that knows nothing and is in a hurry; None: it came to no end."""
    random = np.random.default_rng(seed)
    constraint = grammars.json(schema)
    sampler = Sampler(Sampling(1.0, 0, 1.0, seed), [constraint])
    ids: list[int] = []
    for _ in range(most):
        logits = random.standard_normal(TOKENIZER.vocabulary).astype(np.float32)
        logits[CLOSERS] += 1 + len(ids) / 20
        token = sampler.pick(logits)
        if token not in TOKENIZER.ends:
            ids.append(token)
        if token in TOKENIZER.ends or sampler.ended:
            return TOKENIZER.decode(ids)
    return None


def check(schema: dict[str, Any], text: str) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", None]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 3},
        "spouse": {"anyOf": [{"$ref": "#"}, {"type": "null"}], "default": None},
    },
    "required": ["name", "age", "tags"],
    "$defs": {"tag": {"type": "string", "pattern": "^[a-z]{2,4}$"}},
}
GOOD: list[dict[str, Any]] = [
    PERSON,
    ANY_OBJECT,
    {},
    {"type": "integer"},
    {"type": ["integer", "null"], "minimum": 3},
    {"type": "number", "minimum": -2.5, "exclusiveMaximum": 7},
    {"type": "integer", "multipleOf": 7, "minimum": 100, "maximum": 999},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "pattern": "^(a|b)+c?$"},
    {"type": "string", "pattern": "x", "maxLength": 12},
    {"const": {"a": [1, '\u00e9\n"', None]}},
    {"enum": ["\U0001f600", 3, {"x": {}}]},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2},
    {
        "type": "object",
        "patternProperties": {"^a": {"type": "null"}},
        "additionalProperties": False,
    },
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
        "additionalProperties": True,
    },
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b", "a"]},
    {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "boolean"}},
]


@pytest.mark.parametrize("schema", GOOD, ids=str)
def test_what_ends_validates(schema: dict[str, Any]) -> None:
    texts = [text for seed in range(12) if (text := said(schema, seed)) is not None]
    assert texts
    for text in texts:
        check(schema, text)


SCALARS = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("null", "boolean", "integer", "number")]),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-300, 300), st.integers(0, 400),
    ),
    st.builds(
        lambda low, more, kind: {"type": "number", kind: low, "maximum": low + more},
        st.floats(-9, 9).map(lambda x: round(x, 2)), st.integers(1, 20),
        st.sampled_from(["minimum", "exclusiveMinimum"]),
    ),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 5), st.integers(0, 5),
    ),
    st.lists(
        st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
        min_size=1, max_size=4,
    ).map(lambda values: {"enum": values}),
    st.sampled_from(["^[a-c]{1,4}$", "ab", "^a.*z$", "^\\d+-\\d\\w$", "^[^\"]x?$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
)  # fmt: skip
NAMES = st.text(min_size=0, max_size=5)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def closed(names: dict[str, Any], optional: int, other: Any) -> dict[str, Any]:
        found = {"type": "object", "properties": names, "required": list(names)[optional:]}
        return found if other is None else found | {"additionalProperties": other}

    return st.one_of(
        st.builds(
            closed, st.dictionaries(NAMES, inner, max_size=4), st.integers(0, 3),
            st.none() | st.just(False) | inner,
        ),
        st.builds(
            lambda items, low, more: {
                "type": "array", "items": items, "minItems": low, "maxItems": low + more
            },
            inner, st.integers(0, 2), st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda each: {"type": "array", "prefixItems": each, "items": False}
        ),
    )  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(SCALARS, nested, max_leaves=6), st.integers(0, 1 << 32))
def test_what_ends_validates_for_any_schema(schema: dict[str, Any], seed: int) -> None:
    text = said(schema, seed)
    if text is not None:
        check(schema, text)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, "schema.uniqueItems: this keyword"),
        ({"properties": {"a": {"not": {}}}}, "schema.properties.a.not: this keyword"),
        ({"if": {}, "then": {}}, "schema.if"),
        ({"x-guidance": {"lenient": True}}, "schema.x-guidance"),
        ({"$id": "a", "items": {"$id": "b"}}, "schema.items.\\$id"),
        ({"$ref": "https://example.org/x"}, "schema.\\$ref"),
        ({"$ref": "#/$defs/none"}, "cannot be obeyed"),
        ({"$ref": "#"}, "no answer|cannot be obeyed"),
        ({"type": "text"}, "schema.type"),
        ({"type": "string", "format": "nonsense"}, "Unknown format"),
        ({"type": "string", "pattern": "(?=a)b"}, "cannot be obeyed"),
        ({"type": "string", "minLength": 1 << 40}, "minLength"),
        ({"multipleOf": 0.1}, "multipleOf"),
        ({"minimum": True}, "minimum"),
        ({"maximum": float("nan")}, "maximum"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "cannot be obeyed"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "cannot be obeyed"),
        ({"anyOf": []}, "schema.anyOf"),
        ({"enum": []}, "schema.enum"),
        ({"items": [{}]}, "schema.items"),
        ({"properties": {str(n): {} for n in range(2000)}}, "too large"),
        ({"const": "x" * 70_000}, "too large"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused_by_name(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(ClawError, match=words) as caught:
        GRAMMARS.json(schema)
    assert caught.value.code == "bad_params"


def test_depth_is_bounded_and_so_are_explosions() -> None:
    deep: Any = {"type": "null"}
    for _ in range(MAX_DEPTH + 1):
        deep = {"items": deep}
    wide = {"allOf": [{"anyOf": [{"required": [f"{n}{m}"]} for m in range(4)]} for n in range(9)]}
    many = {"allOf": [{"pattern": f"a.{{{n}}}b", "type": "string"} for n in (7, 11, 13, 17)]}
    for schema in (deep, wide, many):
        with pytest.raises(ClawError) as caught:
            GRAMMARS.json(schema)
        assert caught.value.code == "bad_params"


def test_a_grammar_that_needs_too_much_on_the_way_ends_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(constrain.LIMITS, "max_lexer_states", 40)
    patterns = [{"type": "string", "pattern": f".*{chr(97 + n)}.{{{n + 8}}}$"} for n in range(26)]
    schema = {"type": "array", "items": {"anyOf": patterns}, "minItems": 9}
    with pytest.raises(ClawError, match="cannot be obeyed") as caught:
        for seed in range(20):
            said(schema, seed)
    assert caught.value.code == "bad_params" and caught.value.hint


def test_the_page_names_the_keywords() -> None:
    page = (Path(__file__).parents[3] / "docs" / "http.md").read_text()
    quoted = "\n".join(line for line in page.splitlines() if line.startswith("> "))
    assert sorted(re.findall("`([^`]+)`", quoted)) == list(KEYWORDS)


def test_objects_are_closed_where_that_shuts_nothing_out() -> None:
    assert checked(PERSON)["additionalProperties"] is False
    assert "title" not in checked(PERSON)
    apart = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert checked(apart) == apart
    assert checked({"properties": {"a": {}}, "required": ["b"]}).keys() == {
        "properties",
        "required",
    }


def test_a_whole_answer_ends_by_itself_or_by_its_length() -> None:
    session = Session(ReferenceDriver().compile(llama.graph(FILE), context=512), TOKENIZER, None)

    def run(**options: Any) -> Any:
        request = Request(prompt="the", rules=[session.grammars.json(PERSON)], **options)
        with session.turns.seat() as seat:
            generator = session.generate(request, seat)
            while True:
                try:
                    next(generator)
                except StopIteration as end:
                    return end.value

    cut = run(max_tokens=9)
    assert cut.finish_reason == "length" and cut.completion_tokens == 9
    for seed in range(3):
        outcome = run(sampling=Sampling(2.0, 0, 1.0, seed))
        if outcome.finish_reason == "stop":
            check(PERSON, outcome.text)
        else:
            assert outcome.text.startswith('{"name": "')


def test_who_asks_for_no_form_loads_nothing_for_it() -> None:
    lines = "import sys, clawai.plugins.engine.worker; assert 'llguidance' not in sys.modules"
    subprocess.run([sys.executable, "-c", lines], check=True)


def test_pieces_with_spaces_in_front_do_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = ["\u2581", "{", '"', "}", ":", "name", '\u2581"', "\u2581name", "ame", '": "', '"name']
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces]
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0 - n for n in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": True,
    }
    tokenizer = Tokenizer(parse(memoryview(File(fields).build())))
    monkeypatch.setitem(globals(), "TOKENIZER", tokenizer)
    closers = [tokens.index(text) for text in ('"', "}", "</s>")]
    monkeypatch.setitem(globals(), "CLOSERS", closers)
    texts = [said(PERSON, seed, grammars=Grammars(tokenizer)) for seed in range(4)]
    assert any(texts)
    for text in filter(None, texts):
        check(PERSON, text)


def test_drafts_obey_the_grammar_and_change_nothing() -> None:
    word = {"const": "the the then the"}
    schema = {"type": "array", "items": word, "minItems": 9, "maxItems": 9}
    found = []
    for drafts in (0, 15):
        session = Session(
            ReferenceDriver().compile(llama.graph(FILE), context=512), TOKENIZER, None
        )
        session.drafts = drafts
        rules = [session.grammars.json(schema), *Penalties(repeat=1.3).rules(())]
        with session.turns.seat() as seat:
            generator = session.generate(Request(prompt="the", rules=rules), seat)
            text = "".join(generator_text(generator, found))
        check(schema, text)
    assert found[0].text == found[1].text
    assert found[0].drafted_tokens == 0 < found[1].accepted_tokens


def generator_text(generator: Any, ended: list[Any]) -> Any:
    """The pieces of an answer; how it ended goes into a list."""
    ended.append((yield from generator))
