"""What `claw bench speculate` asks: kinds of work that repeat their prompt, and kinds that do not.

All texts were written for this benchmark; none was chosen by its result.
"""

_LETTER = (
    "Dear neighbours, on Saturday we repaired the fence behind the old mill, and we want to thank "
    "everybody who came. The timber was given by the Harlow yard, the nails by Mrs. Penrose, and "
    "the soup by the fire brigade. Next month we shall paint the gate. Please bring brushes."
)
_MINUTES = (
    "The meeting began at nine. Dr. Osei reported that the second pump runs at half its pressure. "
    "Ms. Lindqvist will order a new valve from the supplier in Gdansk before the fifth of June. "
    "The night shift asked for better lamps in the tunnel, and the board agreed to buy twelve."
)
_ERRORS = (
    "Yesterday me and my brother goes to the market for to buy apples. The seller have told us "
    "that the harvest was bad becuase of the rain. We buyed two baskets anyway and carried them "
    "home befor it get dark. My mother were very happy about it."
)
_STATION = (
    "The weather station on Hollow Ridge was built in 1911 by the engineer Ada Morrow. It stood "
    "empty for thirty years after the storm of 1957, which took its roof. In 1988 a group of "
    "students repaired it, and since then it measures wind, rain and the depth of the snow."
)
_FERRY = (
    "The ferry leaves Skarholm at six in the morning and at four in the afternoon. A ticket costs "
    "nine crowns, and children under seven travel free. In winter the afternoon ferry does not "
    "run. Bicycles are carried on the upper deck, but cars must be booked a day before."
)

_STOCK = """def total(items):
    result = 0
    for item in items:
        result = result + item.price * item.count
    return result


def average(items):
    if not items:
        return 0
    return total(items) / len(items)
"""
_STACK = """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def size(self):
        return len(self.items)
"""
_FIND = """function find(list, name) {
  for (let i = 0; i < list.length; i++) {
    if (list[i].name == name) {
      return list[i];
    }
  }
  return null;
}
"""
_WORDS = """def count_words(path):
    counts = {}
    f = open(path)
    for line in f:
        for word in line.split():
            if word in counts:
                counts[word] = counts[word] + 1
            else:
                counts[word] = 1
    f.close()
    return counts
"""

_PEOPLE = """name,age,city
Miriam Okafor,41,Leeds
Jonas Vetter,29,Bremen
Aiko Tanabe,35,Sendai
Luis Ferrer,52,Valencia"""
_ORDER = (
    '{"order": 8812, "customer": "Nadia Brandt", "lines": [{"part": "bolt M8", "count": 40}, '
    '{"part": "washer", "count": 80}, {"part": "bracket", "count": 12}], "paid": false}'
)
_SENSORS = """sensor: boiler-1, state: ok, reading: 71.5
sensor: boiler-2, state: high, reading: 93.0
sensor: tank-4, state: ok, reading: 12.25
sensor: pump-9, state: off, reading: 0.0"""
_BOOKS = """The Glass Orchard by Ines Varga, 1974
Salt Roads by Peter Amadi, 1989
A Winter of Clocks by Hanna Lund, 2003
The Ninth Harbour by Omar Rizvi, 2011"""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "repeat": (
        f"Repeat this text word for word:\n\n{_LETTER}",
        f"Correct the spelling and the grammar of this text:\n\n{_ERRORS}",
        f"Write this text again, but with 'lorries' instead of 'pumps':\n\n{_MINUTES}",
        f"Copy the following paragraph exactly as it is:\n\n{_STATION}",
    ),
    "code": (
        f"Add a docstring to each function of this Python code:\n\n```python\n{_STOCK}```",
        f"Rename 'items' to 'values' in this Python code:\n\n```python\n{_STACK}```",
        f"Use === instead of == in this JavaScript code:\n\n```javascript\n{_FIND}```",
        f"Use a with statement to open the file in this code:\n\n```python\n{_WORDS}```",
    ),
    "quote": (
        f"{_STATION}\n\nWho built the station, and when? Quote the sentence that says so.",
        f"{_FERRY}\n\nWhen does the ferry leave in winter? Answer with quotes from the text.",
        f"{_MINUTES}\n\nWhat was decided? List each decision with a quote from the minutes.",
        f"{_LETTER}\n\nWho gave what? Quote the letter in your answer.",
    ),
    "data": (
        f"Turn this CSV into a JSON list of objects:\n\n{_PEOPLE}",
        f"Format this JSON with one field on each line:\n\n{_ORDER}",
        f"Write these lines as a Markdown table:\n\n{_SENSORS}",
        f"Turn this list into JSON with the fields title, author and year:\n\n{_BOOKS}",
    ),
    "story": (
        "Tell a story about a lighthouse keeper who finds a letter.",
        "Write a short tale of a fox that wants to learn to swim.",
        "Write the beginning of a novel that plays in a desert town.",
        "Invent a legend about the first bridge over a great river.",
    ),
    "question": (
        "Why is the sky blue during the day and red in the evening?",
        "What should I think of before I adopt a dog?",
        "Explain how a bicycle stays upright while it moves.",
        "Give me some advice for a first job interview.",
    ),
}
