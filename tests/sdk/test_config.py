"""The configuration: defaults, checks, and errors that name the key."""

import os

import pytest

from clawai.sdk import catalogue, config, paths
from clawai.sdk.errors import ClawError


def parse(text: str) -> config.Config:
    return config.parse(text.encode(), "config.toml")


def test_a_missing_file_means_all_defaults(home):
    assert config.load() == config.Config()


def test_the_file_is_read_from_xdg(home):
    path = paths.config_file()
    path.parent.mkdir(parents=True)
    path.write_text("[memory]\nbudget_mib = 64\n")
    assert config.load().memory.budget_mib == 64
    assert config.budget_bytes(config.load()) == 64 << 20


def test_a_budget_of_zero_is_a_share_of_the_box():
    assert config.budget_bytes(config.Config()) > 64 << 20


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[memory]\nbudget_mb = 1", "budget_mb"),
        ("[memory]\nbudget_mib = -1", "budget_mib"),
        ("[memory]\nbudget_mib = '1'", "budget_mib"),
        ("[memory]\nbudget_mib = 16777215", "more than this box has"),
        ("[memory]\nbudget_mib = 16777217", "<= 16777216"),
        ("[workers]\nthreads = 257", "threads"),
        ("[workers]\nkv = 'q4'", "workers.kv [bad_config]; got 'q4'; allowed: ['f16', 'q8']"),
        ("[workers]\nidle_minutes = nan", "idle_minutes"),
        ("[workers]\nidle_minutes = inf", "idle_minutes"),
        ("#" * (1 << 20) + "\n", "too large"),
        ("[sandbox]\nminimum = 'none'", "sandbox.minimum"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[extra]", "extra"),
        ("[log", "end of document"),
        ("[memory\nx = 1", "line 1"),
        ("plugin_dirs = 'x'", "plugin_dirs"),
    ],
)
def test_what_cannot_be_used_is_named(text, names):
    with pytest.raises(ClawError) as caught:
        parse(text)
    assert caught.value.code == "bad_config"
    assert names in str(caught.value)
    assert "config.toml" in str(caught.value)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ClawError) as caught:
        config.parse(b"\xff\xfe", "config.toml")
    assert caught.value.code == "bad_config"


def test_a_folder_in_its_place_is_refused(home):
    paths.config_file().mkdir(parents=True)
    with pytest.raises(ClawError) as caught:
        config.load()
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize("name", ["config.toml", "catalogue.toml"])
def test_a_pipe_in_its_place_is_refused(home, name):
    path = paths.config_file().with_name(name)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(ClawError) as caught:
        config.load() if name == "config.toml" else catalogue.load()
    assert caught.value.code == "bad_config"
