"""`claw graph`: what the steps of a model take, the slowest first."""

import json
from pathlib import Path
from typing import Any

import click

from clawai.sdk import graphs
from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

MOST_BYTES = 64 << 20


@click.command("graph", no_args_is_help=True)
@click.argument("model")
@click.option(
    "--prompt", type=click.IntRange(2, 4096), default=64, show_default=True, metavar="N",
    help="Tokens that are read at once.",
)  # fmt: skip
@click.option(
    "--decode", type=click.IntRange(1, 256), default=16, show_default=True, metavar="N",
    help="Tokens that follow, one by one.",
)  # fmt: skip
@click.option("--live", is_flag=True, help="Run nothing: show what ran last, for whomever.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@click.option(
    "--against", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Compare with a profile that --json has printed.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The whole profile: nodes, edges, times.")
def graph_command(
    model: str, prompt: int, decode: int, live: bool, top: int, against: Path | None, as_json: bool
) -> None:
    """Measure what each step of MODEL takes here, and show the slowest.

    \b
    Examples:
      claw graph smollm2
      claw graph smollm2 --json > before.json
      claw graph smollm2-q8 --against before.json
    """
    before = _read(against) if against else None
    params = {"prompt": prompt, "decode": decode, "live": live}
    with connect(start=True) as client:
        told = client.call("model.profile", params, model=model).value
    told["model"] = model
    if as_json:
        output.print_json(told)
        return
    _print(graphs.read(told), before, top)


def _read(path: Path) -> graphs.Profile:
    try:
        with open_regular(path, follow=True) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ClawError("bad_params", f"{path} is too large", f"> {MOST_BYTES}", MOST_BYTES)
        return graphs.read(json.loads(data))
    except (OSError, ValueError, RecursionError) as error:
        raise ClawError("bad_params", f"{path} is no profile: {error}") from None


def _print(profile: graphs.Profile, before: graphs.Profile | None, top: int) -> None:
    decode, prefill = profile.times("decode"), profile.times("prefill")
    if not decode and not prefill:
        print("nothing of this model has run yet: leave --live out")
        return
    path, _ = graphs.critical(profile.nodes, decode or prefill)
    same = graphs.alike(profile, before) if before else []
    order = sorted(
        range(len(profile.nodes)), key=lambda place: -_of(profile, place, decode or prefill)
    )
    rows = []
    for place in order[:top]:
        node = profile.nodes[place]
        took = decode.get(node.name, 0)
        row = [node.name, "+".join(node.ops), node.dtype]
        row += [output.size(node.bytes) if node.bytes else "-", _us(took), _part(took, decode)]
        row += [f"{node.bytes / took:.1f} GB/s" if took and node.bytes else "-"]
        row += [_us(prefill.get(node.name, 0)), "*" if place in path else ""]
        if before:
            other = same[place]
            old = 0 if other is None else _of(before, other, before.times("decode"))
            row.append(f"{100 * took / old - 100:+.0f} %" if old and took else "-")
        rows.append(row)
    heads = ["STEP", "OPS", "DTYPE", "READS", "TOKEN", "PART", "RATE", "PROMPT", "PATH"]
    output.table([*heads, *(["CHANGE"] if before else [])], rows, right=(3, 4, 5, 6, 7, 9))
    output.note(_sums(profile, before))


def _of(profile: graphs.Profile, place: int, ns: dict[str, int]) -> int:
    return ns.get(profile.nodes[place].name, 0)


def _sums(profile: graphs.Profile, before: graphs.Profile | None) -> str:
    told: list[str] = [f"{len(profile.nodes)} steps on {profile.device} {profile.isa}".rstrip()]
    for phase, what in (("decode", "a token"), ("prefill", "the prompt")):
        ns: dict[str, int] = profile.times(phase)
        if ns:
            path = graphs.critical(profile.nodes, ns)[1]
            old = sum(before.times(phase).values()) if before else 0
            more = f" (before: {_us(old)})" if old else ""
            told.append(f"{what} {_us(sum(ns.values()))}{more}, longest chain (*) {_us(path)}")
    return "; ".join(told)


def _us(nanoseconds: int) -> str:
    if not nanoseconds:
        return "-"
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds >= 10**6 else f"{nanoseconds / 1e3:.1f} us"


def _part(took: int, ns: dict[str, Any]) -> str:
    return f"{100 * took / sum(ns.values()):.1f} %" if took else "-"
