"""`claw bench NAME`: finds the benchmark, and prints its report as a table or as JSON.

A benchmark is a module of this folder, named in ``BENCHES``. It has ``command`` (click, with
``--json`` and, if it takes longer than a minute, ``--quick``), ``BARS`` (what the project asks of
its figures, see ``report.Bar``; may be missing) and ends in ``finish``.
"""

import importlib

import click

from clawai.sdk.cli import output

BENCHES = {
    "decode": "Tokens a second of a language model, prompt and answer.",
    "parallel": "Tokens a second of several answers at once, beside a single one.",
    "start": "How soon a model that is not loaded has its first token.",
    "prefix": "What a prompt costs that begins like an earlier one.",
    "speculate": "What it gains to guess tokens from what was said before, and what it costs.",
    "roofline": "What the processor and its memory can do at most.",
    "ops": "Every op on every instruction set here, as a share of what the box can do.",
    "urgent": "An urgent operation on a saturated box, for each means of preemption.",
    "wire": "A small echo through client, kernel and sandbox, beside a bare ZeroMQ broker.",
    "gateway": "What HTTP adds to a request, and how many idle connections are held.",
    "page": "How soon the gateway's page is seen in a browser, and how much comes for it.",
    "gemm": "An int8 and an int4 matrix product, beside ONNX Runtime's.",
    "tensor": "Large arrays by lease: what a copy would cost is not paid.",
    "pool": "How full the memory pool gets before it must refuse, and what recycling saves.",
    "sched": "Cost of a decision of the kernel, and an hour of load in the simulator.",
    "batch": "What collecting small tasks into batches gains, and what it costs a lone client.",
    "faults": "Plugins that crash, hang and run wild: what neighbours notice, how soon they serve.",
    "sandbox": "What the sandbox adds to a start and to an echo, and how soon a fork is ready.",
    "soak": "Many models in one memory budget, coming and going.",
    "share": "Two language models and a third worker at once, against their time-sliced ideal.",
}


class Benches(click.Group):
    """The benchmarks, imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*BENCHES, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BENCHES:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"clawai.sdk.cli.bench.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, so that help imports no benchmark."""
        rows = list(BENCHES.items())
        rows += [(name, one.get_short_help_str(80)) for name, one in self.commands.items()]
        with formatter.section("Benchmarks"):
            formatter.write_dl(rows)


@click.group("bench", cls=Benches, no_args_is_help=True)
def bench_command() -> None:
    """Measure this box; every benchmark takes --json.

    \b
    Example:
      claw bench decode --model smollm2 --against llama.cpp
      claw bench wire --json
      claw bench all --quick --output here.json
      claw bench compare here.json there.json
    """


@bench_command.command("all")
@click.option("--output", "path", default="claw-bench.json", show_default=True, help="The report.")
@click.option("--only", multiple=True, type=click.Choice(list(BENCHES)), help="Just these.")
@click.option("--quick", is_flag=True, help="The short form of each that has one.")
def all_command(path: str, only: tuple[str, ...], quick: bool) -> None:
    """Run every benchmark and write one report, for comparing with another box's.

    \b
    Example:
      claw bench all --quick --output here.json
    """
    from clawai.sdk.cli.bench import collect

    collect.run(path, only or tuple(BENCHES), quick)


@bench_command.command("compare")
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
def compare_command(first: str, second: str) -> None:
    """Put two reports of `claw bench all` beside each other.

    \b
    Example:
      claw bench compare here.json there.json
    """
    from clawai.sdk.cli.bench import collect

    collect.compare(first, second)


def finish(report: "object", as_json: bool) -> None:
    """Print a report."""
    from clawai.sdk.cli.bench.report import Report, show

    assert isinstance(report, Report)
    if as_json:
        output.print_json(report.as_dict())
    else:
        show(report.as_dict())
