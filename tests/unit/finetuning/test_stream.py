"""The order of training samples, and how they are cropped."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.finetuning import stream as streams
from instructbrush.core.finetuning.dataset import TableBlock, find_blocks
from instructbrush.core.finetuning.stream import EditStream, Sample
from instructbrush.core.finetuning.training_pairs import TrainingPair
from instructbrush.tests.support import tiny_edits


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditStream:
    """17 pairs in windows of at least 5."""
    monkeypatch.setattr(streams, "WINDOW", 5)
    return EditStream(find_blocks([tiny_edits.write_tables(tmp_path, 17)]), 64, seed=3)


def take(batches: Iterator[list[Sample]], count: int) -> list[Sample]:
    """Returns the samples of the first ``count`` batches."""
    samples = [sample for _ in range(count) for sample in next(batches)]
    batches.close()  # type: ignore[attr-defined]
    return samples


def assert_same(ones: list[Sample], others: list[Sample]) -> None:
    assert [sample.index for sample in ones] == [sample.index for sample in others]
    for one, other in zip(ones, others, strict=True):
        assert one.words == other.words
        for name in ("before", "after", "mask"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_every_epoch_is_a_new_shuffle_of_everything(stream: EditStream) -> None:
    assert len(stream) == 17
    epochs = [[stream.record(index).name for index in range(start, start + 17)] for start in (0, 17, 34)]
    assert all(len(set(epoch)) == 17 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [stream.record(index).name for index in range(17)] == epochs[0]


def test_processes_share_the_order(stream: EditStream) -> None:
    whole = take(stream.batches(0, 4), 6)
    assert [sample.index for sample in whole] == list(range(24))
    first = take(stream.batches(0, 2, process=0, processes=2), 6)
    second = take(stream.batches(0, 2, process=1, processes=2), 6)
    assert_same(first, whole[0::2])
    assert_same(second, whole[1::2])


def test_reading_can_start_anywhere(stream: EditStream) -> None:
    assert_same(take(stream.batches(12, 4), 3), take(stream.batches(0, 4), 6)[12:])


def test_each_process_reads_only_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = find_blocks([tiny_edits.write_table(tmp_path / "all.parquet", tiny_edits.rows(16), group=4)])
    stream = EditStream(blocks, 64)
    read: list[int] = []
    records = TableBlock.records
    monkeypatch.setattr(TableBlock, "records", lambda block: read.append(block.group) or records(block))
    for index in range(1, 16, 4):
        stream.record(index)
    assert len(read) == 1


def test_skips_only_the_bad_one_of_two_pairs_with_one_name(tmp_path: Path) -> None:
    bad_folder = tiny_edits.write_folder(tmp_path / "bad" / "pairs")
    good_folder = tiny_edits.write_folder(tmp_path / "good" / "pairs")
    bad = bad_folder / "0_before.png"
    bad.write_bytes(b"no image")
    stream = EditStream(find_blocks([bad_folder, good_folder]), 64)
    records = [stream.record(index) for index in range(12)]
    assert len({record.name for record in records}) == 3
    samples = take(stream.batches(0, 12), 1)
    good = [number for number, record in enumerate(records) if record.before.content != bad]
    assert 0 < len(good) < 12
    assert [samples[number].words for number in good] == [records[number].words for number in good]
    assert list(stream.skipped) == ["0 of pairs"]


@pytest.mark.parametrize(("white_share", "white_masks"), [(0.0, 3), (1.0, 10)])
def test_whitens_masks_with_the_given_probability(
    tmp_path: Path, white_share: float, white_masks: int
) -> None:
    stream = EditStream(find_blocks([tiny_edits.write_tables(tmp_path)]), 64, white_share=white_share)
    masks = [stream.sample(index, stream.record(index)).mask for index in range(10)]
    assert sum(bool((mask == 1).all()) for mask in masks) == white_masks


def test_crops_images_and_mask_alike() -> None:
    grid = torch.rand(40, 70, generator=torch.Generator().manual_seed(0))
    image = grid[..., None].repeat(1, 1, 3)
    pair = TrainingPair(image, 1 - image, grid, "x")
    corners = set()
    for seed in range(12):
        cropped = pair.cropped(32, np.random.default_rng(seed), flip=0.5)
        assert cropped.before.shape == cropped.after.shape == (32, 32, 3)
        assert cropped.mask.shape == (32, 32)
        torch.testing.assert_close(cropped.before, cropped.mask[..., None].expand(-1, -1, 3))
        torch.testing.assert_close(cropped.after, 1 - cropped.before, rtol=0, atol=1e-5)
        corners.add(float(cropped.mask[0, 0]))
    assert len(corners) > 4


def test_crops_the_middle_without_a_generator() -> None:
    image = torch.rand(32, 64, 3)
    pair = TrainingPair(image, image, image[..., 0], "x")
    assert torch.equal(pair.cropped(32).before, image[:, 16:48])


def test_every_crop_contains_part_of_the_region() -> None:
    mask = torch.zeros(32, 320)
    mask[4:9, 300:304] = 1
    pair = TrainingPair(torch.rand(32, 320, 3), torch.rand(32, 320, 3), mask, "x")
    assert all(pair.cropped(32, np.random.default_rng(seed)).mask.max() > 0.9 for seed in range(20))


def test_crops_around_a_region_at_the_border_without_a_generator() -> None:
    mask = torch.zeros(32, 320)
    mask[4:9, 300:304] = 1
    cropped = TrainingPair(torch.rand(32, 320, 3), torch.rand(32, 320, 3), mask, "x").cropped(32)
    assert torch.equal(cropped.mask, mask[:, 286:318])


def test_skips_pairs_whose_mask_vanishes_in_the_crop(tmp_path: Path) -> None:
    for name in ("0_0", "0_1", "1_0", "1_1"):
        Image.new("RGB", (1600, 1600), "gray").save(tmp_path / f"{name}.png")
    mask = Image.new("L", (1600, 1600))
    mask.putpixel((800, 800), 20)
    mask.save(tmp_path / "0_mask.png")
    entry = {"before": "0_0.png", "after": "0_1.png", "prompt": "x"}
    others = {"before": "1_0.png", "after": "1_1.png", "prompt": "x"}
    (tmp_path / "pairs.json").write_text(json.dumps([{**entry, "mask": "0_mask.png"}, others]))
    stream = EditStream(find_blocks([tmp_path]), 64, white_share=0.0)
    samples = take(stream.batches(0, 2), 1)
    assert len(samples) == 2 and len(stream.skipped) == 1


def test_keeps_a_square_of_the_right_size() -> None:
    pair = TrainingPair(torch.rand(16, 16, 3), torch.rand(16, 16, 3), torch.rand(16, 16), "x")
    assert torch.equal(pair.cropped(16).before, pair.before)
    assert torch.equal(pair.cropped(16, np.random.default_rng(0), flip=1.0).mask, pair.mask.flip(1))
