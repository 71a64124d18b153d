"""Messages to a prompt, by the chat template inside of a model file.

The template itself runs in ``jail``. Messages are text from users, so a control token's text inside
of a message must not become that token: ``render`` breaks such texts up with a character that
occurs nowhere else, cuts the result at the control tokens that are left (those that the template
wrote), and takes the character out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from clawai.plugins.engine.jail import Budget, Jail, RefusedError
from clawai.plugins.engine.tokenizer import Part, split_control
from clawai.plugins.engine.tools import Calls, in_words, style_of
from clawai.sdk.errors import ClawError
from clawai.sdk.model.gguf import ModelFileError

MAX_TEMPLATE = 256 * 1024
MAX_MESSAGES = 4096
MAX_DEPTH = 64
"""Levels of a call's arguments."""
ROLES = ("system", "user", "assistant", "tool")
_OURS = frozenset(
    {"role", "content", "tool_calls", "name", "type", "function", "arguments", "description"}
    | {"parameters", "tools", "properties", "required"}
)
"""Names by which templates find what they want."""


class ChatTemplate:
    """A compiled template of one model."""

    def __init__(
        self, source: str, *, bos: str, eos: str, controls: Sequence[str], later: bool = False
    ) -> None:
        """Compile ``source``.

        Args:
            source: the Jinja text of ``tokenizer.chat_template``.
            bos: what ``bos_token`` stands for in it, "" for none.
            eos: what ``eos_token`` stands for.
            controls: the texts of the vocabulary's control tokens.
            later: compile it when it is first used; it is known to compile.

        Raises:
            ModelFileError: too long, not Jinja, or something in it is not allowed.
        """
        if len(source) > MAX_TEMPLATE:
            raise ModelFileError("the chat template is too long", None, len(source), MAX_TEMPLATE)
        self._source = source
        self.style = style_of(source, re.search(r"\btools\b", source) is not None)
        """How the model writes calls; None: the template knows of no tools."""
        self._controls = tuple(text for text in controls if text)
        self._special = {"bos_token": bos, "eos_token": eos}
        self._environment: Any = None
        self._compiled: Any = None
        if not later:
            self._compiled = self._compile()

    def _compile(self) -> Any:
        environment = self._environment = Jail()
        try:
            return environment.from_string(environment.guarded(environment.parse(self._source)))
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise ModelFileError(f"the chat template cannot be used: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        open_answer: bool = True,
        calls: Calls | None = None,
    ) -> list[Part]:
        """The prompt for ``messages``.

        Args:
            messages: each a mapping of ``role`` (one of ``ROLES``) and ``content`` (text); one of
                the assistant may have ``tool_calls`` (each of ``name`` and ``arguments``), one of a
                tool the ``name`` of the function that returned it.
            open_answer: end with the start of the assistant's answer.
            calls: functions that the answer may call.

        Returns:
            The prompt in parts; control tokens are those of the template only.

        Raises:
            ClawError: bad_params, the messages are malformed or the template refused them;
                bad_model, the template failed or exceeded its budget.
        """
        checked = _checked(messages)
        more: dict[str, Any] = {}
        if self.style is None:
            checked = in_words(checked, calls)
        else:
            checked = [_native(each) for each in checked]
            more = {"tools": [tool.told() for tool in calls.tools]} if calls else {}
        shield = _absent(self._source, *_texts([checked, more]))
        shielded = self._shielded_all(checked, shield)
        more = self._shielded_all(more, shield)
        text = self._run(messages=shielded, add_generation_prompt=open_answer, **more)
        parts = split_control(text, self._controls)
        plain = [Part(part.text.replace(shield, ""), part.control) for part in parts]
        return [part for part in plain if part.text]

    def _run(self, **variables: Any) -> str:
        if self._compiled is None:
            self._compiled = self._compile()
        self._environment.budget = Budget()
        try:
            return str(self._compiled.render(**self._special, **variables))
        except RefusedError as error:
            raise ClawError(
                "bad_params", f"the model's chat template refuses the messages: {error}"
            ) from None
        except ClawError:
            raise
        except (Exception, RecursionError) as error:  # whatever a hostile template provokes
            raise ModelFileError(f"the chat template failed: {error}"[:400]) from None

    def _shielded_all(self, value: Any, shield: str) -> Any:
        """The same value with every text in it shielded, names too."""
        if isinstance(value, str):
            return self._shielded(value, shield)
        if isinstance(value, list):
            return [self._shielded_all(each, shield) for each in value]
        if isinstance(value, dict):
            return {
                name if name in _OURS else self._shielded(name, shield): self._shielded_all(
                    each, shield
                )
                for name, each in value.items()
            }
        return value

    def _shielded(self, content: str, shield: str) -> str:
        """``content`` with ``shield`` in every control text, and where one could grow at an end.

        The ends matter because a template may put two contents, or its own text, side by side.
        Marks at the ends touch no white space, so that templates still trim what they trimmed.
        """
        for text in self._controls:
            if text in content:
                content = content.replace(
                    text, text[0] + shield + text[1:] if len(text) > 1 else shield
                )
        if any(_starts_inside(content, text) for text in self._controls):
            content = shield + content
        if any(_ends_inside(content, text) for text in self._controls):
            content += shield
        return content


def _starts_inside(content: str, text: str) -> bool:
    return any(content.startswith(text[cut:]) for cut in range(1, len(text)))


def _ends_inside(content: str, text: str) -> bool:
    return any(content.endswith(text[:cut]) for cut in range(1, len(text)))


def _absent(*texts: str) -> str:
    """A character that stands in none of ``texts``; cuneiform first: it prints, and never trims."""
    used = set("".join(texts))
    for code in range(0x12000, 0x110000):
        if chr(code) not in used:
            return chr(code)
    raise ClawError("bad_params", "the messages use every character of Unicode")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)


def _shallow(value: Any, depth: int) -> bool:
    """Whether a value has no more levels than ``depth``."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return depth > 0 and all(_shallow(each, depth - 1) for each in value)


def _native(message: dict[str, Any]) -> dict[str, Any]:
    """A message as templates that know of tools have it."""
    if not (calls := message.get("tool_calls")):
        return message
    made = [{"type": "function", "function": dict(call)} for call in calls]
    return message | {"tool_calls": made}


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(messages, list | tuple) or not 1 <= len(messages) <= MAX_MESSAGES:
        size = len(messages) if isinstance(messages, list | tuple) else type(messages).__name__
        raise ClawError("bad_params", "messages", size, f"a list of 1 to {MAX_MESSAGES}")
    checked = []
    for at, message in enumerate(messages):
        keys = set(message) if isinstance(message, Mapping) else set()
        if not {"role", "content"} <= keys <= {"role", "content", "name", "tool_calls"}:
            got = sorted(map(str, keys)) if keys else str(type(message))
            raise ClawError("bad_params", f"messages[{at}]", got, ["role", "content"])
        if message["role"] not in ROLES:
            raise ClawError("bad_params", f"messages[{at}].role", message["role"], list(ROLES))
        if not isinstance(message["content"], str):
            got = type(message["content"]).__name__
            raise ClawError("bad_params", f"messages[{at}].content", got, "text")
        for name, role in (("tool_calls", "assistant"), ("name", "tool")):
            if message.get(name) and message["role"] != role:
                got = message["role"]
                raise ClawError("bad_params", f"messages[{at}] has {name}", got, f"role {role}")
        if not _shallow(message.get("tool_calls", []), MAX_DEPTH):
            allowed = f"arguments {MAX_DEPTH} deep"
            raise ClawError("bad_params", f"messages[{at}].tool_calls", "too deep", allowed)
        checked.append({name: value for name, value in message.items() if value})
        checked[-1] |= {"role": message["role"], "content": message["content"]}
    return checked
