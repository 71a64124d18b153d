"""The plugin API: a signature is a schema, and what a stranger names as an array is checked."""

import mmap
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import unpack
from clawai.sdk.plugin import (
    Batch,
    Cancelled,
    Context,
    Params,
    Tensor,
    Yielded,
    batched,
    build,
    operation,
    operations_of,
    view,
)


class Outlet:
    """Where a context speaks to."""

    def __init__(self) -> None:
        self.said: list[tuple[int, float | None, str]] = []
        self.segments: dict[int, mmap.mmap] = {}

    def progress(self, task: int, fraction: float | None, note: str) -> None:
        self.said.append((task, fraction, note))

    def segment(self, number: int) -> mmap.mmap:
        return self.segments.setdefault(number, mmap.mmap(-1, 8192))


def context(**fields: Any) -> Context:
    word = memoryview(bytearray(4)).cast("I")
    return Context(task=7, outlet=Outlet(), control=word, **fields)


# Operations.


def test_a_function_becomes_an_operation() -> None:
    @operation("say.twice")
    def twice(ctx: Context, text: str, times: Annotated[int, msgspec.Meta(ge=1)] = 2) -> str:
        """Say it again.

        More.
        """
        return text * times

    found = build("say.twice", twice)
    assert (found.name, found.summary, found.streams) == ("say.twice", "Say it again.", False)
    assert found.context_name == "ctx"
    ctx = context()
    assert found.arguments(wire.pack({"text": "a"}), ctx) == {"ctx": ctx, "text": "a", "times": 2}
    for bad in ({}, {"text": 1}, {"text": "a", "times": 0}, {"text": "a", "more": 1}, [1], None):
        with pytest.raises(ClawError) as caught:
            found.arguments(wire.pack(bad), ctx)
        assert caught.value.code == "bad_params"
        assert caught.value.allowed == ["text", "times"]
    for raw in (b"", b"\xc1", b"\x91" * 5000, b"\x81\xa4text\xa1\xff"):
        with pytest.raises(ClawError, match=r"say\.twice"):
            found.arguments(raw, ctx)


def test_the_schema_is_announced() -> None:
    def pick(kind: Literal["a", "b"], n: int = 3) -> None:
        """Pick."""

    schema = unpack(build("x.pick", pick).info().params)
    properties = schema["$defs"]["x_pick"]["properties"]
    assert properties["kind"]["enum"] == ["a", "b"]
    assert properties["n"]["default"] == 3


def test_a_generator_streams() -> None:
    def count(n: int):  # type: ignore[no-untyped-def]
        yield n

    assert build("x.count", count).streams


@pytest.mark.parametrize("kind", ["no annotation", "args", "kwargs", "positional only"])
def test_signatures_that_cannot_be_a_schema(kind: str) -> None:
    def bare(x):  # type: ignore[no-untyped-def]
        return x

    def args(*x: int) -> None: ...
    def kwargs(**x: int) -> None: ...
    def positional(x: int, /) -> None: ...

    function = {"no annotation": bare, "args": args, "kwargs": kwargs}.get(kind, positional)
    with pytest.raises(TypeError, match=r"x\.op: parameter 'x'"):
        build("x.op", function)


def test_names_and_collection() -> None:
    class Engine:
        @operation("e.two")
        def two(self) -> int:
            return 2

        @operation("e.one")
        def one(self) -> int:
            return 1

        @property
        def other(self) -> int:
            return 3

    assert [op.name for op in operations_of(Engine())] == ["e.one", "e.two"]

    @operation
    def plain() -> None: ...

    assert [op.name for op in operations_of({"plain": plain, "x": 1})] == ["test_plugin.plain"]


# Batch operations.


class Item(Params):
    """Parameters of one task."""

    x: int
    y: str = "y"


def test_a_batch_function_has_the_schema_of_one_task() -> None:
    @batched("b.join")
    def join(items: list[Item], tasks: Batch) -> list[str]:
        """Join them."""
        assert [task.task for task in tasks] == [7] * len(items)
        return [f"{item.x}{item.y}" for item in items]

    found = next(iter(operations_of({"join": join})))
    assert (found.name, found.summary, found.batch, found.streams) == (
        "b.join",
        "Join them.",
        True,
        False,
    )
    assert set(unpack(found.info().params)["$defs"]["Item"]["properties"]) == {"x", "y"}
    items = [found.checked(wire.pack({"x": 1})), found.checked(wire.pack({"x": 2, "y": "z"}))]
    assert found.call_batch(items, Batch([context(), context()])) == ["1y", "2z"]
    for bad in ({}, {"x": "a"}, {"x": 1, "z": 2}, []):
        with pytest.raises(ClawError) as caught:
            found.checked(wire.pack(bad))
        assert (caught.value.code, caught.value.allowed) == ("bad_params", ["x", "y"])


def test_batch_methods_and_wrong_results() -> None:
    class Plugin:
        @batched("b.wrong")
        def wrong(self, items: list[Item]) -> Any:
            return {"none": None}[items[0].y] if items[0].y == "none" else [1] * items[0].x

    found = next(iter(operations_of(Plugin())))
    assert found.call_batch([Item(x=1)], Batch([context()])) == [1]
    for item in (Item(x=0), Item(x=2), Item(x=1, y="none")):
        with pytest.raises(ClawError, match="one result for each task"):
            found.call_batch([item], Batch([context()]))


@pytest.mark.parametrize("kind", ["params", "two lists", "context", "more", "no list", "stream"])
def test_signatures_that_are_no_batch(kind: str) -> None:
    def params(items: list[int]) -> None: ...
    def two(items: list[Item], others: list[Item]) -> None: ...
    def ctx(items: list[Item], ctx: Context) -> None: ...
    def more(items: list[Item], x: int = 3) -> None: ...
    def none(batch: Batch) -> None: ...
    def stream(items: list[Item]) -> Any:
        yield 1

    functions = {"params": params, "two lists": two, "context": ctx, "more": more, "no list": none}
    with pytest.raises(TypeError, match=r"b\.op: a batch operation"):
        build("b.op", batched("b.op")(functions.get(kind, stream)))


# Contexts.


def test_stopping_and_progress() -> None:
    ctx = context()
    ctx.checkpoint()
    ctx.progress(0.5, "half")
    assert ctx.outlet.said == [(7, 0.5, "half")]  # type: ignore[attr-defined]
    assert ctx.remaining() is None
    ctx.control[0] = 1
    assert ctx.stopped
    with pytest.raises(Cancelled):
        ctx.checkpoint()


def test_the_low_byte_asks_and_the_second_grants_threads() -> None:
    ctx = context(most_threads=4)
    assert ctx.threads == 4
    ctx.control[0] = wire.GO | 2 << 8
    ctx.checkpoint()
    assert (ctx.threads, ctx.stopped) == (2, False)
    for word in (wire.YIELD, 77):
        ctx.control[0] = word | 2 << 8
        ctx.checkpoint()  # it cannot begin anew, and what it does not know asks for nothing
        assert not ctx.stopped
    ctx.control[0] = wire.STOP | 255 << 8
    assert (ctx.threads, ctx.stopped) == (255, True)


def test_what_can_begin_anew_is_given_back() -> None:
    ctx = context(may_yield=True)
    ctx.control[0] = wire.YIELD
    with pytest.raises(Yielded):
        ctx.checkpoint()


def test_holding_lasts_until_the_word_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context()
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            ctx.control[0] = wire.GO

    monkeypatch.setattr("clawai.sdk.context.time.sleep", sleep)
    ctx.control[0] = wire.HOLD
    ctx.checkpoint()
    assert pauses == sorted(pauses), "the longer it is held the less it looks"
    assert 0 < pauses[0] < pauses[-1] <= 0.002


def test_a_batch_stops_when_all_of_it_does() -> None:
    first, second = context(), context()
    batch = Batch([first, second])
    first.cancelled = True
    assert first.stopped
    batch.checkpoint()
    second.cancelled = True
    with pytest.raises(Cancelled):
        batch.checkpoint()
    assert (len(batch), batch[1], batch.threads) == (2, second, 1)


def test_arrays_in_frames_and_leases() -> None:
    numbers = np.arange(6, dtype="<i4")
    lease = wire.Lease(segment=1, offset=4096, length=24, generation=0)
    ctx = context(frames=(numbers.tobytes(),), leases=(lease,))
    got = ctx.array(Tensor("<i4", (2, 3), frame=0))
    assert (got == numbers.reshape(2, 3)).all()
    assert not got.flags.writeable
    shared = ctx.array(Tensor("<i4", (6,), lease=0))
    shared[...] = numbers
    whole = np.frombuffer(ctx.outlet.segment(1), dtype="<i4")
    assert (whole[1024:1030] == numbers).all()
    with pytest.raises(ClawError, match="larger than its buffer"):
        ctx.array(Tensor("<i4", (7,), lease=0))


def test_a_lease_for_reading_is_read_only() -> None:
    lease = wire.Lease(segment=1, offset=0, length=24, generation=0, rights="r")
    array = context(leases=(lease,)).array(Tensor("<i4", (6,), lease=0))
    assert not array.flags.writeable


def test_replies() -> None:
    lease = wire.Lease(segment=1, offset=0, length=24, generation=0)
    ctx = context(leases=(lease,))
    into = Tensor("<i4", (6,), lease=0)
    array = np.arange(6, dtype="<i4")
    assert ctx.reply(array, into) == into
    assert (ctx.array(into) == array).all()
    assert ctx.reply(np.arange(7, dtype="<i4"), into) == Tensor("<i4", (7,), frame=0)
    assert ctx.reply(array[::2]) == Tensor("<i4", (3,), frame=1)
    assert np.frombuffer(ctx.reply_frames[1], "<i4").tolist() == [0, 2, 4]
    with pytest.raises(ClawError) as caught:
        ctx.reply(np.zeros(5 << 20, dtype="u1"))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("<f4", (1,)),
        Tensor("<f4", (1,), frame=1),
        Tensor("<f4", (1,), frame=-1),
        Tensor("<f4", (1,), lease=0),
        Tensor("O", (1,), frame=0),
        Tensor("nonsense", (1,), frame=0),
        Tensor("<f4,", (1,), frame=0),
        Tensor("{'names':", (1,), frame=0),
        Tensor("(2,2)f4", (1,), frame=0),
        Tensor("f4,O", (1,), frame=0),
        Tensor("V0", (1,), frame=0),
        Tensor("<f4", (-1,), frame=0),
        Tensor("<f4", (1 << 62, 1 << 62), frame=0),
        Tensor("<f4", (0, -5), frame=0),
        Tensor("<f4", (1,) * 40, frame=0),
        Tensor("<f4", (0,) * 70, frame=0),
        Tensor("<f4", (5,), frame=0),
    ],
)
def test_tensors_that_lie(tensor: Tensor) -> None:
    with pytest.raises(ClawError) as caught:
        context(frames=(bytes(16),)).array(tensor)
    assert caught.value.code == "bad_params"


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=12), st.sampled_from(["<f4", ">i8", "u1", "S5", "U3", "M8[s]", "c16"])
    ),
    st.lists(st.integers(-3, 1 << 40), max_size=5),
    st.integers(0, 64),
)
def test_any_tensor_is_a_view_or_a_typed_error(dtype: str, shape: list[int], size: int) -> None:
    try:
        array = view(Tensor(dtype, tuple(shape)), memoryview(bytes(size)))
    except ClawError as error:
        assert error.code == "bad_params"
    else:
        assert array.nbytes <= size
        assert array.shape == tuple(shape)
