"""Faults have words, all of them; what stands between the core and the wire loses nothing."""

import re
from pathlib import Path

import pytest

from clawai.kernel import events as ev
from clawai.kernel import mail
from clawai.sdk import wire
from clawai.sdk.codes import CODES
from clawai.sdk.errors import ClawError

KERNEL = Path(mail.__file__).parent
USED = {
    key
    for path in KERNEL.glob("*.py")
    for key in re.findall(r'\bFault\(\s*"(\w+)"', path.read_text())
}


def test_every_fault_of_the_code_has_words_and_no_words_are_left_over() -> None:
    assert set(mail.TEXTS) == USED


@pytest.mark.parametrize("key", sorted(mail.TEXTS))
def test_a_fault_in_words(key: str) -> None:
    fault = ev.Fault(
        key, "WHAT", "GOT", "ALLOWED", 7000, ev.Hidden(wire.Error(code="x", message="W"))
    )
    error = mail.error(fault)
    assert error.code in CODES
    assert error.message
    assert "{" not in error.message + error.hint
    assert (error.got, error.allowed, error.retry_after_ms) == ("GOT", "ALLOWED", 7000)


def test_what_a_plugin_says_is_never_a_format() -> None:
    said = ev.Hidden(wire.Unready(incarnation=1, code="bad_model", message="{what} {0} %s"))
    error = mail.error(ev.Fault("quarantined", "{hint}", retry_ms=1000, because=said))
    assert error.message == "{hint} kept dying ({what} {0} %s)"
    nested = ev.Fault("quarantined", "a", because=ev.Fault("launch_failed", because="x" * 9000))
    assert len(mail.error(nested).message) < 4000


def test_another_incarnation_is_refused() -> None:
    frames = [bytes(frame) for frame in wire.encode(wire.Done(id=1, incarnation=2))]
    with pytest.raises(ClawError) as caught:
        mail.from_worker(3, frames)
    assert caught.value.code == "bad_worker"


def test_an_error_of_a_worker_goes_on_under_the_id_of_the_request() -> None:
    said = ev.Hidden(wire.Error(id=9, code="made_up", message="m", incarnation=4))
    answer = mail.to_client(ev.Pass(1, 7, said, (1000, 2000, 3000)))[0]
    assert (answer.id, answer.code, answer.incarnation) == (7, "made_up", 0)
    assert answer.timings == {
        "queue_us": 1, "load_us": 2, "compute_us": 0, "plugin_us": 0, "wire_us": 3,
    }  # fmt: skip


def test_nothing_but_what_is_hidden_is_hidden() -> None:
    with pytest.raises(TypeError):
        ev.hide(object())
