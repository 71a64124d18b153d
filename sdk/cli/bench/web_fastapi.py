"""FastAPI on uvicorn, which says a text back over HTTP: a peer of `claw bench gateway`.

python -m clawai.sdk.cli.bench.web_fastapi PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI


async def echo(asked: dict[str, Any]) -> dict[str, Any]:
    """The text."""
    return {"result": asked["text"]}


app = FastAPI()
app.add_api_route("/echo", echo, methods=["POST"])


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
