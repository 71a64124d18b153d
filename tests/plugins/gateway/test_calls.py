"""Functions that models ask for, by unmodified clients of all doors, the whole way round."""

import json
from typing import Any

import jsonschema
import ollama
import openai
import pytest

TALK: Any = [{"role": "user", "content": "hot?"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 4}, "days": {"enum": [1, 2]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells it",
        "parameters": SCHEMA,
        "strict": True,
    },
}
NOW: Any = {"type": "function", "function": {"name": "now"}}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def check(name: str, arguments: Any) -> None:
    jsonschema.validate(arguments, {"weather": SCHEMA, "now": {"maxProperties": 0}}[name])


def test_a_chat_calls_and_is_told_what_came_of_it(client: openai.OpenAI) -> None:
    options: Any = {
        "model": "long", "tools": [WEATHER, NOW], "tool_choice": "required",
        "seed": 3, "parallel_tool_calls": False,
    }  # fmt: skip
    choice = client.chat.completions.create(messages=TALK, **options).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    check(call.function.name, json.loads(call.function.arguments))
    with client.chat.completions.stream(messages=TALK, **options) as stream:
        events = list(stream)
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    (same,) = streamed.message.tool_calls
    assert (same.function.name, same.function.arguments) == (
        call.function.name, call.function.arguments
    )  # fmt: skip
    assert any(each.type == "tool_calls.function.arguments.delta" for each in events)
    result = {"role": "tool", "tool_call_id": call.id, "content": "warm"}
    more = client.chat.completions.create(
        messages=[*TALK, choice.message, result], model="long", max_tokens=4, temperature=0
    )
    first = client.chat.completions.create(messages=TALK, model="long", max_tokens=4, temperature=0)
    assert more.usage.prompt_tokens > first.usage.prompt_tokens + 40
    assert more.choices[0].message.tool_calls is None


def test_a_named_function_is_called_and_parsed(client: openai.OpenAI) -> None:
    tools: Any = [WEATHER, NOW]
    for seed, chosen in enumerate((NAMED, {
        "type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]},
    })):  # fmt: skip
        said = client.chat.completions.parse(
            model="long", messages=TALK, tools=[WEATHER], tool_choice=chosen, seed=seed
        )
        calls = said.choices[0].message.tool_calls
        assert {call.function.name for call in calls} == {"weather"}
        for call in calls:
            check("weather", call.function.parsed_arguments)
    several = client.chat.completions.create(
        model="long", messages=TALK, tools=tools, tool_choice="required", n=3, seed=1
    )
    ids = [call.id for choice in several.choices for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids) >= 3


def test_a_model_that_may_choose_can_talk(client: openai.OpenAI, peer: ollama.Client) -> None:
    options: Any = {"model": "long", "messages": TALK, "max_tokens": 12, "seed": 1}
    said = client.chat.completions.create(**options, tools=[WEATHER]).choices[0]
    assert said.message.content and said.message.tool_calls is None
    pieces = client.chat.completions.create(**options, tools=[WEATHER], stream=True)
    assert said.message.content == "".join(p.choices[0].delta.content or "" for p in pieces)
    plain = client.chat.completions.create(**options).choices[0]
    none = client.chat.completions.create(**options, tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.content == plain.message.content
    told = peer.chat(
        model="long", messages=TALK, tools=[WEATHER], options={"num_predict": 12, "seed": 1}
    )
    assert told.message.content and told.message.tool_calls is None


def test_a_call_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model="long", messages=TALK, tools=[WEATHER], tool_choice=NAMED, max_tokens=50, seed=1
    ).choices[0]
    assert said.finish_reason == "length"
    (call,) = said.message.tool_calls
    with pytest.raises(ValueError, match="line 1"):
        json.loads(call.function.arguments)


def test_a_response_calls_and_is_told_what_came_of_it(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **WEATHER["function"]}]
    options: Any = {
        "model": "long", "tools": tools, "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False, "extra_body": {"seed": 4},
    }  # fmt: skip
    said = client.responses.create(input=TALK, **options)
    (item,) = said.output
    assert item.type == "function_call" and item.status == "completed"
    check("weather", json.loads(item.arguments))
    with client.responses.stream(input=TALK, **options) as stream:
        events = list(stream)
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert "".join(deltas) == done.arguments == item.arguments
    assert events[-1].response.output[0].arguments == item.arguments
    assert [each.sequence_number for each in events] == list(range(len(events)))
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "warm"}
    more = client.responses.create(
        model="long", input=[*TALK, item.model_dump(), result], max_output_tokens=4
    )
    assert more.usage.input_tokens > said.usage.output_tokens
    talks = client.responses.create(
        model="long", input=TALK, tools=tools, max_output_tokens=9, extra_body={"seed": 1}
    )
    assert talks.output_text and talks.output[0].type == "message"


def test_ollama_calls_a_function_of_python(peer: ollama.Client) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one
            b: another
        """
        return a + b

    # A random model would never begin a call by itself; beside this format one of two bytes does.
    options: Any = {"model": "long", "messages": TALK, "tools": [add], "format": {"enum": ["no"]}}
    calls: list[Any] = []
    words: set[str] = set()
    for seed in range(40):
        heat = {"seed": seed, "temperature": 9.0, "num_predict": 250}
        said = peer.chat(**options, options=heat)
        pieces = list(peer.chat(**options, options=heat, stream=True))
        assert "".join(p.message.content for p in pieces) == said.message.content
        streamed = [call for piece in pieces for call in piece.message.tool_calls or ()]
        assert streamed == list(said.message.tool_calls or ())
        calls += streamed
        words |= {said.message.content} - {""}
        if calls and words:
            break
    assert words == {'"no"'}
    assert {call.function.name for call in calls} == {"add"}
    assert all(type(call.function.arguments[name]) is int for call in calls for name in "ab")
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    past = [*TALK, {"role": "assistant", "tool_calls": [call]}]
    result = {"role": "tool", "tool_name": "add", "content": "3"}
    short = peer.chat(model="long", messages=TALK, options={"num_predict": 1})
    long = peer.chat(model="long", messages=[*past, result], options={"num_predict": 1})
    assert long.prompt_eval_count > short.prompt_eval_count + 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "allowed_tools"),
        ({"tool_choice": "sometimes"}, "tool_choice must be"),
        ({"tools": [WEATHER, WEATHER]}, "a name of its own"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "no call before"),
        (
            {"tools": [{"type": "function", "function": {
                "name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}]},
            "tools.f.properties.a.not",
        ),
        (
            {"messages": [*TALK, {"role": "assistant", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1"}}]}]},
            "no JSON object",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(client: openai.OpenAI, options: Any, words: str) -> None:
    asked: Any = {"model": "long", "messages": TALK, "tools": [WEATHER]} | options
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(**asked)
