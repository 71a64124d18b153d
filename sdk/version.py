"""Which of two versions of a plugin is the newer one."""

import re

_PARTS = re.compile(r"[0-9]+|[A-Za-z]+")


def version_key(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """A key to sort versions by, oldest first.

    Numbers count as numbers; ``1.0`` is ``1.0.0``; what stands behind the numbers (``-rc.1``,
    ``b2``) is a version before that release, but for ``.post``; what stands behind ``+`` does not
    count. That is the order of semantic versioning, and of Python's for its common forms.
    """
    told = version.partition("+")[0]
    release = re.match(r"[0-9]+(\.[0-9]+)*", told)
    whole = release[0] if release else ""
    numbers = [int(part) for part in whole.split(".") if part]
    while numbers and not numbers[-1]:
        numbers.pop()
    rest = told[len(whole) :]
    after = not rest or rest.startswith((".post", "-post"))
    # A number comes before a word, as semantic versioning has it.
    more = [
        (not part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in _PARTS.findall(rest)
    ]
    return numbers, after, more
