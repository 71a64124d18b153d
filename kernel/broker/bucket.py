"""An allowance that fills up again with time."""

from dataclasses import dataclass


@dataclass
class Bucket:
    """How often something may be done."""

    rate: float
    """A second, over a time."""
    burst: float
    """At once."""
    tokens: float
    counted: float = 0.0

    def take(self, now: float) -> bool:
        """Count one; whether that keeps to the rate."""
        more = (now - self.counted) * self.rate if self.counted else 0.0
        self.tokens, self.counted = min(self.burst, self.tokens + more), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
