"""The engine as a worker: what it asks of its host."""

import pytest

from clawai.plugins.engine.worker import shares_weights


@pytest.mark.parametrize(
    ("setting", "release", "expected"),
    [
        ("shared", "5.15.0-generic", True),
        ("private", "6.18.0", False),
        ("auto", "5.15.0-91-generic", False),
        ("auto", "6.0.19", False),
        ("auto", "6.1.0", True),
        ("auto", "6.18.44-fc-v595", True),
        ("auto", "10.0", True),
        ("auto", "odd", False),
    ],
)
def test_where_weights_are_shared(setting: str, release: str, expected: bool) -> None:
    assert shares_weights(setting, release) is expected
