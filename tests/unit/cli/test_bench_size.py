"""``bench --size``: values that the models cannot edit are refused before anything is read."""

from pathlib import Path

import pytest

from instructbrush.cli.bench_options import OUT_FOLDERS
from instructbrush.cli.main import main


@pytest.mark.parametrize("benchmark", OUT_FOLDERS)
@pytest.mark.parametrize("size", [-5, 8, 63])
def test_refuses_sizes_that_are_too_small(
    benchmark: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--benchmark", benchmark, "--data", "nowhere", f"--size={size}"]) == 1
    message = f"--size is {size}; it must be at least 64, or 0 to keep the images' own sizes."
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["top-bench", "clean-ip2p", "ppr10k"])
def test_sizes_of_pairs_are_multiples_of_8(benchmark: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--benchmark", benchmark, "--data", "nowhere", "--size", "100"]) == 1
    message = "--size is 100; it must be a multiple of 8, such as 96 or 104."
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("benchmark", "size"), [("top-bench", 0), ("top-bench", 64), ("magicbrush", 100)])
def test_accepts_other_sizes(
    benchmark: str, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere")
    assert main(["bench", "--benchmark", benchmark, "--data", missing, "--size", str(size)]) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error and "--size" not in error
