"""`claw jobs`: durable tasks, which outlive the client that submitted them and the kernel.

Through the kernel when one runs; else the list and what a job gave are read from the file.
"""

from typing import Any

import click

from clawai.sdk import jobs
from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect
from clawai.sdk.errors import ClawError


def _ask(what: str) -> Any:
    """The answer of the kernel to a query; None if no kernel runs."""
    try:
        with connect() as client:
            return client.query(what)
    except ClawError as error:
        if error.code != "no_kernel":
            raise
    return None


@click.group("jobs", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
@click.pass_context
def jobs_command(context: click.Context, as_json: bool) -> None:
    """List your durable tasks, the latest first.

    \b
    Examples:
      claw call --durable echo.say text=hello
      claw jobs
    """
    if context.invoked_subcommand:
        return
    answer = _ask("jobs")
    rows = answer["jobs"] if answer is not None else _listed()
    if as_json:
        output.print_json(rows)
    elif not rows:
        print("no job; a task becomes one when it is submitted with --durable")
    else:
        output.table(
            ("JOB", "OPERATION", "MODEL", "STATE", "AGE", "ATTEMPTS", "SIZE"),
            [
                (
                    row["job"],
                    row["op"],
                    row["model"] or "-",
                    _state(row),
                    output.duration(row["age_s"]),
                    row["attempts"],
                    output.size(row["bytes"]),
                )
                for row in rows
            ],
            right=(4, 5, 6),
        )


def _listed() -> list[dict[str, Any]]:
    try:
        database = jobs.open_to_read()
    except ClawError as error:
        if error.code == "unknown_task":  # there never was a job
            return []
        raise
    try:
        return jobs.listing(database, jobs.principal())
    finally:
        database.close()


def _state(row: dict[str, Any]) -> str:
    return f"failed ({row['code']})" if row["state"] == "failed" else str(row["state"])


@jobs_command.command("show", no_args_is_help=True)
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show_command(job: str, as_json: bool) -> None:
    """Show JOB: its result, its error, or where it stands.

    \b
    Example:
      claw jobs show 2d1af471aa029e33 --json
    """
    found = _ask(f"job:{job}")
    if found is None:
        database = jobs.open_to_read()
        try:
            found = jobs.show(database, jobs.principal(), job)
        finally:
            database.close()
    _print(found, as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.print_json(found)
        return
    output.facts(
        [
            ("job", found["job"]),
            ("operation", found["op"]),
            ("model", found["model"]),
            ("state", _state(found)),
            ("age", output.duration(found["age_s"])),
            ("attempts", found["attempts"]),
        ]
    )
    if "error" in found:
        error = found["error"]
        output.note(f"{error['message']} [{error['code']}] {error['hint'] or ''}".rstrip())
    elif "result" in found:
        print()
        value = found["result"]
        text = value.get("text") if isinstance(value, dict) else None
        if isinstance(text, str):  # of a language model: what people came for
            print(output.clean(text))
        else:
            output.print_json(value)
        if found["frames"]:
            sizes = ", ".join(output.size(len(frame)) for frame in found["frames"])
            output.note(f"and binary data, which --json prints: {sizes}")


@jobs_command.command("wait", no_args_is_help=True)
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def wait_command(job: str, as_json: bool) -> None:
    """Wait until JOB has ended, and show it.

    \b
    Example:
      claw jobs wait 2d1af471aa029e33
    """
    with connect(start=True) as client:
        while client.admin("job-wait", job)["ended"] is None:
            pass  # the kernel answers every few seconds
        found = client.query(f"job:{job}")
    _print(found, as_json)


@jobs_command.command("cancel", no_args_is_help=True)
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def cancel_command(job: str, as_json: bool) -> None:
    """End JOB, if it has not ended.

    \b
    Example:
      claw jobs cancel 2d1af471aa029e33
    """
    with connect(start=True) as client:
        found = client.admin("job-cancel", job)
        if found["ended"] is None:
            found = client.admin("job-wait", job)
    if as_json:
        output.print_json(found)
    else:
        ending = "is being cancelled" if found["ended"] is None else _state(found)
        print(f"{job}: {ending}")


@jobs_command.command("rm", no_args_is_help=True)
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def rm_command(job: str, as_json: bool) -> None:
    """Forget JOB, which must have ended, and its result.

    \b
    Example:
      claw jobs rm 2d1af471aa029e33
    """
    with connect(start=True) as client:
        found = client.admin("job-rm", job)
    if as_json:
        output.print_json(found)
    else:
        print(f"{job} is forgotten")
