"""Learning on the built-in model: exact resuming, segments, objectives, rejected settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from instructbrush.core.diffusion.guidance import dual_guidance
from instructbrush.core.diffusion.schedule import add_noise, segment_of
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import LearningError
from instructbrush.core.instruction.injection import inject
from instructbrush.core.learning.checkpoint import load_checkpoint, save_checkpoint
from instructbrush.core.learning.objective import (
    PairLatents,
    collect,
    held_out_error,
    noise_errors,
    timestep_weights,
)
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.segment_streams import SegmentStream
from instructbrush.core.learning.settings import PAPER, POCKET, POCKET_TEXT, LearningSettings
from instructbrush.core.learning.trainer import Trainer, loss_curve

SMALL = replace(POCKET, steps=6, tokens=4)
SMALL_TEXT = replace(POCKET_TEXT, steps=6, tokens=4, direction_weight=0.0)


@pytest.fixture(scope="module")
def latents() -> PairLatents:
    generator = torch.Generator().manual_seed(3)
    before = list(torch.randn(3, 4, 8, 8, generator=generator))
    after = list(torch.randn(3, 4, 8, 8, generator=generator))
    return PairLatents(before, after)


def make_trainer(
    editor: DiffusersEditor, latents: PairLatents, settings: LearningSettings = SMALL, **kwargs: object
) -> Trainer:
    context, null = editor.encode_text(["make it snow", ""])
    init_text = InitText("make it snow", context, 3)
    return Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings, **kwargs))


def learned(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.instruction().learned()


@pytest.mark.parametrize("parametrisation", ["shared", "separate"])
@pytest.mark.parametrize("settings", [SMALL, SMALL_TEXT], ids=["attention", "text"])
def test_starts_from_the_init_text(
    editor: DiffusersEditor, latents: PairLatents, settings: LearningSettings, parametrisation: str
) -> None:
    """Before the first step, injecting changes nothing: every segment holds the init text's own values."""
    trainer = make_trainer(editor, latents, replace(settings, parametrisation=parametrisation))
    noisy, times = torch.randn(2, 4, 8, 8), torch.tensor([3, 998])
    context = trainer.context.expand(2, -1, -1)
    with torch.no_grad():
        plain = editor.denoiser.predict(noisy, times, torch.zeros_like(noisy), context)
        injected = editor.denoiser.predict(
            noisy, times, torch.zeros_like(noisy), context, trainer.injection()
        )
    assert torch.equal(plain, injected)


@pytest.mark.parametrize("parametrisation", ["shared", "separate"])
@pytest.mark.parametrize("small", [SMALL, SMALL_TEXT], ids=["attention", "text"])
def test_resumed_run_matches_uninterrupted_one_bit_for_bit(
    editor: DiffusersEditor,
    latents: PairLatents,
    small: LearningSettings,
    parametrisation: str,
    tmp_path: Path,
) -> None:
    settings = replace(small, parametrisation=parametrisation)
    whole = make_trainer(editor, latents, settings)
    whole.run()
    stopped = make_trainer(editor, latents, settings)

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(stop)
    assert stopped.instruction().info.steps == 3  # what was learned so far can be kept
    save_checkpoint(stopped, tmp_path / "run")
    resumed = make_trainer(editor, latents, settings)
    load_checkpoint(resumed, tmp_path / "run")
    resumed.run()
    assert resumed.losses == whole.losses and resumed.steps_done == 6
    for name, tensor in learned(whole).items():
        assert torch.equal(tensor, learned(resumed)[name]), name


def test_batched_segments_match_sequential_ones(editor: DiffusersEditor, latents: PairLatents) -> None:
    """A batch of five samples, one of each segment, equals five runs of one segment, except for summation
    order."""
    settings = replace(SMALL, parametrisation="separate", learning_rate=1e-3, final_learning_rate=1e-3)
    batched = make_trainer(editor, latents, settings)
    batched.run()
    together = learned(batched)
    for segment in range(settings.segments):
        alone = make_trainer(editor, latents, settings, only_segments=(segment,))
        alone.run()
        for name, tensor in learned(alone).items():
            torch.testing.assert_close(tensor[segment], together[name][segment], rtol=1e-4, atol=1e-5)
            others = [other for other in range(settings.segments) if other != segment]
            assert torch.equal(tensor[others], alone.space.initial()[name].expand(4, -1, -1)), (
                "segments not trained must stay"
            )


def test_shared_gradient_is_the_sum_over_segments(editor: DiffusersEditor, latents: PairLatents) -> None:
    trainer = make_trainer(editor, latents)
    trainer.step()
    for site in (site.name for site in editor.description.sites):
        shared, delta = trainer.parameters[f"keys.{site}"].grad, trainer.parameters[f"keys_delta.{site}"].grad
        torch.testing.assert_close(shared, delta.sum(0), rtol=1e-4, atol=1e-7)


def test_gives_gradients_to_every_site_and_none_to_the_model(
    editor: DiffusersEditor, latents: PairLatents
) -> None:
    trainer = make_trainer(editor, latents)
    trainer.step()
    assert all(parameter.grad is None for parameter in editor.denoiser.unet.parameters())
    assert all(
        tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in trainer.parameters.values()
    )


class InHalfPrecision:
    """A denoiser that claims half precision and computes as before."""

    dtype = torch.float16

    def __init__(self, denoiser: object) -> None:
        self._denoiser = denoiser
        self.checkpointing = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._denoiser, name)


@pytest.mark.parametrize("clip_norm", [None, 1e-3])
def test_loss_scale_in_half_precision_does_not_change_the_result(
    editor: DiffusersEditor, latents: PairLatents, clip_norm: float | None
) -> None:
    settings = replace(SMALL, clip_norm=clip_norm)
    context, null = editor.encode_text(["make it snow", ""])
    init_text = InitText("", context)
    half = InHalfPrecision(editor.denoiser)
    plain = Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings))
    scaled = Trainer(LearningRequest(half, latents, init_text, null, settings))
    plain.run()
    scaled.run()
    assert plain.loss_scale == 1 and scaled.loss_scale == 16
    assert scaled.losses == pytest.approx(plain.losses, rel=1e-6)
    assert all(torch.equal(tensor, scaled.parameters[name]) for name, tensor in plain.parameters.items())


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_interrupted_step_counts_as_not_started(
    editor: DiffusersEditor, latents: PairLatents, noise: str, tmp_path: Path
) -> None:
    """ComfyUI raises its interruption inside a model call."""
    settings = replace(SMALL, noise=noise)
    whole = make_trainer(editor, latents, settings)
    whole.run()
    stopped = make_trainer(editor, latents, settings)
    stopped.step()
    predict = editor.denoiser.predict
    editor.denoiser.predict = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped.step()
    finally:
        del editor.denoiser.predict
    assert editor.denoiser.predict == predict and stopped.steps_done == 1
    save_checkpoint(stopped, tmp_path / "run.checkpoint")
    resumed = make_trainer(editor, latents, settings)
    load_checkpoint(resumed, tmp_path / "run.checkpoint")
    resumed.run()
    assert all(torch.equal(tensor, learned(resumed)[name]) for name, tensor in learned(whole).items())


@pytest.mark.parametrize("objective", ["plain", "guided"])
@pytest.mark.parametrize("weighting", ["none", "snr"])
def test_losses_match_eq_5_by_hand(
    editor: DiffusersEditor, latents: PairLatents, objective: str, weighting: str
) -> None:
    settings = replace(SMALL, objective=objective, weighting=weighting, text_scale=3.0, image_scale=1.2)
    trainer = make_trainer(editor, latents, settings)
    times = torch.tensor([5, 700])
    (samples,) = collect(
        latents, [(0, 5, torch.randn(4, 8, 8)), (2, 700, torch.randn(4, 8, 8))], torch.device("cpu")
    )
    with torch.no_grad():
        got = noise_errors(
            editor.denoiser, samples, trainer.context, trainer.null_context, trainer.injection(), settings
        )
        for index, (pair, time) in enumerate(zip((0, 2), times, strict=True)):
            before, noise = latents.before[pair][None], samples.noise[index][None]
            noisy = add_noise(latents.after[pair][None], noise, time[None], editor.denoiser.alphas_cumprod)

            def eps(
                image: torch.Tensor,
                text: torch.Tensor,
                noisy: torch.Tensor = noisy,
                time: torch.Tensor = time,
            ) -> torch.Tensor:
                return editor.denoiser.predict(noisy, time[None], image, text[None])

            guess = eps(before, trainer.context)
            if objective == "guided":
                guess = dual_guidance(
                    eps(torch.zeros_like(before), trainer.null_context),
                    eps(before, trainer.null_context),
                    guess,
                    1.2,
                    3.0,
                )
            expected = ((guess - noise) ** 2).mean()
            if weighting == "snr":
                snr = editor.denoiser.alphas_cumprod / (1 - editor.denoiser.alphas_cumprod)
                every = torch.minimum(snr, torch.tensor(5.0)) / snr * torch.sqrt(1 + 1 / snr)
                expected = expected * (every / every.mean())[time]
            torch.testing.assert_close(got[index], expected, rtol=1e-4, atol=1e-6)
    assert abs(float(timestep_weights(editor.denoiser.alphas_cumprod).mean()) - 1) < 1e-5


def test_schedules_without_signal_at_the_end_do_not_take_all_weight_there(editor: DiffusersEditor) -> None:
    usual = editor.denoiser.alphas_cumprod
    # Zero terminal SNR (Lin et al. 2024): square roots shifted and scaled to end at 0.
    roots = usual.sqrt()
    rescaled = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square().clamp_min(2.0**-24)
    assert timestep_weights(rescaled)[990:].sum() < 0.06 * 1000
    # The usual schedule has its own weights up to the last timestep.
    snr = usual / (1 - usual)
    weights = snr.clamp(max=5) / snr * (1 + 1 / snr).sqrt()
    torch.testing.assert_close(timestep_weights(usual), weights / weights.mean())


def test_trains_pairs_of_several_sizes_together(editor: DiffusersEditor) -> None:
    shapes = [(4, 8, 8), (4, 8, 16)]
    mixed = PairLatents([torch.randn(shape) for shape in shapes], [torch.randn(shape) for shape in shapes])
    trainer = make_trainer(editor, mixed)
    trainer.run()
    assert trainer.steps_done == 6


def test_stream_covers_each_timestep_once_a_pass(latents: PairLatents) -> None:
    stream = SegmentStream(3, replace(SMALL, seed=1))
    first = [stream.draw(latents)[1] for _ in range(200)]
    second = [stream.draw(latents)[1] for _ in range(200)]
    assert sorted(first) == sorted(second) == list(range(600, 800)) and first != second
    assert segment_of(torch.tensor(first), 5).unique().tolist() == [3]


def test_paper_preset_takes_m_from_the_init_text(editor: DiffusersEditor, latents: PairLatents) -> None:
    trainer = make_trainer(editor, latents, replace(PAPER, steps=1))
    trainer.run()
    instruction = trainer.instruction("snow")
    assert instruction.info.tokens == 3 and instruction.info.settings["learning_rate"] == 1e-3
    context, null = editor.encode_text(["", ""])
    empty = LearningRequest(editor.denoiser, latents, InitText("", context), null, replace(PAPER, steps=1))
    assert empty.rows == 10


def test_include_bos_learns_row_0(editor: DiffusersEditor, latents: PairLatents) -> None:
    trainer = make_trainer(editor, latents, replace(SMALL, include_bos=True))
    trainer.run()
    instruction = trainer.instruction()
    assert instruction.start == 0 and inject(instruction).parts[0].start == 0


def test_rejects_worthless_results(editor: DiffusersEditor, latents: PairLatents) -> None:
    with pytest.raises(LearningError, match=r"no step is done, so there is no result to keep"):
        make_trainer(editor, latents).instruction()
    broken = PairLatents(latents.before, [torch.full((4, 8, 8), float("nan"))] * 3)
    trainer = make_trainer(editor, broken)
    trainer.step()
    with pytest.raises(
        LearningError,
        match=r"the loss was not finite at step 1\. Nothing is kept: lower the learning rate \(0\.06\)",
    ):
        trainer.instruction()
    still = make_trainer(editor, latents, replace(SMALL, learning_rate=1e-30, final_learning_rate=1e-30))
    still.step()
    with pytest.raises(
        LearningError, match=r"nothing changed in 1 steps\. Raise the learning rate \(1e-30\)"
    ):
        still.instruction()


def test_names_invalid_settings_and_runs(
    editor: DiffusersEditor, latents: PairLatents, tmp_path: Path
) -> None:
    with pytest.raises(
        LearningError, match=r"32 tokens from row 1 do not fit the text encoder's 32 rows\. Use at most 31"
    ):
        make_trainer(editor, latents, replace(SMALL, tokens=32))
    with pytest.raises(LearningError, match=r"shared segments are trained together"):
        make_trainer(editor, latents, only_segments=(1,))
    for change, message in (
        ({"steps": 0}, r"steps is 0; it must lie between 1 and"),
        ({"segments": 1001}, r"segments is 1001"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0; it must be above 0"),
        ({"objective": "best"}, r"objective is 'best'; it must be one of plain, guided"),
        ({"parametrisation": "x"}, r"parametrisation is 'x'; it must be one of shared, separate"),
    ):
        with pytest.raises(LearningError, match=message):
            replace(SMALL, **change)
    trainer = make_trainer(editor, latents)
    trainer.step()
    save_checkpoint(trainer, tmp_path / "run")
    with pytest.raises(
        LearningError,
        match=r"belongs to another run: seed \(0 there, 1 here\) differs\. Remove it to start again\.",
    ):
        load_checkpoint(make_trainer(editor, latents, replace(SMALL, seed=1)), tmp_path / "run")
    (tmp_path / "run").write_bytes(b"nothing")
    with pytest.raises(LearningError, match=r"cannot be read: .*\. Remove it to start again\."):
        load_checkpoint(trainer, tmp_path / "run")


def test_shortens_the_loss_curve() -> None:
    assert loss_curve([1.0, 3.0], 1) == [2.0]
    assert len(loss_curve(list(map(float, range(1234))))) <= 100 and loss_curve([]) == []


def test_the_error_of_a_held_out_pair_falls_and_can_be_compared(
    editor: DiffusersEditor, latents: PairLatents
) -> None:
    # The held-out pair equals the one that is learned, so its error must fall.
    learned_pair = PairLatents(latents.before[:1], latents.after[:1])
    trainer = make_trainer(editor, learned_pair, replace(SMALL, steps=30))
    contexts = trainer.context, trainer.null_context

    def error(pairs: PairLatents, pair: int) -> float:
        with torch.no_grad():
            injection = trainer.injection()
        return held_out_error(editor.denoiser, pairs, pair, contexts, injection, trainer.settings)

    before = error(latents, 0)
    assert error(latents, 0) == before
    trainer.run()
    assert error(latents, 0) < before * 0.98

    # By hand: the loss of every sample, one at a time.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        injection = trainer.injection()
        losses = [
            noise_errors(editor.denoiser, samples, *contexts, injection, trainer.settings).item()
            for timestep in torch.linspace(0, 999, 40).long().tolist()
            for samples in collect(
                latents, [(2, timestep, torch.randn(4, 8, 8, generator=generator))], torch.device("cpu")
            )
        ]
    assert error(latents, 2) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
