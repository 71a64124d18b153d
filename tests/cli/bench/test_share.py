"""`claw bench share`: its arithmetic, and one short run of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.cli.bench import share


def test_shares_are_of_what_each_does_alone() -> None:
    alone = {"model_1": [100.0, 50.0], "model_2": [80.0, 40.0], "third": [10.0, 5.0]}
    together = {"model_1": [25.0, 25.0], "model_2": [20.0, 10.0], "third": [5.0, 2.5]}
    found = share.figures(alone, together)
    assert found["shared_ratio"] == pytest.approx((1.0 + 1.25) / 2)
    assert found["model_1_share_ratio"] == pytest.approx(0.375)
    assert found["third_alone_rps"] == pytest.approx(7.5)


@pytest.mark.model
def test_a_short_run_has_every_figure(smollm2_path: Path) -> None:
    """Figures are not judged here: other tests use the processor too."""
    words = ["bench", "share", "--model", str(smollm2_path), "--rounds", "1", "--seconds", "2"]
    command = [sys.executable, "-m", "clawai.sdk.cli.main", *words, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)["figures"]
    assert set(found) == {
        "shared_ratio",
        *(f"{name}_share_ratio" for name in (*share.MODELS, share.THIRD)),
        *(f"{name}_alone_rps" for name in (*share.MODELS, share.THIRD)),
    }
    assert found["shared_ratio"] > 0
