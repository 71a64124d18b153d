"""`claw run` asks a model once; `claw call` runs any operation of any plugin."""

import json
import sys
from typing import Any

import click

from clawai.sdk.catalogue import find
from clawai.sdk.cli import arguments, numbers, output, stream
from clawai.sdk.cli.daemon import connect, require_system
from clawai.sdk.cli.main import CANCELLED
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

INPUT_LIMIT = 4 << 20
DURABLE = "Write it to the disk first: it is done even if you or the kernel go away (`claw jobs`)."


def read_question(words: tuple[str, ...]) -> str:
    """The question: the words, with standard input where a "-" stands or when there are none.

    Raises:
        ClawError: too_large or bad_params, if standard input cannot be a question.
        click.UsageError: if there is no question at all.
    """
    if not words and sys.stdin.isatty():
        raise click.UsageError(
            "The question is missing: give it in quotes, or - for standard input."
        )
    parts = [_stdin() if word == "-" else word for word in words or ("-",)]
    question = "\n\n".join([" ".join(parts)] if "-" not in words else parts).strip()
    if not question:
        raise click.UsageError("The question is empty.")
    return question


def _stdin() -> str:
    raw = sys.stdin.buffer.read(INPUT_LIMIT + 1)
    if len(raw) > INPUT_LIMIT:
        raise ClawError(
            "too_large",
            "standard input is too long for a question",
            f"over {INPUT_LIMIT} bytes",
            f"{INPUT_LIMIT} bytes",
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ClawError("bad_params", "standard input must be UTF-8 text", str(error)) from error


def stored_name(model: str, fetch: bool) -> str:
    """The stored model of that name or alias; with ``fetch`` one of the catalogue is pulled.

    Raises:
        ClawError: unknown_model, with the command that pulls it or the nearest name.
    """
    try:
        return Store().get(model).model.name
    except ClawError as error:
        if error.code != "unknown_model" or not fetch:
            raise
    from clawai.sdk.cli.models import pull_with_bar

    return pull_with_bar(find(model)).model.name


def generation_options(function: Any) -> Any:
    """The options that shape an answer, for `run` and `chat`."""
    options = [
        click.option(
            "--system", metavar="TEXT", help="Instructions that precede the conversation."
        ),
        click.option("--max-tokens", type=numbers.TOKENS, metavar="N", help="Longest answer."),
        click.option(
            "--temperature",
            type=numbers.Real(0, 10),
            metavar="T",
            help="Randomness: 0 takes the likeliest token each time.",
        ),
        click.option(
            "--top-k",
            type=click.IntRange(0, 1 << 20),
            metavar="N",
            help="Only the N likeliest; 0 is all.",
        ),
        click.option(
            "--top-p",
            type=numbers.Real(0, 1),
            metavar="P",
            help="Only the likeliest that hold P of the probability.",
        ),
        click.option("--seed", type=numbers.SEED, metavar="N", help="Makes it repeatable."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End there (can be repeated)."),
        click.option(
            "--priority",
            type=click.Choice(stream.PRIORITIES),
            default="interactive",
            show_default=True,
            help="Who goes first.",
        ),
        click.option(
            "--deadline",
            type=numbers.SECONDS,
            metavar="SECONDS",
            help="End with an error if it takes longer.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def generation_params(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as parameters of llm.generate; the rest stays the model's."""
    names = ("max_tokens", "temperature", "top_k", "top_p", "seed")
    params = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("stop"):
        params["stop"] = list(options["stop"])
    return params


@click.command("run", no_args_is_help=True)
@click.argument("model")
@click.argument("question", nargs=-1)
@generation_options
@click.option("--raw", is_flag=True, help="Send the text as it is, without the chat template.")
@click.option("--pull", "fetch", is_flag=True, help="Pull the model first if it is not stored.")
@click.option("--durable", is_flag=True, help=DURABLE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end, no streaming.")
def run_command(
    model: str,
    question: tuple[str, ...],
    raw: bool,
    fetch: bool,
    durable: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask MODEL a question and stream its answer.

    Without a QUESTION it is read from standard input; a "-" among the words stands for it.
    The kernel is started if none runs.

    \b
    Examples:
      claw run smollm2 "Why is the sky blue?"
      claw run smollm2 --priority batch --max-tokens 200 "Summarise:" - < notes.txt
    """
    text = read_question(question)
    if raw and options.get("system"):
        raise click.UsageError("--raw sends no roles, so --system cannot be used with it.")
    require_system()
    name = stored_name(model, fetch)
    params = generation_params(options)
    if raw:
        params["prompt"] = text
    else:
        params["messages"] = [{"role": "user", "content": text}]
        if options.get("system"):
            params["messages"].insert(0, {"role": "system", "content": options["system"]})
    with connect(start=True) as client:
        answer = stream.ask(
            client,
            params,
            model=name,
            priority=options["priority"],
            deadline=options["deadline"],
            durable=durable,
            show=not as_json,
        )
    if as_json:
        _print_answer(name, answer)
    if answer.cancelled:
        cancelled = f"cancelled after {len(answer.text)} characters"
        output.note(stream.left_running(answer.job) if answer.job else cancelled)
        raise click.exceptions.Exit(CANCELLED)
    if not as_json and sys.stderr.isatty():
        output.note(stream.summary(answer))


def _print_answer(model: str, answer: stream.Answer) -> None:
    value = answer.value
    output.print_json(
        {
            "model": model,
            "text": value.get("text", answer.text),
            "finish_reason": "cancelled" if answer.cancelled else value.get("finish_reason"),
            "usage": value.get("usage", {}),
            "timings": {name: value[name] for name in ("prefill_us", "decode_us") if name in value}
            | answer.timings,
        }
        | ({"job": answer.job} if answer.job else {})
    )


class Call(click.Command):
    """With an operation, ``--help`` is about that operation."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        until = args.index("--") if "--" in args else len(args)
        rest = [word for word in args[:until] if word not in ("-h", "--help")] + args[until:]
        if len(rest) < len(args) and any(not word.startswith("-") for word in rest):
            ctx.meta["claw.help"] = True
            args = rest
        return super().parse_args(ctx, args)


@click.command("call", cls=Call, no_args_is_help=True)
@click.argument("operation")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--model", default="", help="For operations of a model.")
@click.option(
    "--priority", type=click.Choice(stream.PRIORITIES), default="interactive", show_default=True
)
@click.option(
    "--deadline", type=numbers.SECONDS, metavar="SECONDS", help="End with an error after that."
)
@click.option("--durable", is_flag=True, help=DURABLE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with the timings.")
@click.pass_context
def call_command(
    context: click.Context,
    operation: str,
    pairs: tuple[str, ...],
    model: str,
    priority: str,
    deadline: float | None,
    durable: bool,
    as_json: bool,
) -> None:
    """Call any OPERATION and print its chunks and its result as JSON.

    A VALUE is read as what the operation wants there; `claw call OPERATION --help` shows what it
    takes (with --json: as a function for tool calling). Lists and maps are JSON. Bytes in
    an answer are printed as {"base64": "..."}, and numbers that JSON lacks (NaN) as null.

    \b
    Examples:
      claw call echo.say text=hello
      claw call echo.say --help
    """
    given = arguments.pairs_of(pairs)
    with connect(start=True) as client:
        name = Store().get(model).model.name if model else ""
        options: dict[str, Any] = {"model": name, "priority": priority, "deadline": deadline}
        if context.meta.get("claw.help"):
            found = arguments.describe(client, operation, **options)
            arguments.show(found, as_json, arguments.example_of(client, operation))
            return
        params = _params(client, operation, given, options)
        task = client.submit(operation, params, durable=durable, **options)
        answer = _follow(task, operation, show=not as_json)
        result = task.result()
    if as_json:
        fields = {"result": result.value, "timings": dict(result.timings)} | answer
        print(_json(fields, indent=2))
    else:
        print(_json(result.value, indent=2))


def _params(
    client: Any, operation: str, given: dict[str, str], options: dict[str, Any]
) -> dict[str, Any]:
    """The parameters, by the operation's own word; by their looks if it cannot give it."""
    if not given:
        return {}
    try:
        found = arguments.describe(client, operation, **options)
    except ClawError as error:
        if error.code != "bad_params":
            raise
        return arguments.guess(given)  # the task says what is wrong, if anything is
    return arguments.convert(given, found)


def _follow(task: Any, operation: str, show: bool) -> dict[str, Any]:
    """The chunks of a task, printed as they come, and the job that it is, if it is durable."""
    chunks: list[Any] = []
    job, status = "", output.Status()
    try:
        for event in task:
            job = job or event.job
            if event.kind == "chunk":
                status.clear()
                chunks.append(event.data)
                if show:
                    print(_json(event.data), flush=True)
            elif not chunks:
                status.show(stream.waiting(event, operation))
    except KeyboardInterrupt:
        if not job:
            task.cancel()
        status.clear()
        output.note(stream.left_running(job) if job else f"cancelled after {len(chunks)} chunks")
        raise click.exceptions.Exit(CANCELLED) from None
    finally:
        status.clear()
    return {"chunks": chunks} | ({"job": job} if job else {})


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(output.plain(value), indent=indent, ensure_ascii=False, default=str)
