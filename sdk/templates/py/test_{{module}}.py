"""`claw plugin test` runs these without a kernel, and with --sandbox in the real sandbox."""

import pytest

from clawai.sdk import ClawError


def test_it_greets(claw):
    assert claw.call("{{prefix}}.greet", {"name": "Ada"}).value == "Hello, Ada!"


def test_it_refuses_what_it_does_not_know(claw):
    with pytest.raises(ClawError, match="unknown field"):
        claw.call("{{prefix}}.greet", {"nam": "Ada"})
