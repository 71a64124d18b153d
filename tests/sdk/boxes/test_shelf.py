"""The store: whole batches or none, whatever happens to the file; bounded by size and by age."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from boxes_kit import cursor
from clawai.sdk.boxes import shelf
from clawai.sdk.boxes.shelf import DAY, FILES, Mark, Seen, Shelf
from clawai.sdk.errors import ClawError

MOST = 64 << 10


class Time:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def made(folder: Path, clock: Any = None) -> Shelf:
    return Shelf(folder, MOST, 30, clock or Time())


def batch(number: int) -> list[bytes]:
    return [
        b"2027-01-15T08:00:00 2027-01-15 08:00:00 info batch %d line %d\n" % (number, line)
        for line in range(number % 5 + 1)
    ]


def fill(kept: Shelf, first: int, last: int) -> None:
    for number in range(first, last):
        kept.add(batch(number), Mark(1.8e9, cursor(number + 1), number))
        kept.tell(Seen(end=kept.end))


def texts(folder: Path) -> list[str]:
    found, place = list[str](), "0"
    while True:
        piece = shelf.read(folder, place)
        found += [text for text in piece["text"].splitlines() if not text.startswith("= ")]
        if piece["end"] >= piece["last"]:
            return found
        place = str(piece["end"])


def wanted(first: int, last: int) -> list[str]:
    return [line.decode().rstrip() for number in range(first, last) for line in batch(number)]


def test_a_cut_at_any_byte_leaves_whole_batches_and_goes_on(tmp_path: Path) -> None:
    kept = made(tmp_path / "a")
    fill(kept, 0, 4)
    kept.close()
    (path,) = (tmp_path / "a").glob("*.log")
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        folder = tmp_path / "b"
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(whole[:size])
        again = made(folder)
        number = again.mark.lines + 1 if again.mark.cursor else 0
        assert again.mark.cursor == (cursor(number) if number else None)
        again.tell(Seen(end=again.end))
        fill(again, number, 4)
        again.close()
        assert texts(folder) == wanted(0, 4), size
        for each in folder.iterdir():
            each.unlink()


def test_bytes_that_changed_behind_our_back_are_cut_off_with_what_follows(tmp_path: Path) -> None:
    kept = made(tmp_path)
    fill(kept, 0, 12)
    kept.close()
    (path,) = tmp_path.glob("*.log")
    whole, luck = path.read_bytes(), random.Random(5)
    for _ in range(200):
        place = luck.randrange(len(whole))
        changed = (
            whole[:place] + bytes([whole[place] ^ luck.randrange(1, 256)]) + whole[place + 1 :]
        )
        path.write_bytes(changed)
        again = made(tmp_path)
        done = again.mark.lines + 1 if again.mark.cursor else 0
        again.tell(Seen(end=again.end))
        assert texts(tmp_path) == wanted(0, done)
        again.close()


def test_it_never_has_more_bytes_than_it_may_and_forgets_the_oldest(tmp_path: Path) -> None:
    kept, largest = made(tmp_path), 0
    for number in range(2000):
        fill(kept, number, number + 1)
        largest = max(largest, sum(path.stat().st_size for path in tmp_path.glob("*.log")))
    assert MOST * (FILES - 2) / FILES < largest <= MOST
    left = texts(tmp_path)
    assert left == wanted(0, 2000)[-len(left) :]
    oldest = shelf.read(tmp_path, "0")
    assert oldest["begin"] == oldest["first"] > 0
    last = shelf.read(tmp_path, "-")
    back, place = list[str](), last["last"]
    while place > last["first"]:
        piece = shelf.read(tmp_path, f"-{place}")
        back[:0] = [text for text in piece["text"].splitlines() if not text.startswith("= ")]
        place = piece["begin"]
    assert back == left
    kept.close()
    again = made(tmp_path)
    assert again.mark.cursor == cursor(2000) and again.end == last["last"]
    again.close()


def test_what_is_too_old_goes_but_never_where_the_box_goes_on(tmp_path: Path) -> None:
    clock = Time()
    kept = made(tmp_path, clock)
    for day in range(40):
        clock.now += DAY + 60
        kept.add(batch(day), Mark(clock.now, cursor(day + 1), day))
        kept.tell(Seen(end=kept.end))
        newest = max(tmp_path.glob("*.log"))
        os.utime(newest, (clock.now, clock.now))  # as old as the test says
    days = {int(text.split()[5]) for text in texts(tmp_path)}
    assert days == set(range(10, 40))
    clock.now += 31 * DAY
    kept.forget()
    assert texts(tmp_path) == [] and kept.mark.cursor == cursor(40)
    kept.forget()
    assert len(list(tmp_path.glob("*.log"))) == 1
    kept.close()
    again = made(tmp_path, clock)
    assert again.mark.cursor == cursor(40)
    again.close()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = made(tmp_path)
    fill(kept, 0, 3)
    real = os.write

    def half(fd: int, data: Any) -> int:
        if len(data) > 40:
            return real(fd, data[:40])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            kept.add(batch(3), Mark(1.8e9, cursor(4), 3))
    assert kept.mark.cursor == cursor(3)
    fill(kept, 3, 5)
    assert texts(tmp_path) == wanted(0, 5)
    kept.close()


def test_readers_see_nothing_that_was_not_told_and_nothing_of_a_lie(tmp_path: Path) -> None:
    kept = made(tmp_path)
    fill(kept, 0, 3)
    kept.add(batch(3), Mark(1.8e9, cursor(4), 3))
    assert texts(tmp_path) == wanted(0, 3)
    kept.tell(Seen(end=1 << 50))
    piece = shelf.read(tmp_path, "-")
    assert piece["last"] == piece["end"] == kept.end
    (tmp_path / "now.json").write_bytes(b"{")
    assert shelf.seen(tmp_path) == Seen() and shelf.read(tmp_path, "")["text"] == ""
    with pytest.raises(ClawError, match="no such place"):
        shelf.read(tmp_path, "x")
    assert shelf.read(tmp_path / "none", "")["last"] == 0
    kept.close()
