"""Keys: what each opens, how much of it, and that one which is taken back opens nothing."""

import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ollama
import openai
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from tritonclient.utils import InferenceServerException

from broker_parts import free_port
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import Bucket, Keys
from clawai.sdk.cli import access
from clawai.sdk.errors import ClawError
from clawai.sdk.httpkeys import Key, hashed
from doors_kit import written
from gguf_files import tiny_llama
from support import Kernel, no_leak


def key(name: str, **scopes: object) -> dict[str, object]:
    return {"name": name, "hash": hashed(f"claw-{name}"), **scopes}


KEYS = [
    key("all"),
    key("narrow", models=["tiny"], priority="batch"),
    key("blind", operations=["metrics"]),
    key("few", per_minute=2),
    key("short", tokens_per_minute=8),
    key("late", expires=(datetime.now(UTC) - timedelta(seconds=1)).isoformat()),
]


class Open:
    """A gateway that other boxes could reach."""

    def __init__(self, kernel: Kernel, port: int, roots: Path) -> None:
        self.port, self.roots = port, roots
        self.client = kernel.client()
        self.trusted = ssl.create_default_context(cafile=roots)

    def openai(self, name: str, retries: int = 0) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(verify=self.trusted)
        url = f"https://localhost:{self.port}/v1"
        return openai.OpenAI(
            base_url=url, api_key=f"claw-{name}", max_retries=retries, http_client=http
        )


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    port, folder = free_port(), tmp_path_factory.mktemp("opened")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080=0.0.0.0:{port}"]\n')
    for name in ("tiny", "other"):
        kernel.model(name, written(folder / f"{name}.gguf", tiny_llama(context=512)))
    chain, secret = access._made([x509.DNSName("localhost")])
    try:
        with no_leak():
            found = Open(kernel.start(), port, written(folder / "roots.pem", chain))
            certificate = {"chain": chain.decode(), "key": secret.decode()}
            for less in ({}, {"certificate": certificate}, {"required": True}):
                with pytest.raises(ClawError, match="other boxes reach this address"):
                    found.client.call("gateway.serve", less)
            asked = {"keys": KEYS, "required": True, "certificate": certificate}
            task = found.client.submit("gateway.serve", asked)
            serving = (event.note for event in task)
            assert f"https://127.0.0.1:{port}" in serving
            yield found
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


def say(client: openai.OpenAI, model: str = "tiny", **fields: object) -> object:
    return client.completions.with_raw_response.create(
        model=model, prompt="a", max_tokens=2, extra_body=fields
    )


def test_who_has_no_key_is_nobody(opened: Open) -> None:
    for name in ("unknown", "late"):
        with opened.openai(name) as client, pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
    with ollama_client(opened, "unknown") as peer, pytest.raises(ollama.ResponseError) as said:
        peer.list()
    assert said.value.status_code == 401 and "claw http key add" in said.value.error
    with opened.openai("unknown") as client:  # who looks whether it lives needs none
        assert client._client.get(f"https://localhost:{opened.port}/health").text == "ok\n"


def ollama_client(opened: Open, name: str) -> ollama.Client:
    return ollama.Client(
        host=f"https://localhost:{opened.port}",
        headers={"Authorization": f"Bearer claw-{name}"},
        verify=opened.trusted,
    )


def test_grpc_has_tls_too(opened: Open) -> None:
    secured = {"ssl": True, "root_certificates": str(opened.roots)}
    with triton.InferenceServerClient(f"localhost:{opened.port}", **secured) as peer:
        assert peer.is_server_live()
        known = {"authorization": "Bearer claw-all"}
        assert peer.get_server_metadata(known).name
        assert not peer.get_model_repository_index(known).models, "none takes arrays"
        with pytest.raises(InferenceServerException) as refused:
            peer.get_model_repository_index({"authorization": "Bearer claw-unknown"})
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
    with triton.InferenceServerClient(f"localhost:{opened.port}") as peer:
        with pytest.raises(InferenceServerException) as refused:
            peer.is_server_live(client_timeout=10)
        assert refused.value.status() == "StatusCode.UNAVAILABLE", "it would be in the clear"


def test_who_speaks_http_2_as_well_is_answered_in_http_1(opened: Open) -> None:
    asked = ["curl", "-sS", "--http2", "--cacert", str(opened.roots), "-w", "%{http_version}"]
    done = subprocess.run(
        [*asked, f"https://localhost:{opened.port}/health"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ok\n1.1", "")


def test_a_key_opens_what_it_says(opened: Open) -> None:
    with opened.openai("all") as client:
        assert {row.id for row in client.models.list()} == {"tiny", "other"}
        assert say(client, "other").status_code == 200
        assert "ratelimit" not in str(say(client).headers).lower()
    with opened.openai("narrow") as client:
        assert [row.id for row in client.models.list()] == ["tiny"]
        lowered = say(client, priority="interactive")
        assert "batch, the highest of the key narrow" in lowered.headers["x-claw-warning"]
        with pytest.raises(openai.PermissionDeniedError, match="models: tiny"):
            say(client, "other")
        with pytest.raises(openai.PermissionDeniedError, match="models: tiny"):
            say(client, "nowhere")
    with opened.openai("blind") as client:
        with pytest.raises(openai.PermissionDeniedError, match="operations: metrics"):
            say(client)
        told = client._client.get(
            f"https://localhost:{opened.port}/metrics",
            headers={"authorization": "Bearer claw-blind"},
        )
        assert told.status_code == 200 and "claw_uptime_seconds" in told.text
    with ollama_client(opened, "narrow") as peer:
        assert [row.model for row in peer.list().models] == ["tiny:latest"]
        assert peer.generate("tiny:latest", "a", options={"num_predict": 1}).done
        with pytest.raises(ollama.ResponseError) as refused:
            peer.generate("other", "a")
        assert refused.value.status_code == 403


def test_tasks_belong_to_the_name_of_the_key(opened: Open) -> None:
    with opened.openai("all") as client:
        prompt = "abcdefgh" * 30
        fields = {"model": "tiny", "prompt": prompt, "max_tokens": 1}
        client.completions.create(**fields)
        again = client.completions.create(**fields)
        assert again.usage and again.usage.prompt_tokens_details.cached_tokens > 0
    with opened.openai("narrow") as other:
        said = other.completions.create(**fields)
        assert said.usage and said.usage.prompt_tokens_details.cached_tokens == 0


def test_more_than_its_share_is_refused_for_a_while(opened: Open) -> None:
    with opened.openai("few") as client:
        left = [say(client).headers["x-ratelimit-remaining-requests"] for _ in range(2)]
        assert left == ["1", "0"]
        with pytest.raises(openai.RateLimitError) as refused:
            say(client)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 30
    with opened.openai("short") as client:
        spent = say(client, max_tokens=12, temperature=0)  # drawn ones may end before the eighth
        assert spent.headers["x-ratelimit-limit-tokens"] == "8"
        with pytest.raises(openai.RateLimitError, match="8 tokens a minute"):
            say(client)


def test_a_key_that_is_taken_back_opens_nothing_any_more(opened: Open) -> None:
    with opened.openai("all") as client:
        assert client.models.list().data
        left = [each for each in KEYS if each["name"] != "all"]
        assert opened.client.call("gateway.keys", {"keys": left}).value == {"serving": True}
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        with opened.openai("few") as few, pytest.raises(openai.RateLimitError):
            say(few)  # what was counted of those that stay goes on
        opened.client.call("gateway.keys", {"keys": KEYS})
        assert client.models.list().data


def test_an_allowance_fills_up_again() -> None:
    now = [100.0]
    bucket = Bucket(60, clock=lambda: now[0])
    bucket.take(60)
    assert bucket.left == 0 and bucket.wait(3) == 3
    bucket.take(30)
    assert bucket.left == -30
    now[0] += 31
    assert bucket.left == 1
    now[0] += 1000
    assert bucket.left == 60 and bucket.wait(1) == 0


def test_a_key_is_sent_by_either_header() -> None:
    keys = Keys([Key(name="a", hash=hashed("claw-a"))], required=True)
    for said in (("Bearer claw-a", ""), ("bearer  claw-a ", ""), ("", "claw-a")):
        found = keys.find_in(*said)
        assert found and found.key.name == "a"
    with pytest.raises(BadRequest, match="a key is needed"):
        keys.find_in("Basic claw-a", "")
