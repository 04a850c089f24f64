"""What built data teaches: the figures of each trainer, and what is said without a build."""

from pathlib import Path

import pytest

from instructbrush.tools.build_demo import training_bench


def test_compares_each_item_with_the_editor_before_training() -> None:
    parts = {
        "before": {"direct_l1": [0.1, 0.3], "inside_psnr": [10.0, 20.0]},
        "finetune": {
            "direct_l1": [0.05, 0.15],
            "inside_psnr": [11.0, 21.0],
            "seconds": [9.6],
            "rows": [1010],
        },
        "train_region": {"inside_psnr": [12.0, 24.0], "seconds": [3.2], "rows": [500]},
    }
    rows = training_bench.figures(parts)
    assert rows["before"]["direct_l1"] == 0.2 and "direct_l1_change" not in rows["before"]
    assert rows["finetune"]["direct_l1_change"] == -0.1
    # Both items gain 1 dB, however different they are.
    assert rows["finetune"]["inside_psnr_change"] == 1 and rows["finetune"]["inside_psnr_change_ci95"] == 0
    assert rows["train_region"] == {
        "inside_psnr": 18.0,
        "inside_psnr_ci95": pytest.approx(6 * 12.7062, abs=0.001),
        "inside_psnr_change": 3.0,
        "inside_psnr_change_ci95": pytest.approx(12.7062, abs=0.001),
        "seconds": 3,
        "rows": 500,
    }


def test_asks_for_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training_bench.main(["--builds", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path}/reason/data' holds no table. Run make bench-training, which builds it." in message
