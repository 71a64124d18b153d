"""What all benchmarks share: bars, reports of a box, percentiles, and a kernel of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.cli.bench import collect, command, report, sampling
from clawai.sdk.cli.bench.paced import Paced
from clawai.sdk.cli.bench.private import Private, family
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.errors import ClawError


def claw(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def found(**figures: float) -> dict:
    return Report("wire", {"rounds": 1}, figures, {"peer": {"p50_ms": 2.0}}).as_dict()


@pytest.mark.parametrize(
    ("bar", "figures", "text"),
    [
        (Bar(key="p50_ms", most=3), {"p50_ms": 3.0}, "at most 3: reached"),
        (Bar(key="p50_ms", most=3), {"p50_ms": 3.1}, "at most 3: MISSED"),
        (Bar(key="p50_ms", most=1.5, of="peer"), {"p50_ms": 3.0}, "at most 1.5x peer: reached"),
        (Bar(key="p50_ms", most=1.5, of="peer"), {"p50_ms": 3.1}, "at most 1.5x peer: MISSED"),
        (Bar(key="p50_ms", least=1, most=3), {"p50_ms": 0.5}, "at most 3, at least 1: MISSED"),
        (Bar(key="lost", most=0), {"lost": 0}, "at most 0: reached"),
        (Bar(key="x_bytes", most=4 << 20), {"x_bytes": 1}, "at most 4.2 MB: reached"),
        (Bar(key="p50_ms", most=3), {}, ""),
        (Bar(key="p50_ms", most=3, of="nobody"), {"p50_ms": 3.0}, ""),
    ],
)
def test_a_bar_is_judged(bar: Bar, figures: dict[str, float], text: str) -> None:
    assert report.judged(bar, found(**figures)) == text


def test_every_benchmark_is_there_and_names_figures_that_it_asks_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in command.BENCHES:
        shown = claw(name, "--help")
        assert shown.returncode == 0, shown.stderr
        assert "--json" in shown.stdout
        assert f"claw bench {name}" in shown.stdout
        keys = [bar.key for bar in report.bars_of(name)]
        assert len(set(keys)) == len(keys)


def test_the_table_shows_figures_peers_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"p50_ms": 0.5, "p99_ms": 1.0, "rps_1": 9.0, "rps_8": 9.0, "rps_32": 9.0}
    against = {"bare zeromq": {"p50_ms": 0.4, "rps_32": 10.0}}
    report.show(Report("wire", {"others_busy_ratio": 0.5}, figures, against).as_dict())
    text = capsys.readouterr().out
    assert "at most 1.5x bare zeromq: reached" in text
    assert "at least 0.7x bare zeromq: reached" in text
    assert "measure again when it rests" in text


def test_all_reports_of_a_box_are_one_file_that_compares(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for path, value in ((first, 1.0), (second, 2.0)):
        whole = {"made": "", "reports": [found(p50_ms=value)], "failed": {}}
        path.write_text(json.dumps(whole))
    shown = claw("compare", str(first), str(second))
    assert shown.returncode == 0, shown.stderr
    assert "2.00x faster" in shown.stdout
    first.write_text("{}")
    refused = claw("compare", str(first), str(second))
    assert refused.returncode == 1
    assert "is no report of `claw bench all`" in refused.stderr


def test_all_runs_what_is_asked_and_writes_the_report(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    done = claw("all", "--quick", "--only", "wire", "--output", str(path))
    assert done.returncode == 0, done.stderr
    assert "p50_ms" in done.stdout
    reports = collect.read(str(path))
    assert set(reports) == {"wire"}
    assert set(reports["wire"]["figures"]) == {"p50_ms", "p99_ms", "rps_1", "rps_8", "rps_32"}
    assert set(reports["wire"]["against"]["bare zeromq"]) == set(reports["wire"]["figures"])


def test_percentiles_are_values_that_were_measured() -> None:
    assert sampling.percentile([5, 1, 4, 2, 3], 50) == 3
    assert sampling.percentile(range(1, 1001), 99) == 990
    assert sampling.percentile([7], 99.9) == 7


def test_sides_take_turns_in_alternating_order() -> None:
    order = [name for _, name in sampling.interleaved("ab", 2)]
    assert order in (list("baab"), list("abba"))


def test_a_private_kernel_leaves_nothing_behind() -> None:
    with Private("[memory]\nbudget_mib = 512\n") as kernel:
        kernel.plugin("neighbour")
        kernel.plugin("neighbour", "other")
        assert kernel.client().call("neighbour.say", {"n": 3}).value == 3
        assert kernel.client().call("other.say", {"n": 4}).value == 4
        processes, base = kernel.processes(), kernel.base
        assert kernel.pid in processes
        assert kernel.alive()
    assert not base.exists()
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]


def test_a_private_kernel_that_cannot_start_says_why() -> None:
    kernel = Private("[nonsense]\n")
    with pytest.raises(ClawError) as caught:
        kernel.start()
    assert caught.value.code == "no_kernel"
    assert "nonsense" in str(caught.value.got)
    assert not kernel.base.exists()


def test_a_family_is_a_process_and_what_descends_from_it() -> None:
    sleeper = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], stdout=subprocess.PIPE)
    try:
        assert sleeper.pid in family(os.getpid())
    finally:
        for pid in reversed(family(sleeper.pid)):
            os.kill(pid, 9)
        sleeper.communicate()


def test_a_paced_client_keeps_every_request() -> None:
    with Private() as kernel:
        kernel.plugin("neighbour")
        paced = Paced(kernel.folder, 5, ["neighbour.say"])
        try:
            client = kernel.client()
            while client.query("status")["ended"].get("done", 0) < 20:
                pass
            samples, lost = paced.finish()
        finally:
            paced.kill()
    assert len(samples) >= 19
    assert not lost
    assert samples == sorted(samples)
