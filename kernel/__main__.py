"""The kernel as a program: ``python -m clawai.kernel [--foreground] [--ready-fd N]``."""

import os
import sys

from clawai.sdk.errors import ClawError


def check_system() -> None:
    """Refuse a system that lacks what the kernel stands on.

    Raises:
        ClawError: unsupported_system, naming what is missing.
    """
    missing = [
        what
        for what, there in (
            ("Linux", sys.platform == "linux"),
            ("Python 3.11 or later", sys.version_info >= (3, 11)),
            ("memfd_create", hasattr(os, "memfd_create")),
            ("pidfd_open", hasattr(os, "pidfd_open")),
            ("a 64-bit processor", sys.maxsize > 1 << 32),
        )
        if not there
    ]
    if missing:
        raise ClawError(
            "unsupported_system",
            f"the kernel needs {', '.join(missing)}",
            got=f"{sys.platform}, Python {sys.version.split()[0]}",
            allowed="Linux 5.13 or later on x86-64 or aarch64, Python 3.11 or later",
        )


def main(argv: list[str]) -> int:
    """Serve; 0 after a proper stop, 1 after an error that is told on standard error."""
    foreground = "--foreground" in argv
    ready_fd = int(argv[argv.index("--ready-fd") + 1]) if "--ready-fd" in argv else None
    try:
        check_system()
        from clawai.kernel.server import serve
        from clawai.sdk.config import load

        serve(load(), echo=foreground, ready_fd=ready_fd)
    except (ClawError, OSError) as error:
        print(f"claw: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
