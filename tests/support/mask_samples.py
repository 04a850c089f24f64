"""Small masks and images for tests of regions."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

LAW = settings(deadline=None, max_examples=25, derandomize=True)
SIZES = st.integers(1, 24)
ANY_AREA = {"min_area": 0.0, "max_area": 1.0}


def drawn(*rows: str) -> Tensor:
    """A mask drawn with characters: `#` is 1, `+` is 0.5, all others are 0."""
    return torch.tensor([[{"#": 1.0, "+": 0.5}.get(mark, 0.0) for mark in row] for row in rows])


def random_mask(seed: int, *shape: int, soft: bool = False) -> Tensor:
    """Random zeros and ones, and values between them if `soft`."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2, shape, generator=generator).float()
    if not soft:
        return values
    chosen = torch.rand(shape, generator=generator) < 0.3
    return torch.where(chosen, torch.rand(shape, generator=generator), values)


def random_images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed))


TWO_FRAGMENTS = drawn(
    "..........",
    ".####.....",
    ".#..#.....",
    ".####.....",
    "........##",
    "........##",
)  # fmt: skip
