"""Functions that a model may ask its client to call: how they get into a prompt, and calls out.

A template that takes tools gets them as it wants them (``STYLES`` says which are known, by what is
in their text, and how their models write a call). For any other one a system message lists the
functions, and calls and their results are text of messages.

What a call looks like is a grammar's business (``constrain``): its name is one of the functions',
its arguments obey that function's schema. Where the model may choose, free text goes on until it
begins a call, which then has to be one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clawai.plugins.engine.constrain import json_rules
from clawai.sdk.errors import ClawError

MAX_TOOLS = 128
MAX_CALLS = 16
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Style:
    """How a model writes a call: ``open``, an object of name and arguments, ``close``."""

    open: str
    arguments: str
    """Name of the arguments in the object."""
    close: str
    several: bool
    """Whether an answer may have more than one."""

    def begin(self, name: str) -> str:
        """What comes before the arguments."""
        return f'{self.open}{{"name": {json.dumps(name)}, "{self.arguments}": '

    @property
    def end(self) -> str:
        """What comes behind them. It cannot be in them: JSON on one line has no line end."""
        return "}" + self.close

    def call(self, name: str, arguments: Any) -> str:
        """A whole one."""
        return self.begin(name) + json.dumps(arguments, ensure_ascii=False) + self.end


TAGS = Style("<tool_call>\n", "arguments", "\n</tool_call>", several=True)
"""Hermes', Qwen's and many others'; and ours, where a template knows of no tools."""
BARE = Style("", "parameters", "", several=False)
"""Llama 3's: the answer is the call."""
STYLES = (("<tool_call>", TAGS), ('"parameters": ', BARE))
"""What is in a template that takes tools, and how its model writes calls."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function.

    Raises:
        ClawError: bad_params.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """A schema of an object; without any, the function takes nothing."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            allowed = "1 to 64 letters, digits, _ . -"
            raise ClawError("bad_params", "a tool's name", self.name[:80], allowed)
        if self.parameters.get("type", "object") != "object":
            got = str(self.parameters["type"])[:80]
            raise ClawError("bad_params", f"the parameters of {self.name}", got, "type object")

    def told(self) -> dict[str, Any]:
        """As templates have it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.schema(),
        }
        return {"type": "function", "function": function}

    def schema(self) -> dict[str, Any]:
        """Of its arguments."""
        return {"type": "object", "properties": {}} | dict(self.parameters)


@dataclass(frozen=True, slots=True)
class Calls:
    """What may be called, and how.

    Raises:
        ClawError: bad_params.
    """

    tools: Sequence[Tool]
    must: bool = False
    """The answer is nothing but calls; else the model chooses."""
    only: Sequence[str] | None = None
    """Names of those that may be called; None: all."""
    most: int = MAX_CALLS
    """How many there may be in an answer."""
    schema: Mapping[str, Any] | None = None
    """Of an answer in words, which then are JSON."""

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if not 1 <= len(names) <= MAX_TOOLS or len(set(names)) < len(names):
            allowed = f"1 to {MAX_TOOLS}, each with a name of its own"
            raise ClawError("bad_params", "tools", got=names[:200], allowed=allowed)
        missing = set(self.only or ()) - set(names)
        if missing or self.only == []:
            raise ClawError("bad_params", "allowed_tools", list(self.only or ()), names)
        if not 1 <= self.most <= MAX_CALLS:
            raise ClawError("bad_params", "max_calls", self.most, f"1 to {MAX_CALLS}")

    @property
    def size(self) -> int:
        """Characters that a prompt has of them, at least."""
        return sum(len(tool.description) for tool in self.tools)

    def grammar(self, style: Style) -> str:
        """Of the answer, for ``Grammars.constraint``.

        Raises:
            ClawError: bad_params, a function's schema cannot be obeyed.
        """
        # Also what may not be called now is told to the model, and has to make sense.
        rules = json_rules({f"tools.{tool.name}": tool.schema() for tool in self.tools})
        offered = [
            (tool, rule)
            for tool, rule in zip(self.tools, rules, strict=True)
            if self.only is None or tool.name in self.only
        ]
        lines = list(self._start(style))
        for number, (tool, rule) in enumerate(offered):
            # The first of an answer may have been opened in the text before it.
            begin = json.dumps(style.begin(tool.name).removeprefix(style.open.rstrip()))
            lines += [f"call_{number}: {begin} args_{number} {json.dumps(style.end)}"]
            lines += [f"args_{number}: {rule}"]
        lines += ["call: " + " | ".join(f"call_{n}" for n in range(len(offered)))]
        return "\n".join(lines)

    def _start(self, style: Style) -> Iterator[str]:
        opened = style.open.rstrip()
        first = f"{json.dumps(opened)} call" if opened else "call"
        more = (self.most if style.several else 1) - 1
        rest = f' ("\\n" {first}){{0,{more}}}' if more else ""
        if self.must:
            yield f"start: {first}{rest}"
        elif self.schema is not None:
            if not opened:  # nobody could tell an answer from a call
                hint = "ask for one of them at a time"
                raise ClawError("bad_params", "this model has no tools beside a schema", hint=hint)
            yield f"start: answer | {first}{rest}"
            yield f"answer: {json_rules({'schema': self.schema})[0]}"
        elif opened:
            yield f"start: TEXT | begun call{rest}"
            yield f"begun[lazy]: TEXT {json.dumps(opened)}"
            yield r"TEXT: /(.|\n)*/"
        else:
            yield "start: WORDS | call"
            yield r"WORDS: /([^{\s](.|\n)*)?/"

    def system(self) -> str:
        """What tells a model of them whose template does not."""
        listed = "\n".join(json.dumps(tool.told(), ensure_ascii=False) for tool in self.tools)
        return (
            "There are functions that you can have called. Each line describes one:\n"
            f"<tools>\n{listed}\n</tools>\n"
            "To have one called, write its name and arguments, and nothing else, in this form:\n"
            f"{TAGS.begin('NAME')}{{...}}{TAGS.end}\n"
            "You are then told what it returned. If none of them helps, answer in words."
        )


def style_of(template: str, takes_tools: bool) -> Style | None:
    """How a template's model writes calls; None: it knows of no tools, or in no known way."""
    found = (style for mark, style in STYLES if mark in template)
    return next(found, None) if takes_tools else None


def in_words(messages: Sequence[Message], calls: Calls | None) -> list[Message]:
    """The same conversation for a template that knows of no tools: all in the messages' text."""
    found: list[Message] = []
    answers = False
    for message in messages:
        role, content = message["role"], message["content"]
        if made := message.get("tool_calls"):
            texts = [TAGS.call(each["name"], each["arguments"]) for each in made]
            content = "\n".join([*([content] if content else []), *texts])
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if answers and message["role"] == "tool":
            found[-1]["content"] += "\n" + content
        else:
            found.append({"role": role, "content": content})
        answers = message["role"] == "tool"
    if calls and found[0]["role"] == "system":
        found[0]["content"] += "\n\n" + calls.system()
    elif calls:
        found.insert(0, {"role": "system", "content": calls.system()})
    return found


class Splitter:
    """Takes an answer apart as it comes: text for people, and calls."""

    def __init__(self, style: Style, must: bool) -> None:
        self._style, self._must = style, must
        self._held = ""
        self._inside = False
        """Of the arguments of the last call."""
        self.text = ""
        self.calls: list[dict[str, str]] = []
        """Name and arguments of each, as far as they have come."""

    def feed(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """More of the answer: text that can be shown, and news of calls.

        A call is told by its index and name first, then by pieces of its arguments' JSON, at last
        by ``whole``.
        """
        self._held += text
        shown, news = "", list[dict[str, Any]]()
        while True:
            if self._inside:
                more = self._arguments(news)
            elif self._calling():
                more = self._name(news)
            else:
                part, more = self._words()
                shown += part
            if not more:
                self.text += shown
                return shown, news

    def finish(self, complete: bool) -> tuple[str, list[dict[str, Any]]]:
        """The rest.

        Args:
            complete: the answer ended by itself.
        """
        held, self._held = self._held, ""
        if self._inside:
            return "", self._told(held, complete and held == self._style.end)
        # What is left of a call that was cut off before it had a name is no text.
        rest = "" if self._must or self.calls or self._calling(held) else held
        self.text += rest
        return rest, []

    def _calling(self, held: str | None = None) -> bool:
        held = self._held if held is None else held
        if self._style.open:
            return held.startswith(self._style.open.rstrip())
        return (self._must or not self.text) and held.startswith("{")

    def _words(self) -> tuple[str, bool]:
        """Text up to what may be the beginning of a call, and whether one has begun."""
        held, mark = self._held, self._style.open.rstrip()
        at = held.find(mark) if mark else -1
        cut = at if at >= 0 else len(held) - _overlap(held, mark)
        # White space before a call is its own.
        cut = len(held[:cut].rstrip())
        self._held = held[at:] if at >= 0 else held[cut:]
        return held[:cut], at >= 0

    def _name(self, news: list[dict[str, Any]]) -> bool:
        head = re.match(
            rf'{re.escape(self._style.open)}\{{"name": "([^"]*)", "{self._style.arguments}": ',
            self._held,
        )
        if head is None:
            return False
        self._held, self._inside = self._held[head.end() :], True
        news.append({"index": len(self.calls), "name": head[1]})
        self.calls.append({"name": head[1], "arguments": ""})
        return True

    def _arguments(self, news: list[dict[str, Any]]) -> bool:
        end = self._style.end
        at = self._held.find(end) if self._style.close else -1
        if at >= 0:
            held, self._held = self._held[: at + len(end)], self._held[at + len(end) :]
            news += self._told(held, True)
            return True
        cut = len(self._held) - _overlap(self._held, end, whole=True)
        part, self._held = self._held[:cut], self._held[cut:]
        news += self._told(part, False)
        return False

    def _told(self, held: str, whole: bool) -> list[dict[str, Any]]:
        """News of the last call's arguments; ``held`` has its end behind them if it is whole."""
        index = len(self.calls) - 1
        part = held.removesuffix(self._style.end) if whole else held
        self.calls[-1]["arguments"] += part
        news: list[dict[str, Any]] = [{"index": index, "arguments": part}] if part else []
        if whole:
            self._inside = False
            news.append({"index": index, "whole": True})
        return news


def _overlap(held: str, mark: str, whole: bool = False) -> int:
    """Length of the longest end of ``held`` with which ``mark`` begins."""
    most = min(len(mark) - (not whole), len(held))
    return next((n for n in range(most, 0, -1) if held.endswith(mark[:n])), 0)
