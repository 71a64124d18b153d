"""A line of ``Context.log``: how a worker writes it to its output, and the steward knows it."""

from typing import Literal

Level = Literal["debug", "info", "warning", "error"]
MARK = "\x1e"
"""Begins such a line; then its level, the number of its task, and the text."""
