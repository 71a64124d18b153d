"""The simulator as a program: ``python -m clawai.kernel.sim SCENARIO [--seed N] ...``.

0 when every invariant held; 1 when one broke, with the seed and the last events; 2 for wrong usage.
"""

import argparse
import json
import sys
import time

from clawai.kernel.limits import SECOND
from clawai.kernel.sim import report, scenario
from clawai.kernel.sim.books import BrokenError
from clawai.kernel.sim.world import World
from clawai.sdk.errors import ClawError

SHOWN = 15


def main(arguments: list[str]) -> int:
    """Run a scenario and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m clawai.kernel.sim", description=__doc__)
    parser.add_argument("scenario", nargs="?", help="a bundled one, or a file that ends in .toml")
    parser.add_argument("--list", action="store_true", help="the bundled scenarios")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=0, help="so many, however long that takes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=SHOWN, help="shown when a promise breaks")
    options = parser.parse_args(arguments)
    if options.list:
        found = {name: scenario.read(name).about for name in scenario.bundled()}
        print(json.dumps(found) if options.json else _listing(found))
        return 0
    if not options.scenario:
        parser.error("name a scenario, or use --list")
    try:
        chosen = scenario.read(options.scenario)
    except ClawError as error:
        print(f"claw: {error}", file=sys.stderr)
        return 1
    world = World(chosen, options.seed, options.tasks)
    began, used = time.perf_counter(), time.process_time()
    try:
        world.run()
    except BrokenError as error:
        _tell(world, error, options)
        return 1
    found = report.figures(world, time.perf_counter() - began, time.process_time() - used)
    print(json.dumps(found) if options.json else report.text(found, chosen.about))
    return 0


def _listing(found: dict[str, str]) -> str:
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {about}" for name, about in found.items())


def _tell(world: World, error: BrokenError, options: argparse.Namespace) -> None:
    """Where it broke, how to see it again, and what came last."""
    last = list(world.last)[-options.events :]
    if options.json:
        broken = {
            "scenario": world.scenario.name,
            "seed": world.seed,
            "event": world.events,
            "broken": str(error),
            "last": [{"event": n, "now_ns": now, "what": repr(what)} for n, now, what in last],
        }
        print(json.dumps(broken))
        return
    again = f"claw simulate {options.scenario} --seed {world.seed}"
    if options.tasks:
        again += f" --tasks {options.tasks}"
    print(f"claw: an invariant broke at event {world.events} of seed {world.seed}: {error}")
    print(f"see it again: {again}\nthe last events:")
    for number, now, what in last:
        print(f"  {number:8} {now / SECOND:14.6f} s  {str(what)[:240]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
