"""The doors, by those who made them: unmodified clients of OpenAI and of Ollama."""

import asyncio
import http.client
import json

import ollama
import openai
import pytest

from doors_kit import Doors
from support import wait_until

TALK = [{"role": "system", "content": "the"}, {"role": "user", "content": "the hello"}]


def engine(doors: Doors, **params: object) -> str:
    """What the engine says without any door."""
    said: str = doors.client.call("llm.generate", params, model="tiny").value["text"]
    return said


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert sorted(model.id for model in client.models.list()) == ["long", "tiny"]
    assert client.models.retrieve("tiny").owned_by == "clawai"
    with pytest.raises(openai.NotFoundError, match="stored here: tiny"):
        client.models.retrieve("tine")


def test_openai_chats_whole_and_in_pieces(doors: Doors, client: openai.OpenAI) -> None:
    options = {"model": "tiny", "messages": TALK, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    expected = engine(doors, messages=TALK, max_tokens=12)
    assert whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == expected
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_openai_responds_whole_and_in_events(doors: Doors, client: openai.OpenAI) -> None:
    options = {"model": "tiny", "max_output_tokens": 12, "temperature": 0}
    expected = engine(doors, messages=TALK, max_tokens=12)
    whole = client.responses.create(**options, instructions="the", input="the hello")
    assert whole.output_text == expected
    assert whole.status in ("completed", "incomplete")
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "the hello"}]}]
    with client.responses.stream(**options, input=[TALK[0], *parts]) as stream:
        events = list(stream)
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.output_text == expected
    deltas = [each.delta for each in events if each.type == "response.output_text.delta"]
    assert "".join(deltas) == expected
    assert [each.sequence_number for each in events] == list(range(len(events)))
    said = [{"role": "assistant", "content": whole.output[0].model_dump()["content"]}]
    again = client.responses.create(**options, input=[*TALK, *said, TALK[1]])
    assert again.usage.input_tokens > whole.usage.input_tokens
    for wrong, words in (
        ({"tools": [{"type": "web_search"}]}, r"tools\[0\].type: Invalid enum value"),
        ({"previous_response_id": "resp_1"}, "send the conversation"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "no call"),
        ({"input": [{"type": "reasoning", "summary": []}]}, r"input\[0\]"),
        ({"input": []}, "input is empty"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            client.responses.create(**({"input": "x"} | options | wrong))


def test_openai_goes_on_with_a_text(doors: Doors, client: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": "the hello", "max_tokens": 9}
    greedy = client.completions.create(**options, temperature=0)
    assert greedy.choices[0].text == engine(doors, prompt="the hello", max_tokens=9)
    pieces = client.completions.create(**options, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == greedy.choices[0].text
    drawn = [client.completions.create(**options, seed=7).choices[0].text for _ in range(2)]
    assert drawn[0] == drawn[1]
    first = greedy.choices[0].text
    stopped = client.completions.create(**options, temperature=0, stop=first[2:4])
    assert first.startswith(stopped.choices[0].text) and stopped.choices[0].text != first
    assert stopped.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 99}, "n: Expected `int` <= 16"),
        ({"extra_body": {"best_of": 2}}, "best_of is not supported: every answer is sent"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logit_bias": {"99999": 1}}, "logit_bias.*ids of tokens, 0 to"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tool's name"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, r"tools\[0\].type"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"functions": [{"name": "f"}]}, "functions is not supported: send tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "json_schema is no JSON object"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"priority": "urgent"}}, "priority"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "only text is read here",
        ),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "the context has 512"),
        ({"stop": ["x"] * 99}, "stop"),
    ],
)
def test_openai_is_told_what_is_not_there(
    client: openai.OpenAI, options: dict[str, object], said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(**({"model": "tiny", "messages": TALK} | options))


def test_what_is_harmless_is_ignored_with_a_warning(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=TALK, max_tokens=2, user="me", n=1, extra_body={"new": 1}
    )
    warning = raw.headers["x-claw-warning"]
    assert "user is ignored: it names nobody here" in warning
    assert "new is ignored" in warning and " n " not in warning


def test_urgency_comes_by_body_and_by_header(doors: Doors, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(
            model="long", messages=TALK, extra_body={"priority": "batch", "deadline_ms": 1}
        )
    assert error.value.status_code == 408
    assert error.value.code == "deadline_passed"
    with pytest.raises(openai.BadRequestError, match="X-Claw-Priority must be one of critical"):
        client.completions.create(
            model="tiny", prompt="the", extra_headers={"X-Claw-Priority": "now"}
        )
    stream = client.completions.create(
        model="long", prompt="the", stream=True, max_tokens=10_000, temperature=0,
        extra_headers={"X-Claw-Priority": "batch"},
    )  # fmt: skip
    next(iter(stream))
    rows = doors.client.query("tasks")["tasks"]
    assert [row["priority"] for row in rows if row["op"] == "llm.generate"] == ["batch"]
    stream.close()
    wait_until(lambda: doors.running() == ["gateway.serve"], "the answer is cancelled")


@pytest.mark.parametrize("padding", [0, 200_000], ids=["short", "long"])
@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_answered_any_more(doors: Doors, stream: bool, padding: int) -> None:
    """Also behind a body so long that the server stopped reading."""
    connection = http.client.HTTPConnection("127.0.0.1", doors.port, timeout=60)
    body = {"model": "long", "prompt": "the", "max_tokens": 10_000, "stream": stream}
    text = json.dumps(body | {"temperature": 0}) + " " * padding
    connection.request("POST", "/v1/completions", text)
    wait_until(lambda: "llm.generate" in doors.running(), "the answer has begun")
    if stream:
        connection.getresponse().read(64)
    connection.close()
    wait_until(lambda: doors.running() == ["gateway.serve"], "the answer is cancelled")


def test_many_ask_at_the_same_time(doors: Doors) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{doors.address}/v1", api_key="x") as client:
            asked = [
                client.completions.create(
                    model="tiny", prompt=f"the {n % 4}", max_tokens=6, temperature=0
                )
                for n in range(24)
            ]
            return [found.choices[0].text for found in await asyncio.gather(*asked)]

    texts = asyncio.run(all_of_them())
    assert [texts[n] == texts[n + 4] for n in range(20)] == [True] * 20


def test_ollama_lists_and_shows_models(doors: Doors, peer: ollama.Client) -> None:
    names = sorted(model.model for model in peer.list().models)
    assert names == ["long:latest", "tiny:latest"]
    engine(doors, prompt="the", max_tokens=1)
    assert "tiny:latest" in [model.model for model in peer.ps().models]
    assert peer.show("tiny").capabilities == ["completion", "tools"]
    with pytest.raises(ollama.ResponseError, match="not stored here") as error:
        peer.show("other")
    assert error.value.status_code == 404


def test_ollama_chats_and_generates(doors: Doors, peer: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 12, "num_ctx": 4096}
    expected = engine(doors, messages=TALK, max_tokens=12)
    whole = peer.chat(model="tiny:latest", messages=TALK, options=options)
    assert whole.message.content == expected
    assert whole.done and whole.eval_count and whole.prompt_eval_count
    pieces = list(peer.chat(model="tiny", messages=TALK, options=options, stream=True))
    assert "".join(piece.message.content for piece in pieces) == expected
    assert [piece.done for piece in pieces[-2:]] == [False, True]
    said = peer.generate(model="tiny", prompt="the hello", system="the", options=options)
    assert said.response == expected
    raw = peer.generate(model="tiny", prompt="the hello", raw=True, options=options)
    assert raw.response == engine(doors, prompt="the hello", max_tokens=12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": {"type": "array", "uniqueItems": True}}, "schema.uniqueItems"),
        ({"options": {"min_p": 1.5}}, "options.min_p"),
        ({"options": {"mirostat": 1}}, "mirostat is not supported"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"keep_alive": "long"}, "keep_alive"),
        ({"messages": []}, "messages is empty"),
    ],
)
def test_ollama_is_told_what_is_not_there(
    peer: ollama.Client, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=said):
        peer.chat(**({"model": "tiny", "messages": TALK} | options))


def test_ollama_keeps_a_model_for_as_long_as_it_is_told(doors: Doors, peer: ollama.Client) -> None:
    peer.generate(model="tiny", prompt="the", options={"num_predict": 1}, keep_alive=0)
    wait_until(
        lambda: "tiny" not in {row["model"] for row in doors.client.query("workers")["workers"]},
        "it is unloaded",
    )


def test_what_is_kept_of_a_prompt_serves_those_with_the_same_key(doors: Doors) -> None:
    body = {"model": "tiny", "prompt": "the hello " * 8, "max_tokens": 1, "temperature": 0}

    def cached(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        said = doors.ask("POST", "/v1/completions", body, headers)[2]
        found: int = said["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    assert cached("a") == 0
    assert cached("a") > 0
    assert cached("b") == 0, "another's is never looked at"
