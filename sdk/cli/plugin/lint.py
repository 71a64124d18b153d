"""`claw plugin lint`: how good a plugin is, from bronze to platinum, and what to do next."""

from pathlib import Path

import click

from clawai.sdk import develop, lint
from clawai.sdk.cli import output

_MARKS = {"kept": ("✓", "green"), "broken": ("✗", "red"), "not checked": ("?", "yellow")}


@click.command("lint")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--rules", is_flag=True, help="List the rules and leave.")
@click.option(
    "--at-least",
    type=click.Choice(lint.LEVELS),
    metavar="LEVEL",
    help="Exit code 1 below bronze, silver, gold or platinum.",
)
@click.option("--tests", is_flag=True, help="Run the plugin's tests too, with your rights.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    folder: Path | None, rules: bool, at_least: str | None, tests: bool, as_json: bool
) -> None:
    """Say how good the plugin in FOLDER is, on a scale from bronze to platinum.

    It runs in the real sandbox, by a kernel of its own; its tests, which run outside of it, only
    with --tests. What the operations say of themselves is kept in operations.json.

    \b
    Examples:
      claw plugin lint hello
      claw plugin lint hello --tests --at-least gold
      claw plugin lint --rules
    """
    if rules:
        _rules(as_json)
        return
    if folder is None:
        raise click.UsageError("Missing argument 'FOLDER'.")
    develop.require_plugin(folder)
    develop.require_readable(folder)
    report = lint.examine(folder, tests=tests)
    if as_json:
        findings = [
            {"rule": each.rule.name, "level": each.rule.level, "state": each.state,
             "problems": list(each.problems)}
            for each in report.findings
        ]  # fmt: skip
        output.print_json({"level": report.level, "findings": findings})
    else:
        _show(report)
    if at_least and report.below(at_least):
        raise click.exceptions.Exit(1)


def _rules(as_json: bool) -> None:
    rows = lint.listing()
    if as_json:
        output.print_json(rows)
    else:
        output.table(("LEVEL", "RULE", "REASON"), [(r["level"], r["rule"], r["reason"])
                                                   for r in rows])  # fmt: skip


def _show(report: lint.Report) -> None:
    for level in lint.LEVELS:
        print(output.style(level, "bold"))
        for each in report.findings:
            if each.rule.level == level:
                mark, colour = _MARKS[each.state]
                print(f"  {output.style(mark, colour)} {each.rule.name}")
                for problem in each.problems[:8]:
                    print(f"      {output.wrapped(output.clean(problem), 6)}")
                if len(each.problems) > 8:
                    print(f"      and {len(each.problems) - 8} more")
    if report.written:
        print("\noperations.json says now what the operations take")
    print(f"\nlevel: {output.style(report.level, 'bold')}")
