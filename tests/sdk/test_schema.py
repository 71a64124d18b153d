"""What an operation says of itself: docstrings, schemas, tools, and the file that keeps them."""

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from clawai.sdk import schema
from clawai.sdk.cli import arguments
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import unpack
from clawai.sdk.plugin import Batch, Context, Operation, Params, batched, build, operation
from support import Kernel


class Box(msgspec.Struct):
    """A nested value."""

    width: int


@operation("demo.paint")
def paint(
    ctx: Context,
    text: str,
    boxes: list[Box],
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 3,
    mode: Literal["fast", "good"] = "fast",
    note: Annotated[str | None, "said in its type"] = None,
) -> Generator[int, None, str]:
    """Paint boxes.

    They are painted in order.

    Args:
        text: what is written
            into each box.
        boxes (list): where.

    Returns:
        A text.
    """
    yield 1
    return ""


def described(function: Any, name: str = "demo.paint") -> schema.Described:
    return arguments.as_described(
        name, unpack(msgspec.msgpack.encode(build(name, function).info()))
    )


def test_signature_and_docstring_become_a_description() -> None:
    found = described(paint)
    assert (found.summary, found.required) == ("Paint boxes.", ["text", "boxes"])
    assert found.description == "They are painted in order.\n\nReturns:\n    A text."
    texts = {name: field.get("description") for name, field in found.fields.items()}
    assert texts == {
        "text": "what is written into each box.",
        "boxes": "where.",
        "count": None,
        "mode": None,
        "note": "said in its type",
    }
    assert (found.stream, found.chunks, found.result) == (
        True,
        {"type": "integer"},
        {"type": "string"},
    )


def test_a_docstring_may_describe_parameters_without_a_heading() -> None:
    doc = schema.parse_doc("Greet.\n    name: who: both\n    other: not a parameter", ["name"])
    assert doc == schema.Doc("Greet.", "other: not a parameter", {"name": "who: both"})
    assert schema.parse_doc(None) == schema.Doc("", "", {})


def test_the_fields_of_a_batch_are_described_by_its_class() -> None:
    class Item(Params):
        """One.

        Attributes:
            x: how much
        """

        x: int
        y: Annotated[int, "how far"] = 2

    @batched("demo.half")
    def half(items: list[Item], batch: Batch) -> list[int | ClawError]:
        """Halve."""
        return []

    half.__annotations__["items"] = list[Item]
    found = described(half, "demo.half")
    assert [field["description"] for field in found.fields.values()] == ["how much", "how far"]
    assert (found.batch, found.result) == (True, {"type": "integer"})


def test_a_tool_is_one_object_with_the_nested_types_beside_it() -> None:
    tool = schema.tool(described(paint))
    function = tool["function"]
    assert tool["type"] == "function"
    assert function["name"] == "demo-paint"
    assert function["description"].startswith("Paint boxes.\n\nThey are painted")
    parameters = function["parameters"]
    assert parameters["type"] == "object"
    assert parameters["required"] == ["text", "boxes"]
    assert parameters["properties"]["boxes"]["items"] == {"$ref": "#/$defs/Box"}
    assert list(parameters["$defs"]) == ["Box"]


def test_names_of_tools_lead_back() -> None:
    long = ".".join(["a" * 32] * 3)
    operations = ["a.b_c", "a.b.c", "a_b.c", long]
    names = [schema.tool_name(op) for op in operations]
    assert len(set(names)) == 4
    assert all(len(name) <= 64 for name in names)
    assert [schema.operation_name(name, operations) for name in names] == operations
    with pytest.raises(ClawError, match="no such tool"):
        schema.operation_name("a-x", operations)


def test_types_are_said_in_words() -> None:
    fields = described(paint).fields
    assert {name: schema.type_text(field) for name, field in fields.items()} == {
        "text": "text",
        "boxes": "list of Box",
        "count": "integer (1 to 9)",
        "mode": 'one of "fast", "good"',
        "note": "text or null",
    }
    assert schema.type_text({"type": "string", "maxLength": 5}) == "text (at most 5 characters)"
    assert schema.type_text({}) == "any value"
    assert schema.type_text({"type": ["string", "null"]}) == "text or null"


# operations.json.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo.py").write_text("x = 1\n")
    (tmp_path / "plugin.toml").write_text("")
    return tmp_path


def test_what_is_kept_holds_until_the_code_changes(folder: Path) -> None:
    assert schema.read(folder) is None
    assert schema.write(folder, [described(paint)])
    assert not schema.write(folder, [described(paint)]), "it says that already"
    assert schema.read(folder) == {"demo.paint": described(paint)}
    (folder / "README.md").write_text("no code")
    (folder / "test_demo.py").write_text("no code either")
    assert schema.read(folder) is not None
    (folder / "demo.py").write_text("x = 2\n")
    assert schema.read(folder) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\xfe", b'{"of": 3}', b"[" * 100_000, b"x" * ((1 << 20) + 1)],
    ids=["empty", "list", "bytes", "type", "deep", "large"],
)
def test_a_file_that_is_no_description_is_not_used(folder: Path, content: bytes) -> None:
    (folder / schema.FILE).write_bytes(content)
    assert schema.read(folder) is None


@pytest.mark.parametrize(
    "params",
    [
        {"properties": []},
        {"properties": {"x": 3}},
        {"anyOf": {}},
        {"properties": {"x": {"enum": 3}}},
        {"required": [[]]},
        {"properties": {"x": {"type": ["string", []]}}},
        {"properties": {"x": {"minimum": "much", "maximum": []}}},
        {"$ref": 4},
        {"$defs": {"a": None}},
    ],
    ids=str,
)
def test_what_is_no_schema_is_not_believed(folder: Path, params: dict[str, Any]) -> None:
    hostile = schema.Described(name="demo.x", params=params)
    schema.write(folder, [hostile])
    assert schema.read(folder) is None
    with pytest.raises(ClawError, match="no JSON schema"):
        arguments.as_described("demo.x", {"name": "demo.x", "params": params})


def test_a_schema_that_never_ends_is_no_schema() -> None:
    params: dict[str, Any] = {}
    for _ in range(100):
        params = {"items": params}
    assert not schema.is_sound(schema.Described(name="demo.x", params=params))
    assert schema.is_sound(described(paint))


def test_a_link_in_its_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    schema.write(folder, [described(paint)])
    (folder / schema.FILE).rename(folder / "elsewhere")
    (folder / schema.FILE).symlink_to(folder / "elsewhere")
    assert schema.read(folder) is None


# Words of a command line.


def convert(**words: str) -> dict[str, Any]:
    return arguments.convert({"text": "x", "boxes": "[]", **words}, described(paint))


def test_words_are_read_by_the_schema() -> None:
    assert convert(text="123", count="4", boxes='[{"width": 1}]') == {
        "text": "123",
        "count": 4,
        "boxes": [{"width": 1}],
    }
    assert convert(text='"123"')["text"] == "123", "text may be written as JSON too"
    assert convert(text="{")["text"] == "{"
    assert convert(note="null")["note"] is None
    assert convert(note="5")["note"] == "5"
    assert convert(mode="good")["mode"] == "good"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"count": "many"}, r"the parameter count.*got 'many'; allowed: 'integer \(1 to 9\)'"),
        ({"count": "1.5"}, "the parameter count"),
        ({"boxes": "{}"}, "the parameter boxes.*list of Box"),
        ({"cuont": "1"}, "no parameter 'cuont'.*did you mean 'count'"),
    ],
)
def test_a_word_that_does_not_fit_is_named(words: dict[str, str], says: str) -> None:
    with pytest.raises(ClawError, match=says) as caught:
        convert(**words)
    assert caught.value.code == "bad_params"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ClawError, match=r"demo\.paint needs boxes") as caught:
        arguments.convert({"text": "x"}, described(paint))
    assert caught.value.allowed == ["boxes=list of Box"]


def test_words_without_a_schema_are_guessed() -> None:
    assert arguments.guess({"a": "1", "b": "x", "c": "[1]"}) == {"a": 1, "b": "x", "c": [1]}


def test_numbers_of_any_kind_are_numbers() -> None:
    def scale(factor: float, flag: bool = False, any_of: int | str = 1) -> Iterator[float]:
        yield factor

    found = described(scale)
    words = {"factor": "2", "flag": "true", "any_of": "x"}
    assert arguments.convert(words, found) == {"factor": 2, "flag": True, "any_of": "x"}
    with pytest.raises(ClawError, match="the parameter flag"):
        arguments.convert({"factor": "1", "flag": "1"}, found)


# Through the kernel.

CODE = """
from clawai.sdk import Batch, Params, batched, operation

class Item(Params):
    x: int

@batched("said.half")
def half(items: list[Item], batch: Batch) -> list[int]:
    "Halve."
    return [item.x // 2 for item in items]

@operation("said.count")
def count(upto: int):
    "Count."
    for number in range(upto):
        yield number
"""


def test_an_operation_that_is_asked_with_nil_describes_itself(shared_kernel: Kernel) -> None:
    operations = {"said.half": "batch = 4", "said.count": "stream = true"}
    shared_kernel.plugin("said", CODE, operations)
    with shared_kernel.client() as client:
        half, count = (arguments.ask(client, op) for op in operations)
        assert (half.batch, list(half.fields), half.required) == (True, ["x"], ["x"])
        assert (count.stream, count.summary) == (True, "Count.")
        # Beside others in one batch it harms nobody.
        tasks = [client.submit("said.half", params) for params in ({"x": 8}, schema.QUESTION)]
        assert tasks[0].result().value == 4
        assert tasks[1].result().value["name"] == "said.half"
        assert arguments.describe(client, "echo.say").fields["text"]["type"] == "string"


def test_what_cannot_be_described_can_still_be_called() -> None:
    def strange(*, x: Any = None) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
        return x

    class Callable:
        def __call__(self) -> int:
            return 1

    params = msgspec.defstruct("p", [])
    info = Operation("demo.x", Callable(), params, None, False, "x").info()
    assert unpack(info.params)["$ref"]
    assert json.dumps(schema.tool(described(paint)))
    assert strange.__name__
