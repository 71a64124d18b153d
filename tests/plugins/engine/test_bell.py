"""The bell that wakes a waiting task: no ring is lost, and each wakes once."""

import threading

from clawai.plugins.engine.bell import Bell


def rang(bell: Bell) -> bool:
    """Whether it is set; it is not afterwards."""
    was = not bell._lock.locked()
    bell.clear()
    return was


def test_a_ring_before_the_wait_counts_once_however_often_it_came() -> None:
    bell = Bell()
    assert not rang(bell)
    bell.set()
    bell.set()
    bell.wait(10)  # returns at once
    assert not rang(bell)
    bell.set()
    bell.clear()
    bell.wait(0.001)
    assert not rang(bell), "cleared: it waited as long as it may"


def test_who_waits_is_woken() -> None:
    bell, woken = Bell(), threading.Event()

    def wait() -> None:
        bell.wait(30)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    bell.set()
    assert woken.wait(10)
    thread.join()
