"""What the keys of network and listen permissions mean, and which hosts are names."""

from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin
from clawai.sdk.netrules import (
    checked_host,
    checked_port,
    is_granted,
    is_lan_name,
    listen_rule,
    network_rules,
    not_granted,
)


@pytest.mark.parametrize(
    ("keys", "host", "port", "granted"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "example.org", 80, True),
        ("example.org", "example.org", 8080, False),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "example.org.evil.net", 443, False),
        ("example.org", "notexample.org", 443, False),
        ("EXAMPLE.org.", "example.org", 443, True),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
        ("*.example.org", "www.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evilexample.org", 443, False),
        ("*.example.org:99", "x.example.org", 99, True),
        ("1.2.3.4:5", "1.2.3.4", 5, True),
        ("[2606:4700::1]:5", "2606:4700::1", 5, True),
        ("2606:4700:0::1", "2606:4700::1", 443, True),
        ("lan", "nas", 80, True),
        ("lan", "nas.local", 443, True),
        ("lan", "10.0.0.1", 80, True),
        ("lan", "secret-as-a-name.evil.org", 80, False),
        ("lan", "localhost", 80, False),
        ("lan", "127.0.0.1", 80, False),
        ("lan:631", "printer.home.arpa", 631, True),
        ("lan:631", "printer", 80, False),
        ("localhost:8080", "localhost", 8080, True),
        ("localhost:8080", "127.0.0.1", 8080, True),
        ("localhost:8080", "::1", 8080, True),
        ("localhost:8080", "localhost", 80, False),
    ],
)
def test_what_a_key_covers(keys: str, host: str, port: int, granted: bool) -> None:
    assert is_granted(network_rules([keys]), host, port) is granted


@pytest.mark.parametrize(
    "key",
    [
        "", ":", ":80", "example.org:", "example.org:0", "example.org:65536", "example.org:-1",
        "example.org:080", "example.org:http", "example.org:80:80", "*", "*.", "*.org", "a.*.org",
        "**.example.org", "http://example.org", "example.org/path", "user@example.org", "a b",
        "exa\0mple.org", "localhost", "127.0.0.1", "127.0.0.1:80", "[::1]:80", "::1", "1.2.3",
        "*.1.2.3.4", "*.localhost:80", "x.localhost:80", "0x7f.1", "2130706433", "ex\u00e4mple.org",
        "[fe80::1%eth0]:80", "fe80::1%eth0", "[example.org]:80:", "-a.org", "a..org", "\u2460.org",
    ],
)  # fmt: skip
def test_a_key_that_means_nothing_is_refused(key: str) -> None:
    with pytest.raises(ClawError) as caught:
        network_rules([key])
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "..", "a..b", "\0", "exa\0mple.org", "a" * 64 + ".org", "a." * 150 + "org",
        "0x7f.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "017700000001", "127.0.0.0x1",
        "1.2.3.4.5", "256.1.1.1", "1.2.3", "fe80::1%eth0", "::1%lo", "[::1]",
        "exam ple.org", "example.org\n", "example.org/", "user@example.org", "example.org:80",
        "\uff11\uff12\uff17.0.0.1", "loc\u0430lhost", "\u24db\u24de\u24d2alhost",
        "ex\u00e4mple.org",
        "127\u30020\u30020\u30021", "example\u3002org", "-a.org", "a-.org", "%6c%6fcalhost",
        "\u00ad", "localhost\u200b",
    ],
)  # fmt: skip
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ClawError) as caught:
        checked_host(host)
    assert caught.value.code == "bad_params"


@pytest.mark.parametrize("host", [None, 5, b"example.org", ["a"], "a" * 300])
def test_a_host_of_another_type_is_refused(host: object) -> None:
    with pytest.raises(ClawError, match="not a host"):
        checked_host(host)


@pytest.mark.parametrize("port", [0, -1, 65536, 1 << 70, "80", None, 80.0, True])
def test_a_port_that_is_none_is_refused(port: object) -> None:
    with pytest.raises(ClawError, match="not a port"):
        checked_port(port)


def test_hosts_in_their_one_form() -> None:
    assert checked_host("Example.ORG.") == "example.org"
    assert checked_host("127.0.0.1.") == "127.0.0.1"
    assert checked_host("xn--bcher-kva.example") == "xn--bcher-kva.example"
    assert checked_host("2606:4700:0:0::1") == "2606:4700::1"
    assert checked_host("_sip._tcp.example.org") == "_sip._tcp.example.org"


def test_names_of_the_local_network() -> None:
    assert is_lan_name("nas")
    assert is_lan_name("a.b.home.arpa")
    assert not is_lan_name("local.evil.org")
    assert not is_lan_name("a.localhost")


def test_ports_to_listen_on() -> None:
    assert listen_rule("8080") == (False, 8080)
    assert listen_rule("lan:8080") == (True, 8080)
    for key in ("", "0", "lan", "lan:", "65536", "0.0.0.0:80", "-5", " 80", "80 "):
        with pytest.raises(ClawError):
            listen_rule(key)


def test_what_a_plugin_is_told() -> None:
    error = not_granted("plug", ["b.org", "a.org"], "c.org", 8443)
    assert (error.code, error.got, error.allowed) == (
        "not_permitted", "c.org:8443", ["a.org", "b.org"]
    )  # fmt: skip
    assert '"c.org:8443" = "why"' in error.hint
    assert '"c.org" = "why"' in not_granted("plug", [], "c.org", 443).hint
    assert '"localhost:80" = "why"' in not_granted("plug", [], "127.0.0.1", 80).hint
    assert '"[2606:4700::1]:80" = "why"' in not_granted("plug", [], "2606:4700::1", 80).hint


def manifest(folder: Path, lines: str) -> Path:
    text = f'[plugin]\nname = "p"\nversion = "1"\nmodule = "p"\n[permissions]\n{lines}\n'
    (folder / "plugin.toml").write_text(text)
    return folder


def test_a_manifest_says_which_key_is_wrong(tmp_path: Path) -> None:
    good = 'network = {"a.org" = "x", lan = "y"}\nlisten = {8080 = "z"}'
    assert read_plugin(manifest(tmp_path, good)).permissions.listen == {"8080": "z"}
    for lines in (
        'network = {"127.0.0.1:80" = "x"}',
        'network = {"http://a.org" = "x"}',
        'listen = {http = "x"}',
        'listen = {80 = "x", "lan:80" = "y"}',
    ):
        with pytest.raises(ClawError) as caught:
            read_plugin(manifest(tmp_path, lines))
        assert caught.value.code == "bad_config"
        assert "plugin.toml" in caught.value.message
