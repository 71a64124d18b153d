"""What must be shown and executable for the programs that a policy lets a worker start.

A program is its file and, when it is dynamically linked, the loader that its header names. A script
is refused until its interpreter is declared too: whoever grants the script should read that it
brings a whole interpreter along. Both are looked up where the launcher's files are, before the
private root hides them.
"""

import os
import stat
import struct
from dataclasses import dataclass

_LOADER_HEADER = 3  # PT_INTERP
_MAX_HEADERS, _MAX_PATH = 64, 256


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths as the worker names them: ``shown`` are mounted, ``executable`` may be executed."""

    shown: tuple[str, ...] = ()
    executable: tuple[str, ...] = ()


def resolve(declared: tuple[str, ...]) -> Programs:
    """What ``declared`` needs.

    Raises:
        OSError: a program is not there, is none, or needs an interpreter that is not declared.
    """
    executable: list[str] = []
    for path in declared:
        executable.append(path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - pathlib would only be loaded for this
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError(8, "not a regular file")
                head = file.read(_MAX_PATH)
                if head.startswith(b"#!"):
                    _check_script(path, head, declared)
                elif loader := _loader(file.fileno(), head):
                    executable.append(loader)
        except OSError as error:
            raise OSError(error.errno, f"program {path}: {error.strerror or error}") from error
    return Programs(tuple(declared), tuple(dict.fromkeys(executable)))


def _check_script(path: str, head: bytes, declared: tuple[str, ...]) -> None:
    words = head[2:].split(b"\n")[0].split()
    interpreter = os.fsdecode(words[0]) if words else ""
    if interpreter not in declared:
        raise OSError(
            8, f"is a script that {interpreter or 'nothing'} runs; declare {interpreter} as well"
        )


def _loader(fd: int, head: bytes) -> str:
    """The loader of an ELF file of this word size; empty for a static one. Source: elf(5)."""
    if head[:5] != b"\x7fELF\x02":
        raise OSError(8, "is neither a 64-bit ELF program nor a script")
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    for index in range(min(count, _MAX_HEADERS)):
        header = os.pread(fd, 56, offset + index * size)
        if len(header) == 56 and struct.unpack_from("<I", header)[0] == _LOADER_HEADER:
            place, length = struct.unpack_from("<8xQ16xQ", header)
            name = os.pread(fd, min(length, _MAX_PATH), place)
            return os.fsdecode(name.rstrip(b"\0"))
    return ""
