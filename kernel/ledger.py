"""The byte ledger: how much of the budget is handed out. Nothing is that is not charged.

Whoever holds memory knows how much (``Worker.holds``, ``Memory.size``); here is the sum of it.
"""


class Ledger:
    """Whoever charges has looked whether there is room: one that goes over the limit is a bug."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.limit = budget
        """What can be handed out now: less than the budget while others use the box's memory."""
        self.used = 0
        self.freed = False
        """Something came back, or could be evicted, since the scheduler looked."""

    @property
    def free(self) -> int:
        """Bytes that nobody holds; below 0 when the limit was lowered under what is held."""
        return self.limit - self.used

    def charge(self, size: int) -> None:
        """Somebody holds so many bytes more."""
        if not 0 <= size <= self.free:
            raise ValueError(f"{size} bytes are charged, {self.free} are free")
        self.used += size

    def release(self, size: int) -> None:
        """So many bytes are back."""
        self.used -= size
        self.freed = True
