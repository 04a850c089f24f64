"""Tiny vision-language models for the tests of this folder."""

import shutil
from pathlib import Path

import pytest
import torch

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.tests.support import tiny_mllms


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models by name. Left and right are the same model with different padding sides."""
    root = tmp_path_factory.mktemp("mllms")
    return {
        "left": tiny_mllms.llava(root / "left", padding_side="left"),
        "right": tiny_mllms.llava(root / "right", padding_side="right"),
        "qwen": tiny_mllms.qwen2_vl(root / "qwen"),
    }


@pytest.fixture(scope="module")
def mllm(folders):
    return load_mllm(folders["left"])


@pytest.fixture
def own(folders, tmp_path):
    """Copies a tiny model's folder for a test that damages it."""
    return lambda name="left": Path(shutil.copytree(folders[name], tmp_path / name))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(*size, 3, generator=generator) for size in ((40, 56), (64, 64), (32, 32))]
