"""Runs a chat template, which is a program from a stranger, in less than Jinja's own sandbox.

Jinja's immutable sandbox keeps a template away from the process; it bounds neither time nor
memory. Here every loop, call, operator, filter, comparison and output draws from a budget of
steps, produced characters and seconds, *before* the result exists. Filters and methods are those
on a short list. Refused: formatting (its widths are memory bombs), multiplied text, recursive
loops, loading other templates. What remains possible is to waste the budget.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from clawai.sdk.model.gguf import ModelFileError

MAX_STEPS = 200_000
MAX_PRODUCED = 64 << 20
"""Characters that all outputs, operators and filters of one rendering may produce together."""
MAX_BITS = 1024
"""Of an integer that an operator takes."""
MAX_SECONDS = 5.0

_FILTERS = frozenset(
    {"abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items"}
    | {"last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse"}
    | {"round", "safe", "select", "selectattr", "sort", "title", "trim", "unique", "upper"}
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit"}
        | {"islower", "isspace", "isupper", "lower", "lstrip", "partition", "removeprefix"}
        | {"removesuffix", "replace", "rfind", "rpartition", "rsplit", "rstrip", "split"}
        | {"splitlines", "startswith", "strip", "title", "upper"}
    ),
    dict: frozenset({"items", "keys", "values", "get"}),
    list: frozenset({"index", "count"}),
    tuple: frozenset({"index", "count"}),
}


class RefusedError(Exception):
    """The template called ``raise_exception``."""


def exceeded(what: str, limit: float) -> NoReturn:
    raise ModelFileError("the chat template exceeds its limit of " + what, None, None, limit)


class Budget:
    """What one rendering may use up."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.produced = MAX_PRODUCED
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            exceeded("steps", MAX_STEPS)
        if self.steps % 64 == 0 and time.monotonic() > self.deadline:
            exceeded("seconds", MAX_SECONDS)

    def produce(self, size: int) -> None:
        self.step()
        self.produced -= size
        if self.produced < 0:
            exceeded("produced characters", MAX_PRODUCED)

    def weighed(self, value: Any) -> Any:
        """``value``, after its size was drawn, nested containers included."""
        if isinstance(value, str):
            self.produce(len(value))
        elif isinstance(value, int):
            self.produce(value.bit_length() // 8)
        elif isinstance(value, Mapping):
            self.step()
            for key, item in value.items():
                self.weighed(key)
                self.weighed(item)
        elif isinstance(value, list | tuple):
            self.step()
            for item in value:
                self.weighed(item)
        return value


class Jail(ImmutableSandboxedEnvironment):
    """The sandbox, narrowed. One rendering at a time: ``budget`` belongs to the current one."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            finalize=self._output,
            optimized=False,
        )
        self.budget = Budget()
        self.filters = {
            name: self._charged(function)
            for name, function in self.filters.items()
            if name in _FILTERS
        } | {
            "join": self._join,
            "string": self._string,
            "tojson": self._tojson,
            "replace": lambda text, old, new: self._replace(str(text), str(old), str(new)),
            "claw_literal": self._literal,
            "claw_steps": self._steps,
            "claw_weighed": self._weighed,
        }
        self.globals = {
            "namespace": self.globals["namespace"],
            "dict": dict,
            "range": self._range,
            "raise_exception": _refuse,
            "strftime_now": self._strftime_now,
        }

    def guarded(self, tree: nodes.Template) -> nodes.Template:
        """``tree`` with a guard in every loop, comparison and concatenation."""
        for bad in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise jinja2.TemplateSyntaxError("templates may not load others", bad.lineno)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise jinja2.TemplateSyntaxError("recursive loops are not allowed", loop.lineno)
            loop.iter = _filter(cast(nodes.Expr, loop.iter), "claw_steps")
        for compare in list(tree.find_all(nodes.Compare)):
            holders: list[nodes.Compare | nodes.Operand] = [compare, *compare.ops]
            for holder in holders:
                if not isinstance(holder.expr, nodes.Const):
                    holder.expr = _filter(holder.expr, "claw_weighed")
        for concat in list(tree.find_all(nodes.Concat)):
            # "~" cannot be intercepted, "+" can: the first operand becomes their sum.
            total: nodes.Expr = _filter(concat.nodes[0], "string")
            for operand in concat.nodes[1:]:
                total = nodes.Add(total, _filter(operand, "string"), lineno=concat.lineno)
                total.set_environment(self)
            concat.nodes = [total]
        for output in tree.find_all(nodes.Output):
            output.nodes = [
                _filter(nodes.Const(node.data, lineno=node.lineno), "claw_literal")
                if isinstance(node, nodes.TemplateData)
                else node
                for node in output.nodes
            ]
        return tree.set_environment(self)  # type: ignore[return-value]

    def wrap_str_format(self, value: Any) -> None:
        """No ``str.format`` (Jinja would allow a wrapped one): a width is a memory bomb."""
        return

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator of the template; the size of its result is drawn before it exists."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "+" and not numbers:
            self.budget.produce(_size(left) + _size(right))
        elif not numbers:
            self._forbidden(f"operator {operator} on {type(left).__name__}")
        elif operator == "**" and not (abs(left) <= 1 << 16 and 0 <= right <= 16):
            self._forbidden("a large power")
        elif any(isinstance(n, int) and n.bit_length() > MAX_BITS for n in (left, right)):
            self._forbidden("a huge number")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods of text and containers only by the short list; else as Jinja's sandbox."""
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in the template: one step, its arguments and its result drawn."""
        self.budget.step()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return self._replace(owner, *map(str, args[:2]))
        result = super().call(context, function, *args, **kwargs)
        if isinstance(owner, str):
            self.budget.produce(_size(result))
        return result

    def _output(self, value: Any) -> Any:
        if isinstance(value, Undefined):
            return value
        return self._string(value)

    @jinja2.pass_context
    def _literal(self, _context: Context, text: str) -> str:
        """The template's own text; wanting the context keeps Jinja from folding the call away."""
        self.budget.produce(len(text))
        return text

    def _weighed(self, value: Any) -> Any:
        return self.budget.weighed(value)

    def _charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A built-in filter that draws its argument and its result."""

        def charged(*args: Any, **kwargs: Any) -> Any:
            for each in args:
                if isinstance(each, str | list | tuple | Mapping):
                    self.budget.weighed(each)
            result = function(*args, **kwargs)
            if isinstance(result, str | list | tuple):
                self.budget.produce(_size(result))
            return result

        # Jinja finds out by this attribute whether a filter wants its environment or context.
        if hasattr(function, "jinja_pass_arg"):
            charged.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return charged

    def _steps(self, value: Any) -> Iterator[Any]:
        for item in value:
            self.budget.step()
            yield item

    def _string(self, value: Any) -> str:
        return str(self.budget.weighed(value))

    def _join(self, value: Any, separator: str = "") -> str:
        pieces = [self._string(each) for each in self._steps(value)]
        self.budget.produce(len(separator) * len(pieces))
        return str(separator).join(pieces)

    def _replace(self, text: str, old: str, new: str) -> str:
        self.budget.produce(len(text) + (text.count(old)) * len(new))
        return text.replace(old, new)

    def _tojson(self, value: Any, indent: int | None = None) -> str:
        if indent is not None and not 0 <= indent <= 8:
            self._forbidden("a large indent")
        return json.dumps(self.budget.weighed(value), ensure_ascii=False, indent=indent)

    def _range(self, *args: int) -> list[int]:
        numbers = range(*args)
        if len(numbers) > 10_000:
            exceeded("numbers in a range", 10_000)
        self.budget.produce(len(numbers))
        return list(numbers)

    def _strftime_now(self, form: str) -> str:
        if len(form) > 64 or any(letter.isdigit() for letter in form):
            self._forbidden("this date format")
        return datetime.now().strftime(form)

    def _forbidden(self, what: str) -> NoReturn:
        raise ModelFileError(f"the chat template uses {what}, which is not allowed")


def _refuse(message: str) -> NoReturn:
    raise RefusedError(str(message)[:400])


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 64
