"""Reading TOP-Bench: its layouts, malformed folders and unusual images."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_example.datasets.top_bench import TABLE_3, read_top_bench

SIDE = 16


def pixels(pair: int, side: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Saves a plain image whose color encodes the pair and the side."""
    return np.full((height, width, 3), (10 * pair, 200 * side, 90), np.uint8)


def save(path: Path, pair: int, side: int, height: int = SIDE, width: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(pair, side, height, width)).save(path)


def write(folder: Path, layout: str = "split", pairs: int = 15) -> Path:
    """Writes an effect in one of the layouts; pair i has color i."""
    for pair in range(pairs):
        half = "train" if pair < 10 else "test"
        number = pair if pair < 10 else pair - 10
        for side, name in enumerate(("before", "after")):
            place = {
                "split": f"{half}/{number}_{side}.png",
                "flat": f"{pair}_{side}.png",
                "sides": f"{name}/{pair:02}.png",
                "split sides": f"{half}/{name}/{number}.png",
            }[layout]
            save(folder / place, pair, side)
    return folder


@pytest.mark.parametrize("layout", ["split", "flat", "sides", "split sides"])
def test_all_layouts_give_the_same_effect(tmp_path: Path, layout: str) -> None:
    write(tmp_path / "sea_painting", layout)
    (source,) = read_top_bench(tmp_path, None)
    assert (source.name, source.scope, source.words) == ("sea painting", "global", "turn it into a painting")
    effect = source.load()
    assert len(effect.train) == 10 and len(effect.test) == 5
    for index, pair in enumerate([*effect.train, *effect.test]):
        for side, image in enumerate((pair.before, pair.after)):
            assert torch.equal(image, torch.from_numpy(pixels(index, side)).float() / 255)
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - our own bytes


def test_table_3_has_14_global_and_11_local_effects() -> None:
    assert len({effect.name for effect in TABLE_3}) == 25
    assert [sum(effect.scope == scope for effect in TABLE_3) for scope in ("global", "local")] == [14, 11]


def test_accepts_any_spelling_and_sorts_as_the_paper(tmp_path: Path) -> None:
    for name in ("Traffic-Lights", "midnight", "BOY2GIRL"):
        write(tmp_path / name, "flat")
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    assert [source.name for source in read_top_bench(tmp_path)] == ["boy2girl", "midnight", "traffic lights"]


def test_scales_images_to_one_size(tmp_path: Path) -> None:
    write(tmp_path / "snow", "flat")
    for pair in range(15):
        for side in range(2):
            save(tmp_path / "snow" / f"{pair}_{side}.png", pair, side, 20, 36)
    effect = read_top_bench(tmp_path, 24)[0].load()
    assert {tuple(image.shape) for image in (*effect.inputs, *effect.truth)} == {(24, 24, 3)}


def test_reads_own_effects_from_effects_json(tmp_path: Path) -> None:
    write(tmp_path / "my_glow", "flat")
    (tmp_path / "effects.json").write_text(
        json.dumps({"my glow": {"instruction": "let it glow", "scope": "local"}})
    )
    (source,) = read_top_bench(tmp_path)
    assert (source.name, source.scope, source.words) == ("my glow", "local", "let it glow")


def broken(change: Callable[[Path], object], layout: str = "split") -> Callable[[Path], object]:
    def make(root: Path) -> None:
        change(write(root / "smile", layout))

    return make


def ninth_pair_missing(folder: Path) -> None:
    for side in range(2):
        (folder / "train" / f"9_{side}.png").unlink()


def link_to_parent(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    os.symlink(folder, folder / "test", target_is_directory=True)


def link_to_itself(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    os.symlink(folder / "test", folder / "test")


def renumbered(folder: Path) -> None:
    for side in range(2):
        (folder / f"3_{side}.png").rename(folder / f"extra_{side}.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda root: root.rmdir(),
            "does not exist. Unpack TOP-Bench and give the folder that holds the effects' folders.",
        ),
        (
            lambda root: None,
            "holds no effects. It must hold a folder for each effect, such as 'midnight' or 'smile'.",
        ),
        (
            lambda root: write(root / "glow"),
            "'glow' is not an effect of TOP-Bench (Table 3 of the paper). Rename the folder, move it away",
        ),
        (
            lambda root: [write(root / name) for name in ("sea painting", "sea_painting")],
            "Effect 'sea painting' appears twice, the second time as",
        ),
        (
            broken(lambda f: (f / "train" / "4_1.png").unlink()),
            "Effect 'smile': Image '4_0.png' has no partner: the after image of pair '4' is missing.",
        ),
        (
            broken(ninth_pair_missing),
            "Effect 'smile': 9 training pairs, TOP-Bench has 10 for every effect. Complete the folder.",
        ),
        (
            broken(lambda f: [save(f / "test" / f"5_{side}.png", 5, side) for side in range(2)]),
            "Effect 'smile': 6 test pairs, TOP-Bench has 5",
        ),
        (
            lambda root: write(root / "smile", "flat", 14),
            "Effect 'smile': 14 pairs, TOP-Bench has 15 for every effect: 10 for training (0-9) and 5 for",
        ),
        (
            broken(renumbered, "flat"),
            "Effect 'smile': pair 'extra' has no number from 0 to 14, so it is not clear whether it is",
        ),
        (
            broken(lambda f: shutil.rmtree(f / "test")),
            "Effect 'smile': there is a train/ folder but no test/. Add it.",
        ),
        (
            broken(lambda f: write(f, "flat")),
            "Effect 'smile': there are pairs both in train/ and beside it ('0_0.png'). Keep one of the two",
        ),
        (
            broken(link_to_parent),
            "'smile/test' is a link to a folder that contains it. Put the folder itself there.",
        ),
        (
            broken(link_to_itself),
            "'smile/test' is a link to a folder that contains it. Put the folder itself there.",
        ),
        (lambda root: os.symlink(root, root / "smile"), "/smile' is a link to a folder that contains it."),
        (lambda root: os.symlink("/nowhere/at/all", root / "smile"), "/smile' is a broken link."),
        (
            broken(lambda f: (f / "test" / "2_1.png").write_bytes(b"")),
            "Effect 'smile': Image '2_1.png' is empty (0 bytes). Copy it again.",
        ),
        (
            broken(lambda f: (f / "test" / "2_1.png").write_text("hello")),
            "Effect 'smile': Image '2_1.png' cannot be read",
        ),
        (
            broken(
                lambda f: (f / "test" / "2_1.png").write_bytes((f / "test" / "2_1.png").read_bytes()[:20])
            ),
            "Effect 'smile': Image '2_1.png' cannot be read",
        ),
        (
            broken(lambda f: save(f / "test" / "2_1.png", 2, 1, 16, 24)),
            "Effect 'smile': Pair '2': before is 16 x 16, after is 24 x 16. Crop or scale both",
        ),
        (
            broken(lambda f: [save(f / "test" / f"2_{s}.png", 2, s, 20, 24) for s in range(2)]),
            "Effect 'smile': Pair '2' is 24 x 20: sides must be multiples of 8.",
        ),
        (
            broken(lambda f: shutil.copy(f / "test" / "2_1.png", f / "test" / "2_1.jpg")),
            "Effect 'smile': '2_1.jpg' and '2_1.png' have the same name.",
        ),
        (lambda root: (root / "effects.json").write_text("[1]"), "effects.json must be"),
        (
            lambda root: (root / "effects.json").write_text('{"x": {"instruction": "y", "scope": "half"}}'),
            "the scope of 'x' is 'half'; it must be 'global' or",
        ),
        (
            lambda root: (root / "effects.json").write_text(
                '{"../x": {"instruction": "y", "scope": "local"}}'
            ),
            "'../x' is not a folder name",
        ),
    ],
)
def test_rejects_malformed_folders(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    root = tmp_path / "top"
    root.mkdir()
    make(root)
    with pytest.raises(EvaluationError) as refused:
        read_top_bench(root, None)
    assert message in str(refused.value)


def deep(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 0x8000, np.uint16)).save(path)


def cmyk(path: Path) -> None:
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(path.with_suffix(".jpg"))
    path.unlink()


def transparent(path: Path) -> None:
    Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0)).save(path)


def turned(path: Path) -> None:
    """Saves an image of 16 x 24 with a white upper half, rotated and with EXIF orientation."""
    upright = Image.new("RGB", (16, 24))
    upright.paste("white", (0, 0, 16, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(path, exif=exif)
    other = path.with_name(path.name.replace("_1", "_0"))
    upright.save(other)


@pytest.mark.parametrize(
    ("change", "shape", "corner", "bottom"),
    [
        (deep, (16, 16, 3), [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        (cmyk, (16, 16, 3), [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        (transparent, (16, 16, 3), [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
        (turned, (24, 16, 3), [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
    ],
)
def test_converts_unusual_images(
    tmp_path: Path,
    change: Callable[[Path], None],
    shape: tuple[int, ...],
    corner: list[float],
    bottom: list[float],
) -> None:
    change(write(tmp_path / "smile") / "test" / "2_1.png")
    truth = read_top_bench(tmp_path, None)[0].load().truth[2]
    assert truth.shape == shape
    assert truth[0, 0].tolist() == pytest.approx(corner, abs=0.02) and truth[
        -1, -1
    ].tolist() == pytest.approx(bottom, abs=0.02)
