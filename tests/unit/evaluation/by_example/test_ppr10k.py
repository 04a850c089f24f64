"""Reading PPR10K: its folders, 16-bit sources, the choice of photos, and malformed folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_example.datasets.ppr10k import read_ppr10k

SIDE = 16
GROUPS = {"train": (0, 1, 2, 10), "val": (1356, 1357)}
COUNTS = {"train_pairs": 3, "test_pairs": 2}


def save(path: Path, value: int, bits: int, width: int = SIDE) -> None:
    kind = np.uint16 if bits == 16 else np.uint8
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((SIDE, width, 3), value, kind), photometric="rgb")


def write(root: Path, experts: str = "abc") -> Path:
    """Writes two photos of each group as PPR10K has them: 16-bit sources and 8-bit targets."""
    for part, groups in GROUPS.items():
        for group in groups:
            for photo in range(2):
                name = f"{group}_{photo}.tif"
                save(root / part / "source" / name, 257 * 40 + group, 16)
                for place, expert in enumerate(experts):
                    save(root / part / f"target_{expert}" / name, 100 + 10 * place + photo, 8)
    return root


@pytest.mark.parametrize("within", ["", "train_val_images_tif_360p"])
def test_every_expert_is_an_effect(tmp_path: Path, within: str) -> None:
    write(tmp_path / within)
    sources = read_ppr10k(tmp_path, None, **COUNTS)
    assert [source.name for source in sources] == ["expert a", "expert b", "expert c"]
    for place, source in enumerate(sources):
        effect = source.load()
        assert (effect.words, effect.scope, effect.captions) == ("retouch the photo", "global", ())
        # The first photo of each group, in natural order.
        assert [pair.name for pair in effect.train] == ["0_0", "1_0", "2_0"]
        assert [pair.name for pair in effect.test] == ["1356_0", "1357_0"]
        assert torch.equal(effect.truth[0], torch.full((SIDE, SIDE, 3), (100 + 10 * place) / 255))
        # 16-bit values of 257 * 40 are 40 of 255.
        assert torch.equal(effect.train[0].before, torch.full((SIDE, SIDE, 3), 40 / 255))


def test_reads_the_experts_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, "b")
    assert [source.name for source in read_ppr10k(tmp_path, None, **COUNTS)] == ["expert b"]


def test_photos_need_no_target_when_they_are_not_chosen(tmp_path: Path) -> None:
    root = write(tmp_path, "a")
    (root / "train" / "target_a" / "10_0.tif").unlink()
    (root / "train" / "source" / "masks.txt").write_text("x")
    assert len(read_ppr10k(root, None, **COUNTS)[0].train) == 3


def other_width(root: Path, *folders: str) -> None:
    for folder in folders:
        save(root / "train" / folder / "1_0.tif", 9, 8, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "does not exist. Unpack PPR10K's train_val_images_tif_360p and give that folder."),
        (lambda root: [shutil.rmtree(root), root.write_text("x")], "is a file. Unpack PPR10K's"),
        (lambda root: shutil.rmtree(root / "val"), "holds no val/source/. Give the folder"),
        (lambda root: shutil.rmtree(root / "train" / "source"), "holds no train/source/. Give the folder"),
        (
            lambda root: [shutil.rmtree(root / "train" / f"target_{expert}") for expert in "abc"],
            "train/ holds no folder target_a, target_b or target_c. Unpack the retouched images",
        ),
        (
            lambda root: shutil.rmtree(root / "val" / "target_b"),
            "PPR10K, expert b: val/target_b/ is missing. Unpack it, or remove the expert's other folder.",
        ),
        (
            lambda root: (root / "train" / "target_c" / "2_0.tif").unlink(),
            "PPR10K, expert c: 'train/target_c/2_0.tif' is missing. Unpack it, or remove '2_0.tif'",
        ),
        (
            lambda root: (root / "train" / "source" / "2_0.tif").rename(
                root / "train" / "source" / "2_0_1.tif"
            ),
            "the name of 'train/source/2_0_1.tif' is not group_photo.tif, such as 12_3.tif. Give the",
        ),
        (
            lambda root: shutil.copy(root / "val/source/1356_0.tif", root / "train/source/1356_0.tif"),
            "photo '1356_0' is in train/source and val/source, so a method would be tested on what it",
        ),
        (
            lambda root: shutil.copy(root / "val/source/1356_0.tif", root / "val/source/1356_0.tiff"),
            "'1356_0.tif' and '1356_0.tiff' of val/source/ have the same name. Keep one.",
        ),
        (
            lambda root: [(root / "val/source" / f"1357_{photo}.tif").unlink() for photo in range(2)],
            "PPR10K: val/source holds photos of 1 group, 2 are needed. Complete the folder, or choose fewer",
        ),
        (
            lambda root: [(root / "train/source/1_0.tif").unlink(), (root / "train/source/1_0.tif").mkdir()],
            "PPR10K, expert a: 'train/source/1_0.tif' is not a file. Unpack it again.",
        ),
        (
            lambda root: (root / "train/source/1_0.tif").write_bytes(b""),
            "PPR10K, expert a: Image '1_0.tif' is empty (0 bytes). Copy it again.",
        ),
        (
            lambda root: (root / "train/source/1_0.tif").write_bytes(
                (root / "train/source/1_0.tif").read_bytes()[:60]
            ),
            "PPR10K, expert a: Image '1_0.tif' cannot be read",
        ),
        (
            lambda root: other_width(root, "source"),
            "PPR10K, expert a: Pair '1_0': before is 20 x 16, after is 16 x 16. Crop or scale both alike.",
        ),
        (
            lambda root: other_width(root, "source", "target_a"),
            "PPR10K, expert a: Pair '1_0' is 20 x 16: sides must be multiples of 8. Give a size",
        ),
    ],
)
def test_rejects_malformed_folders(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = write(tmp_path / "ppr")
    change(root)
    with pytest.raises(EvaluationError) as refused:
        read_ppr10k(root, None, **COUNTS)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", COUNTS)
def test_rejects_counts_below_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(EvaluationError, match="0 (training|test) pairs are too few"):
        read_ppr10k(write(tmp_path), None, **{**COUNTS, name: 0})
