"""One error for everything that crosses a process boundary; ``codes`` lists what it can say."""

from typing import Any


class ClawError(Exception):
    """What went wrong, what was got, what is allowed, and what to do next.

    Args:
        code: one of ``clawai.sdk.codes.CODES``.
        message: one sentence a person can read.
        got: the offending value, as msgpack can carry it.
        allowed: the values or range that would have been accepted.
        hint: the next step, such as a command.
        retry_after_ms: when the same request may fare better, where that is known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        got: Any = None,
        allowed: Any = None,
        hint: str = "",
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(code, message)  # what a pickle makes it of; the rest is its state
        self.code = code
        self.message = message
        self.got = got
        self.allowed = allowed
        self.hint = hint
        self.retry_after_ms = retry_after_ms

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
