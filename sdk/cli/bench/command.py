"""`claw bench NAME`: finds the benchmark, and prints its report as a table or as JSON."""

import importlib

import click

from clawai.sdk.cli import output

BENCHES = {
    "decode": "Tokens a second of a language model, prompt and answer.",
}


class Benches(click.Group):
    """The benchmarks, imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BENCHES:
            return None
        module = importlib.import_module(f"clawai.sdk.cli.bench.{cmd_name}")
        command: click.Command = module.command
        return command


@click.group("bench", cls=Benches, no_args_is_help=True)
def bench_command() -> None:
    """Measure this box; every benchmark takes --json.

    \b
    Example:
      claw bench decode --model smollm2 --against llama.cpp
    """


def finish(report: "object", as_json: bool) -> None:
    """Print a report."""
    from clawai.sdk.cli.bench.report import Report, show

    assert isinstance(report, Report)
    if as_json:
        output.print_json(report.as_dict())
    else:
        show(report)
