"""Profiles and policies: loading, inheritance, and what is refused."""

import json
from pathlib import Path

import pytest

from clawai.sandbox.policy import Policy, PolicyError


@pytest.mark.parametrize("name", ["strict", "tool", "engine"])
def test_the_shipped_profiles_load_and_survive_json(name: str) -> None:
    policy = Policy.load(name)
    assert policy.name == name
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def test_the_defaults_are_the_strict_profile() -> None:
    assert Policy.load("strict") == Policy()


def test_a_profile_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("max_fds = 10\nmax_threads = 3\n")
    (tmp_path / "mine.toml").write_text('extends = "base"\nmax_fds = 20\n')
    policy = Policy.load("mine", tmp_path)
    assert (policy.name, policy.max_fds, policy.max_threads) == ("mine", 20, 3)


def test_a_profile_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('extends = "two"\n')
    (tmp_path / "two.toml").write_text('extends = "one"\n')
    with pytest.raises(PolicyError, match="'one' extends itself"):
        Policy.load("one", tmp_path)


def test_an_unknown_profile_names_those_that_exist() -> None:
    with pytest.raises(PolicyError, match=r"does not exist.*engine.*strict.*tool"):
        Policy.load("lenient")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_fd": 1}, "unknown keys.*max_fd.*max_fds"),
        ({"max_fds": "many"}, "max_fds: got 'many', allowed: int"),
        ({"max_fds": True}, "max_fds: got True, allowed: int"),
        ({"max_fds": -1}, "max_fds: got -1"),
        ({"executable_memory": 1}, "executable_memory: got 1, allowed: bool"),
        ({"minimum_level": "none"}, "minimum_level: got 'none'"),
        ({"read_paths": "/a"}, "read_paths: got '/a', allowed: tuple"),
        ({"read_paths": [1]}, "path: got 1, allowed: a string"),
        ({"read_paths": ["relative"]}, "path: got 'relative'"),
        ({"read_paths": ["/"]}, "path: got '/'"),
        ({"read_paths": ["//"]}, "path: got '//'"),
        ({"read_paths": ["/a/../b"]}, "path: got '/a/../b'"),
        ({"read_paths": ["/a//b"]}, "path: got '/a//b'"),
        ({"read_paths": ["//proc/self"]}, "path: got '//proc/self'"),
        ({"read_paths": ["/proc/self"]}, "path: got '/proc/self'"),
        ({"write_paths": ["/dev"]}, "path: got '/dev'"),
        ({"write_paths": ["/sys/kernel"]}, "path: got '/sys/kernel'"),
    ],
)
def test_what_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.from_dict(values)


def test_no_policy_shows_the_device_that_is_memory_without_a_limit() -> None:
    with pytest.raises(PolicyError, match="a shared map of it is memory that no limit counts"):
        Policy(devices=("/dev/zero",))
