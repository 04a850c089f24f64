"""Pairs: three layouts, and everything people put into folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import PairError
from instructbrush.core.learning.pairs import load_pairs, make_pairs, read_picture


def picture(path: Path, shade: int = 100, size: tuple[int, int] = (32, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def test_numbered_pictures_in_natural_order(tmp_path: Path) -> None:
    for index in (0, 2, 10):
        picture(tmp_path / f"{index}_0.png", index)
        picture(tmp_path / f"{index}_1.jpg", 100 + index)
    (tmp_path / "notes.txt").write_text("not a picture")
    pairs = load_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["0", "2", "10"]
    assert [round(float(pair.before.mean()) * 255) for pair in pairs] == [0, 2, 10]
    assert pairs[0].before.shape == (24, 32, 3) and pairs[0].before.dtype == torch.float32


def test_before_and_after_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        picture(tmp_path / "before" / f"{name}.png", 10)
        picture(tmp_path / "after" / f"{name}.png", 20)
    assert [pair.name for pair in load_pairs(tmp_path)] == ["a", "b"]


def test_manifest(tmp_path: Path) -> None:
    picture(tmp_path / "x.png", 10)
    picture(tmp_path / "sub" / "y.png", 20)
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": [{"before": "x.png", "after": "sub/y.png"}]}))
    assert [pair.name for pair in load_pairs(tmp_path)] == ["x"]


def test_one_pair_and_two_hundred(tmp_path: Path) -> None:
    for index in range(200):
        picture(tmp_path / f"{index}_0.png")
        picture(tmp_path / f"{index}_1.png")
    assert len(load_pairs(tmp_path)) == 200
    single = make_pairs(torch.zeros(1, 16, 16, 3), torch.ones(1, 16, 16, 3))
    assert len(single) == 1 and single.without(0) is single
    assert [pair.name for pair in load_pairs(tmp_path).without(1)][:3] == ["0", "2", "3"]


def test_size_scales_and_crops(tmp_path: Path) -> None:
    picture(tmp_path / "0_0.png", size=(300, 200))
    picture(tmp_path / "0_1.png", size=(300, 200))
    assert load_pairs(tmp_path, size=64)[0].after.shape == (64, 64, 3)


def test_pictures_of_every_kind_become_upright_rgb(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((20, 30), 65535 // 2, np.uint16)).save(deep)
    assert read_picture(deep).shape == (20, 30, 3) and abs(float(read_picture(deep).mean()) - 0.5) < 0.01
    see_through = tmp_path / "alpha.png"
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(see_through)
    assert float(read_picture(see_through).min()) == 1.0
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (20, 20), (0, 0, 0, 255)).save(cmyk)
    assert read_picture(cmyk).shape == (20, 20, 3) and float(read_picture(cmyk).max()) < 0.1
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(turned, exif=exif)
    assert read_picture(turned).shape == (30, 20, 3)
    grey = tmp_path / "grey.png"
    Image.new("L", (20, 20), 128).save(grey)
    assert read_picture(grey).shape == (20, 20, 3)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(PairError, match=message):
            load_pairs(tmp_path)

    with pytest.raises(PairError, match=r"nowhere' does not exist\. Put the pictures in a folder"):
        load_pairs(tmp_path / "nowhere")
    refused(r"holds no pairs\. Name the pictures 0_0\.png \(before\) and 0_1\.png \(after\)")
    picture(tmp_path / "0_0.png")
    refused(r"Picture '0_0\.png' has no twin: the after picture of pair '0' is missing")
    picture(tmp_path / "0_1.png", size=(16, 24))
    refused(r"Pair '0': before is 32 x 24, after is 16 x 24\. Both pictures of a pair must have the same size")
    (tmp_path / "0_1.png").write_bytes(b"")
    refused(r"Picture '0_1\.png' cannot be read")
    (tmp_path / "0_1.png").write_bytes(picture(tmp_path / "ok.png").read_bytes()[:60])
    refused(r"Picture '0_1\.png' cannot be read")
    picture(tmp_path / "0_1.png")
    picture(tmp_path / "0_1.jpg")
    refused(r"'0_1\.jpg' and '0_1\.png' have the same name\. Keep one")
    (tmp_path / "pairs.json").write_text('[{"before": "../x.png", "after": "0_0.png"}]')
    refused(r"'\.\./x\.png' is outside the folder")
    (tmp_path / "pairs.json").write_text('[{"before": "no.png", "after": "0_0.png"}]')
    refused(r"'no\.png' does not exist")
    (tmp_path / "pairs.json").write_text('{"a": 1}')
    refused(r"pairs\.json of .* must be a list of")


def test_tiny_and_huge_pictures_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "0_0.png", size=(8, 8))
    picture(tmp_path / "0_1.png", size=(8, 8))
    with pytest.raises(PairError, match=r"is 8 x 8: each side needs at least 16 pixels"):
        load_pairs(tmp_path)
    Image.new("1", (10000, 7000)).save(tmp_path / "huge.png")
    with pytest.raises(PairError, match=r"'huge\.png' is 10000 x 7000: more than 64 megapixels"):
        read_picture(tmp_path / "huge.png")


def test_bad_batches_are_named() -> None:
    ok = torch.zeros(2, 16, 16, 3)
    with pytest.raises(PairError, match=r"2 pictures before but 3 after\. Every picture needs its twin"):
        make_pairs(ok, torch.zeros(3, 16, 16, 3))
    with pytest.raises(PairError, match=r"Pair 'first': before is 16 x 16, after is 24 x 16"):
        make_pairs(ok[:1], torch.zeros(1, 16, 24, 3), ["first"])
    with pytest.raises(PairError, match=r"must be \[N, H, W, 3\]"):
        make_pairs(torch.zeros(16, 16, 3), torch.zeros(16, 16, 3))
    with pytest.raises(PairError, match=r"Pair '1' holds values that are not finite"):
        make_pairs(ok, torch.stack([torch.zeros(16, 16, 3), torch.full((16, 16, 3), float("inf"))]))
    with pytest.raises(PairError, match=r"0 pairs were given"):
        make_pairs(ok[:0], ok[:0])
