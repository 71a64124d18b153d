"""Which addresses a plugin may reach: every special range, and addresses that hide in others."""

import ipaddress

import pytest

from clawai.kernel.broker.addresses import (
    LOOPBACK,
    METADATA,
    NEVER,
    PRIVATE,
    PUBLIC,
    classify,
    known,
    refused,
    why_not,
)
from clawai.sdk.netrules import network_rules

ADDRESSES = {
    # The wide world.
    "1.1.1.1": PUBLIC,
    "8.8.8.8": PUBLIC,
    "93.184.216.34": PUBLIC,
    "11.0.0.1": PUBLIC,
    "9.255.255.255": PUBLIC,
    "172.15.255.255": PUBLIC,
    "172.32.0.1": PUBLIC,
    "192.167.255.255": PUBLIC,
    "192.169.0.1": PUBLIC,
    "100.63.255.255": PUBLIC,
    "100.128.0.1": PUBLIC,
    "169.253.255.255": PUBLIC,
    "126.255.255.255": PUBLIC,
    "128.0.0.1": PUBLIC,
    "223.255.255.255": PUBLIC,
    "2606:4700:4700::1111": PUBLIC,
    "2a00:1450:4001:81b::200e": PUBLIC,
    # The local network.
    "10.0.0.1": PRIVATE,
    "10.255.255.255": PRIVATE,
    "172.16.0.1": PRIVATE,
    "172.31.255.255": PRIVATE,
    "192.168.0.1": PRIVATE,
    "192.168.255.255": PRIVATE,
    "169.254.0.1": PRIVATE,
    "169.254.255.255": PRIVATE,
    "100.64.0.1": PRIVATE,
    "100.127.255.255": PRIVATE,
    "fc00::1": PRIVATE,
    "fdff:ffff::1": PRIVATE,
    "fe80::1": PRIVATE,
    "febf::1": PRIVATE,
    "fec0::1": PRIVATE,
    "64:ff9b:1::1": NEVER,
    "64:ff9b:1:2::808:808": PRIVATE,
    # This box.
    "127.0.0.1": LOOPBACK,
    "127.0.0.2": LOOPBACK,
    "127.255.255.255": LOOPBACK,
    "::1": LOOPBACK,
    "::ffff:127.0.0.1": LOOPBACK,
    "::127.0.0.1": LOOPBACK,
    "64:ff9b::127.0.0.1": LOOPBACK,
    "64:ff9b:1::127.0.0.1": LOOPBACK,
    "2002:7f00:1::": LOOPBACK,
    "2002:7f00:1:5:6:7:8:9": LOOPBACK,
    "::ffff:0:127.0.0.1": LOOPBACK,
    "2606:4700::5efe:127.0.0.1": LOOPBACK,
    "2606:4700::200:5efe:127.0.0.1": LOOPBACK,
    # The local network, inside of something else.
    "::ffff:10.0.0.1": PRIVATE,
    "::ffff:192.168.1.1": PRIVATE,
    "::ffff:0:192.168.1.1": PRIVATE,
    "::10.0.0.1": PRIVATE,
    "64:ff9b::10.0.0.1": PRIVATE,
    "64:ff9b::100.64.0.1": PRIVATE,
    "2002:a00:1::1": PRIVATE,
    "2002:c0a8:101::1": PRIVATE,
    "2606:4700::5efe:192.168.1.1": PRIVATE,
    "fe80::5efe:8.8.8.8": PRIVATE,
    # The wide world, inside of something else.
    "::ffff:8.8.8.8": PUBLIC,
    "64:ff9b::8.8.8.8": PUBLIC,
    "2002:808:808::1": PUBLIC,
    # What clouds tell their machines: credentials.
    "169.254.169.254": METADATA,
    "169.254.170.2": METADATA,
    "100.100.100.200": METADATA,
    "168.63.129.16": METADATA,
    "192.0.0.192": METADATA,
    "fd00:ec2::254": METADATA,
    "fd20:ce::254": METADATA,
    "fe80::a9fe:a9fe": METADATA,
    "::ffff:169.254.169.254": METADATA,
    "::ffff:0:169.254.169.254": METADATA,
    "64:ff9b::169.254.169.254": METADATA,
    "64:ff9b:1::169.254.169.254": METADATA,
    "2002:a9fe:a9fe::": METADATA,
    "2606:4700::5efe:169.254.169.254": METADATA,
    # Nobody's.
    "0.0.0.0": NEVER,
    "0.1.2.3": NEVER,
    "::": NEVER,
    "::ffff:0.0.0.0": NEVER,
    "192.0.0.1": NEVER,
    "192.0.2.1": NEVER,
    "198.18.0.1": NEVER,
    "198.51.100.1": NEVER,
    "203.0.113.1": NEVER,
    "192.88.99.1": NEVER,
    "224.0.0.1": NEVER,
    "239.255.255.255": NEVER,
    "240.0.0.1": NEVER,
    "255.255.255.255": NEVER,
    "ff02::1": NEVER,
    "2001:db8::1": NEVER,
    "2001::1": NEVER,
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": NEVER,
    "3fff::1": NEVER,
    "100::1": NEVER,
    "5f00::1": NEVER,
    "4000::1": NEVER,
    "::2:0:0:0:1": NEVER,
    "::ffff:224.0.0.1": NEVER,
    "2002:e000:1::": NEVER,
    "64:ff9b::255.255.255.255": NEVER,
}


@pytest.mark.parametrize(("text", "kind"), ADDRESSES.items(), ids=str)
def test_the_class_of_an_address(text: str, kind: str) -> None:
    assert classify(ipaddress.ip_address(text)) == kind


def test_there_is_a_table_worth_the_name() -> None:
    assert len(ADDRESSES) >= 60


NAMED = ("api.example.org", "*.wild.example", "8.8.4.4")
ALL = (*NAMED, "lan", "localhost:80", "nas.local", "10.0.0.9")


def verdict(keys: tuple[str, ...], host: str, address: str, port: int = 80) -> str:
    return why_not(network_rules(keys), host, port, ipaddress.ip_address(address), own=False)


@pytest.mark.parametrize(
    ("keys", "host", "address", "good"),
    [
        (NAMED, "api.example.org", "1.1.1.1", True),
        (NAMED, "a.wild.example", "1.1.1.1", True),
        (NAMED, "8.8.4.4", "8.8.4.4", True),
        (NAMED, "api.example.org", "10.0.0.1", False),
        (NAMED, "api.example.org", "127.0.0.1", False),
        (NAMED, "api.example.org", "169.254.169.254", False),
        (NAMED, "api.example.org", "::ffff:192.168.0.1", False),
        (ALL, "api.example.org", "10.0.0.1", True),
        (ALL, "nas.local", "192.168.1.2", True),
        (ALL, "printer.local", "fe80::2", True),
        (("lan",), "printer.local", "8.8.8.8", False),
        (("lan",), "8.8.8.8", "8.8.8.8", False),
        (("lan",), "10.1.2.3", "10.1.2.3", True),
        (("lan",), "printer.local", "127.0.0.1", False),
        (ALL, "localhost", "127.0.0.1", True),
        (ALL, "localhost", "::1", True),
        (ALL, "127.0.0.1", "127.0.0.1", True),
        (ALL, "api.example.org", "127.0.0.1", False),
        (ALL, "api.example.org", "169.254.169.254", False),
        (ALL, "169.254.169.254", "169.254.169.254", False),
        (ALL, "api.example.org", "224.0.0.1", False),
        (ALL, "api.example.org", "0.0.0.0", False),
    ],
)
def test_what_is_granted_decides_with_the_address(
    keys: tuple[str, ...], host: str, address: str, good: bool
) -> None:
    assert (verdict(keys, host, address) == "") is good


def test_an_address_of_this_box_is_this_box_whatever_its_class() -> None:
    """A service that trusts the local machine listens there too."""
    for text in ("1.1.1.1", "192.168.1.5"):
        address, rules = ipaddress.ip_address(text), network_rules(ALL)
        assert why_not(rules, "api.example.org", 80, address, own=True) == "an address of this box"


def test_a_localhost_grant_is_for_its_port_only() -> None:
    assert verdict(("localhost:80",), "localhost", "127.0.0.1", 81)


@pytest.mark.parametrize(
    ("keys", "host", "address", "said"),
    [
        (NAMED, "api.example.org", "10.0.0.1", '"lan" = "why"'),
        (NAMED, "api.example.org", "127.0.0.1", '"localhost:80" = "why"'),
        (("lan",), "nas.local", "9.9.9.9", '"nas.local" = "why"'),
    ],
)
def test_the_refusal_names_the_line_that_would_ask(
    keys: tuple[str, ...], host: str, address: str, said: str
) -> None:
    found = ipaddress.ip_address(address)
    error = refused("plug", host, 80, found, verdict(keys, host, address))
    assert error.code == "not_permitted"
    assert said in error.hint
    assert address in error.message


def test_what_needs_no_resolving() -> None:
    assert [str(each) for each in known("localhost") or ()] == ["127.0.0.1", "::1"]
    assert [str(each) for each in known("a.localhost") or ()] == ["127.0.0.1", "::1"]
    assert [str(each) for each in known("10.0.0.1") or ()] == ["10.0.0.1"]
    assert known("example.org") is None
