"""`claw http`: what a person sees, and what becomes of it when the gateway is killed."""

import json
import os
import signal
import socket
import ssl
import urllib.error
import urllib.request

import pytest

from broker_parts import free_port


@pytest.fixture
def web(box):
    """A box whose gateway has a port of its own."""
    port = free_port()
    box.run("config", "set", "plugins.ports", f'["gateway:8080={port}"]')
    return box, f"http://127.0.0.1:{port}"


def models(address):
    with urllib.request.urlopen(f"{address}/v1/models", timeout=30) as answer:
        return json.load(answer)["data"]


def gateway(box):
    """The process of its worker."""
    rows = box.json("ps")["workers"]
    return next(row["pid"] for row in rows if row["plugin"] == "gateway")


def test_it_serves_until_ctrl_c_and_outlives_a_kill(web):
    box, address = web
    running = box.start("http")
    try:
        assert running.stdout.readline() == f"OpenAI's API   {address}/v1\n"
        assert running.stdout.readline() == f"Ollama's API   {address}\n"
        assert running.stdout.readline() == f"The page       {address}/\n"
        assert "Ctrl-C" in running.stdout.readline()
        assert models(address) == []
        os.kill(gateway(box), signal.SIGKILL)
        assert running.stdout.readline() == f"OpenAI's API   {address}/v1\n", "it serves again"
        assert models(address) == []
    finally:
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "it is started again" in said and said.endswith("the gateway has ended\n")
    assert "Traceback" not in said

    def refused():
        try:
            models(address)
        except urllib.error.URLError:
            return True
        return False

    again = box.start("http", "--json")
    assert json.loads("".join(again.stdout.readline() for _ in range(5))) == {
        "openai": f"{address}/v1",
        "ollama": address,
        "page": f"{address}/",
    }
    assert not refused()
    box.run("down")
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 1 and json.loads(said)["error"]["message"]
    assert refused()


def test_a_port_that_is_taken_is_named(web):
    box, address = web
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        said = box.run("http", code=1).stderr
    assert "cannot listen on port" in said and "plugins.ports" in said


def test_other_boxes_need_a_key_and_tls(box):
    where = f"0.0.0.0:{free_port()}"
    assert "claw http key add" in box.run("http", "--listen", where, code=1).stderr
    key = box.run("http", "key", "add", "anna", "--expires", "1d").stdout.strip()
    kept = (box.home / "config" / "clawai" / "http-keys.json").read_text()
    assert key not in kept and '"anna"' in kept
    assert "in the clear" in box.run("http", "--listen", where, code=1).stderr
    running = box.start("http", "--tls-self-signed", "--json")
    try:
        served = json.loads("".join(running.stdout.readline() for _ in range(5)))
        trusted = ssl.create_default_context(cafile=box.home / "config" / "clawai" / "http-tls.crt")

        def status(key):
            asked = urllib.request.Request(f"{served['openai']}/models", headers={"X-Api-Key": key})
            try:
                with urllib.request.urlopen(asked, timeout=30, context=trusted) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                return error.code

        assert (status(key), status("claw-other")) == (200, 401)
        (row,) = box.json("http", "key", "list")["keys"]
        assert row["name"] == "anna" and not row["expired"] and "hash" not in row
        assert "serves already" in box.run("http", "--listen", "127.0.0.1:1", code=1).stderr
        box.run("http", "key", "revoke", "anna")
        assert status(key) == 401
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
