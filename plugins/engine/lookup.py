"""Several tokens of an answer for little more than the price of one, where it repeats itself.

When the last two or three tokens occurred before, in the prompt or in the answer, those that
followed there are a draft. One run over the token that is known and the draft gives the logits of
all their rows, and each draft token that the sampler picks as well needs no run of its own; the
rest is rewound. Rows of a run have the bits of tokens alone and the sampler draws from them in
order, so the answer is the same with and without.

Two estimates decide how long a draft is, or that there is none: what so many rows cost against one
(measured as they run), and how often a guess was right after a match of this length in this answer
(counted also when nothing was drafted: to compare a guess with what came costs no run). An answer
that repeats nothing has no drafts, and pays for a look into two dictionaries a token.

Prompt lookup decoding: A. Saxena 2023; speculative sampling: Leviathan et al. 2022,
arXiv:2211.17192. Ours accepts by equality, which needs no distribution of the draft.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from statistics import median

from clawai.plugins.engine.seats import Seat

DRAFTS = 15
"""Tokens of a draft at most: with the known one as many rows as are cheap together."""
LENGTHS = (3, 4, 6, 9, 16)
"""Matches are told apart by these lengths: below 3, 3, 4 to 5, ..., 16 or more."""
FIRST_RATES = (0.15, 0.3, 0.45, 0.65, 0.8, 0.9)
"""How often guesses are right, by the length of the match, before anything was seen."""
DOUBT = 3.0
"""So many guesses that count weighs as much as the first rates do."""
FADE = 0.95
"""What a guess counts less with each later one."""
FIRST_SLOPE = 0.15
"""What a further row costs of a run of one, before it was measured."""
SLOPES = (0.03, 0.6)
"""What a measurement may say: beyond it is a neighbour's doing."""
KEPT = 9
"""Measurements of which the median counts."""
MARGIN = 1.05
"""A draft must promise so much of the speed without one."""


class Costs:
    """What a run of some rows costs against one of a single row, of one plan."""

    def __init__(self) -> None:
        self._single: deque[int] = deque(maxlen=KEPT)
        self._slopes: deque[float] = deque(maxlen=KEPT)
        self.slope = FIRST_SLOPE
        """What a further row costs, in single runs."""

    def note(self, rows: int, took: int) -> None:
        """A run of ``rows`` took so many nanoseconds."""
        if rows == 1:
            self._single.append(took)
        elif self._single:
            self._slopes.append((took / median(self._single) - 1) / (rows - 1))
            self.slope = min(max(median(self._slopes), SLOPES[0]), SLOPES[1])


class History:
    """The tokens so far, where the last ones occurred before, and how good a guess that is."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        pairs = list(zip(self._tokens, self._tokens[1:], strict=False))
        # By the tokens, the place behind their last occurrence that something follows.
        self._twos = {pair: at + 2 for at, pair in enumerate(pairs)}
        triples = zip(self._tokens, pairs[1:], strict=False)
        self._threes = {(one, *two): at + 3 for at, (one, two) in enumerate(triples)}
        self._at = 0
        """Of the guess; 0: there is none."""
        self._length = 0
        """Of the match before it."""
        self._right = [rate * DOUBT for rate in FIRST_RATES]
        self._seen = [DOUBT for _ in FIRST_RATES]

    def add(self, token: int) -> None:
        """The next token is known; what was guessed is judged by it."""
        tokens = self._tokens
        hit = False
        if self._at:
            hit = tokens[self._at] == token
            group = bisect_right(LENGTHS, self._length)
            self._right[group] = self._right[group] * FADE + hit
            self._seen[group] = self._seen[group] * FADE + 1
        tokens.append(token)
        end = len(tokens)
        two = (tokens[-2], token) if end > 1 else None
        three = (tokens[-3], tokens[-2], token) if end > 2 else None
        if hit:  # what is being copied goes on there, whatever else begins alike
            self._at, self._length = self._at + 1, self._length + 1
        elif at := self._threes.get(three, 0) if three else 0:
            self._at, self._length = at, 3
        else:
            self._at, self._length = (self._twos.get(two, 0) if two else 0), 2
        if two:
            self._twos[two] = end
        if three:
            self._threes[three] = end

    def draft(self, most: int, slope: float) -> list[int]:
        """The guess for the next tokens, as many as promise the most speed.

        Args:
            most: how many are of use.
            slope: what each costs, in runs of a single token.
        """
        count, best = 0, MARGIN
        right, tokens = 1.0, 1.0
        for number in range(1, (most if self._at else 0) + 1):
            group = bisect_right(LENGTHS, self._length + number - 1)
            right *= self._right[group] / self._seen[group]
            tokens += right
            if (gain := tokens / (1 + slope * number)) > best:
                count, best = number, gain
        found: list[int] = []
        for at in range(self._at, self._at + count):
            # Behind the last token a guess goes on with what it has guessed itself.
            inside = at < len(self._tokens)
            found.append(self._tokens[at] if inside else found[at - len(self._tokens)])
        return found


class Ahead:
    """What one answer runs for its next tokens, and which rows of the logits count."""

    def __init__(self, seat: Seat, prompt: Sequence[int], costs: Costs, most: int = DRAFTS) -> None:
        self._seat = seat
        self._costs = costs
        self._most = most
        self._prompt = prompt
        self._history: History | None = None
        self._drafts: list[int] = []
        self._row = 0
        """Of the drafts, how many were picked."""
        self._over = 0
        """Of the drafts, how many are in the cache."""
        self._before: int | None = None
        """What the seat had spent before the run, if that is to be measured."""
        self.drafted = 0
        self.accepted = 0

    def ran(self) -> None:
        """The run of the last ``next`` is over."""
        if self._before is not None and self._seat.alone:
            self._costs.note(1 + len(self._drafts), self._seat.spent - self._before)
        self._before = None
        self.drafted += len(self._drafts)
        self._over = len(self._drafts)

    def known(self, token: int) -> bool:
        """``token`` is the next one of the answer: whether the run has what comes behind it."""
        if self._history:
            self._history.add(token)
        if self._row < len(self._drafts) and self._drafts[self._row] == token:
            self._row += 1
            self.accepted += 1
            return True
        return False

    def next(self, token: int, left: int) -> list[int]:
        """``token``, the last one that is known, and guesses of what follows.

        May be called again before they run: a task that is not alone any more has no guesses.

        Args:
            token: what was picked from the last logits.
            left: how many tokens may still come.
        """
        seat = self._seat
        if self._most and self._history is None:  # not earlier: the first token is on its way now
            self._history = History(self._prompt)
            self._history.add(token)
        if self._over:
            seat.rewind(seat.sequence.position - self._over + self._row)
        self._drafts, self._row, self._over = [], 0, 0
        self._before = seat.spent if seat.alone else None
        if self._history and seat.alone:
            self._drafts = self._history.draft(min(self._most, left - 1), self._costs.slope)
        return [token, *self._drafts]
