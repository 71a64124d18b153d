"""``python -m clawai.sdk.conformance COMMAND ...``: run a client's program through every case."""

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import click

from clawai.sdk.conformance import live, scripted, vectors
from clawai.sdk.conformance.client import PATIENCE_S, ClientProcess, Failed
from clawai.sdk.conformance.peer import Peer
from clawai.sdk.errors import ClawError

Case = tuple[str, str, Callable[[ClientProcess], None]]


class Suite:
    """All cases with one client's command, in one process of it as long as that lives."""

    def __init__(self, command: Sequence[str], only: str, patience: float) -> None:
        self.command = command
        self.patience = patience
        self.only = only
        self.rows: list[dict[str, Any]] = []
        self._client: ClientProcess | None = None

    def run(self) -> Generator[dict[str, Any], None, None]:
        """One row a case: ``case``, ``about``, ``failed`` (empty if it passed), ``ms``."""
        try:
            for group in (self._vectors(), self._scripted()):
                for case in group:
                    yield self._one(case)
            wanted = [each for each in live.CASES if self.only in f"live.{each.__name__}"]
            if wanted:
                with live.kernel() as box:
                    for each in wanted:
                        run = _on(each, box)
                        yield self._one((f"live.{each.__name__}", _about(each), run))
            yield self._one(("client.ends", "It ends when its input does, with 0.", self._end))
        finally:
            if self._client:
                self._client.kill()

    def _vectors(self) -> Iterator[Case]:
        for each in vectors.load():
            what = "read" if each["to"] == "client" else "write"
            run = partial(vectors.check, vector=each)
            yield f"vector.{what} {each['name']}", "A golden vector.", run

    def _scripted(self) -> Iterator[Case]:
        for each in scripted.CASES:
            yield f"scripted.{each.__name__}", _about(each), partial(_with_peer, case=each)

    def _one(self, case: Case) -> dict[str, Any]:
        name, about, run = case
        row = {"case": name, "about": about, "failed": "", "ms": 0.0}
        if self.only not in name:
            return row | {"left_out": True}
        begun = time.monotonic()
        try:
            if self._client is None:
                self._client = ClientProcess(self.command, os.environ, self.patience)
            run(self._client)
            if self._client:
                self._client.idle()
        except (Failed, ClawError, KeyError, TypeError) as error:
            row["failed"] = f"{error}" if isinstance(error, Failed) else f"an event lacks {error}"
            if self._client:
                self._client.kill()
            self._client = None  # what it still says belongs to no case
        row["ms"] = round((time.monotonic() - begun) * 1000, 1)
        return row

    def _end(self, client: ClientProcess) -> None:
        self._client = None
        if wrong := client.finish():
            raise Failed(wrong)


def _about(case: Callable[..., None]) -> str:
    return (case.__doc__ or "").partition("\n")[0]


@contextmanager
def _connected(client: ClientProcess) -> Iterator[None]:
    """Afterwards the client is told to disconnect, so that the next case begins anew."""
    yield
    client.close()


def _with_peer(client: ClientProcess, case: Callable[[ClientProcess, Peer], None]) -> None:
    with Peer(client.patience) as peer, _connected(client):
        case(client, peer)


def _on(case: Callable[[ClientProcess, Any], None], box: Any) -> Callable[[ClientProcess], None]:
    def run(client: ClientProcess) -> None:
        if client.folder != box.folder:
            client.hello(box.folder)
        case(client, box)

    return run


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", default="", help="Cases whose name has this in it.")
@click.option(
    "--patience",
    type=click.FloatRange(0.1),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds until a word that must come is missing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(command: tuple[str, ...], only: str, patience: float, as_json: bool) -> None:
    """Check a client in any language against the wire: COMMAND is its program.

    \b
    Example:
      python -m clawai.sdk.conformance examples/client_c/client
      python -m clawai.sdk.conformance --only live. node examples/client_js/client.mjs
    """
    rows = []
    with closing(Suite(command, only, patience).run()) as every:
        for row in every:
            if row.get("left_out"):
                continue
            rows.append(row)
            if not as_json:
                click.echo(f"{'FAILED' if row['failed'] else 'ok':7}{row['case']}")
                if row["failed"]:
                    click.echo(f"       {row['about']}\n       {row['failed']}")
    failed = [row["case"] for row in rows if row["failed"]]
    if as_json:
        found = {"command": list(command), "passed": len(rows) - len(failed), "failed": failed}
        click.echo(json.dumps(found | {"cases": rows}, ensure_ascii=False))
    else:
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} cases passed")
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
