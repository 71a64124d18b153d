"""Log-probabilities, penalties, biases, several answers: by unmodified clients of both doors."""

import math
from collections import Counter

import ollama
import openai

from doors_kit import Doors

TALK = [{"role": "user", "content": "the hello"}]
GREEDY = {"model": "tiny", "messages": TALK, "max_tokens": 12, "temperature": 0}


def test_each_token_of_a_chat_is_told_with_the_likeliest_ones(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    seen = whole.choices[0].logprobs.content
    assert len(seen) == whole.usage.completion_tokens
    said = b"".join(bytes(each.bytes) for each in seen).decode("utf-8", "replace")
    assert said == whole.choices[0].message.content
    for each in seen:
        assert [top.logprob for top in each.top_logprobs] == sorted(
            (top.logprob for top in each.top_logprobs), reverse=True
        )
        assert each.top_logprobs[0].token == each.token and len(each.top_logprobs) == 3
        assert sum(math.exp(top.logprob) for top in each.top_logprobs) <= 1.0001
    streamed = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3, stream=True)
    choices = [piece.choices[0] for piece in streamed]
    pieces = [each for choice in choices if choice.logprobs for each in choice.logprobs.content]
    assert pieces == seen
    assert client.chat.completions.create(**GREEDY).choices[0].logprobs is None


def test_a_text_and_a_response_tell_them_too(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": "the hello", "max_tokens": 9, "temperature": 0}
    choice = client.completions.create(**options, logprobs=2).choices[0]
    told = choice.logprobs
    assert len(told.tokens) == 9 and told.tokens[0] == choice.text[: len(told.tokens[0])]
    ends = [at + len(t) for at, t in zip(told.text_offset, told.tokens, strict=True)]
    assert told.text_offset == [0, *ends[:-1]]
    assert [max(top.values()) for top in told.top_logprobs] == told.token_logprobs
    parts = [
        piece.choices[0] for piece in client.completions.create(**options, logprobs=2, stream=True)
    ]
    found = [part.logprobs for part in parts if part.logprobs]
    assert [at for each in found for at in each.text_offset] == told.text_offset
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    asked = {"model": "tiny", "input": TALK, "temperature": 0, "max_output_tokens": 6}
    part = client.responses.create(**asked, **wanted).output[0].content[0]
    assert b"".join(bytes(t.bytes) for t in part.logprobs).decode(errors="replace") == part.text
    with client.responses.stream(**asked, **wanted) as stream:
        events = list(stream)
    deltas = [each for each in events if each.type == "response.output_text.delta"]
    assert [one.token for each in deltas for one in each.logprobs] == [
        each.token for each in part.logprobs
    ]


def test_a_bias_forbids_or_forces_a_token(doors: Doors, client: openai.OpenAI) -> None:
    token = doors.client.call("llm.tokenize", {"text": "o"}, model="tiny").value["tokens"][-1]
    said = client.chat.completions.create(**GREEDY, logit_bias={str(token): 100}, logprobs=True)
    texts = {each.token for each in said.choices[0].logprobs.content}
    assert texts == {"o"} and said.choices[0].finish_reason == "length"
    never = client.chat.completions.create(**GREEDY, logit_bias={str(token): -100})
    assert "o" not in never.choices[0].message.content


def test_penalties_make_an_answer_repeat_less(client: openai.OpenAI, peer: ollama.Client) -> None:
    def most(**options: object) -> int:
        """How often the commonest token of an answer comes."""
        said = client.chat.completions.create(
            **(GREEDY | {"max_tokens": 60} | options), logprobs=True
        )
        return Counter(tuple(t.bytes) for t in said.choices[0].logprobs.content).most_common(1)[0][
            1
        ]

    stuck = {"logit_bias": {"40": 3, "41": 2.5}}
    assert most(**stuck) > 3 * most(**stuck, frequency_penalty=2)
    assert most(**stuck) > most(**stuck, presence_penalty=2)

    def words(**options: object) -> str:
        options = {"temperature": 0, "num_predict": 60, "presence_penalty": -2} | options
        said: str = peer.chat(model="tiny", messages=TALK, options=options).message.content
        return said

    assert len(Counter(words(repeat_penalty=5.0))) > len(Counter(words()))
    assert words(repeat_penalty=5.0, repeat_last_n=0) == words()
    assert words(repeat_penalty=5.0, repeat_last_n=-1) != words()


def test_min_p_one_is_the_likeliest_token(client: openai.OpenAI, peer: ollama.Client) -> None:
    greedy = client.chat.completions.create(**GREEDY).choices[0].message.content
    hot = {"temperature": 2, "extra_body": {"min_p": 1}}
    assert client.chat.completions.create(**(GREEDY | hot)).choices[0].message.content == greedy
    options = {"temperature": 5, "min_p": 1, "num_predict": 12}
    said = peer.chat(model="tiny", messages=TALK, options=options, logprobs=True, top_logprobs=2)
    assert said.message.content == greedy
    told = client.chat.completions.create(**GREEDY, logprobs=True).choices[0].logprobs.content
    assert [each.token for each in said.logprobs] == [each.token for each in told]
    assert {len(each.top_logprobs) for each in said.logprobs} == {2}
    pieces = peer.chat(model="tiny", messages=TALK, options=options, logprobs=True, stream=True)
    assert [t.token for piece in pieces for t in piece.logprobs or ()] == [t.token for t in told]


def test_several_answers_have_seeds_of_their_own(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "messages": TALK, "max_tokens": 10, "seed": 5}
    alone = client.chat.completions.create(**options)
    several = client.chat.completions.create(**options, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in several.choices]
    assert texts[0] == alone.choices[0].message.content and len(set(texts)) == 3
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens
    assert several.usage.completion_tokens > alone.usage.completion_tokens
    stream = client.chat.completions.create(
        **options, n=3, stream=True, stream_options={"include_usage": True}
    )
    found, reasons = ["", "", ""], {}
    for piece in stream:
        for choice in piece.choices:
            found[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert found == texts and sorted(reasons) == [0, 1, 2]
    assert piece.usage.total_tokens == several.usage.total_tokens
