"""Other boxes that ship here, as the kernel lists them: asked once a second for all who look."""

import time
from typing import Any

from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

AGE = 1.0
"""Seconds for which a listing is shown."""
APART = 2.0
"""Seconds by which a clock may differ before that is said."""


class Boxes:
    """All of them."""

    def __init__(self, kernel: Front) -> None:
        self._kernel = kernel
        self._asked = -AGE
        self._known: list[dict[str, Any]] = []

    async def known(self, fresh: bool = False) -> list[dict[str, Any]]:
        """The rows of the listing, with ``apart``: whether its clock is to be spoken of.

        Args:
            fresh: ask at once.
        """
        now = time.monotonic()
        if fresh or now - self._asked >= AGE:
            self._asked = now
            try:
                rows = (await self._kernel.query("boxes"))["boxes"]
            except ClawError as error:
                if error.code not in ("bad_config", "not_permitted"):
                    raise
                rows = []  # of a file that the owner has to mend: this box is shown all the same
            self._known = [{**row, "apart": abs(row["ahead_s"]) >= APART} for row in rows]
        return self._known
