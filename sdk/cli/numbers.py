"""The types of options that are numbers: each has a range, and nan is in none."""

import math
from typing import Any

import click

MOST_TOKENS = 1 << 20
MOST_SEED = (1 << 63) - 1
MOST_SECONDS = 1e9


class Real(click.FloatRange):
    """A number within a range, and never nan, which lies within any range of click's own."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


TOKENS = click.IntRange(1, MOST_TOKENS)
SEED = click.IntRange(0, MOST_SEED)
SECONDS = Real(0, MOST_SECONDS, min_open=True)
