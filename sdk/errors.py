"""One error for everything that crosses a process boundary; ``codes`` lists what it can say."""

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, repr=False)
class ClawError(Exception):
    """What went wrong, what was got, what is allowed, and what to do next."""

    code: str
    """One of ``clawai.sdk.codes.CODES``."""
    message: str
    """One sentence a person can read."""
    got: Any = None
    """The offending value, as msgpack can carry it."""
    allowed: Any = None
    """The values or range that would have been accepted."""
    hint: str = ""
    """The next step, such as a command."""
    retry_after_ms: int | None = None
    """When the same request may fare better, where that is known."""

    def __post_init__(self) -> None:
        super().__init__(self.code, self.message)  # for a pickle; the rest is its state

    @property
    def callers_fault(self) -> bool:
        """Whether repeating the same request cannot succeed."""
        from clawai.sdk.codes import CALLER  # for who explains an error, not for who passes it on

        return self.code in CALLER

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        if self.got is not None:
            text += f"; got {self.got!r}"
        if self.allowed is not None:
            text += f"; allowed: {self.allowed!r}"
        if self.hint:
            text += f"; {self.hint}"
        return text
