"""One error for everything that crosses a process boundary, and its stable codes.

Two families: the caller's fault (``CALLER``) and the peer's, plugin's or box's fault (``PEER``).
The codes are part of the wire (``WIRE.md``, section Errors): a code is never renamed.
"""

from typing import Any

CALLER = {
    "bad_frame": "the bytes are not ZMTP or exceed a limit of the connection",
    "bad_message": "a header is not msgpack, has wrong types, or an unknown message type",
    "bad_version": "the peer speaks another major version of the wire",
    "bad_state": "the message does not fit the state of the connection or the task",
    "bad_params": "a parameter of the operation is missing, unknown, or out of range",
    "bad_model": "a model file is corrupt, malicious or of an unsupported kind",
    "bad_config": "the configuration or a manifest cannot be used",
    "bad_download": "a downloaded file is not the one that the catalogue names",
    "too_large": "a message, a frame or a result exceeds its limit",
    "unknown_operation": "no plugin offers this operation",
    "unknown_model": "no such model is stored here or listed in the catalogue",
    "unknown_task": "no such task of this client",
    "unknown_plugin": "no such plugin",
    "prompt_too_long": "the prompt does not fit the model's context",
    "deadline_passed": "the deadline passed before the task had ended",
    "deadline_unreachable": "the deadline cannot be met by what the operation is known to take",
    "never_fits": "the task needs more memory than the whole budget",
    "no_lease": "the lease is not one that the kernel gave to this client for this worker",
    "not_permitted": "the principal or the plugin lacks the permission",
    "cancelled": "the task was cancelled by its owner",
}
PEER = {
    "queue_full": "the queue is full; try again later",
    "overloaded": "the task was given up for more urgent ones; try again later",
    "no_memory": "the memory is in use now; try again later",
    "interrupted": "the kernel ended while a task ran that may run only once",
    "worker_died": "the worker's process ended while it ran the task",
    "worker_failed": "the plugin raised an error",
    "worker_hung": "the worker stopped answering and was ended",
    "quarantined": "the plugin kept dying and is not started again for now",
    "sandbox_refused": "the sandbox that the plugin requires cannot be had on this system",
    "bad_worker": "the worker broke the wire protocol",
    "no_kernel": "no kernel answers",
    "kernel_stopped": "the kernel is stopping",
    "disk_full": "the disk is full",
    "network": "a download failed",
    "address_in_use": "another process has the address",
    "unsupported_system": "the system lacks something that is required",
}
CODES = CALLER | PEER


class ClawError(Exception):
    """What went wrong, what was got, what is allowed, and what to do next.

    Args:
        code: one of ``CODES``.
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
        if code not in CODES:
            raise ValueError(f"unknown error code {code!r}; see clawai.sdk.errors.CODES")
        super().__init__(message)
        self.code = code
        self.message = message
        self.got = got
        self.allowed = allowed
        self.hint = hint
        self.retry_after_ms = retry_after_ms

    @property
    def callers_fault(self) -> bool:
        """Whether repeating the same request cannot succeed."""
        return self.code in CALLER

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.code, self.message, self.got, self.allowed, self.hint, self.retry_after_ms)
        return type(self), fields

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        if self.got is not None:
            text += f"; got {self.got!r}"
        if self.allowed is not None:
            text += f"; allowed: {self.allowed!r}"
        if self.hint:
            text += f"; {self.hint}"
        return text
