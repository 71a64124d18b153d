"""What a simulated run shows: as one object for programs, as a table for people."""

from typing import Any

from clawai.kernel import limits
from clawai.kernel.sim.books import CLASSES, Tally, percentile, top_class_after
from clawai.kernel.sim.world import START, World
from clawai.sdk import wire


def figures(world: World, wall_s: float, cpu_s: float) -> dict[str, Any]:
    """Everything that the run counted; how long it took, and how much processor time of that."""
    counts = world.counts
    return {
        "scenario": world.scenario.name,
        "seed": world.seed,
        "tasks": world.clients.asked,
        "events": world.events,
        "simulated_s": round((world.clock - START) / limits.SECOND, 3),
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "mark": f"{world.mark:016x}",
        "classes": {
            name: _class(name, tally)
            for name, tally in zip(CLASSES, world.books.tallies, strict=True)
        },
        "workers": {
            "peak": world.peak_workers,
            "started": counts["started"],
            "died": counts["died"],
            "evicted": counts["stopped: evicted"],
            "killed": _named(counts, "killed: "),
            "stopped": _named(counts, "stopped: "),
        },
        "memory": {"budget_bytes": world.budget, "peak_bytes": world.memory.peak},
        "threads": {"cores": world.scenario.box.cores, "granted_peak": world.threads_peak},
        "yielded": counts["yielded"],
        "batches": counts["batches"],
        "journal": _named(counts, "journal "),
        "faults": dict(sorted(world.faulted.items())),
    }


def _named(counts: dict[str, int], start: str) -> dict[str, int]:
    found = {key[len(start) :]: count for key, count in counts.items() if key.startswith(start)}
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def _class(name: wire.Priority, tally: Tally) -> dict[str, Any]:
    return {
        "asked": tally.asked,
        "ends": dict(sorted(tally.ends.items(), key=lambda entry: (-entry[1], entry[0]))),
        "wait_p50_ms": percentile(tally.waits, 0.5),
        "wait_p99_ms": percentile(tally.waits, 0.99),
        "wait_max_ms": percentile(tally.waits, 1.0),
        "total_p50_ms": percentile(tally.totals, 0.5),
        "total_p99_ms": percentile(tally.totals, 0.99),
        "top_class_after_ms": top_class_after(name) // limits.MS,
        "waited_beyond_that": sum(wait > top_class_after(name) for wait in tally.waits)
        if top_class_after(name)
        else 0,
        "overtaken_by_aged": tally.overtaken,
        "held_max_ms": round(tally.longest_held / limits.MS, 3),
        "estimates": len(tally.estimates),
        "estimate_off_p50_ms": _off(tally, 0.5),
        "estimate_off_p90_ms": _off(tally, 0.9),
    }


def _off(tally: Tally, share: float) -> float:
    """How far a promised wait was from the real one."""
    return percentile([abs(said - came) * limits.MS for said, came in tally.estimates], share)


def text(found: dict[str, Any], about: str) -> str:
    """The report for people."""
    lines = [
        f"{found['scenario']}, seed {found['seed']}: {about}",
        f"{found['tasks']:,} tasks in {found['simulated_s']:,.0f} simulated seconds, "
        f"{found['events']:,} events, {found['wall_s']:.1f} s",
        "",
        f"{'CLASS':12} {'ASKED':>9} {'DONE':>9} {'WAIT P50':>10} {'P99':>10} {'MAX':>10} "
        f"{'HELD MAX':>10} {'OVERTAKEN':>10}",
    ]
    for name, each in found["classes"].items():
        waits = (span(each[f"wait_{key}_ms"]) for key in ("p50", "p99", "max"))
        lines.append(
            f"{name:12} {each['asked']:9,} {each['ends'].get('done', 0):9,} "
            + " ".join(f"{wait:>10}" for wait in waits)
            + f" {span(each['held_max_ms']):>10} {each['overtaken_by_aged']:10,}"
        )
    lines.append("")
    for name, each in found["classes"].items():
        if others := {code: n for code, n in each["ends"].items() if code != "done"}:
            lines.append(f"{name:12} {listed(others)}")
    workers, memory = found["workers"], found["memory"]
    lines += [
        "",
        f"workers      {workers['started']:,} started, at most {workers['peak']:,} at once, "
        f"{workers['died']:,} died, {workers['evicted']:,} evicted",
    ]
    lines += [f"  killed     {listed(workers['killed'])}"] if workers["killed"] else []
    lines += [f"  stopped    {listed(workers['stopped'])}"] if workers["stopped"] else []
    lines.append(
        f"memory       at most {memory['peak_bytes'] / limits.MIB:,.0f} of "
        f"{memory['budget_bytes'] / limits.MIB:,.0f} MiB"
    )
    if found["faults"]:
        lines.append(f"faults       {listed(found['faults'])}")
    return "\n".join([*lines, "every invariant held"])


def listed(counts: dict[str, int]) -> str:
    """Counts in one line."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def span(ms: float) -> str:
    """A time for people."""
    if ms < 1000:
        return f"{ms:.1f} ms" if ms else "0"
    return f"{ms / 1000:.1f} s" if ms < 600_000 else f"{ms / 60_000:.0f} min"
