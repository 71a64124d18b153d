"""The command `claw`: finds the command's module, imports only that, and reports errors.

Exit codes: 0 success; 1 an error of ClawAI (its code is printed); 2 wrong usage; 130 cancelled with
Ctrl-C; 141 the reader of the output went away. With ``CLAW_DEBUG=1`` an error also prints its
traceback. The command line never imports the kernel, a plugin or numpy.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from clawai.sdk.cli import system
from clawai.sdk.errors import ClawError

ERROR, USAGE, CANCELLED, READER_GONE = 1, 2, 130, 141

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Use": {
        "run": ("run", "Ask a model a question and stream its answer."),
        "chat": ("chat", "Talk with a model."),
        "call": ("run", "Call any operation of any plugin."),
        "http": ("gateway", "Answer programs that speak OpenAI's or Ollama's HTTP."),
        "jobs": ("jobs", "List the durable tasks, show what they gave, wait, cancel."),
    },
    "Models": {
        "models": ("models", "List the models: stored, loaded, and those that can be pulled."),
        "pull": ("models", "Fetch a model, verify it and store it."),
        "show": ("models", "Show what is known about a model."),
        "graph": ("graph", "Measure the steps of a model, and show the slowest."),
        "quantize": ("quantize", "Make a smaller model of a stored one: 8 or 4 bits a weight."),
        "rm": ("models", "Delete a stored model."),
        "stop": ("steer", "Unload a model from memory."),
        "pin": ("steer", "Keep a model in memory, whatever else needs it."),
        "unpin": ("steer", "Let a pinned model be unloaded again."),
    },
    "Plugins": {
        "plugins": ("listing", "List the plugins and their operations."),
        "plugin": ("plugin.command", "Write, test, pack and install plugins."),
        "audit": ("audit", "Show what plugins did on the network, and what they were denied."),
    },
    "Kernel": {
        "up": ("daemon", "Start the kernel in the background."),
        "down": ("daemon", "Stop the kernel."),
        "serve": ("daemon", "Run the kernel in the foreground."),
        "ps": ("listing", "List the workers and the tasks."),
        "top": ("top", "Show live what the box does, and why tasks wait."),
        "trace": ("trace", "Show what ran in the last minutes, and why each task waited."),
        "suspend": ("steer", "Stop a model or a plugin where it stands."),
        "resume": ("steer", "Let what was suspended go on."),
        "logs": ("logs", "Show the kernel's log."),
        "boxes": ("boxes", "Collect the logs of other boxes here, or ship this one's there."),
    },
    "Box": {
        "doctor": ("doctor", "Check this box: what works, what does not, what to do about it."),
        "ops": ("ops", "List the C ops: how each was checked, which of them run here."),
        "config": ("settings", "Show and change the configuration."),
        "bench": ("bench.command", "Measure this box, beside a peer where there is one."),
        "simulate": ("simulate", "Run the scheduler through simulated hours of load and faults."),
        "replay": ("replay", "Do again what the kernel did, from its event journal, and compare."),
        "version": ("listing", "Show the version."),
        "help": ("helping", "Show what a command can do."),
    },
}
_MODULES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Commands(click.Group):
    """A group whose commands are imported when they run, so that `claw --help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"clawai.sdk.cli.{_MODULES[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _MODULES and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _MODULES, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        command = claw.get_command(context, "version")
        assert command
        context.invoke(command)
        context.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes: 0 done, 1 an error (with its code), 2 wrong usage, 130 cancelled.",
)
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version.",
)  # fmt: skip
def claw() -> None:
    """ClawAI: several AI models at once on one small box, the urgent one first.

    \b
    Example:
      claw pull smollm2
      claw run smollm2 "Why is the sky blue?"
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    system.open_standard_streams()
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        # A name in another alphabet must not end a listing on a terminal that cannot show it.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run(args)
        code = system.flush() or code
    except BrokenPipeError:
        # Else the interpreter's last flush would complain about the same pipe.
        system.silence(sys.stdout.fileno())
        code = READER_GONE
    except OSError as error:  # standard error or standard output takes nothing any more
        if not system.flush():
            system.tell(system.cannot_print(error))
        code = ERROR
    sys.exit(code)


def _run(args: list[str]) -> int:
    try:
        system.require_text(args)
        if "_CLAW_COMPLETE" in os.environ:  # the shell asks for completions
            claw.main(args=args, prog_name="claw")
        # Not claw.main(): it would turn a broken pipe into an error and Ctrl-C into two lines.
        with claw.make_context("claw", args) as context:
            claw.invoke(context)
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        print("cancelled", file=sys.stderr)
        return CANCELLED
    except BrokenPipeError:
        raise
    except ClawError as error:
        return _fail(error, args)
    except OSError as error:
        if system.stream_failed(error):
            raise
        if typed := system.as_claw_error(error):
            return _fail(typed, args)
        return _internal(error)
    except Exception as error:
        return _internal(error)


def _fail(error: ClawError, args: Sequence[str]) -> int:
    _trace()
    from clawai.sdk.cli import output

    output.print_error(error, as_json="--json" in args)
    return ERROR


def _internal(error: Exception) -> int:
    _trace()
    print(
        f"claw: internal error: {type(error).__name__}: {error}\n"
        "This is a fault of ClawAI: run it with CLAW_DEBUG=1 for the traceback to report.",
        file=sys.stderr,
    )
    return ERROR


def _trace() -> None:
    if os.environ.get("CLAW_DEBUG"):
        import traceback

        traceback.print_exc()


if __name__ == "__main__":
    main()
