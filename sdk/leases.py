"""The client's end of the lease socket: tokens, segments, and arrays inside them."""

import mmap
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import unpack
from clawai.sdk.session import Result

if TYPE_CHECKING:
    import numpy

    from clawai.sdk.plugin import Tensor


def no_kernel(where: Path | str, why: str) -> ClawError:
    """Nobody answers."""
    return ClawError(
        "no_kernel", f"no kernel answers at {where} ({why})", hint="start one with `claw up`"
    )


@dataclass
class LeaseSocket:
    """The connection over which the kernel passes descriptors."""

    sock: socket.socket
    token: bytes
    segments: dict[int, mmap.mmap] = field(default_factory=dict)

    @classmethod
    def connect(cls, path: Path, timeout: float) -> "LeaseSocket":
        """Connect and take the one-time token.

        Raises:
            ClawError: no_kernel.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
            data = sock.recv(4096)
            if not data:
                raise ConnectionResetError("it closed the lease socket")
        except OSError as error:
            sock.close()
            raise no_kernel(path, error.strerror or str(error) or "it did not answer") from None
        return cls(sock, unpack(data)["token"])

    def mapping(self, segment: int) -> mmap.mmap:
        """The mapping of a segment, whose descriptor the kernel sent before its lease."""
        while segment not in self.segments:
            data, fds, _, _ = socket.recv_fds(self.sock, 4096, 1)
            if not fds:
                raise no_kernel("the lease socket", "it was closed")
            told = msgspec.msgpack.decode(data)
            self.segments[told["segment"]] = mmap.mmap(fds[0], told["bytes"])
            os.close(fds[0])
        return self.segments[segment]

    def unmap(self, wanted: set[int]) -> list[int]:
        """Unmap segments that the kernel asks back; those that an array still views stay wanted."""
        done = []
        for segment in sorted(wanted):
            try:
                self.mapping(segment).close()
            except BufferError:
                continue
            del self.segments[segment]
            wanted.discard(segment)
            done.append(segment)
        return done

    def close(self) -> None:
        """Let go of the socket and of what nobody views any more."""
        self.sock.close()
        for mapping in self.segments.values():
            try:
                mapping.close()
            except BufferError:
                pass  # an array of the caller's still looks at it; it goes with that array
        self.segments.clear()


@dataclass
class Loan:
    """Memory that this client shares with one worker.

    Attributes:
        lease: what the kernel calls it.
        mapping: of the whole segment, which may hold other leases too; see ``buffer``.
    """

    lease: wire.Lease
    mapping: mmap.mmap

    @property
    def buffer(self) -> memoryview:
        """The bytes of the lease. Release it before the loan is given back."""
        begin = self.lease.offset
        return memoryview(self.mapping)[begin : begin + self.lease.length]

    def tensor(self, dtype: str, shape: tuple[int, ...], index: int = 0) -> "Tensor":
        """How a request names an array in this lease; ``index`` is its place in ``leases``."""
        from clawai.sdk.plugin import Tensor

        return Tensor(dtype, shape, lease=index)

    def array(self, dtype: str, shape: tuple[int, ...]) -> "numpy.ndarray[Any, Any]":
        """A writable view of the lease's beginning, without a copy."""
        from clawai.sdk.plugin import Tensor, view

        return view(Tensor(dtype, shape), self.buffer)


def array(
    result: Result, tensor: Mapping[str, Any], leases: Sequence[Loan] = ()
) -> "numpy.ndarray[Any, Any]":
    """The array that a result names, in its frames or in the leases of its request."""
    from clawai.sdk.plugin import Tensor, view

    named = Tensor(**tensor)
    if named.lease is not None:
        return view(named, leases[named.lease].buffer)
    return view(named, memoryview(result.frames[named.frame or 0]))
