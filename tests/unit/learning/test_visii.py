"""Learning text states (Visii), compared with a loop written by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from instructbrush.core.diffusion.schedule import fixed_noise
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import InstructionError, LearningError
from instructbrush.core.instruction.injection import inject
from instructbrush.core.learning.objective import Direction, PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.segment_streams import SegmentStream
from instructbrush.core.learning.settings import PAPER, VISII, LearningSettings
from instructbrush.core.learning.trainer import Trainer

PHRASE = "make it snow"
SHORT = replace(VISII, steps=20, text_scale=2.0)


@pytest.fixture(scope="module")
def latents() -> PairLatents:
    generator = torch.Generator().manual_seed(3)
    before = list(torch.randn(3, 4, 8, 8, generator=generator))
    after = list(torch.randn(3, 4, 8, 8, generator=generator))
    return PairLatents(before, after)


@pytest.fixture(scope="module")
def direction(editor: DiffusersEditor) -> Direction:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 3, 32, generator=generator)
    return Direction.between(
        features[0],
        features[1],
        torch.randn(editor.description.family.context_width, 32, generator=generator),
    )


def make_trainer(
    editor: DiffusersEditor,
    latents: PairLatents,
    direction: Direction | None,
    settings: LearningSettings = SHORT,
) -> Trainer:
    context, null = editor.encode_text([PHRASE, ""])
    init_text = InitText(PHRASE, context, editor.count_tokens(PHRASE))
    return Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings, direction))


@pytest.mark.parametrize("clamp", [False, True])
def test_matches_a_loop_written_by_hand(
    editor: DiffusersEditor, latents: PairLatents, direction: Direction, clamp: bool
) -> None:
    settings = replace(SHORT, clamp_direction=clamp)
    trainer = make_trainer(editor, latents, direction, settings)
    trainer.run()

    context, null = editor.encode_text([PHRASE, ""])
    unet, abar = editor.denoiser.unet, editor.denoiser.alphas_cumprod
    rows = context[1:4].clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([rows], lr=1e-3, weight_decay=0)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:20].tolist()
    losses = []
    with torch.enable_grad():
        for t in order:
            states = torch.cat([context[:1], rows, context[4:]])
            before, after = latents.before[t % 3], latents.after[t % 3]
            noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(t))
            noisy = abar[t].sqrt() * after + (1 - abar[t]).sqrt() * noise

            def eps(image: Tensor, text: Tensor, noisy: Tensor = noisy, t: int = t) -> Tensor:
                return unet(torch.cat([noisy, image])[None], torch.tensor([t]), text[None]).sample[0]

            full = eps(before, states)
            image = eps(before, null)
            none = eps(torch.zeros_like(before), null)
            guided = none + 1.5 * (image - none) + 2.0 * (full - image)
            says = states.mean(0) @ direction.projection
            cosine = (says @ direction.target) / (says.norm() * direction.target.norm())
            loss = 4 * ((guided - noise) ** 2).mean() + 0.1 * (
                1 - (cosine.clamp(max=0.5) if clamp else cosine)
            )
            optimizer.zero_grad()
            loss.backward()
            rows.grad *= min(1.0, 1.0 / (rows.grad.norm().item() + 1e-6))
            optimizer.step()
            losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(trainer.losses), torch.tensor(losses), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trainer.instruction().rows[0], rows.detach(), rtol=1e-5, atol=1e-5)


def test_draws_every_timestep_once_a_pass_with_fixed_noise_and_pair(latents: PairLatents) -> None:
    stream = SegmentStream(0, VISII)
    first = [stream.draw(latents) for _ in range(1000)]
    second = [stream.draw(latents) for _ in range(1000)]
    assert sorted(time for _, time, _ in first) == list(range(1000))
    assert [time for _, time, _ in first] != [time for _, time, _ in second]
    again = {time: (pair, noise) for pair, time, noise in second}
    for pair, time, noise in first[:50]:
        assert pair == time % 3 == again[time][0]
        assert torch.equal(noise, again[time][1]) and torch.equal(noise, fixed_noise((4, 8, 8), time, 0))


def test_noise_of_timesteps_and_seeds_is_uncorrelated() -> None:
    noises = torch.stack(
        [fixed_noise((4, 32, 32), time, seed) for time in (0, 1, 999) for seed in (0, 1)]
    ).flatten(1)
    correlations = torch.corrcoef(noises) - torch.eye(len(noises))
    assert correlations.abs().max() < 0.06 and abs(noises.std() - 1) < 0.02


def test_instruction_holds_text_states_and_changes_only_the_context(
    editor: DiffusersEditor, latents: PairLatents, direction: Direction
) -> None:
    trainer = make_trainer(editor, latents, direction, replace(SHORT, steps=2))
    trainer.run()
    instruction = trainer.instruction()
    assert (
        instruction.info.space == "text"
        and instruction.info.tokens == 3
        and instruction.rows.shape == (1, 3, instruction.context.shape[1])
    )
    states = torch.cat([instruction.context[:1], instruction.rows[0], instruction.context[4:]])[None]
    noisy = torch.randn(1, 4, 8, 8)
    times = torch.tensor([500])
    image = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        by_context = editor.denoiser.predict(noisy, times, image, states)
        injected = editor.denoiser.predict(noisy, times, image, torch.zeros_like(states), inject(instruction))
    assert torch.equal(by_context, injected)


def test_learns_segments_in_text_space(editor: DiffusersEditor, latents: PairLatents) -> None:
    """InstructBrush without attention (Table 2): time-aware text states."""
    settings = replace(PAPER, space="text", steps=3, learning_rate=1e-2)
    trainer = make_trainer(editor, latents, None, settings)
    trainer.run()
    rows = trainer.instruction().rows
    assert rows.shape[:2] == (5, 3) and not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (None, r"text states are 128 wide; none was given\. Connect the one"),
        (64, r"text states are 128 wide; the one given projects states 64 wide"),
    ],
)
def test_rejects_a_direction_of_another_width(
    editor: DiffusersEditor, latents: PairLatents, width: int | None, message: str
) -> None:
    direction = None if width is None else Direction(torch.randn(width, 8), torch.randn(8))
    with pytest.raises(LearningError, match=message):
        make_trainer(editor, latents, direction)


def test_rejects_a_direction_weight_in_attention_space() -> None:
    with pytest.raises(
        LearningError, match=r"direction_weight acts on text states\. Set it to 0, or space to 'text'"
    ):
        replace(PAPER, direction_weight=0.1)


def test_rejects_text_states_in_models_of_another_width(
    editor: DiffusersEditor, latents: PairLatents
) -> None:
    trainer = make_trainer(editor, latents, None, replace(SHORT, steps=1, direction_weight=0.0))
    trainer.run()
    instruction = trainer.instruction("snow")
    assert instruction.check_fits(editor.description) == []
    sd15 = replace(
        editor.description, family=replace(editor.description.family, name="sd15", context_width=768)
    )
    with pytest.raises(InstructionError, match=r"'snow' holds text states 128 wide, .* takes 768"):
        instruction.check_fits(sd15)
