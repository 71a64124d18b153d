"""A worker that waits for its orders: everything of a start that does not depend on the model.

The sandbox calls ``main`` when every layer is in force. The plugin's code is imported in here, as
it would be for a model; then the launcher sends the descriptors and arguments of a worker, and it
is one.
"""

import gc
import importlib
import json
import os
import socket
import sys
import traceback
from typing import Any

from clawai.sdk import hooks, host
from clawai.sdk.tuning import VARIABLE

_MAX_BYTES = 64 * 1024
_MAX_FDS = 64


def main(fds: dict[str, int], args: dict[str, Any]) -> None:
    """Import, wait, serve; ends when the launcher does."""
    if args["ops"]:  # for the driver, which is imported now
        os.environ[VARIABLE] = args["ops"]
    plugins = hooks.manager()
    hooks.register(plugins, [importlib.import_module(name) for name in args["modules"]])
    failed = ""
    try:
        plugins.hook.claw_prepare()
    except Exception:  # it is slower then, if what fails does not fail its start as well
        failed = traceback.format_exc()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=fds["orders"]) as orders:
        data, given, _, _ = socket.recv_fds(orders, _MAX_BYTES, _MAX_FDS)
    if not data:
        print(failed, end="", file=sys.stderr)
        return
    told = json.loads(data)
    own = dict(zip(told["names"], given, strict=True))
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(own[name], number)
    for number in {own.pop("stdout"), own.pop("stderr")}:
        os.close(number)
    if failed:  # said by the worker, for nobody reads what a spare says
        print(f"this worker is not prepared for a quick start:\n{failed}", file=sys.stderr)
    host.main(own, told["args"], plugins)
