"""Answers in a given form, by unmodified clients of all doors: JSON mode and JSON schemas."""

import json
from typing import Any, Literal

import jsonschema
import ollama
import openai
import pydantic
import pytest

TALK: Any = [{"role": "user", "content": "the hello"}]


class Pet(pydantic.BaseModel):
    """What pydantic makes of a class is what clients send."""

    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["cat", "dog"]
    legs: int = pydantic.Field(ge=0, le=4)
    name: str | None = pydantic.Field(max_length=4)


class Pets(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    pets: list[Pet] = pydantic.Field(min_length=1, max_length=2)


def test_openai_parses_what_a_chat_answers(client: openai.OpenAI) -> None:
    options: Any = {"model": "tiny", "messages": TALK, "response_format": Pets}
    answers = client.chat.completions.parse(**options, n=3, seed=2)
    for choice in answers.choices:
        assert choice.finish_reason == "stop" and choice.message.parsed.pets
    with client.chat.completions.stream(**options, seed=2) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == answers.choices[0].message.parsed
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**options, max_tokens=5)


def test_openai_parses_what_a_response_answers(client: openai.OpenAI) -> None:
    options: Any = {"model": "tiny", "input": TALK, "text_format": Pets}
    said = client.responses.parse(**options)
    assert said.status == "completed" and said.output_parsed.pets
    assert said.text.format.type == "json_schema"
    with client.responses.stream(**options) as stream:
        assert stream.get_final_response().output_parsed.pets
    cut = client.responses.create(
        model="tiny", input=TALK, max_output_tokens=1, text={"format": {"type": "json_object"}}
    )
    assert cut.status == "incomplete" and cut.output_text == "{"


def test_json_mode_gives_an_object(client: openai.OpenAI, peer: ollama.Client) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=TALK, response_format={"type": "json_object"}, max_tokens=400,
        logit_bias={str(ord("}") - ord("!") + 3): 9}, temperature=1.5, seed=1,
    )  # fmt: skip
    assert said.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(said.choices[0].message.content), dict)
    asked = peer.generate(model="tiny", prompt="the", format="json", options={"num_predict": 1})
    assert asked.response == "{" and asked.done_reason == "length"


def test_ollama_answers_in_a_schema(peer: ollama.Client) -> None:
    schema = Pets.model_json_schema()
    for seed in range(3):
        options = {"seed": seed, "temperature": 2.0}
        said = peer.chat(model="tiny", messages=TALK, format=schema, options=options)
        assert said.done_reason == "stop"
        jsonschema.validate(json.loads(said.message.content), schema)
    pieces = list(peer.chat(model="tiny", messages=TALK, format=schema, stream=True))
    Pets.model_validate_json("".join(piece.message.content for piece in pieces))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "patternProperties": {"(": {}}}, "cannot be obeyed"),
        ({"not": {}}, "schema.not: this keyword cannot be obeyed; allowed"),
        ({"$ref": "http://localhost/x"}, "a place in this schema"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    client: openai.OpenAI, schema: dict[str, Any], words: str
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(model="tiny", messages=TALK, response_format=form)
