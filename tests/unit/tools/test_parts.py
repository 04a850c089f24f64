"""Benchmarks run in parts: they resume, stop on request, and publish figures over all parts."""

import shutil
from pathlib import Path

import pytest
import torch

from instructbrush.core.errors import EvaluationError, StorageError
from instructbrush.tools.benchmarks import reason_bench, region_bench
from instructbrush.tools.benchmarks.parts import Part, models_digest, run_parts

BENCHMARKS = {"region_bench": region_bench, "reason_bench": reason_bench}


class Measuring:
    """Counts what is measured."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> Part:
        self.names.append(name)
        return {"value": len(name)}


def test_resumes_after_the_parts_that_are_kept(tmp_path: Path) -> None:
    measuring = Measuring()
    assert run_parts(tmp_path, {"seed": 1}, ["a", "bb", "ccc"], measuring, most=2) is None
    assert measuring.names == ["a", "bb"]
    parts = run_parts(tmp_path, {"seed": 1}, ["a", "bb", "ccc"], measuring)
    assert measuring.names == ["a", "bb", "ccc"]
    assert parts == [{"value": 1}, {"value": 2}, {"value": 3}]


def test_measures_a_damaged_part_again(tmp_path: Path) -> None:
    run_parts(tmp_path, {}, ["a"], Measuring())
    (tmp_path / "parts" / "a.json").write_text('{"settings": {}')
    measuring = Measuring()
    assert run_parts(tmp_path, {}, ["a"], measuring) == [{"value": 1}]
    assert measuring.names == ["a"]


def test_rejects_parts_with_other_settings(tmp_path: Path) -> None:
    run_parts(tmp_path, {"seed": 1}, ["a"], Measuring())
    with pytest.raises(EvaluationError, match="holds parts of another run: {'seed': 1}"):
        run_parts(tmp_path, {"seed": 2}, ["a"], Measuring())


def test_refuses_a_folder_that_cannot_be_written_before_it_measures(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "parts").touch()
    for folder in (tmp_path / "file" / "out", tmp_path / "out"):
        measuring = Measuring()
        with pytest.raises(StorageError, match="cannot be written"):
            run_parts(folder, {}, ["a"], measuring)
        assert not measuring.names


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_weight_of_the_models_counts(name: str, tmp_path: Path) -> None:
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in BENCHMARKS[name].MODELS]
    digest = models_digest(folders)
    assert digest == models_digest(BENCHMARKS[name].MODELS)
    for folder in folders:
        (folder / "MODEL_CARD.md").write_text("other words")
    assert digest == models_digest(folders)
    for folder in folders:
        for file in folder.rglob("*.safetensors"):
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            assert models_digest(folders) != digest, file
            file.write_bytes(content)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_says_by_its_exit_code_whether_it_is_done(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = BENCHMARKS[name].main
    assert main(["--items", "4", "--parts", "0", "--out", str(tmp_path)]) == 3
    assert f"{name}: parts are missing; the same command resumes" in capsys.readouterr().err
    (tmp_path / "parts" / "items-000.json").write_text(
        '{"settings": {"items": 4, "models": "old"}, "part": {}}'
    )
    assert main(["--items", "4", "--parts", "0", "--out", str(tmp_path)]) == 1
    assert "holds parts of another run" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_publishes_all_items_only(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        BENCHMARKS[name].main(["--items", "12", "--publish", "--out", str(tmp_path / "out")])
    assert exit_code.value.code == 2 and not (tmp_path / "out").exists()
    assert f"--publish needs all {BENCHMARKS[name].ITEMS} items" in capsys.readouterr().err


def part(psnr: list[float]) -> Part:
    values = {"inside_psnr": psnr, "outside_error": [0.5] * len(psnr)}
    made = {row: {**values, "seam": [2.0, 10.0]} for row in region_bench.ROWS}
    made["pasted"] = {**values, "changed_pixels_outside": [0, 3][: len(psnr)]}
    return made


def test_region_figures_are_means_over_the_items_of_all_parts() -> None:
    rows = region_bench.figures([part([10.0, 20.0]), part([30.0])], {"time_ratio": 1.25})
    assert rows["free"]["inside_psnr"] == 20.0 and rows["free"]["items"] == 3
    assert rows["free"]["inside_psnr_ci95"] == pytest.approx(4.303 * 10 / 3**0.5, abs=0.01)
    assert rows["soft"]["seam"] == 0.2 and "seam" not in rows["free"]
    assert rows["soft"]["time_ratio"] == 1.25
    assert rows["pasted"]["changed_pixels_outside"] == 3


def test_names_the_thing_that_an_edit_changes() -> None:
    items = region_bench.unseen_items(14)
    kinds = dict(zip(region_bench.LOCAL, zip(items.words, items.things, strict=True), strict=True))
    assert all(thing.startswith("the ") for kind, (_, thing) in kinds.items() if kind not in ("add", "sun"))
    assert kinds["add"][1] == kinds["sun"][1] == ""
    assert items.part(slice(2, 5)).things == items.things[2:5]
    assert torch.equal(items.part(slice(2, 5)).fine, items.fine[2:5])


def test_unfound_things_give_the_whole_image() -> None:
    items = region_bench.unseen_items(2)
    masks, overlaps = region_bench.found_masks(items, [[], ["oval"]])
    assert bool((masks[0] == 1).all()) and overlaps[0] == 0
    assert 0 < overlaps[1] <= 1 and not bool((masks[1] == 1).all())
