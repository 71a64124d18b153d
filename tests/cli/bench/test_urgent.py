"""`claw bench urgent`, small: its form, its counts, and the bulk load that it keeps under way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.cli.bench import urgent
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import UNITS
from clawai.sdk.cli.bench.saturator import Saturator
from clawai.sdk.errors import ClawError
from support import no_leak, wait_until

KEYS = {
    "solo_p50_ms", "solo_p99_ms", "loaded_p50_ms", "loaded_p99_ms", "loaded_p999_ms",
    "loaded_max_ms", "solo_over_3ms_ratio", "loaded_over_3ms_ratio", "solo_over_10ms",
    "loaded_over_10ms", "bulk_tasks_s",
}  # fmt: skip


def test_the_form_of_a_report():
    command = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", "urgent"]
    command += ["--samples", "40", "--rounds", "1", "--share", "0.5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    figures, nothing = found["figures"], found["against"]["nothing"]
    assert figures.keys() >= KEYS
    assert nothing.keys() >= KEYS
    # A box that others saturate may end no bulk task in so short a time.
    assert nothing.get("bulk_kept_ratio", 1) == 1
    assert ("bulk_kept_ratio" in figures) == (nothing["bulk_tasks_s"] > 0)
    for key in figures:
        assert key.endswith((*UNITS, "_over_10ms", "_over_10ms_added", "_stolen", "10ms_added")), (
            key
        )
    assert found["settings"]["in_force"]
    assert found["settings"]["uid"] == os.getuid()
    for name, count in (("solo", 40), ("loaded", 40)):
        assert figures[f"{name}_p50_ms"] >= 1, "less than the work itself takes"
        assert figures[f"{name}_p50_ms"] <= figures[f"{name}_p99_ms"] <= figures[f"{name}_max_ms"]
        assert figures[f"{name}_stolen"] < count
    for bar in urgent.BARS:
        assert bar.key in figures or bar.key == "bulk_kept_ratio"


def test_a_browser_looks_on():
    with no_leak():
        found = urgent.measure(20, 1, "auto", [], 0.5, page=True)
    assert found.settings["page"] is True
    unseen = found.against[urgent.NO_PAGE]
    assert unseen["solo_p50_ms"] >= 1 and found.figures.keys() >= KEYS
    assert "bulk_kept_ratio" not in found.figures, "nothing was not measured"
    assert ("bulk_beside_page_ratio" in found.figures) == bool(unseen["bulk_tasks_s"])


def test_the_page_of_whichever_is_measured_is_looked_at(monkeypatch):
    """Of "nothing" too, or the page would count as what our means takes from bulk work."""
    looked_at = {}

    def seen(side: urgent.Side, *_: object) -> None:
        ports = [row.split()[1:4] for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        open_ones = [here for here, _, state in ports if state == "01"]  # ESTABLISHED
        looked_at[side.name] = f"0100007F:{side.port:04X}" in open_ones
        side.solo.late_ms = side.loaded.late_ms = [1.0]
        side.solo.seconds = side.loaded.seconds = 1.0
        side.rates.append(1.0)

    monkeypatch.setattr(urgent.Side, "round", seen)
    urgent.measure(20, 1, "auto", ["none"], 0.5, page=True)
    assert looked_at == {"auto": True, "no page": False, "nothing": True}


def test_samples_with_steal_time_are_counted_apart():
    side = urgent.Side.__new__(urgent.Side)
    side.solo = urgent.Window([1.5] * 99 + [2.0], [], 1.0)
    side.loaded = urgent.Window([1.6] * 90 + [3.5] * 8 + [11.0], [99.0], 1.0)
    side.alone, side.rates = [10.0], [9.0]
    found = side.figures()
    assert found["loaded_stolen"] == 1 and found["loaded_stolen_max_ms"] == 99
    assert found["loaded_max_ms"] == 11
    assert found["loaded_over_10ms"] == 1 and found["over_10ms_added"] == 1
    assert found["loaded_over_3ms_ratio"] == round(9 / 99, 5)
    assert found["p99_added_ms"] == 11.0 - 1.5
    assert found["bulk_of_alone_ratio"] == 0.9
    side.alone = [0.0]
    assert "bulk_of_alone_ratio" not in side.figures()
    assert found["loaded_rps"] == 100


def test_what_was_due_while_time_was_taken_is_counted_apart_too():
    """A freeze of 35 ms in the second sample: the next three begin late, and nothing is taken."""
    theft, found = urgent.Theft(), []
    samples = [  # due, ended, taken
        (0, 2, False),
        (10, 47, True),
        (20, 49, False),
        (30, 51, False),
        (40, 53, False),
        (50, 55, False),  # due before the last of those ended: not caught up yet
        (60, 62, False),
        (70, 95, False),  # slow by itself: that is ours to answer for
        (80, 97, False),  # and so is what waited behind it
        (90, 99, True),
        (100, 102, False),  # began when it was due
    ]
    for due, ended, taken in samples:
        found.append(theft.hit(due, ended, taken))
    assert found == [False, True, True, True, True, True, False, False, False, True, False]


def test_a_sample_due_at_the_end_of_a_stolen_one_began_in_time():
    theft = urgent.Theft()
    assert theft.hit(0.0, 10.0, taken=True)
    assert not theft.hit(10.0, 12.0, taken=False)


def test_steal_time_is_read():
    steal = urgent.Steal()
    try:
        assert steal.read() >= 0
    finally:
        steal.close()


def test_the_load_stays_until_it_is_told_to_end():
    # Without means: lowered bulk work would wait for every other program of this box.
    with no_leak(), Private('[preemption]\nmeans = "none"\n') as kernel:
        for name in urgent.PLUGINS[:2]:
            kernel.plugin("bulk", copy_as=name)
        units = {"hash": 300, "sum": 8192, "power": 300}
        tasks = [
            (f"bulk{1 + n % 2}.{kind}", {"units": units[kind]}) for n, kind in enumerate(units)
        ]
        with Saturator(kernel.folder, tasks) as load:
            load.start()
            wait_until(lambda: load.count()["done"] > 10, "bulk tasks end and are replaced")
            client = kernel.client()
            classes = {task["priority"] for task in client.query("tasks")["tasks"]}
            assert classes <= {"batch"}
            rates: list[float] = []
            with load.counting(rates):
                done = load.count()["done"]
                wait_until(lambda: load.count()["done"] > done, "one more")
            assert rates[0] > 0
            load.stop()
            assert client.query("tasks")["tasks"] == []
            done = load.count()["done"]
            load.start()
            assert load.count()["done"] <= done
            load.stop()


def test_a_load_that_fails_says_why():
    with Private() as kernel:
        kernel.plugin("bulk", copy_as="bulk1")
        with Saturator(kernel.folder, [("bulk1.nothing", {})]) as load:
            load.start()
            with pytest.raises(ClawError) as caught:
                load.stop()
    assert caught.value.code == "unknown_operation"
