"""InstructPix2Pix's training loss: random draws, targets, dropout."""

from pathlib import Path

import pytest
import torch

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.objective import (
    DenoisingLoss,
    EditInputs,
    draw,
    min_snr_weights,
    target_of,
)
from instructbrush.core.finetuning.stream import EditStream

SHAPE = (4, 8, 8)


def test_draws_depend_only_on_seed_and_index() -> None:
    together = draw([5, 9], SHAPE, 1, 0.05)
    alone = draw([9], SHAPE, 1, 0.05)
    assert torch.equal(together.noise[1], alone.noise[0])
    assert together.timesteps[1] == alone.timesteps[0]
    assert not torch.equal(alone.noise, draw([9], SHAPE, 2, 0.05).noise)


def test_draws_have_the_right_distribution() -> None:
    many = draw(range(20000), (1,), 0, 0.05)
    text = many.without_text.float()
    image = many.without_image.float()
    for dropped in (text * (1 - image), image * (1 - text), text * image):
        assert abs(float(dropped.mean()) - 0.05) < 0.005
    assert 0 <= many.timesteps.min() < 5
    assert 994 < many.timesteps.max() <= 999
    assert abs(float(many.noise.mean())) < 0.03


def test_target_is_the_noise_or_v(wide_editor: DiffusersEditor) -> None:
    draws = draw([0, 1], SHAPE, 0, 0.05)
    alphas_cumprod = wide_editor.denoiser.alphas_cumprod
    latents = torch.randn(2, *SHAPE)
    assert torch.equal(target_of(latents, draws, alphas_cumprod, "epsilon"), draws.noise)
    abar = alphas_cumprod[draws.timesteps].view(-1, 1, 1, 1)
    alpha = abar.sqrt()
    sigma = (1 - abar).sqrt()
    v = target_of(latents, draws, alphas_cumprod, "v_prediction")
    noisy = alpha * latents + sigma * draws.noise
    torch.testing.assert_close(alpha * noisy - sigma * v, latents)


def test_weights_are_those_of_min_snr(wide_editor: DiffusersEditor, region_data: Path) -> None:
    abar = wide_editor.denoiser.alphas_cumprod
    timesteps = torch.tensor([0, 500, 999])
    snr = abar[timesteps] / (1 - abar[timesteps])
    assert snr[0] > 5 > snr[1]
    of_noise = min_snr_weights(timesteps, abar, "epsilon", 5.0)
    torch.testing.assert_close(of_noise, torch.stack([5 / snr[0], torch.tensor(1.0), torch.tensor(1.0)]))
    # The error of v is that of the clean latents times SNR + 1, the error of e that of them times SNR.
    of_v = min_snr_weights(timesteps, abar, "v_prediction", 5.0)
    torch.testing.assert_close(of_v * (snr + 1), of_noise * snr)
    assert min_snr_weights(timesteps[:1], torch.zeros(1000), "epsilon", 5.0).isfinite().all()

    stream = EditStream(find_blocks([region_data]), 64)
    samples = [stream.sample(index, stream.record(index)) for index in range(3)]
    arguments = EditInputs(wide_editor, 0, 0.05, snr_limit=5.0)(samples)
    weight = min_snr_weights(arguments["timesteps"], abar, "epsilon", 5.0)
    loss = DenoisingLoss(wide_editor.denoiser.unet)
    with torch.no_grad():
        weighted = loss(**arguments)
        arguments.pop("weight")
        torch.testing.assert_close(weighted, weight * loss(**arguments))


@pytest.mark.parametrize("dropout", [0.0, 1 / 3])
def test_drops_text_and_image_as_drawn(
    wide_editor: DiffusersEditor, region_data: Path, dropout: float
) -> None:
    stream = EditStream(find_blocks([region_data]), 64)
    samples = [stream.sample(index, stream.record(index)) for index in range(4)]
    null = wide_editor.encode_text([""])[0]
    inputs = EditInputs(wide_editor, 0, dropout)(samples)
    draws = draw(range(4), SHAPE, 0, dropout)
    assert (draws.without_text | draws.without_image).all() == (dropout > 0)
    assert inputs["condition"].shape == (4, 8, 8, 8)
    without_text = torch.stack([(context == null).all() for context in inputs["context"]])
    without_image = torch.stack([(condition == 0).all() for condition in inputs["condition"]])
    assert torch.equal(without_text, draws.without_text)
    assert torch.equal(without_image, draws.without_image)
