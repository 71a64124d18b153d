"""How good a plugin is: rules that a program can check, on a scale from bronze to platinum.

``subject.py`` is what a rule looks at, ``static.py`` the rules that read the folder, ``live.py``
those that run the plugin in the real sandbox, by a kernel of its own. Nothing of the plugin runs
outside of the sandbox, but its tests if the owner asks for that. ``RULES`` has them all, and
``examine`` gives the level: the highest up to which every rule is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clawai.sdk.errors import ClawError
from clawai.sdk.lint import live, static
from clawai.sdk.lint.subject import LEVELS, NotChecked, Rule, Subject

__all__ = ["LEVELS", "RULES", "Finding", "Report", "Rule", "examine", "listing"]

RULES: tuple[Rule, ...] = tuple(
    sorted((*static.RULES, *live.RULES), key=lambda rule: LEVELS.index(rule.level))
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one rule."""

    rule: Rule
    state: str
    """kept, broken or not checked"""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all rules."""

    findings: tuple[Finding, ...]
    written: bool = False
    """Whether ``operations.json`` is another now."""

    @property
    def level(self) -> str:
        """The highest level up to which every rule is kept; "none" below bronze."""
        reached = "none"
        for level in LEVELS:
            if any(each.state != "kept" for each in self.findings if each.rule.level == level):
                break
            reached = level
        return reached

    def below(self, level: str) -> bool:
        """Whether the plugin is below a level."""
        order = ("none", *LEVELS)
        return order.index(self.level) < order.index(level)


def examine(folder: Path, *, tests: bool = False, write: bool = True) -> Report:
    """Look at a plugin by every rule.

    Args:
        tests: run the plugin's own tests too, which happens outside of the sandbox.
        write: keep what the operations say of themselves in ``operations.json``.
    """
    with Subject(folder.resolve(), tests) as subject:
        findings = tuple(_apply(subject))
        written = bool(write and subject.manifest and subject.loaded and subject.keep())
    return Report(findings, written)


def _apply(subject: Subject) -> Iterator[Finding]:
    for rule in RULES:
        try:
            problems = tuple(rule.check(subject))
            yield Finding(rule, "broken" if problems else "kept", problems)
        except NotChecked as why:
            yield Finding(rule, "not checked", (str(why),))
        except (ClawError, OSError) as error:
            yield Finding(rule, "broken", (str(error),))


def listing() -> list[dict[str, str]]:
    """The rules: name, level and reason."""
    return [{"rule": each.name, "level": each.level, "reason": each.reason} for each in RULES]
