"""`claw plugin new`: a folder that works at once, made from a template."""

import importlib.util
import re
import sys
from pathlib import Path

import click

from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

TEMPLATES = Path(__file__).parents[2] / "templates"
"""One folder a language; ``{{name}}``, ``{{module}}`` and ``{{prefix}}`` (of the operations) in
names and contents are replaced; ".in" at the end of a name, which keeps tools away, goes."""
LANGUAGES = {
    name: title
    for name, title in {"py": "Python", "c": "C", "cpp": "C++"}.items()
    if (TEMPLATES / name / "plugin.toml").is_file()
}
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_LONGEST = 32


def check_name(name: str) -> str:
    """The name of the module of a plugin of this name.

    Raises:
        ClawError: bad_params, for a name that cannot be one, or that Python's import would confuse.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ClawError(
            "bad_params",
            "the name of a plugin",
            got=name[:80],
            allowed=f"lower case letters, digits, - and _ between them, {_LONGEST} at most",
        )
    module = name.replace("-", "_")
    if module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise ClawError(
            "bad_params",
            f"Python already has a module {module!r}, which would be imported in its place",
            got=name,
            hint=f"another name, such as my-{name}",
        )
    return module


def write(folder: Path, name: str, language: str) -> list[Path]:
    """Make the folder of a new plugin; its files.

    Raises:
        ClawError: bad_params, if the name cannot be used, or something is there already.
    """
    module = check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ClawError(
            "bad_params", f"{folder} is there already", hint="give another place with --dir"
        )
    words = {"name": name, "module": module, "prefix": module}
    made = []
    for source in sorted((TEMPLATES / language).rglob("*")):
        if source.is_file() and source.suffix != ".pyc":
            inside = str(source.relative_to(TEMPLATES / language)).removesuffix(".in")
            place = folder / _filled(inside, words)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_filled(source.read_text(encoding="utf-8"), words), encoding="utf-8")
            place.chmod(0o644)  # the worker of a root daemon is another user
            made.append(place)
    folder.chmod(0o755)
    return made


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", value)
    return text


@click.command("new")
@click.argument("name")
@click.option(
    "--lang",
    type=click.Choice(list(LANGUAGES)),
    default="py",
    show_default=True,
    help="What it is written in.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    help="The folder to make; else NAME in this one.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the files.")
def command(name: str, lang: str, folder: Path | None, as_json: bool) -> None:
    """Make the folder of a new plugin, which works at once.

    \b
    Example:
      claw plugin new hello
    """
    place = folder or Path(name)
    made = write(place, name, lang)
    if as_json:
        output.print_json({"folder": str(place), "files": [str(path) for path in made]})
        return
    print(f"{LANGUAGES[lang]} plugin {name}:")
    for path in made:
        print(f"  {path}")
    print(f"\nNext:\n  claw plugin dev {place}      try it, and see it reload when you save")
    print(f"  claw plugin test {place}     run its tests")
