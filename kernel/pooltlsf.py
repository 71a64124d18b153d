"""Two-level segregated fit (Masmano et al., 2004), to compare the pool's bitmap with.

Sizes are pages. Free blocks stand in lists by size: by power of two, each split in ``SECOND``. A
block is taken from the first list whose blocks are all large enough ("good fit"), cut, and joined
with its free neighbours when it comes back. The daemon does not load this.
"""

SECOND = 8


class Tlsf:
    """The pages of one segment."""

    def __init__(self, pages: int) -> None:
        self.begin_at: dict[int, int] = {}
        """Free blocks: begin to length."""
        self.end_at: dict[int, int] = {}
        """The same: end to begin."""
        self.lists: dict[int, dict[int, None]] = {}
        self.filled = 0
        """A bit for each list that is not empty."""
        self._put(0, pages)

    def _put(self, begin: int, length: int) -> None:
        self.begin_at[begin], self.end_at[begin + length] = length, begin
        index = _index(length)
        self.lists.setdefault(index, {})[begin] = None
        self.filled |= 1 << index

    def _remove(self, begin: int) -> int:
        length = self.begin_at.pop(begin)
        del self.end_at[begin + length]
        index = _index(length)
        del self.lists[index][begin]
        if not self.lists[index]:
            self.filled &= ~(1 << index)
        return length

    def take(self, pages: int) -> int:
        """The first page of so many, or -1."""
        index = _index(pages)
        if pages > _least(index):
            index += 1
        above = self.filled >> index << index
        if not above:
            return -1
        begin = next(iter(self.lists[(above & -above).bit_length() - 1]))
        length = self._remove(begin)
        if length > pages:
            self._put(begin + pages, length - pages)
        return begin

    def give(self, begin: int, pages: int) -> None:
        """Bring pages back."""
        if begin + pages in self.begin_at:
            pages += self._remove(begin + pages)
        if begin in self.end_at:
            before = self.end_at[begin]
            pages += self._remove(before)
            begin = before
        self._put(begin, pages)


def _index(pages: int) -> int:
    """The list of a size: lists below ``SECOND`` hold one size each."""
    if pages < SECOND:
        return pages
    first = pages.bit_length() - SECOND.bit_length()
    return (first + 1) * SECOND + (pages >> first) - SECOND


def _least(index: int) -> int:
    """The smallest size in a list."""
    if index < SECOND:
        return index
    first, second = divmod(index, SECOND)
    return (second + SECOND) << (first - 1)
