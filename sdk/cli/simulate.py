"""`claw simulate`: the kernel's state machine in a world of seeded chance, hours in seconds.

The simulator is a program of its own, which is started here: the command line never imports the
kernel.
"""

import subprocess
import sys

import click

from clawai.sdk.errors import ClawError

PROGRAM = ("-m", "clawai.kernel.sim")


@click.command("simulate")
@click.argument("scenario", required=False)
@click.option("--list", "listing", is_flag=True, help="The bundled scenarios.")
@click.option("--seed", type=click.IntRange(0, 1 << 62), default=1, show_default=True)
@click.option(
    "--tasks", type=click.IntRange(1, 1 << 40), help="So many tasks, however long they take."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def simulate_command(
    context: click.Context,
    scenario: str | None,
    listing: bool,
    seed: int,
    tasks: int | None,
    as_json: bool,
) -> None:
    """Run the scheduler through simulated load and faults, and check its invariants.

    SCENARIO is a bundled one (--list) or a file that ends in .toml. A broken invariant is told with
    the seed that shows it again, and the exit code is 1.

    \b
    Example:
      claw simulate chaos --seed 7
      claw simulate rush-hour --tasks 5000 --json
    """
    if not listing and not scenario:
        raise click.UsageError("name a scenario; `claw simulate --list` shows the bundled ones")
    arguments = ["--list"] if listing else [str(scenario), "--seed", str(seed)]
    arguments += ["--tasks", str(tasks)] if tasks else []
    arguments += ["--json"] if as_json else []
    sys.stdout.flush()
    if code := run(arguments):
        context.exit(code)


def run(arguments: list[str]) -> int:
    """Start the simulator and wait for its end; its output is ours.

    Raises:
        ClawError: unsupported_system if it was ended by a signal.
    """
    code = subprocess.run([sys.executable, *PROGRAM, *arguments], check=False).returncode
    if code < 0:
        raise ClawError(
            "unsupported_system",
            "the simulator was ended from outside",
            got=f"signal {-code}",
            hint="fewer --tasks need less memory",
        )
    return code
