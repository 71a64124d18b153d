"""Following the log: every line once, across files that take turns; what is lost is counted."""

from pathlib import Path

from clawai.kernel.steward.log import LogFile
from clawai.sdk.boxes.tail import BLOCK, Tail, parsed
from clawai.sdk.boxes.wire import TEXT, Cursor, Gap

ALL = 1 << 20


class Log:
    """The kernel's own, of a few lines a file."""

    def __init__(self, folder: Path, limit: int = 1000) -> None:
        self.path = folder / "kernel.log"
        self.file = LogFile(self.path, "info", limit, echo=False)
        self.count = 0

    def write(self, lines: int) -> None:
        for _ in range(lines):
            self.file.write("info", f"line {self.count}")
            self.count += 1


def numbers(tail: Tail, most: int = ALL, done: bool = True) -> list[int]:
    lines, _, _ = tail.read(most)
    if done:
        tail.done()
    return [int(line.text.split()[1]) for line in lines]


def place(tail: Tail) -> Cursor:
    _, cursor, _ = tail.read(ALL)
    assert cursor
    return cursor


def test_every_line_comes_once_whatever_turns_the_files_take(tmp_path: Path) -> None:
    log, tail, found = Log(tmp_path), Tail(tmp_path / "kernel.log"), list[int]()
    assert tail.read(ALL) == ([], None, None), "there is no log yet"
    for size in (1, 0, 3, 20, 1, 25, 2, 24, 30):
        log.write(size)
        found += numbers(tail)
        assert not any(part.deleted for part in tail.parts), "its room is free"
        tail.seek(tail._taken)
    assert found == list(range(log.count)) and tail.gap is None
    tail.close()
    log.file.close()


def test_what_was_not_taken_is_read_again_and_a_successor_goes_on(tmp_path: Path) -> None:
    log, tail = Log(tmp_path), Tail(tmp_path / "kernel.log")
    log.write(5)
    assert numbers(tail) == [0, 1, 2, 3, 4]
    kept = place(tail)
    log.write(5)
    assert numbers(tail, done=False) == [5, 6, 7, 8, 9]
    tail.seek(kept)
    assert numbers(tail, done=False) == [5, 6, 7, 8, 9]
    log.write(20)
    other = Tail(log.path)
    other.seek(kept)
    assert numbers(other) == list(range(5, 30)) and other.gap is None
    for each in (tail, other):
        each.close()
    log.file.close()


def test_lines_that_go_while_nobody_takes_any_are_counted(tmp_path: Path) -> None:
    log, tail = Log(tmp_path), Tail(tmp_path / "kernel.log")
    log.write(3)
    assert numbers(tail) == [0, 1, 2]
    while len(tail.parts) < 3 or not tail.gap:
        log.write(1)
        tail.look()
    lines, _, gap = tail.read(ALL)
    first = int(lines[0].text.split()[1])
    assert gap == Gap(first - 3) and [int(x.text.split()[1]) for x in lines] == [
        *range(first, log.count)
    ]
    tail.done()
    assert tail.gap is None
    tail.close()
    log.file.close()


def test_what_cannot_be_counted_is_said_so(tmp_path: Path) -> None:
    log, tail = Log(tmp_path), Tail(tmp_path / "kernel.log")
    log.write(3)
    kept = place(tail)
    tail.close()
    log.write(200)
    tail = Tail(log.path)
    tail.seek(kept)
    lines, _, gap = tail.read(ALL)
    assert gap == Gap(0, whole=False) and lines[-1].text == "line 202"
    assert numbers(tail) == []
    # Emptied by somebody while we look.
    log.path.write_bytes(b"")
    log.write(1)
    lines, _, gap = tail.read(ALL)
    assert gap and not gap.whole and [line.text for line in lines] == ["line 203"]
    tail.close()
    log.file.close()


def test_another_file_with_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    log, tail = Log(tmp_path, 1 << 20), Tail(tmp_path / "kernel.log")
    log.write(5)
    kept = place(tail)
    tail.seek(Cursor(kept.inode, "f" * 32, kept.offset))
    assert tail.gap == Gap(0, whole=False) and numbers(tail) == [0, 1, 2, 3, 4]
    tail.seek(Cursor(kept.inode, kept.head, kept.offset - 1))
    assert numbers(tail) == [0, 1, 2, 3, 4], "in the middle of a line"
    tail.seek(Cursor(kept.inode, kept.head, 1 << 40))
    assert numbers(tail) == [0, 1, 2, 3, 4]
    tail.close()
    log.file.close()


def test_lines_without_an_end_and_without_measure(tmp_path: Path) -> None:
    path, tail = tmp_path / "kernel.log", Tail(tmp_path / "kernel.log")
    path.write_bytes(b"x" * (BLOCK + 10) + b"\n" + b"2027-01-15 08:00:00 error \xff\xfe\nhalf")
    lines, cursor, _ = tail.read(4 * BLOCK)
    tail.done()
    assert [len(line.text) for line in lines] == [TEXT, 10, 2]
    assert lines[0].text.endswith("…") and lines[2].level == "error"
    assert cursor and tail.read(ALL)[0] == [], "a line that is still written"
    path.rename(path.with_suffix(".log.1"))
    path.write_bytes(b"2027-01-15 08:00:01 info new\n")
    assert [line.text for line in tail.read(ALL)[0]] == ["half", "new"]
    tail.close()


def test_a_batch_takes_no_more_than_it_may_and_the_next_goes_on(tmp_path: Path) -> None:
    log, tail = Log(tmp_path, 1 << 20), Tail(tmp_path / "kernel.log")
    log.write(5000)
    sizes, found = list[int](), list[int]()
    while part := numbers(tail, 64 << 10):
        sizes.append(len(part))
        found += part
    assert found == list(range(5000)) and max(sizes) <= 2000
    tail.close()
    log.file.close()


def test_no_line_is_cut_where_a_batch_ends(tmp_path: Path) -> None:
    path, tail = tmp_path / "kernel.log", Tail(tmp_path / "kernel.log")
    texts = [f"{number} {number % 7 * 40 * 'x'}" for number in range(400)]
    lines = [f"2027-01-15 08:00:00 info {text}\n" for text in texts]
    path.with_suffix(".log.1").write_text("".join(lines[:300]))
    path.write_text("".join(lines[300:]))
    found = list[str]()
    while part := tail.read(1000)[0]:
        found += [line.text for line in part]
        tail.done()
    assert found == texts
    tail.close()


def test_the_time_of_a_line_is_the_clocks_of_its_box() -> None:
    assert parsed(b"2027-01-15 08:00:01 info a").at - parsed(b"2027-01-15 08:00:00 info b").at == 1
    assert parsed(b"9999-99-99 08:00:01 info a").at == 0
