"""The byte ledger: who holds how much of the budget. Nothing is handed out that is not charged."""

from collections.abc import Hashable


class Ledger:
    """Charges by holder. ``charge`` says no rather than go over the limit."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.limit = budget
        """What can be handed out now: less than the budget while others use the box's memory."""
        self.used = 0
        self.freed = False
        """Something came back, or could be evicted, since the scheduler looked."""
        self.holders: dict[Hashable, int] = {}

    @property
    def free(self) -> int:
        """Bytes that nobody holds; below 0 when the limit was lowered under what is held."""
        return self.limit - self.used

    def charge(self, holder: Hashable, size: int) -> bool:
        """Add ``size`` bytes to what ``holder`` holds, or change nothing and return False."""
        if size < 0:
            raise ValueError(f"a charge cannot be negative: {size}")
        if size > self.free:
            return False
        self.holders[holder] = self.holders.get(holder, 0) + size
        self.used += size
        return True

    def release(self, holder: Hashable) -> int:
        """Take back all that ``holder`` holds, and return it."""
        size = self.holders.pop(holder, 0)
        self.used -= size
        self.freed = self.freed or size > 0
        return size
