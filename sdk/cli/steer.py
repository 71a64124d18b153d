"""`claw stop`, `pin`, `unpin`, `suspend` and `resume`: change what the kernel runs, by name."""

from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect
from clawai.sdk.errors import ClawError


@click.command("stop", no_args_is_help=True)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def stop_command(model: str, as_json: bool) -> None:
    """Unload MODEL (or a plugin) from memory; its tasks end with an error.

    \b
    Example:
      claw stop smollm2
    """
    with connect() as client:
        name = known_name(client, model)
        answer = client.admin("unload", name)
    if as_json:
        output.print_json(answer)
        return
    print(f"{name} is {'unloaded' if answer.get('stopped') else 'not loaded'}")


def known_name(client: Any, name: str) -> str:
    """The name of what is loaded or could be; an alias of a stored model becomes its name.

    Raises:
        ClawError: unknown_model, with the nearest name.
    """
    from clawai.sdk import catalogue
    from clawai.sdk.store import Store

    workers = client.query("workers")["workers"]
    known = {row[key] for row in workers for key in ("plugin", "model")} - {""}
    known |= {row["name"] for row in client.query("plugins")["plugins"]}
    known |= {row["name"] for row in client.query("models")["models"]}
    if name in known:
        return name
    try:
        return Store().known(name)
    except ClawError:
        raise catalogue.unknown(name, known) from None


def _load(client: Any, name: str) -> None:
    """Have the worker of a stored model or of a tool started, by a small loan that it shares.

    Raises:
        ClawError: what keeps it from being loaded; nothing is done for what names neither.
    """
    from clawai.sdk import paths
    from clawai.sdk.manifest import read_model

    plugins = client.query("plugins")["plugins"]
    if name in {row["name"] for row in client.query("models")["models"]}:
        prefix = f"{read_model(paths.models_dir() / name).operation_prefix}."
        offered = [op for row in plugins for op in row["operations"] if op.startswith(prefix)]
        model = name
    else:
        offered = [
            op
            for row in plugins
            for op in row["operations"]
            if row["name"] == name and row["kind"] == "tool"
        ]
        model = ""
    if not offered:
        return
    status = output.Status()
    status.show(f"loading {name}")
    try:
        client.give_back(client.borrow(offered[0], 1, model=model))
    finally:
        status.clear()


def _steer(command: str, name: str, as_json: bool, said: str, load: bool = False) -> None:
    """Tell the kernel, and say what was affected.

    Args:
        load: what is not loaded yet, is first.

    Raises:
        ClawError: unknown_model; bad_state, if nothing of that name is loaded.
    """
    with connect(start=load) as client:
        name = known_name(client, name)
        answer = client.admin(command, name)
        if load and not answer.get("changed"):
            _load(client, name)
            answer = client.admin(command, name)
    affected: list[dict[str, Any]] = answer.get("changed", [])
    if not affected:
        hint = "load it by using it (`claw run`, `claw call`); `claw ps` lists what is loaded"
        raise ClawError("bad_state", f"{name} is not loaded", got=name, hint=hint)
    if as_json:
        output.print_json(answer)
        return
    print(f"{name} {said.format(name=name)}")
    for row in affected:
        waiting = f", {row['waiting']} waiting" if row.get("waiting") else ""
        parts = (row["plugin"], row["model"], f"lane {row['lane']}{waiting}")
        print(f"  {' · '.join(filter(None, parts))}")


@click.command("pin", no_args_is_help=True)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def pin_command(name: str, as_json: bool) -> None:
    """Keep NAME, a model or a plugin, in memory: it is not evicted, nor unloaded when idle.

    What is not loaded yet, is loaded now.

    \b
    Example:
      claw pin smollm2
    """
    _steer("pin", name, as_json, "stays in memory until `claw unpin {name}`", load=True)


@click.command("unpin", no_args_is_help=True)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def unpin_command(name: str, as_json: bool) -> None:
    """Let NAME, a model or a plugin that was pinned, be unloaded when its memory is needed.

    \b
    Example:
      claw unpin smollm2
    """
    _steer("unpin", name, as_json, "may be unloaded again")


@click.command("suspend", no_args_is_help=True)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def suspend_command(name: str, as_json: bool) -> None:
    """Stop NAME, a model or a plugin, where it stands; its memory and its tasks are kept.

    The deadlines of its tasks stop with it.

    \b
    Example:
      claw suspend smollm2
    """
    _steer("suspend", name, as_json, "is suspended until `claw resume {name}`")


@click.command("resume", no_args_is_help=True)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def resume_command(name: str, as_json: bool) -> None:
    """Let NAME, a model or a plugin that was suspended, go on where it was.

    \b
    Example:
      claw resume smollm2
    """
    _steer("resume", name, as_json, "goes on")
