"""`claw plugin include-dir`: where clawai.h and clawai.hpp are, for a Makefile."""

from pathlib import Path

import click


@click.command("include-dir")
def command() -> None:
    """Print the folder of clawai.h and clawai.hpp, for plugins in C and C++.

    \b
    Example:
      cc -std=c99 -fPIC -I"$(claw plugin include-dir)" -shared -o grey.so grey.c -lm
    """
    click.echo(Path(__file__).resolve().parents[2] / "include")
