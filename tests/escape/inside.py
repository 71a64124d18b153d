"""The target of the worker: importing this has registered, and loaded, every attempt."""

import json
import os
from collections.abc import Mapping
from typing import Any

import from_c  # noqa: F401
import try_files  # noqa: F401
import try_processes  # noqa: F401
import try_resources  # noqa: F401
import try_sockets  # noqa: F401
from registry import ATTEMPTS


def run(fds: Mapping[str, int], args: Mapping[str, Any]) -> None:
    """Try ``args["names"]`` in turn; one line of JSON each on the descriptor "results"."""
    facts = {**args["facts"], **fds}
    for name in args["names"]:
        line = {"name": name}
        try:
            line["evidence"] = ATTEMPTS[name].run(facts | {"name": name})
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {error}"
        os.write(fds["results"], json.dumps(line).encode() + b"\n")
