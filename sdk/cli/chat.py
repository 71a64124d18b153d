"""`claw chat`: a conversation that remembers what was said."""

import contextlib
import os
from typing import Any

import click

from clawai.sdk import paths
from clawai.sdk.cli import output, stream
from clawai.sdk.cli.daemon import connect, require_system
from clawai.sdk.cli.run import generation_options, generation_params, stored_name
from clawai.sdk.errors import ClawError

HELP = """\
/help          this text
/reset         forget the conversation
/system TEXT   set the instructions that precede it (without TEXT: show them)
/exit          leave, as Ctrl-D does
Ctrl-C         cancel the running answer"""


@click.command("chat", no_args_is_help=True)
@click.argument("model")
@generation_options
@click.option("--pull", "fetch", is_flag=True, help="Pull the model first if it is not stored.")
def chat_command(model: str, fetch: bool, **options: Any) -> None:
    """Talk with MODEL. Ctrl-C cancels an answer, Ctrl-D leaves, /help lists the commands.

    \b
    Example:
      claw chat smollm2 --system "Answer in one sentence."
    """
    require_system()
    name = stored_name(model, fetch)
    history_file = _open_history()
    with connect(start=True) as client:
        output.note(f"{name}: type a message; /help lists the commands, Ctrl-D leaves")
        Conversation(client, name, options).loop()
    _save_history(history_file)


class Conversation:
    """The messages so far, and what the person typed last."""

    def __init__(self, client: Any, model: str, options: dict[str, Any]) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._system: str = options.get("system") or ""
        self.messages: list[dict[str, str]] = []

    def loop(self) -> None:
        """Ask and answer until the person leaves."""
        while True:
            try:
                line = input("> ").strip()
                line.encode().decode()  # a locale that is not UTF-8 lets odd bytes through
            except EOFError:
                print()
                return
            except UnicodeError:
                output.note("that line is not UTF-8 text and was not sent")
                continue
            except KeyboardInterrupt:
                print()
                continue
            if line in ("/exit", "/quit"):
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._say(line)

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/help":
            print(HELP)
        elif word == "/reset":
            self.messages.clear()
            output.note("the conversation starts anew")
        elif word == "/system":
            if rest.strip():
                self._system = rest.strip()
                self.messages.clear()
                output.note("the instructions are set, and the conversation starts anew")
            else:
                print(self._system or "(none)")
        else:
            output.note(f"there is no command {word}; /help lists them")

    def _say(self, line: str) -> None:
        system = [{"role": "system", "content": self._system}] if self._system else []
        asked = {"role": "user", "content": line}
        params = generation_params(self._options)
        params["messages"] = [*system, *self.messages, asked]
        try:
            answer = stream.ask(
                self._client,
                params,
                model=self._model,
                priority=self._options["priority"],
                deadline=self._options["deadline"],
            )
        except ClawError as error:
            output.print_error(error)
            if error.code in ("no_kernel", "kernel_stopped"):
                raise click.exceptions.Exit(1) from error
            if error.code == "prompt_too_long":
                output.note("/reset forgets the conversation so far")
            return
        if answer.cancelled:
            output.note(f"cancelled after {len(answer.text)} characters")
        if answer.text:
            self.messages += [asked, {"role": "assistant", "content": answer.text}]


def _open_history() -> str:
    """Let the arrow keys recall earlier lines, where Python has readline."""
    path = str(paths.state_dir() / "chat_history")
    with contextlib.suppress(ImportError, OSError):
        import readline

        readline.set_history_length(1000)
        readline.read_history_file(path)
    return path


def _save_history(path: str) -> None:
    with contextlib.suppress(ImportError, OSError):
        import readline

        paths.state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        readline.write_history_file(path)
