"""What a collector does with the messages of boxes that mean well, and of those that do not."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boxes_kit import cursor
from clawai.sdk.boxes import keys, shelf, wire
from clawai.sdk.boxes.collector import Books, Bucket, lost
from clawai.sdk.boxes.wire import Batch, Figures, Gap, Hello, Line, Refused, Taken, Welcome

ONE, TWO = bytes(range(32)), bytes(range(32, 64))


class Desk:
    """Books, and a clock that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.now = time.time()
        self.folder = folder
        self.open()

    def open(self) -> None:
        """As another collector would."""
        self.books = Books(self.folder, 4 << 20, 30, lambda: self.now)
        self.know(ONE, TWO)

    def know(self, *known: bytes) -> None:
        names = {ONE: "one", TWO: "two"}
        self.books.know(tuple(keys.Box(names[each], each.hex()) for each in known))

    def say(self, message: Any, key: bytes = ONE) -> Any:
        self.now += 1
        return self.books.answer(key, wire.encode(message))

    def hello(self, key: bytes = ONE) -> int:
        said = self.say(Hello(), key)
        assert isinstance(said, Welcome)
        return said.session

    def texts(self, name: str = "one") -> list[str]:
        text = shelf.read(self.folder / name, "0")["text"]
        return [line for line in text.splitlines() if not line.startswith("= ")]

    def close(self) -> None:
        self.books.know(())


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    made = Desk(tmp_path)
    yield made
    made.close()


def batch(session: int, number: int, *texts: str, **fields: Any) -> Batch:
    lines = tuple(Line(int(time.time()), "info", text) for text in texts)
    made = Batch(session, number, time.time(), cursor(number), lines)
    return msgspec.structs.replace(made, **fields)


def test_a_batch_that_comes_twice_is_kept_once_also_by_the_next_collector(desk: Desk) -> None:
    session = desk.hello()
    assert desk.say(batch(session, 1, "a", "b")) == Taken(1)
    assert desk.say(batch(session, 1, "a", "b")) == Taken(1)
    assert [line.split(" ", 4)[4] for line in desk.texts()] == ["a", "b"]
    desk.close()
    desk.open()
    assert desk.say(batch(session, 1, "a", "b")).why == "session"
    said = desk.say(Hello())
    assert isinstance(said, Welcome) and said.cursor == cursor(1) and said.name == "one"
    assert said.session != session
    assert desk.say(batch(said.session, 2, "c")).why == "wrong"
    assert desk.say(batch(said.session, 1, "c")) == Taken(1)
    assert len(desk.texts()) == 3


def test_the_newer_of_two_agents_of_a_box_is_heard(desk: Desk) -> None:
    first = desk.hello()
    second = desk.hello()
    assert desk.say(batch(first, 1, "old")).why == "stale"
    assert desk.say(batch(second, 1, "new")) == Taken(1)
    assert desk.say(batch(0, 1, "no hello"), TWO).why == "session"
    assert desk.texts("two") == []


def test_a_box_is_its_key_and_a_key_that_is_removed_is_nobody(desk: Desk) -> None:
    one, two = desk.hello(ONE), desk.hello(TWO)
    assert desk.say(batch(one, 1, "x"), TWO).why in ("stale", "session")
    assert desk.say(batch(two, 1, "mine"), TWO) == Taken(1)
    assert desk.texts("one") == [] and len(desk.texts("two")) == 1
    desk.know(TWO)
    assert desk.say(batch(one, 1, "x")).why == "unknown"
    assert desk.say(Hello()).why == "unknown"
    assert not (desk.folder / "one" / "now.json").exists()


def test_lines_cannot_be_forged_and_both_times_are_kept(desk: Desk) -> None:
    session = desk.hello()
    evil = "a\nb\r= 00000000 {}\n2027-01-15T08:00:00 x\x1b[31m\u202e"
    line = Line(int(desk.now) - 7200, "error", evil)
    told = batch(session, 1, sent=desk.now + 3600, lines=(line,))
    assert desk.say(told) == Taken(1)
    (text,) = desk.texts()
    arrived, said, rest = text[:19], text[20:39], text[40:]
    assert rest.startswith("error a\ufffdb\ufffd= 00000000") and "\x1b" not in rest
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(desk.now))
    assert arrived == stamp and said == time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
    seen = shelf.seen(desk.folder / "one")
    assert 3598 <= seen.ahead <= 3600 and seen.arrived == desk.now


def test_what_is_lost_stands_where_it_is_missing(desk: Desk) -> None:
    session = desk.hello()
    desk.say(batch(session, 1, "before"))
    desk.say(batch(session, 2, "after", gap=Gap(17)))
    desk.say(batch(session, 3, gap=Gap(0, whole=False)))
    texts = [line.split(" ", 4)[4] for line in desk.texts()]
    assert texts == ["before", lost(Gap(17)), "after", lost(Gap(0, whole=False))]
    assert "17 lines" in texts[1] and "may be" in texts[3] and "2 or more" in lost(Gap(2, False))
    seen = shelf.seen(desk.folder / "one")
    assert (seen.lost, seen.whole, seen.lines) == (17, False, 2)


def test_a_clock_that_is_set_back_keeps_nobody_waiting() -> None:
    bucket = Bucket((1.0, 2.0), 10_000.0)
    assert bucket.take(1, 10_000.0) == 0
    assert bucket.take(1, 10.0) == 0, "as if no time had passed"
    assert bucket.take(1, 10.5) == pytest.approx(0.5)


def test_who_sends_too_much_waits_and_others_do_not(desk: Desk) -> None:
    session = desk.hello()
    fat = tuple(Line(0, "info", "x" * 8000) for _ in range(50))
    said, number = Taken(0), 0
    while isinstance(said, Taken) and number < 100:
        number += 1
        data = wire.encode(batch(session, number, lines=fat))
        said = desk.books.answer(ONE, data)
    assert isinstance(said, Refused) and said.why == "busy" and 0 < said.seconds < 10
    assert 8 << 20 <= number * 400_000 <= 10 << 20
    assert isinstance(desk.say(Hello(), TWO), Welcome)
    desk.now += said.seconds
    assert desk.say(batch(session, number, lines=fat)) == Taken(number)
    kept = sum(path.stat().st_size for path in (desk.folder / "one").glob("*.log"))
    assert kept <= 4 << 20, "and the store is bounded all the same"
    for _ in range(200):
        said = desk.books.answer(TWO, wire.encode(Hello()))
    assert isinstance(said, Refused) and said.why == "busy"


WRONG: dict[str, Callable[[int], Any]] = {
    "no cursor": lambda s: batch(s, 1, "a", cursor=None),
    "nan": lambda s: batch(s, 1, sent=float("nan")),
    "a part that is nan": lambda s: batch(s, 1, figures=Figures(busy=float("nan"))),
    "more than all": lambda s: batch(s, 1, figures=Figures(busy=1.5)),
    "too many lines": lambda s: batch(s, 1, lines=(Line(0, "info", ""),) * (wire.LINES + 1)),
    "a long line": lambda s: batch(s, 1, "x" * (wire.TEXT + 1)),
    "a level": lambda s: batch(s, 1, lines=(Line(0, "loud", ""),)),  # type: ignore[arg-type]
    "a time": lambda s: batch(s, 1, lines=(Line(1 << 40, "info", ""),)),
    "before time": lambda s: batch(s, 1, lines=(Line(-1, "info", ""),)),
    "many models": lambda s: batch(s, 1, figures=Figures(models=("x",) * 17)),
    "a head": lambda s: batch(s, 1, cursor=wire.Cursor(1, "../../etc/passwd", 1)),
    "a field": lambda s: msgspec.to_builtins(batch(s, 1)) | {"name": "two"},
    "a type": lambda s: {"type": "shutdown"},
    "no map": lambda s: [1, 2, 3],
    "another version": lambda s: Hello(version=2),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(desk: Desk, what: str) -> None:
    session = desk.hello()
    said = desk.say(WRONG[what](session))
    assert isinstance(said, Refused) and said.why in ("wrong", "version"), said
    assert desk.texts() == []
    assert desk.say(batch(session, 1, "good")) == Taken(1)


def test_bytes_of_chance_harm_nobody(desk: Desk) -> None:
    luck = random.Random(11)
    session = desk.hello()
    good = wire.encode(batch(session, 1, "hello", "there", figures=Figures(True, busy=0.5)))
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(luck.randrange(1, 6)):
            place = luck.randrange(max(1, len(data)))
            match luck.randrange(4):
                case 0:
                    data[place : place + 1] = bytes([luck.randrange(256)])
                case 1:
                    del data[place : place + luck.randrange(8)]
                case 2:
                    data[place:place] = luck.randbytes(luck.randrange(8))
                case _:
                    data = data[: place + 1]
        desk.now += 1
        said = desk.books.answer(ONE, bytes(data))
        assert isinstance(said, Welcome | Taken | Refused)
        wire.from_collector.decode(wire.encode(said))
    deep = b"\x91" * 100_000 + b"\xc0"
    assert desk.books.answer(ONE, deep).why == "wrong"  # type: ignore[union-attr]
    desk.close()
    desk.open()
    session = desk.hello()
    assert desk.say(batch(session, 1, "good")) == Taken(1)
    for line in desk.texts():
        assert line.isprintable() and line[10] == "T"


def test_the_disk_that_fails_is_said_and_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = desk.hello()
    with monkeypatch.context() as patched:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(shelf.Shelf, "add", full)
        said = desk.say(batch(session, 1, "a"))
    assert said.why == "disk" and "No space" in said.text
    assert desk.say(batch(session, 1, "a")) == Taken(1)


def test_what_a_removed_box_has_left_goes_when_it_is_old(desk: Desk) -> None:
    session = desk.hello()
    desk.say(batch(session, 1, "a"))
    desk.know(TWO)
    desk.books.forget()
    assert desk.texts()
    desk.now += 31 * 86400
    desk.books.forget()
    assert not (desk.folder / "one").exists()
