"""`claw bench gemm`: one integer matrix product, beside ONNX Runtime's.

int8: bytes times int8, sums in int32, compared bit for bit with the peer's. int4: floats, quantized
to 8 bits within the time, times weights in blocks of 32 with a scale (symmetric) or a scale and a
zero point (asymmetric). Both sides are processes asked in turn; medians of the rounds are reported,
and each of ours as a share of what a loop of byte products reaches in the same run. Ours runs on
the instruction set that is chosen here and, as figures of their own, on AVX2.
"""

import os
import statistics
from collections.abc import Sequence
from typing import Any

import click

from clawai.sdk import config
from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.product_case import Shape
from clawai.sdk.cli.bench.product_peer import KINDS
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.side import Side

OURS = "clawai.plugins.accelerator.products"
PEERS = {"onnxruntime": "clawai.sdk.cli.bench.onnx_products"}
EACH = 3
"""Runs of an order; their median is its time."""
BARS = (
    Bar(key="int8_gop_s", least=1.1, of="onnxruntime"),
    Bar(key="int4_symmetric_gop_s", least=2.5, of="onnxruntime"),
    Bar(key="int4_asymmetric_gop_s", least=2.5, of="onnxruntime"),
    Bar(key="int8_same_ratio", least=1),
)

Order = tuple[str, str, str]
"""Side, kind, instruction set."""


class ProductSide(Side):
    """A side that holds products instead of a model."""

    def __init__(self, module: str, shape: Shape, threads: int) -> None:
        self.start(module, [str(shape), str(threads)])


def measure(shape: Shape, threads: int, rounds: int, peers: Sequence[str]) -> Report:
    """Run all sides in turn.

    Raises:
        ClawError: unsupported_system if a peer is not installed; worker_failed.
    """
    status, sides = output.Status(), {}
    try:
        for name, module in {"clawai": OURS, **{peer: PEERS[peer] for peer in peers}}.items():
            status.show(f"preparing {shape} in {name}")
            sides[name] = ProductSide(module, shape, threads)
        isas = [best := sides["clawai"].facts["isa"]]
        isas += ["avx2"] if "avx2" in sides["clawai"].facts["isas"] and best != "avx2" else []
        orders = [("clawai", kind, isa) for isa in isas for kind in KINDS]
        orders += [(peer, kind, "") for peer in peers for kind in KINDS]
        times: dict[Order, list[float]] = {order: [] for order in orders}
        peaks: dict[str, list[float]] = {isa: [] for isa in isas}
        neighbours = Neighbours([side.pid for side in sides.values()])
        for number in range(rounds + 1):
            status.show(f"round {number} of {rounds}")
            for order in orders if number % 2 else reversed(orders):
                name, kind, isa = order
                seconds = sides[name].ask(run=kind, isa=isa, rounds=EACH)
                times[order] += [seconds] if number else []  # the first only warms up
            for isa, seen in peaks.items():
                seen.append(sides["clawai"].ask(peak=isa))
        busy = round(neighbours.share(), 3)
        speeds = {
            order: shape.operations / statistics.median(each) / 1e9 for order, each in times.items()
        }
        found = Found(sides, isas, speeds, {isa: max(each) for isa, each in peaks.items()})
        settings = {"shape": str(shape), "threads": threads, "rounds": rounds}
        return found.report(settings | {"others_busy_ratio": busy}, peers)
    finally:
        status.clear()
        for side in sides.values():
            side.close()


class Found:
    """What was measured, and the figures of it."""

    def __init__(
        self,
        sides: dict[str, ProductSide],
        isas: Sequence[str],
        speeds: dict[Order, float],
        peaks: dict[str, float],
    ) -> None:
        self._sides, self._isas, self._speeds, self._peaks = sides, isas, speeds, peaks

    def report(self, settings: dict[str, Any], peers: Sequence[str]) -> Report:
        """The figures, under the keys that stay."""
        facts = {name: side.facts for name, side in self._sides.items()}
        settings |= {"isa": facts["clawai"]["isa"]}
        for peer in peers:
            settings[peer] = facts[peer]["version"]
            settings |= {f"{peer}_{k}": name for k, name in facts[peer]["variants"].items()}
        figures = {}
        for number, isa in enumerate(self._isas):
            more = f"_{isa}" if number else ""
            for kind in KINDS:
                figures[f"{kind}{more}_gop_s"] = _shown(self._speeds["clawai", kind, isa])
        figures |= self._errors("clawai")
        against = {}
        for peer in peers:
            against[peer] = {
                f"{kind}_gop_s": _shown(self._speeds[peer, kind, ""]) for kind in KINDS
            }
            against[peer] |= self._errors(peer)
            same = self._digest("clawai") == self._digest(peer)
            figures["int8_same_ratio"] = min(float(same), figures.get("int8_same_ratio", 1.0))
        return Report("gemm", settings, figures, against, *self._shares())

    def _shares(self) -> tuple[dict[str, float], dict[str, float]]:
        """What a loop of byte products reaches on each set, and our products as parts of it."""
        ceilings, shares = {}, {}
        for number, isa in enumerate(self._isas):
            more = f"_{isa}" if number else ""
            ceilings[f"int8{more}_gop_s"] = _shown(self._peaks[isa])
            for kind in KINDS:
                share = self._speeds["clawai", kind, isa] / self._peaks[isa]
                shares[f"{kind}{more}_gop_s"] = _shown(share)
        return ceilings, shares

    def _digest(self, name: str) -> str:
        return str(self._sides[name].tell(check="int8")["digest"])

    def _errors(self, name: str) -> dict[str, float]:
        """Distance of the int4 results from float64, as a part of their size."""
        return {
            f"{kind}_error": round(self._sides[name].ask(check=kind), 5)
            for kind in KINDS
            if kind != "int8"
        }


@click.command("gemm")
@click.option(
    "--shape", default="128x4096x4096", show_default=True, help="MxKxN: N rows of weights."
)
@click.option("--threads", type=click.IntRange(1, 64), help="Default: as workers have.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=11, show_default=True)
@click.option("--against", type=click.Choice(list(PEERS)), multiple=True, help="Measure it too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    shape: str, threads: int | None, rounds: int, against: tuple[str, ...], as_json: bool
) -> None:
    """Measure an int8 and an int4 matrix product.

    \b
    Example:
      claw bench gemm --threads 2 --against onnxruntime --json
    """
    cores = len(os.sched_getaffinity(0))
    threads = threads or config.load().workers.threads or cores
    peers = tuple(dict.fromkeys(against))
    finish(measure(Shape.parse(shape), threads, rounds, peers), as_json)


def _shown(figure: float) -> float:
    """Four digits: a small product on a busy box is far below a thousandth of the peak."""
    return float(f"{figure:.4g}")
