"""Pairs: reading, bringing to one size, and remarks about what could not be used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.from_edit import pairs_from_edit
from instructbrush.core.pairs.pairs import EditPairs, load_pairs, make_pairs
from instructbrush.core.storage.image_files import read_image


def make_image(path: Path, shade: int = 100, size: tuple[int, int] = (32, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def test_reads_numbered_images_in_natural_order(tmp_path: Path) -> None:
    for index in (0, 2, 10):
        make_image(tmp_path / f"{index}_0.png", index)
        make_image(tmp_path / f"{index}_1.jpg", 100 + index)
    (tmp_path / "notes.txt").write_text("not an image")
    pairs = load_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["0", "2", "10"]
    assert [round(float(pair.before.mean()) * 255) for pair in pairs] == [0, 2, 10]
    assert pairs[0].before.shape == (24, 32, 3) and pairs[0].before.dtype == torch.float32


def test_reads_before_and_after_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_image(tmp_path / "before" / f"{name}.png", 10)
        make_image(tmp_path / "after" / f"{name}.png", 20)
    assert [pair.name for pair in load_pairs(tmp_path)] == ["a", "b"]


def test_reads_a_list(tmp_path: Path) -> None:
    make_image(tmp_path / "x.png", 10)
    make_image(tmp_path / "sub" / "y.png", 20)
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": [{"before": "x.png", "after": "sub/y.png"}]}))
    assert [pair.name for pair in load_pairs(tmp_path)] == ["x"]


def test_accepts_one_pair_and_two_hundred(tmp_path: Path) -> None:
    for index in range(200):
        make_image(tmp_path / f"{index}_0.png")
        make_image(tmp_path / f"{index}_1.png")
    assert len(load_pairs(tmp_path)) == 200
    single = make_pairs(torch.zeros(1, 16, 16, 3), torch.ones(1, 16, 16, 3))
    assert len(single) == 1 and single.without(0) is single
    assert [pair.name for pair in load_pairs(tmp_path).without(1)][:3] == ["0", "2", "3"]


def test_progress_counts_pairs_and_can_cancel(tmp_path: Path) -> None:
    for index in range(3):
        make_image(tmp_path / f"{index}_0.png")
        make_image(tmp_path / f"{index}_1.png")
    (tmp_path / "1_1.png").write_bytes(b"damaged")
    seen: list[tuple[int, int]] = []

    def cancel(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    assert len(load_pairs(tmp_path, progress=lambda *counts: seen.append(counts))) == 2
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(KeyboardInterrupt):
        load_pairs(tmp_path, progress=cancel)
    assert len(seen) == 4


def test_size_scales_and_crops(tmp_path: Path) -> None:
    make_image(tmp_path / "0_0.png", size=(300, 200))
    make_image(tmp_path / "0_1.png", size=(300, 200))
    assert load_pairs(tmp_path, size=64)[0].after.shape == (64, 64, 3)


def test_reads_every_kind_of_image_as_upright_rgb(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((20, 30), 65535 // 2, np.uint16)).save(deep)
    assert read_image(deep).shape == (20, 30, 3) and abs(float(read_image(deep).mean()) - 0.5) < 0.01
    see_through = tmp_path / "alpha.png"
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(see_through)
    assert float(read_image(see_through).min()) == 1.0
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (20, 20), (0, 0, 0, 255)).save(cmyk)
    assert read_image(cmyk).shape == (20, 20, 3) and float(read_image(cmyk).max()) < 0.1
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(turned, exif=exif)
    assert read_image(turned).shape == (30, 20, 3)
    grey = tmp_path / "grey.png"
    Image.new("L", (20, 20), 128).save(grey)
    assert read_image(grey).shape == (20, 20, 3)


def test_names_invalid_folders(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(PairError, match=message):
            load_pairs(tmp_path)

    with pytest.raises(PairError, match=r"nowhere' does not exist\. Put the images in a folder"):
        load_pairs(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(PairError, match=r"a\.txt' is a file\. Put the images in a folder"):
        load_pairs(tmp_path / "a.txt")
    for size in (0, -64, 8, 100_000):
        with pytest.raises(
            PairError, match=rf"Size: {size} x {size} pixels are not possible\. Choose between 16 and 4096"
        ):
            load_pairs(tmp_path, size)
    refused(r"holds no pairs\. Name the images 0_0\.png \(before\) and 0_1\.png \(after\)")
    make_image(tmp_path / "0_0.png")
    refused(r"Image '0_0\.png' has no partner: the after image of pair '0' is missing")
    make_image(tmp_path / "0_1.png", size=(16, 24))
    refused(
        r"Pair '0': before is 32 x 24, after is 16 x 24, which is another aspect ratio\. "
        r"Crop or scale both alike, or set fit to crop or pad\."
    )
    (tmp_path / "0_1.png").write_bytes(b"")
    refused(r"Image '0_1\.png' cannot be read")
    (tmp_path / "0_1.png").write_bytes(make_image(tmp_path / "ok.png").read_bytes()[:60])
    refused(r"Image '0_1\.png' cannot be read")
    make_image(tmp_path / "0_1.png")
    make_image(tmp_path / "0_1.jpg")
    refused(r"'0_1\.jpg' and '0_1\.png' have the same name\. Keep one")
    (tmp_path / "pairs.json").write_text('[{"before": "../x.png", "after": "0_0.png"}]')
    refused(r"'\.\./x\.png' is outside the folder")
    (tmp_path / "pairs.json").write_text('[{"before": "no.png", "after": "0_0.png"}]')
    refused(r"'no\.png' does not exist")
    (tmp_path / "pairs.json").write_text('{"a": 1}')
    refused(r"pairs\.json of .* must be a list of")


def test_rejects_tiny_and_huge_images(tmp_path: Path) -> None:
    make_image(tmp_path / "0_0.png", size=(8, 8))
    make_image(tmp_path / "0_1.png", size=(8, 8))
    with pytest.raises(PairError, match=r"is 8 x 8: each side needs at least 16 pixels"):
        load_pairs(tmp_path)
    Image.new("1", (10000, 7000)).save(tmp_path / "huge.png")
    with pytest.raises(PairError, match=r"'huge\.png' is 10000 x 7000: more than 64 megapixels"):
        read_image(tmp_path / "huge.png")


def test_names_invalid_batches() -> None:
    ok = torch.zeros(2, 16, 16, 3)
    with pytest.raises(PairError, match=r"2 images before but 3 after\. Every image needs its partner"):
        make_pairs(ok, torch.zeros(3, 16, 16, 3))
    with pytest.raises(
        PairError, match=r"Pair 'first': before is 16 x 16, after is 24 x 16, which is another aspect ratio"
    ):
        make_pairs(ok[:1], torch.zeros(1, 16, 24, 3), ["first"])
    with pytest.raises(
        PairError, match=r"Pairs: its shape is \(16, 16\), images have \[batch, height, width, 3\]"
    ):
        make_pairs(torch.zeros(16, 16), torch.zeros(16, 16, 3))
    with pytest.raises(PairError, match=r"Pairs: image 2 of 2 holds values that are not finite"):
        make_pairs(ok, torch.stack([torch.zeros(16, 16, 3), torch.full((16, 16, 3), float("inf"))]))
    with pytest.raises(PairError, match=r"0 pairs were given"):
        make_pairs([], [])
    with pytest.raises(PairError, match=r"Connect an IMAGE with at least one image"):
        make_pairs(ok[:0], ok[:0])


def gradient(height: int, width: int) -> torch.Tensor:
    """An image [height, width, 3] whose red grows to the right and whose green grows downwards."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)], dim=-1)


def save(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().to(torch.uint8).numpy()).save(path)


def saved_pair(folder: Path, before: tuple[int, int], after: tuple[int, int]) -> Path:
    """A folder with one pair of gradients of these heights and widths."""
    save(folder / "0_0.png", gradient(*before))
    save(folder / "0_1.png", gradient(*after))
    return folder


def only(pairs: EditPairs) -> tuple[torch.Tensor, torch.Tensor]:
    (pair,) = pairs
    return pair.before, pair.after


@pytest.mark.parametrize("size", [None, 32])
def test_scales_two_sizes_to_the_smaller_one(tmp_path: Path, size: int | None) -> None:
    pairs = load_pairs(saved_pair(tmp_path, (96, 128), (48, 64)), size)
    before, after = only(pairs)
    assert before.shape == after.shape == ((48, 64, 3) if size is None else (32, 32, 3))
    torch.testing.assert_close(before, after, rtol=0, atol=0.02)
    scaled = "1 pair: before and after differ in size: the larger image is scaled to the smaller one."
    assert pairs.remarks == ((scaled,) if size is None else ())


def test_rounded_sizes_count_as_one_aspect_ratio(tmp_path: Path) -> None:
    # 3:2, as cameras and web pages round it.
    assert load_pairs(saved_pair(tmp_path, (333, 500), (171, 256)), 64)[0].before.shape == (64, 64, 3)


@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize("sizes", [((96, 128), (128, 96)), ((64, 64), (64, 72)), ((64, 70), (64, 64))])
def test_rejects_two_aspect_ratios_with_and_without_a_size(
    tmp_path: Path, sizes: tuple[tuple[int, int], tuple[int, int]], size: int | None
) -> None:
    saved_pair(tmp_path, *sizes)
    make_image(tmp_path / "1_0.png", size=(64, 64))
    make_image(tmp_path / "1_1.png", size=(64, 64))
    if sizes == ((64, 70), (64, 64)):
        # ComfyUI's VAE keeps the 64 pixels in the middle of 70.
        assert len(load_pairs(tmp_path, size)) == 2
        return
    (rows, columns), (height, width) = sizes
    with pytest.raises(
        PairError,
        match=rf"^Pair '0': before is {columns} x {rows}, after is {width} x {height}, "
        "which is another aspect ratio",
    ):
        load_pairs(tmp_path, size)


@pytest.mark.parametrize("size", [None, 32])
def test_crop_takes_the_middle(tmp_path: Path, size: int | None) -> None:
    pairs = load_pairs(saved_pair(tmp_path, (64, 64), (64, 128)), size, fit="crop")
    before, after = only(pairs)
    assert before.shape == after.shape == ((64, 64, 3) if size is None else (32, 32, 3))
    assert after[:, 0, 0].mean() == pytest.approx(0.25, abs=0.02) and after[:, -1, 0].mean() == pytest.approx(
        0.75, abs=0.02
    )
    assert before[:, 0, 0].mean() == pytest.approx(0, abs=0.02)
    assert pairs.remarks == (
        "1 pair: before and after differ in aspect ratio: the larger image is scaled and cropped to the "
        "smaller one.",
    )


def test_pad_keeps_the_whole_image_and_repeats_its_border(tmp_path: Path) -> None:
    pairs = load_pairs(saved_pair(tmp_path, (64, 64), (64, 128)), fit="pad")
    before, after = only(pairs)
    assert before.shape == after.shape == (64, 64, 3)
    assert torch.equal(after[0], after[15]) and torch.equal(after[-1], after[48])
    assert after[:, 0, 0].mean() == pytest.approx(0, abs=0.02) and after[:, -1, 0].mean() == pytest.approx(
        1, abs=0.02
    )
    assert after[16, :, 1].mean() < 0.05 and after[47, :, 1].mean() > 0.95
    assert pairs.remarks == (
        "1 pair: before and after differ in aspect ratio: the larger image is scaled into the smaller one's "
        "size, and its border is repeated.",
    )


def test_trims_sides_to_multiples_of_eight(tmp_path: Path) -> None:
    pairs = load_pairs(saved_pair(tmp_path, (70, 77), (70, 77)))
    before, after = only(pairs)
    assert before.shape == (64, 72, 3) and torch.equal(before, after)
    assert torch.equal(before, read_image(tmp_path / "0_0.png")[3:67, 2:74])
    assert pairs.remarks == ("1 pair: sides are not multiples of 8: the middle of both images is used.",)


def test_matches_an_edit_trimmed_by_a_vae_with_the_middle_of_its_source(tmp_path: Path) -> None:
    whole = gradient(70, 77)
    save(tmp_path / "0_0.png", whole)
    save(tmp_path / "0_1.png", whole[3:67, 2:74])
    before, after = only(load_pairs(tmp_path))
    assert torch.equal(before, after)
    before, after = only(make_pairs(whole[None], whole[None, 3:67, 2:74]))
    assert torch.equal(before, after)


def test_shrinks_large_images(tmp_path: Path) -> None:
    pairs = load_pairs(saved_pair(tmp_path, (1500, 2000), (1500, 2000)))
    assert only(pairs)[0].shape == only(pairs)[1].shape == (888, 1184, 3)
    assert pairs.remarks == (
        "1 pair: images of more than 1024 x 1024 pixels are scaled down to that; choose a size to learn at "
        "another.",
    )


def test_leaves_out_invalid_pairs_and_says_so(tmp_path: Path) -> None:
    for index in range(4):
        make_image(tmp_path / f"{index}_0.png")
        make_image(tmp_path / f"{index}_1.png")
    (tmp_path / "1_1.png").write_bytes(b"no image")
    (tmp_path / "3_0.png").unlink()
    make_image(tmp_path / "9_0.png", size=(8, 8))
    make_image(tmp_path / "9_1.png", size=(8, 8))
    pairs = load_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["0", "2"]
    alone, damaged, tiny, count = pairs.remarks
    assert alone == (
        "Left out: Image '3_1.png' has no partner: the before image of pair '3' is missing. Add it or remove "
        "this one."
    )
    assert damaged.startswith("Left out: Image '1_1.png' cannot be read (")
    assert tiny == "Left out: Pair '9' is 8 x 8: each side needs at least 16 pixels."
    assert count == "3 pairs left out, 2 pairs remain."
    with pytest.raises(PairError, match=r"^Image '3_1\.png' has no partner"):
        load_pairs(tmp_path, strict=True)


def test_joins_lists_of_images_to_one_set_of_pairs() -> None:
    sizes = [(1, 16, 24), (2, 32, 16)]
    before = [torch.full((*size, 3), 0.25) for size in sizes]
    after = [torch.full((*size, 4), 0.75) for size in sizes]
    pairs = make_pairs(before, after)
    assert [tuple(pair.before.shape) for pair in pairs] == [(16, 24, 3), (32, 16, 3), (32, 16, 3)]
    assert [pair.name for pair in pairs] == ["0", "1", "2"]
    assert all((pair.before == 0.25).all() and (pair.after == 0.75).all() for pair in pairs)
    with pytest.raises(PairError, match=r"3 images before but 2 after\. Every image needs its partner"):
        make_pairs(before, after[1:])
    scaled = make_pairs([gradient(32, 48)[None]], [gradient(64, 96)[None]])
    assert scaled[0].after.shape == (32, 48, 3)
    assert scaled.remarks == (
        "1 pair: before and after differ in size: the larger image is scaled to the smaller one.",
    )
    assert make_pairs([gradient(32, 32)[None]], [gradient(32, 64)[None]], fit="crop")[0].after.shape == (
        32,
        32,
        3,
    )


def test_masks_of_finished_images_are_cropped_with_them() -> None:
    """A VAE trims 70 x 51 pixels to 64 x 48."""
    finished, mask = torch.rand(1, 51, 70, 3), torch.zeros(1, 51, 70)
    mask[:, :, :35] = 1
    made = pairs_from_edit(finished, torch.rand(1, 48, 64, 3), [mask])
    (pair,) = made.pairs
    assert pair.mask is not None and pair.mask.shape == pair.after.shape[:2] == (48, 64)
    assert torch.equal(pair.after, finished[0, 1:49, 3:67]) and torch.equal(pair.mask, mask[0, 1:49, 3:67])
    made = pairs_from_edit(finished, torch.rand(1, 48, 64, 3), [mask[:, 1:49, 3:67]])
    assert made.pairs[0].mask is not None and torch.equal(made.pairs[0].mask, pair.mask)
    made = pairs_from_edit(finished, torch.rand(1, 64, 64, 3), [mask], fit="crop")
    assert made.pairs[0].mask is not None and made.pairs[0].mask.shape == made.pairs[0].after.shape[:2]
