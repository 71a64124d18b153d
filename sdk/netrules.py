"""What the keys of ``[permissions.network]`` and ``[permissions.listen]`` mean: text, no sockets.

``HOST``, ``HOST:PORT``, ``*.example.org``, ``lan``, ``localhost:PORT`` to connect; ``PORT`` and
``lan:PORT`` to listen. A key without a port means 80 and 443. The manifest is checked with this
when it is read, the broker decides with it, and a plugin's own side explains with it.

A name that is not granted is never resolved: a question to a name server is a message already. So
``lan`` covers addresses and the names that home networks use, no name of the wide world.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from clawai.sdk.errors import ClawError

PORTS = (80, 443)
"""Of a key that names none."""
LAN = "lan"
LOCALHOST = "localhost"
LAN_SUFFIXES = ("local", "lan", "home", "internal", "intranet", "localdomain", "home.arpa")
"""Names that end so belong to the local network; so do names without a dot."""
LONGEST_NAME = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LOOPBACK_4 = ipaddress.ip_network("127.0.0.0/8")
_LOOPBACK_6 = ipaddress.IPv6Address(1)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Rule:
    """One key: a host or a pattern, and the ports."""

    host: str
    """``lan``, ``localhost``, an address as Python writes it, a name, or ``*.`` and a name."""
    ports: tuple[int, ...]

    def covers(self, host: str, port: int) -> bool:
        """Whether a name or address that ``checked_host`` returned is meant."""
        if port not in self.ports:
            return False
        if self.host == LAN:
            return is_lan_name(host)
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host or (self.host == LOCALHOST and is_loopback_name(host))


def checked_host(host: object) -> str:
    """``host`` in the one form that is compared: lower case, no dot at its end.

    What an old resolver would read as an address (``0x7f.1``, ``2130706433``) is refused, and so is
    whatever is not ASCII: two letters that look the same may be two hosts.

    Raises:
        ClawError: bad_params.
    """
    if not isinstance(host, str) or not host or len(host) > LONGEST_NAME + 1:
        raise _bad(host, f"a name of 1 to {LONGEST_NAME} letters, or an address")
    if not host.isascii():
        raise _bad(host, "ASCII; write another alphabet's name in its xn-- form")
    text = host.lower().removesuffix(".")
    if literal := address_of(text):
        return str(literal)
    labels = text.split(".")
    if len(text) > LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise _bad(host, "a name such as api.example.org, or an address without brackets or zone")
    if _NUMBER.fullmatch(labels[-1]):
        raise _bad(host, "an IPv4 address in four decimal numbers")
    return text


def checked_port(port: object) -> int:
    """A port that one can connect to.

    Raises:
        ClawError: bad_params.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ClawError("bad_params", "not a port", _short(port), "1 to 65535")
    return port


def address_of(text: str) -> Address | None:
    """The address that ``text`` is; an IPv6 zone, which names one of our interfaces, is none."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def is_loopback_name(host: str) -> bool:
    """Whether it means this very box: resolved by nobody, as RFC 6761 asks."""
    if host == LOCALHOST or host.endswith(f".{LOCALHOST}"):
        return True
    literal = address_of(host)
    if isinstance(literal, ipaddress.IPv4Address):
        return literal in _LOOPBACK_4
    return literal == _LOOPBACK_6


def is_lan_name(host: str) -> bool:
    """Whether the local network may have such a name; of an address its class decides."""
    if address_of(host):
        return not is_loopback_name(host)
    if is_loopback_name(host):
        return False
    return "." not in host or any(host.endswith(f".{suffix}") for suffix in LAN_SUFFIXES)


def network_rules(keys: Iterable[str]) -> tuple[Rule, ...]:
    """The rules of ``[permissions.network]``.

    Raises:
        ClawError: bad_config, naming the key.
    """
    return tuple(map(network_rule, keys))


def network_rule(key: str) -> Rule:
    """One key of ``[permissions.network]``.

    Raises:
        ClawError: bad_config.
    """
    host, ports = _split(key)
    star = host.startswith("*.")
    try:
        name = checked_host(host[2:] if star else host)
    except ClawError as error:
        raise _bad_key(key, str(error.allowed)) from None
    if name == LOCALHOST and ports and not star:
        return Rule(name, ports)
    if is_loopback_name(name):
        raise _bad_key(key, "this box is localhost:PORT, with the port written out")
    if star and (address_of(name) or "." not in name):
        raise _bad_key(key, "*.example.org, with two labels or more after the star")
    return Rule(f"*.{name}" if star else name, ports or PORTS)


def _split(key: str) -> tuple[str, tuple[int, ...]]:
    """Host and ports of a key; an IPv6 address with a port is in brackets."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", key, re.DOTALL)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif key.count(":") == 1:
        host, port = key.split(":")
    else:
        host, port = key, None
    return host, () if port is None else (_port(key, port),)


def _port(key: str, text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise _bad_key(key, "a port of 1 to 65535")
    return int(text)


def listen_rule(key: str) -> tuple[bool, int]:
    """One key of ``[permissions.listen]``: whether all interfaces are meant, and the port.

    Raises:
        ClawError: bad_config.
    """
    wide = key.startswith(f"{LAN}:")
    return wide, _port(key, key.removeprefix(f"{LAN}:") if wide else key)


def is_granted(rules: Iterable[Rule], host: str, port: int) -> bool:
    """Whether any rule covers a checked host and port."""
    return any(rule.covers(host, port) for rule in rules)


def spoken(host: str, port: int) -> str:
    """Host and port as people and manifests write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def not_granted(plugin: str, keys: Iterable[str], host: str, port: int) -> ClawError:
    """What a plugin is told that asks for what it did not ask its owner for."""
    wanted = spoken(LOCALHOST if is_loopback_name(host) else host, port)
    if port in PORTS and not is_loopback_name(host) and ":" not in host:
        wanted = host
    return ClawError(
        "not_permitted",
        f"the plugin {plugin} may not connect to {spoken(host, port)}",
        got=spoken(host, port),
        allowed=sorted(keys),
        hint=f'ask for it in plugin.toml, [permissions.network]: "{wanted}" = "why"',
    )


def check_keys(network: Iterable[str], listen: Iterable[str]) -> None:
    """Refuse a manifest whose keys mean nothing.

    Raises:
        ClawError: bad_config, naming the key.
    """
    network_rules(network)
    ports = [listen_rule(key)[1] for key in listen]
    if len(set(ports)) < len(ports):
        raise ClawError("bad_config", "permissions.listen names a port twice", got=sorted(ports))


def _bad(host: object, allowed: str) -> ClawError:
    return ClawError("bad_params", "not a host", _short(host), allowed)


def _bad_key(key: str, allowed: str) -> ClawError:
    return ClawError("bad_config", f"permissions: {key[:80]!r} means nothing", key[:80], allowed)


def _short(value: object) -> object:
    return value if isinstance(value, int) else repr(value)[:80]
