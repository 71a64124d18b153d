"""What was learned of the steward: which operations there are, and what runs them.

A known operation costs no question. Whether the file of its model is still the same is looked up
each time; the rest is asked again in the background once it is a second old.
"""

import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from clawai.kernel.child import Child
from clawai.kernel.events import Spec
from clawai.kernel.limits import SECOND
from clawai.sdk.errors import ClawError

Key = tuple[str, str, bool, str]
"""Operation, model, whether it is for a batch task, and the plugin that asks for a child task."""


class Offer(msgspec.Struct):
    """What runs an operation with a model."""

    spec: Spec
    idempotent: bool
    batch: int
    path: str
    """Of the model's file; empty without one."""
    learned: int = msgspec.field(default_factory=time.monotonic_ns)


@dataclass
class Offers:
    """All that were asked for since the folders last changed."""

    steward: Child
    by_key: dict[Key, Offer] = field(default_factory=dict)
    """Cleared when somebody has changed a folder."""

    def known(self, key: Key) -> Offer | None:
        """What is known and still holds."""
        offer = self.by_key.get(key)
        if offer is None or (offer.path and identity(offer.path) != offer.spec.identity):
            return None
        now = time.monotonic_ns()
        if now - offer.learned > SECOND:
            offer.learned = now
            self.steward.ask("resolve", *key, then=partial(self.learn, key))
        return offer

    def learn(self, key: Key, said: Any) -> None:
        """Keep what the steward has answered: an offer, or why there is none."""
        if isinstance(said, ClawError):
            self.by_key.pop(key, None)
        else:
            self.by_key[key] = msgspec.convert(said, Offer)


def identity(path: str) -> str:
    """Which file lies there; empty if none does."""
    try:
        found = os.lstat(path)
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
