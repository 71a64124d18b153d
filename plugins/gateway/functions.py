"""Functions that a client offers and a model may ask for: of all doors to what the engine takes."""

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from clawai.plugins.gateway.fields import BadRequest, Form

Text = Annotated[str, msgspec.Meta(max_length=4_000_000)]


class Function(msgspec.Struct):
    """``function`` of a tool."""

    name: str
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Arguments always obey the schema."""


class ChatTool(msgspec.Struct):
    """One of ``tools``."""

    function: dict[str, Any]
    type: Literal["function"] = "function"


class ResponseTool(msgspec.Struct):
    """One of ``tools``."""

    type: Literal["function"]
    name: str
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionCall(msgspec.Struct):
    """``function`` of a call."""

    name: str
    arguments: Text | dict[str, Any]
    """JSON; Ollama's clients send the object."""


class ToolCall(msgspec.Struct):
    """One of a message's ``tool_calls``."""

    function: dict[str, Any]
    id: str = ""
    type: Literal["function"] = "function"


FUNCTION = Form(Function)
CHAT_TOOL = Form(ChatTool)
RESPONSE_TOOL = Form(ResponseTool)
TOOL_CALL = Form(ToolCall, {"index": "the order of the list says it"})
FUNCTION_CALL = Form(FunctionCall, {"index": "the order of the list says it"})


def of_chat(given: Sequence[Any] | None, warnings: list[str]) -> list[dict[str, Any]]:
    """Tools of a chat, as the engine takes them.

    Raises:
        BadRequest: one makes no sense.
    """
    found = []
    for at, each in enumerate(given or ()):
        tool, more = CHAT_TOOL.take(each, f"tools[{at}].")
        function, also = FUNCTION.take(tool.function, f"tools[{at}].function.")
        warnings += more + also
        found.append(_offered(function))
    return found


def of_response(given: Sequence[Any] | None, warnings: list[str]) -> list[dict[str, Any]]:
    """Tools of a response, as the engine takes them.

    Raises:
        BadRequest: one makes no sense.
    """
    found = []
    for at, each in enumerate(given or ()):
        tool, more = RESPONSE_TOOL.take(each, f"tools[{at}].")
        warnings += more
        found.append(_offered(tool))
    return found


def _offered(function: Function | ResponseTool) -> dict[str, Any]:
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": function.parameters or {},
    }


def choice(tools: list[dict[str, Any]], given: Any, parallel: bool | None) -> dict[str, Any]:
    """What the engine is to do with tools: ``tool_choice`` and ``parallel_tool_calls``.

    Raises:
        BadRequest: the choice makes no sense.
    """
    mode, only = _choice(given)
    if not tools:
        if mode not in ("auto", "none"):
            raise BadRequest("tool_choice asks for a call, but there are no tools", "tool_choice")
        return {}
    found: dict[str, Any] = {"tools": tools, "tool_choice": mode, "allowed_tools": only}
    return found | ({"max_calls": 1} if parallel is False else {})


def _choice(given: Any) -> tuple[str, list[str] | None]:
    """The mode, and the names of those that may be called; None: all."""
    if given is None or given in ("auto", "none", "required"):
        return given or "auto", None
    if isinstance(given, dict):
        if given.get("type") == "function" and (name := _named(given)):
            return "required", [name]
        if given.get("type") == "allowed_tools":
            allowed = given.get("allowed_tools", given)
            names = [_named(each) for each in _list(allowed, "tools")]
            mode = allowed.get("mode", "auto") if isinstance(allowed, dict) else None
            if mode in ("auto", "required") and names and all(names):
                return mode, [name for name in names if name]
    text = "tool_choice must be auto, none, required, or name a function or allowed_tools"
    raise BadRequest(text, "tool_choice")


def _list(given: Any, name: str) -> list[Any]:
    found = given.get(name) if isinstance(given, dict) else None
    return found if isinstance(found, list) else []


def _named(given: Any) -> str | None:
    """The function's name in chats' form or in responses'."""
    if not isinstance(given, dict):
        return None
    inner = given.get("function", given)
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None


def said_before(
    given: Sequence[Any] | None, where: str, warnings: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Calls in a message that was sent, as the engine takes them, each with its id.

    Raises:
        BadRequest: one makes no sense.
    """
    found = []
    for at, each in enumerate(given or ()):
        place = f"{where}tool_calls[{at}]."
        call, more = TOOL_CALL.take(each, place)
        function, also = FUNCTION_CALL.take(call.function, f"{place}function.")
        warnings += more + also
        made = called(function.name, function.arguments, f"{place}function.arguments")
        found.append((call.id, made))
    return found


def called(name: str, arguments: str | dict[str, Any], where: str) -> dict[str, Any]:
    """A call as the engine takes it.

    Raises:
        BadRequest: its arguments are no JSON object.
    """
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            arguments = ""
    if not isinstance(arguments, dict):
        raise BadRequest(f"{where} is no JSON object", where)
    return {"name": name, "arguments": arguments}


class Made:
    """Calls of an answer as they come, each with an id."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        """``id``, ``name`` and ``arguments``, as far as they have come."""
        self.whole: list[int] = []
        """Those that are complete."""

    def add(self, news: Sequence[dict[str, Any]]) -> None:
        """What the engine told of them."""
        for each in news:
            if "name" in each:
                call = {"id": f"call_{os.urandom(12).hex()}", "name": each["name"]}
                self.calls.append(call | {"arguments": ""})
            self.calls[each["index"]]["arguments"] += each.get("arguments", "")
            if each.get("whole"):
                self.whole.append(each["index"])

    def objects(self, since: int = 0) -> list[dict[str, Any]]:
        """Those that are complete, with their arguments read, but for the first ``since``."""
        found = [self.calls[index] for index in self.whole[since:]]
        return [called(each["name"], each["arguments"], "arguments") for each in found]
