"""The filter of pairs that show no edit (ReasonPix2Pix, Eq. 1)."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.difference import difference, difference_of_files, unchanged


def encoded(image: np.ndarray) -> bytes:
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def test_is_the_mean_squared_difference_of_all_values() -> None:
    draw = np.random.default_rng(0)
    first, second = (draw.integers(0, 256, (16, 24, 3), dtype=np.uint8) for _ in range(2))
    expected = float(np.mean((first / 255 - second / 255) ** 2))
    images = [torch.from_numpy(image).float() / 255 for image in (first, second)]
    assert difference(*images) == pytest.approx(expected, rel=1e-6)
    assert difference_of_files("x", encoded(first), encoded(second)) == pytest.approx(expected, rel=1e-6)
    assert difference(images[0], images[0]) == 0


def test_brings_files_to_one_size() -> None:
    small = np.full((16, 16, 3), 100, np.uint8)
    large = np.full((32, 32, 3), 151, np.uint8)
    assert difference_of_files("x", encoded(small), encoded(large)) == pytest.approx(0.04, abs=1e-6)
    with pytest.raises(PairError, match=r"^Pair 'x': before is 16 x 16, after is 32 x 16, which is another"):
        difference_of_files("x", encoded(small), encoded(large[:16]))


def test_finds_pairs_below_a_threshold() -> None:
    assert unchanged([0.1, 0.0, 0.2, 0.3], threshold=0.2) == (True, True, False, False)
    assert unchanged([0.0], threshold=0) == (False,)


@pytest.mark.parametrize(
    ("share", "count"), [(0, 0), (0.1, 10), (0.29, 29), (0.999, 99), (0.001, 0), (1, 100)]
)
def test_finds_the_lowest_share(share: float, count: int) -> None:
    values = np.random.default_rng(1).random(100).tolist()
    low = unchanged(values, share=share)
    assert sum(low) == count
    kept = [value for value, drop in zip(values, low, strict=True) if not drop]
    dropped = [value for value, drop in zip(values, low, strict=True) if drop]
    assert not kept or not dropped or max(dropped) < min(kept)


def test_takes_the_first_of_equal_pairs() -> None:
    assert unchanged([0.5] * 4, share=0.5) == (True, True, False, False)


def test_rejects_values_out_of_range() -> None:
    with pytest.raises(PairError, match=r"the share is 1\.5; it must lie between 0 and 1\.$"):
        unchanged([0.1], share=1.5)
    with pytest.raises(PairError, match=r"the threshold is nan; it must be 0 or more\.$"):
        unchanged([0.1], threshold=float("nan"))
    with pytest.raises(PairError, match=r"give either a threshold or a share\.$"):
        unchanged([0.1])
