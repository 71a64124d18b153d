"""What a stranger writes in a manifest and a person reads: refused, and never shown as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk import asks, install
from clawai.sdk.checks import CONTROLS
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin import config, docs, info, showing
from clawai.sdk.cli.plugin import install as install_verb
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import (
    Identity,
    Limits,
    OperationEntry,
    Permissions,
    Plugin,
    Setting,
    read_plugin,
)

HOSTILE = {
    "clear": r"\u001b[2Jnothing",
    "title": r"\u001b]0;root\u0007",
    "csi": r"\u009b31m",
    "return": r"read /etc\rnothing",
    "delete": r"\u007f\u007f",
    "override": r"\u202egnp.exe",
    "isolate": r"\u2066x\u2069",
    "mark": r"\u200fx",
    "letter mark": r"\u061cx",
    "separator": r"a\u2028b",
    "nothing to see": r"a\u200bb",
    "tag": r"a\U000e0041b",
}
PLACES = {
    "name": ('name = "good"', 'name = "{}"'),
    "version": ('version = "1"', 'version = "{}"'),
    "module": ('module = "good"', 'module = "{}"'),
    "description": ("[[operation]]", 'description = "{}"\n[[operation]]'),
    "language": ("[[operation]]", 'language = "{}"\n[[operation]]'),
    "kind": ("[[operation]]", 'kind = "{}"\n[[operation]]'),
    "drivers": ("[[operation]]", 'drivers = ["{}"]\n[[operation]]'),
    "operation": ('name = "good.op"', 'name = "{}"'),
    "operation description": ("[permissions]", 'description = "{}"\n[permissions]'),
    "example": ("[permissions]", 'example = {{ text = "{}" }}\n[permissions]'),
    "example within": ("[permissions]", 'example = {{ a = [{{ b = "{}" }}] }}\n[permissions]'),
    "example's name": ("[permissions]", 'example = {{ "{}" = 1 }}\n[permissions]'),
    "profile": ('profile = "tool"', 'profile = "{}"'),
    "path": ("[end]", '[permissions.read]\n"/srv/{}" = "why"'),
    "reason": ("[end]", '[permissions.read]\n"/srv/x" = "{}"'),
    "host": ("[end]", '[permissions.network]\n"{}" = "why"'),
    "port": ("[end]", '[permissions.listen]\n"{}" = "why"'),
    "others": ('profile = "tool"', 'on_behalf_of = "{}"'),
    "reason of the data": ("[end]", '[permissions.limits]\ndata = "{}"'),
    "secret": ("[end]", '[secrets]\n"{}" = "why"'),
    "reason of a secret": ("[end]", '[secrets]\nkey = "{}"'),
    "setting": ("[end]", '[config."{}"]\ndefault = 1'),
    "its description": ("[end]", '[config.key]\ndescription = "{}"'),
    "its type": ("[end]", '[config.key]\ntype = "{}"'),
    "its default": ("[end]", '[config.key]\ndefault = "{}"'),
    "its choices": ("[end]", '[config.key]\nchoices = ["{}"]'),
}
GOOD = """
[plugin]
name = "good"
version = "1"
module = "good"
[[operation]]
name = "good.op"
[permissions]
profile = "tool"
[end]
"""


def shown_as_it_is(text: str) -> list[str]:
    """What of a terminal's output could drive or deceive it."""
    return CONTROLS.findall(text.replace("\n", "").replace("\t", ""))


@pytest.mark.parametrize("place", PLACES)
def test_no_text_of_a_manifest_drives_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    old, new = PLACES[place]
    for name, hostile in HOSTILE.items():
        text = GOOD.replace(old, new.format(hostile)).replace("[end]", "")
        assert hostile in text
        (tmp_path / "plugin.toml").write_text(text)
        with pytest.raises(ClawError) as caught:
            read_plugin(tmp_path)
        assert caught.value.code == "bad_config", name
        output.print_error(caught.value)
        said = capsys.readouterr()
        assert shown_as_it_is(said.err) == [], name


@pytest.mark.parametrize("good", ["Straße", "日本語", "👩‍🌾 ❤️", "می‌خواهم", "עברית"])
def test_what_people_write_is_let_through(tmp_path: Path, good: str) -> None:
    text = f'{GOOD}[secrets]\nkey = "{good}"\n[config.key]\ndefault = "{good}"\n'
    (tmp_path / "plugin.toml").write_text(text.replace("[end]", ""))
    assert read_plugin(tmp_path).secrets == {"key": good}


def test_a_secret_needs_a_reason(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(GOOD.replace("[end]", '[secrets]\nkey = " "'))
    with pytest.raises(ClawError, match=r"secrets\.key: it needs a reason"):
        read_plugin(tmp_path)


BAD = "".join(bytes(each, "ascii").decode("unicode_escape") for each in HOSTILE.values())
UNREAD = Plugin(
    Identity(f"n{BAD}", f"1{BAD}", f"m{BAD}", f"d{BAD}"),
    (OperationEntry(f"o{BAD}", description=f"d{BAD}", example={f"k{BAD}": f"v{BAD}"}),),
    Limits(data_mib=5),
    Permissions(
        profile=f"p{BAD}",
        read={f"/srv/{BAD}": f"r{BAD}"},
        limits={"data": f"r{BAD}"},
        on_behalf_of=f"r{BAD}",
    ),
    {f"c{BAD}": Setting(f"d{BAD}", default=f"v{BAD}", choices=(f"v{BAD}",))},
    {f"s{BAD}": f"r{BAD}"},
)
"""As no manifest is read; printing does not rely on that."""


def printed_by() -> dict[str, Callable[[Path], Any]]:
    """Everything that shows what stands in a manifest."""
    wanted = list(asks.asks(UNREAD))
    told = {"signer": showing.signer(""), "source": "folder", "hash": f"h{BAD}"}
    here = Path("/nowhere")

    def candidate(_: Path) -> None:
        found: Any = type("Contents", (), {"hash": f"h{BAD}"})
        what = install.Candidate(UNREAD, found, here, f"folder {BAD}", "")
        install_verb._show(what, install.Before(here), wanted, False)

    return {
        "install": candidate,
        "info": lambda folder: info._print(
            info._names(UNREAD, here) | told | info._inside(folder, UNREAD)
        ),
        "docs": lambda _: print("\n".join(docs._permissions(UNREAD))),
        "operation": lambda _: print("\n".join(docs._operation(UNREAD.operation[0], None))),
        "config": lambda _: config._show(UNREAD, {}, False),
    }


@pytest.mark.parametrize("verb", ["install", "info", "docs", "operation", "config"])
def test_printing_does_not_rely_on_what_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    printed_by()[verb](tmp_path)
    said = capsys.readouterr().out
    assert said
    assert shown_as_it_is(said) == []
