"""What `claw graph` and the page make of a profile (the answer of ``model.profile``).

A profile holds the ``nodes`` of a model in the order in which they run, each with the places of its
``inputs``, and for ``prefill`` and ``decode`` the nanoseconds of each by name. One that was saved
may come from anywhere: ``read`` checks it.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from clawai.sdk.errors import ClawError

PHASES = ("decode", "prefill")
MOST_NODES = 100_000
Name = Annotated[str, msgspec.Meta(max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Node(msgspec.Struct, frozen=True):
    """One step of a plan."""

    name: Name
    ops: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]
    layer: Count | None
    shape: Annotated[tuple[Count | Name, ...], msgspec.Meta(max_length=8)]
    dtype: Name
    bytes: Count
    """Of weights that it reads for one token."""
    inputs: Annotated[tuple[Count, ...], msgspec.Meta(max_length=4096)]


class Times(msgspec.Struct, frozen=True):
    """What steps took."""

    tokens: Count
    """At once."""
    ns: dict[Name, Count]


class Profile(msgspec.Struct, frozen=True):
    """The answer of ``model.profile``; of ``model.graph``, without times."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    device: Name
    isa: Name
    layers: Count
    context: Count
    nodes: Annotated[tuple[Node, ...], msgspec.Meta(min_length=1, max_length=MOST_NODES)]
    prefill: Times | None = None
    decode: Times | None = None
    model: Name = ""

    def times(self, phase: str) -> dict[str, int]:
        """Nanoseconds by name, of a phase; empty if it was not measured."""
        found = self.decode if phase == "decode" else self.prefill
        return found.ns if found else {}


def read(value: object) -> Profile:
    """A profile of plain values.

    Raises:
        ClawError: bad_params; what is wrong with it.
    """
    try:
        found = msgspec.convert(value, Profile)
    except msgspec.ValidationError as error:
        raise ClawError(
            "bad_params", f"this is no profile: {error}",
            hint="claw graph MODEL --json > FILE makes one",
        ) from None  # fmt: skip
    for place, node in enumerate(found.nodes):
        if any(source >= len(found.nodes) or source == place for source in node.inputs):
            raise ClawError("bad_params", "this is no profile: an input that is not there", place)
    return found


def critical(nodes: Sequence[Node], ns: dict[str, int]) -> tuple[set[int], int]:
    """The chain of nodes that takes longest, and its nanoseconds.

    A node waits for its inputs; what is no input of it could run beside it. Inputs that come later
    in the order (there are none in a plan) do not count.
    """
    best: list[int] = []
    before: list[int | None] = []
    for place, node in enumerate(nodes):
        earlier = [source for source in node.inputs if source < place]
        last = max(earlier, key=lambda source: best[source], default=None)
        best.append(ns.get(node.name, 0) + (0 if last is None else best[last]))
        before.append(last)
    at: int | None = max(range(len(nodes)), key=lambda place: best[place])
    assert at is not None
    total, found = best[at], set()
    while at is not None:
        found.add(at)
        at = before[at]
    return found, total


def alike(mine: Profile, other: Profile) -> list[int | None]:
    """For each node of ``mine`` the one of ``other`` that makes the same values, if one does.

    Another format of the weights has products joined in another way; then it is the one that makes
    the last of its values.
    """
    by_name = {node.name: place for place, node in enumerate(other.nodes)}
    by_value = {
        made: place for place, node in enumerate(other.nodes) for made in node.name.split("+")
    }
    return [by_name.get(n.name, by_value.get(n.name.split("+")[-1])) for n in mine.nodes]
