"""The embedder in its sandbox: many callers, refusals, the real model, and the doors of HTTP."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ollama
import openai
import pytest

from bert_files import CONFIG, tiny_bert
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from doors_kit import Doors, gateway, written
from gguf_files import tiny_llama
from support import Kernel

TEXTS = ["the cat sat", "the dog ran", "cats"]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("models")

    def store(kernel: Kernel) -> None:
        kernel.model("bert", written(folder / "bert.tar", tiny_bert()), "embedding")
        spoilt = written(folder / "spoilt.tar", tiny_bert(tokenizer_json=b"{}"))
        kernel.model("spoilt", spoilt, "embedding")
        kernel.model("tiny", written(folder / "tiny.gguf", tiny_llama(context=64)))
        kernel.model("minilm", minilm_path, "embedding")

    with gateway(store) as served:
        yield served


def vectors(client: Client, model: str = "bert", **params: object) -> np.ndarray:
    result = client.call("text.embed", params, model=model)
    return client.array(result, result.value["vectors"])


def test_many_callers_get_what_each_would_get_alone(doors: Doors) -> None:
    with doors.kernel.client() as client:
        alone = [vectors(client, texts=[text])[0] for text in TEXTS]
        tasks = [
            client.submit("text.embed", {"texts": TEXTS[: n % 3 + 1]}, model="bert")
            for n in range(40)
        ]
        for number, task in enumerate(tasks):
            result = task.result()
            found = client.array(result, result.value["vectors"])
            assert found.shape == (number % 3 + 1, CONFIG["hidden_size"])
            np.testing.assert_allclose(found, alone[: len(found)], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


def test_one_wrong_caller_spoils_nobody_elses_answer(doors: Doors) -> None:
    with doors.kernel.client() as client:
        long = " ".join(["cat"] * 20)
        asked = [{"texts": [long]}, {"texts": TEXTS}, {"texts": TEXTS, "dimensions": 99}]
        wrong, right, many = (client.submit("text.embed", each, model="bert") for each in asked)
        with pytest.raises(ClawError, match="tokens of a text"):
            wrong.result()
        assert right.result().value["tokens"] == 5 + 5 + 4
        with pytest.raises(ClawError, match="dimensions"):
            many.result()
        cut = vectors(client, texts=[long], truncate=True)
        same = vectors(client, texts=[" ".join(["cat"] * 10)])
        np.testing.assert_allclose(cut, same, atol=1e-6)


def test_a_file_that_is_no_encoder_is_refused(doors: Doors) -> None:
    with doors.kernel.client() as client:
        with pytest.raises(ClawError, match=r"tokenizer\.json"):
            vectors(client, "spoilt", texts=TEXTS)
        with pytest.raises(ClawError, match="takes BUNDLE files"):
            vectors(client, "tiny", texts=TEXTS)


def test_minilm_gives_the_vectors_that_its_authors_publish(doors: Doors) -> None:
    with doors.kernel.client() as client:
        found = vectors(client, "minilm", texts=["This is an example sentence"])
        # From the documentation of sentence-transformers.
        expected = [6.76569e-02, 6.34959e-02, 4.87131e-02, 7.93049e-02, 3.74480e-02]
        np.testing.assert_allclose(found[0, :5], expected, atol=1e-6)
        near, far = "A man eats a meal.", "The stock market fell."
        asked, alike, other = vectors(client, "minilm", texts=["A man eats food.", near, far])
        assert asked @ alike > 0.85
        assert asked @ other < 0.2


def test_openai_gets_vectors_as_numbers_and_as_base64(doors: Doors) -> None:
    with openai.OpenAI(base_url=f"{doors.address}/v1", api_key="x", max_retries=0) as peer:
        with doors.kernel.client() as client:
            expected = vectors(client, texts=TEXTS)
        packed = peer.embeddings.create(model="bert", input=TEXTS)  # asks for base64
        plain = peer.embeddings.create(model="bert", input=TEXTS, encoding_format="float")
        for answer in (packed, plain):
            found = [each.embedding for each in answer.data]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 14
        short = peer.embeddings.create(model="bert", input="the cat", dimensions=4)
        assert len(short.data[0].embedding) == 4
        with pytest.raises(openai.BadRequestError, match="makes no vectors: it is for llm"):
            peer.embeddings.create(model="tiny", input="x")
        with pytest.raises(openai.BadRequestError, match="tokens of a text"):
            peer.embeddings.create(model="bert", input=" ".join(["cat"] * 20))
        with pytest.raises(openai.BadRequestError, match="input"):
            peer.embeddings.create(model="bert", input=[1, 2, 3])


def test_ollama_gets_vectors(doors: Doors) -> None:
    with ollama.Client(host=doors.address) as peer, doors.kernel.client() as client:
        found = peer.embed(model="bert:latest", input=TEXTS)
        np.testing.assert_allclose(found.embeddings, vectors(client, texts=TEXTS), atol=1e-6)
        assert found.prompt_eval_count == 14
        long = peer.embed(model="bert", input=" ".join(["cat"] * 20))  # cut, unless it says no
        assert len(long.embeddings[0]) == CONFIG["hidden_size"]
        with pytest.raises(ollama.ResponseError, match="tokens of a text"):
            peer.embed(model="bert", input=" ".join(["cat"] * 20), truncate=False)
        one = peer.embeddings(model="bert", prompt="the cat sat")
        raw = vectors(client, texts=["the cat sat"], normalize=False)[0]
        np.testing.assert_allclose(one.embedding, raw, atol=1e-6)
