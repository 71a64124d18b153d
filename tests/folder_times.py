"""Prints what each folder of tests took, before the runner's own last line."""

from collections import defaultdict
from typing import Any

_seconds: dict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: Any) -> None:
    """Add the time of setup, test and teardown to the test's folder."""
    path = report.nodeid.partition("::")[0]
    _seconds[path.rpartition("/")[0] or "."] += report.duration


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line a folder, slowest first."""
    terminalreporter.section("seconds per folder")
    for folder, seconds in sorted(_seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{seconds:8.1f}  {folder}")
