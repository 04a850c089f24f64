"""A full-size SD1.5 InstructPix2Pix model from a seed, as a single file and as a diffusers folder."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.tests.support import seeded

SEED = 15


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not stay: the two models are 2 GB each."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def outcome(editor: DiffusersEditor) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    noisy, image = (
        torch.randn(1, channels, 8, 8, generator=draw)
        for channels in (4, editor.description.condition_channels)
    )
    with torch.no_grad():
        context = editor.encode_text(["turn the hat teal"])
        return {
            "text": context,
            "prediction": editor.denoiser.predict(noisy, torch.tensor([500]), image, context),
            "latent": editor.encode_images(torch.rand(1, 32, 32, 3, generator=draw)),
            "image": editor.decode(image[:, :4, :4, :4]),
        }


@pytest.mark.slow
@pytest.mark.parametrize("channels", [8, 12])
def test_full_size_sd15_is_the_same_from_a_single_file_and_a_folder(room: Path, channels: int) -> None:
    single, unet = room / "model.safetensors", {**seeded.SD15, "in_channels": channels}
    save_file(seeded.checkpoint(SEED, unet), single)
    folder = seeded.write_folder(room / "model", SEED, unet, seeded.VAE, seeded.CLIP_L, torch.float16)
    seeded.write_tokenizer(folder / "tokenizer")
    assert single.stat().st_size > 2_000_000_000

    results, descriptions = [], []
    for source in (single, folder):
        editor = load_editor(source)
        descriptions.append(editor.description)
        results.append(outcome(editor))
        del editor
        gc.collect()  # one model at a time: 4 GB each in fp32
    file, other = descriptions
    assert (
        len(file.sites) == 16
        and file.sites == other.sites
        and file.in_channels == other.in_channels == channels
    )
    assert file.family == other.family and file.family.name == "sd15"
    assert file.fingerprint == other.fingerprint
    for name, tensor in results[0].items():
        assert tensor.isfinite().all() and tensor.std() > 1e-3, name
        torch.testing.assert_close(tensor, results[1][name], rtol=0, atol=1e-5, msg=name)
