"""Learning in the adapter space."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import LearningError
from instructbrush.core.learning.checkpoint import load_checkpoint, save_checkpoint
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.segment_streams import SegmentStream
from instructbrush.core.learning.settings import POCKET, POCKET_ADAPTER, LearningSettings, preset_for
from instructbrush.core.learning.trainer import Trainer

SMALL = replace(POCKET_ADAPTER, steps=4, tokens=3)


@pytest.fixture(scope="module")
def latents() -> PairLatents:
    draw = torch.Generator().manual_seed(3)
    before, after = (list(torch.randn(3, 4, 8, 8, generator=draw)) for _ in range(2))
    return PairLatents(before, after)


def make_trainer(
    editor: DiffusersEditor, latents: PairLatents, settings: LearningSettings = SMALL
) -> Trainer:
    context, null = editor.encode_text(["make it snow", ""])
    init_text = InitText("make it snow", context, 3)
    return Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings))


def learned(trainer: Trainer) -> dict[str, Tensor]:
    return trainer.instruction().learned()


@pytest.mark.parametrize("tokens", [0, 3])
def test_starts_from_the_init_text(editor: DiffusersEditor, latents: PairLatents, tokens: int) -> None:
    """Before the first step, injecting changes nothing."""
    trainer = make_trainer(editor, latents, replace(SMALL, tokens=tokens))
    noisy, times = torch.randn(2, 4, 8, 8), torch.tensor([3, 998])
    context = trainer.context.expand(2, -1, -1)
    with torch.no_grad():
        plain = editor.denoiser.predict(noisy, times, torch.zeros_like(noisy), context)
        injected = editor.denoiser.predict(
            noisy, times, torch.zeros_like(noisy), context, trainer.injection()
        )
    assert torch.equal(plain, injected)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tokens": 0, "bypass": 0}, {"segments": 2, "batch": 1, "parametrisation": "shared"}],
    ids=["rows", "no rows", "segments"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    editor: DiffusersEditor, latents: PairLatents, tmp_path: Path, changes: dict
) -> None:
    settings = replace(SMALL, **changes)
    whole = make_trainer(editor, latents, settings)
    whole.run()
    first = make_trainer(editor, latents, settings)
    for _ in range(2):
        first.step()
    save_checkpoint(first, tmp_path / "checkpoint")
    second = make_trainer(editor, latents, settings)
    load_checkpoint(second, tmp_path / "checkpoint")
    second.run()
    expected = learned(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learned(second).items())
    info = whole.instruction().info
    assert (info.space, info.tokens, info.segments) == ("adapter", settings.tokens, settings.segments)


def test_learns_every_part_at_its_own_rate(editor: DiffusersEditor, latents: PairLatents) -> None:
    """The first step of AdamW moves every value by its learning rate."""
    trainer = make_trainer(editor, latents, replace(SMALL, learning_rate=0.02, adapter_rate=0.005))
    initial = {name: tensor.detach().clone() for name, tensor in trainer.parameters.items()}
    trainer.step()
    moved = {
        name: (tensor.detach() - initial[name]).abs().max().item()
        for name, tensor in trainer.parameters.items()
    }
    rows = [value for name, value in moved.items() if name.startswith(("keys.", "values."))]
    ups = [value for name, value in moved.items() if name.endswith(".up")]
    assert rows == pytest.approx([0.02] * len(rows), rel=0.02)
    assert ups == pytest.approx([0.02] * len(ups), rel=0.02)
    # D has no gradient as long as U is zero.
    trainer.step()
    downs = [
        (tensor.detach() - initial[name]).abs().max().item()
        for name, tensor in trainer.parameters.items()
        if name.endswith(".down")
    ]
    assert all(0 < value <= 0.0051 for value in downs)
    assert any(".bypass." in name for name in moved)


def test_learning_lowers_the_loss(editor: DiffusersEditor, latents: PairLatents) -> None:
    trainer = make_trainer(editor, latents, replace(SMALL, steps=25, noise="fixed"))
    trainer.run()
    assert sum(trainer.losses[-5:]) < 0.9 * sum(trainer.losses[:5])


def test_strata_take_turns(latents: PairLatents) -> None:
    settings = replace(POCKET, segments=1, strata=5)
    stream = SegmentStream(0, settings)
    times = [stream.draw(latents)[1] for _ in range(1000)]
    assert [time // 200 for time in times] == [0, 1, 2, 3, 4] * 200
    assert sorted(times) == list(range(1000))
    uneven = SegmentStream(0, replace(settings, segments=3, strata=5))
    assert sorted(uneven.draw(latents)[1] for _ in range(334)) == list(range(334))


def test_rejects_an_adapter_without_residuals() -> None:
    with pytest.raises(LearningError, match="rank and bypass are both 0"):
        replace(SMALL, rank=0, bypass=0)
    with pytest.raises(LearningError, match="tokens is 0"):
        replace(POCKET, tokens=0)


def test_presets_follow_the_family() -> None:
    assert preset_for("pocket", "adapter") is POCKET_ADAPTER
    assert preset_for("sd15", "adapter").adapter_rate == 2e-4
