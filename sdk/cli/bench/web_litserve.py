"""LitServe with one worker, which says a text back over HTTP: a peer of `claw bench gateway`.

python -m clawai.sdk.cli.bench.web_litserve PORT
"""

import sys
from typing import Any

import litserve
from litserve import server as module

# It takes the package mcp, which we have, for another one, fastmcp, and does not start.
module._MCP_AVAILABLE = False


class Echo(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """The text; of the module, as its workers import it."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer."""
        return {"result": asked["text"]}


if __name__ == "__main__":
    server = litserve.LitServer(Echo(api_path="/echo"), accelerator="cpu", workers_per_device=1)
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)
