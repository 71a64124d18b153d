"""Which addresses a plugin may be connected to: decided on the resolved address, never on a name.

An address may hold another one (IPv4-mapped, 6to4, NAT64, Teredo, ISATAP): the worse of the two
decides. Sources: the IANA special-purpose address registries (RFC 6890), RFC 4291, 3056, 6052,
8215, 4380, 5214; the metadata addresses are those that the clouds document.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from clawai.sdk.errors import ClawError
from clawai.sdk.netrules import LAN, LOCALHOST, Address, Rule, address_of, is_loopback_name, spoken

PUBLIC, PRIVATE, LOOPBACK, METADATA, NEVER = "public", "private", "loopback", "metadata", "never"
_ORDER = (PUBLIC, PRIVATE, LOOPBACK, METADATA, NEVER)
"""The worst last."""

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, OpenStack, ...
            "169.254.170.2",  # AWS, containers
            "169.254.170.23",  # AWS, pods
            "169.254.169.123",  # AWS, time
            "169.254.0.23",  # Tencent
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure's host, in a public range
            "192.0.0.192",  # Oracle, the older one
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # AWS, pods
            "fd00:ec2::123",  # AWS, time
            "fd20:ce::254",  # Google
            "fe80::a9fe:a9fe",  # OpenStack
        ),
    )
)
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",  # link-local
            "100.64.0.0/10",  # behind a carrier's NAT
            "fc00::/7",
            "fec0::/10",  # site-local, deprecated, still routed by some
            "fe80::/10",  # link-local
            "64:ff9b:1::/48",  # NAT64 of one's own network: leads anywhere in there
        ),
    )
)
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # Linux connects 0.0.0.0 to this very box
            "192.0.0.0/24",
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays, deprecated
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "100::/64",  # discard
            "2001::/23",  # protocol assignments, Teredo among them: tunnels out of our sight
            "2001:db8::/32",
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "ff00::/8",
        ),
    )
)
_LOOPBACK_4 = ipaddress.ip_network("127.0.0.0/8")
_LOOPBACK_6 = ipaddress.IPv6Address(1)
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_TRANSLATED = ipaddress.ip_network("::ffff:0:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_OWN = ipaddress.ip_network("64:ff9b:1::/48")
_6TO4 = ipaddress.ip_network("2002::/16")
_GLOBAL_6 = ipaddress.ip_network("2000::/3")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def classify(address: Address) -> str:
    """``public``, ``private``, ``loopback``, ``metadata`` or ``never``."""
    found = [_alone(address), *map(_alone, _embedded(address))]
    return max(found, key=_ORDER.index)


def _alone(address: Address) -> str:
    """The class of an address, without a look at what it holds."""
    if address in _METADATA:
        return METADATA
    if address == _LOOPBACK_6 or address in _LOOPBACK_4:
        return LOOPBACK
    if any(address in network for network in _PRIVATE):
        return PRIVATE
    if any(address in network for network in _NEVER):
        return NEVER
    if address.version == 4 or address in _GLOBAL_6 or address in _NAT64:
        return PUBLIC
    # Of IPv6 nothing else is given out; what holds an IPv4 address is judged by that.
    holders = (_MAPPED, _COMPATIBLE, _TRANSLATED)
    held = any(address in network for network in holders) and int(address) > 1
    return PUBLIC if held else NEVER


def _embedded(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses inside of an IPv6 one."""
    if address.version == 4:
        return
    number = int(address)
    holders = (_MAPPED, _COMPATIBLE, _TRANSLATED, _NAT64, _NAT64_OWN)
    if (number >> 32 & 0xFFFF_FFFF) in _ISATAP or (
        number > 1 and any(address in network for network in holders)
    ):
        yield ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if address in _6TO4:
        yield ipaddress.IPv4Address(number >> 80 & 0xFFFF_FFFF)


def why_not(rules: Iterable[Rule], host: str, port: int, address: Address, own: bool) -> str:
    """Why ``host``, which is granted and has led to ``address``, is not connected; "" if it is.

    Args:
        own: the address is one of this box, whatever its class.
    """
    rules = tuple(rules)
    kind = classify(address)
    if kind in (METADATA, NEVER):
        return "never allowed" if kind == NEVER else "a cloud's metadata address"
    if kind == LOOPBACK or own:
        named = is_loopback_name(host) and Rule(LOCALHOST, (port,)) in rules
        return "" if named else "an address of this box"
    lan = any(rule.host == LAN for rule in rules)
    if kind == PRIVATE:
        return "" if lan else "an address of the local network"
    by_name = any(rule.host != LAN and rule.covers(host, port) for rule in rules)
    return "" if by_name else "not an address of the local network"


def refused(plugin: str, host: str, port: int, address: Address, why: str) -> ClawError:
    """What the plugin is told."""
    hints = {
        "an address of this box": f'[permissions.network] "localhost:{port}" = "why", '
        "and connect to localhost",
        "an address of the local network": '[permissions.network] "lan" = "why"',
        "not an address of the local network": f'[permissions.network] "{host}" = "why"',
    }
    next_step = f"ask for it in plugin.toml: {hints[why]}" if why in hints else ""
    return ClawError(
        "not_permitted",
        f"the plugin {plugin} may not connect to {spoken(host, port)}: {address} is {why}",
        got=str(address),
        hint=next_step,
    )


def known(host: str) -> list[Address] | None:
    """The addresses of a host that needs no resolving; None for a name."""
    if literal := address_of(host):
        return [literal]
    if is_loopback_name(host):
        return [ipaddress.IPv4Address("127.0.0.1"), _LOOPBACK_6]
    return None
