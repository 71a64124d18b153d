"""The replay as a program: ``python -m clawai.kernel.replay``, which `claw replay` starts.

Exit codes: 0 the same instructions (or a broken invariant that broke again); 1 a difference, or a
journal that cannot be read; 2 wrong usage.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from clawai.kernel.replay import show
from clawai.kernel.replay.files import MAGIC, packed, parts, read
from clawai.kernel.replay.freeze import head, snapshot
from clawai.kernel.replay.run import Replay, Step
from clawai.sdk.errors import ClawError


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="claw replay", add_help=False)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--until", type=int, default=None)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--advance", type=Path, default=None)
    parser.add_argument("--nice", type=int, default=0)
    return parser


def replay(options: argparse.Namespace, files: list[Path]) -> int:
    """Go through the journal; tell how it went."""
    player, done, different = Replay(), 0, None
    shown: list[dict[str, Any]] = []
    for step in player.steps(read(files)):
        done += 1
        if options.show and options.json:
            shown.append(show.as_plain(step))
        elif options.show:
            print(show.step(step))
        if not step.same:
            different = step
            break
        if options.until is not None and step.number >= options.until:
            break
    if options.json:
        _print_json(player, done, different, shown)
    else:
        _print(player, done, different, options)
    return 1 if different else 0


def _print(player: Replay, done: int, different: Step | None, options: Any) -> None:
    if player.other_code:
        print("made by another version of the core, which may have done otherwise on purpose")
    if different:
        print(f"event {different.number} has another outcome than in the field")
        print(show.difference(different))
        print(f"\nthe last {len(player.last)} events, with what the core says now:")
        for step in player.last:
            print(show.step(step))
        return
    chains = f" in {player.runs} runs" if player.runs > 1 else ""
    print(f"{done} events{chains}: the same instructions as in the field")
    if player.last and player.last[-1].broke:
        print(f"the last one breaks the core, as in the field: {player.last[-1].broke}")
        if not options.show:
            for step in player.last:
                print(show.step(step))
    if options.until is not None and player.core:
        print(f"state after event {player.number}:")
        for name, figure in show.state(player.core).items():
            print(f"  {name}: {figure}")


def _print_json(player: Replay, done: int, different: Step | None, shown: list[Any]) -> None:
    found: dict[str, Any] = {
        "events": done,
        "runs": player.runs,
        "same": different is None,
        "same_code": not player.other_code,
        "broke": player.last[-1].broke or None if player.last else None,
        "last": player.number,
        "checksum": f"{player.sum:08x}",
        "state": show.state(player.core) if player.core else None,
    }
    if different:
        found["difference"] = {
            "number": different.number,
            "text": show.difference(different),
            "events": [show.as_plain(step) for step in player.last],
        }
    if shown:
        found["shown"] = shown
    print(json.dumps(found, default=str))


def advance(out: Path, files: list[Path], nice: int) -> int:
    """Write the snapshot that stands after the events of a segment."""
    os.nice(nice)
    player = Replay()
    for step in player.steps(read(files)):
        if not step.same:
            print(f"event {step.number}: {show.difference(step)}")
            return 1
    assert player.core
    top = head(player.number, player.sum, player.now)
    out.write_bytes(MAGIC + packed(top) + packed(snapshot(player.core)))
    return 0


def main(argv: list[str]) -> int:
    """Run; errors in a line."""
    options = _arguments().parse_args(argv)
    try:
        if options.advance:
            os.umask(0o077)
            return advance(options.advance, options.files, options.nice)
        return replay(options, [file for path in options.files for file in parts(path)])
    except ClawError as error:
        if options.json:
            names = ("code", "message", "got", "allowed", "hint")
            found = {name: getattr(error, name) for name in names}
            print(json.dumps({"error": found}, default=str))
        else:
            print(f"claw: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
