"""Masks of pairs: the loss acts only where they are white."""

from dataclasses import replace

import pytest
import torch

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import PairError
from instructbrush.core.learning.objective import PairLatents, collect, held_out_error, noise_errors
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import POCKET, LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.pairs.pairs import EditPair, EditPairs

SMALL = replace(POCKET, steps=3, tokens=4)


def pairs_with(*masks: torch.Tensor | None) -> EditPairs:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(len(masks), 2, 64, 64, 3, generator=draw)
    return EditPairs(
        tuple(
            EditPair(*both, str(place), mask)
            for place, (both, mask) in enumerate(zip(images, masks, strict=True))
        )
    )


def left_half() -> torch.Tensor:
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    return mask


def encode(editor: DiffusersEditor, pairs: EditPairs) -> PairLatents:
    return PairLatents.encode(pairs, editor.encode_images, editor.scale, editor.condition)


def trainer(editor: DiffusersEditor, latents: PairLatents, settings: LearningSettings = SMALL) -> Trainer:
    context, null = editor.encode_text(["make it snow", ""])
    words = InitText("make it snow", context, 3)
    return Trainer(LearningRequest(editor.denoiser, latents, words, null, settings))


def errors(editor: DiffusersEditor, latents: PairLatents) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    drawn = [
        (pair, timestep, torch.randn(latents.after[pair].shape, generator=draw))
        for pair in range(len(latents.after))
        for timestep in (10, 900)
    ]
    (samples,) = collect(latents, drawn, editor.denoiser.device)
    context, null = editor.encode_text(["make it snow", ""])
    with torch.no_grad():
        return torch.cat(
            [noise_errors(editor.denoiser, chunk, context, null, None, SMALL) for chunk in samples.chunks(3)]
        )


def test_loss_is_the_mean_over_the_masked_latent_pixels(editor: DiffusersEditor) -> None:
    right = 1 - left_half()
    whole, left, rest = (
        errors(editor, encode(editor, pairs_with(mask, None))) for mask in (None, left_half(), right)
    )
    # The two halves have equally many latent pixels, so their means average to the mean of all.
    torch.testing.assert_close((left[:2] + rest[:2]) / 2, whole[:2])
    assert not torch.allclose(left[:2], rest[:2], rtol=0.01)
    # A pair without a mask has the loss that it has among pairs without masks, bit for bit.
    assert torch.equal(left[2:], whole[2:]) and torch.equal(rest[2:], whole[2:])


def test_white_mask_changes_no_bit(editor: DiffusersEditor) -> None:
    plain, white = (encode(editor, pairs_with(mask, None)) for mask in (None, torch.full((64, 64), 0.5)))
    assert plain.masks == () and len(white.masks) == 2
    runs = [trainer(editor, latents) for latents in (plain, white)]
    for each in runs:
        each.run()
    assert runs[0].losses == runs[1].losses
    learned = [each.instruction().learned() for each in runs]
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


def test_nothing_is_learned_from_outside_the_mask(editor: DiffusersEditor) -> None:
    latents = encode(editor, pairs_with(left_half(), left_half()))
    draw = torch.Generator().manual_seed(3)
    changed = [latent.clone() for latent in latents.after]
    for latent in changed:
        latent[:, 0, 7] = torch.randn(latent.shape[0], generator=draw)
    context, _ = editor.encode_text(["make it snow", ""])
    # The target outside the mask still reaches the model as its noisy input, but no error there counts.
    drawn = [(0, 500, torch.randn(latents.after[0].shape, generator=draw))]
    (samples,) = collect(latents, drawn, editor.denoiser.device)
    assert samples.masks[0, :, 4:].abs().max() == 0 and samples.masks.mean() == pytest.approx(1)
    settings = replace(SMALL, objective="plain", weighting="none")
    predicted = torch.zeros_like(samples.after)

    class Silent:
        alphas_cumprod = editor.denoiser.alphas_cumprod

        def predict(self, *_: object) -> torch.Tensor:
            return predicted

    silent: object = Silent()
    found = noise_errors(silent, samples, context, context, None, settings)  # type: ignore[arg-type]
    expected = samples.noise[0, :, :, :4].square().mean()
    torch.testing.assert_close(found[0], expected)


def test_held_out_error_uses_the_mask(editor: DiffusersEditor) -> None:
    contexts = tuple(editor.encode_text(["make it snow", ""]))
    found = [
        held_out_error(editor.denoiser, encode(editor, pairs_with(mask)), 0, contexts, None, SMALL)
        for mask in (left_half(), 1 - left_half(), None)
    ]
    assert found[0] != found[1] and (found[0] + found[1]) / 2 == pytest.approx(found[2], rel=1e-4)


def test_mask_belongs_to_the_identity_of_a_run(editor: DiffusersEditor) -> None:
    latents = [encode(editor, pairs_with(mask)) for mask in (None, left_half(), 1 - left_half())]
    assert len({each.digest for each in latents}) == 3
    undigested = [replace(each, digest="") for each in latents]
    assert len({trainer(editor, each).request.digest() for each in undigested}) == 3


def test_rejects_masks_of_another_size(editor: DiffusersEditor) -> None:
    latents = encode(editor, pairs_with(None, None))
    for masks in ([torch.ones(8, 8)], [torch.ones(8, 8), torch.ones(4, 4)]):
        with pytest.raises(PairError, match="every pair needs a mask of its latent's size, or none has one"):
            replace(latents, masks=masks)
