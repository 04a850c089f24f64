"""Learning finds the guidance scales that suit the instruction."""

from dataclasses import replace

import pytest
import torch

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.scale_search import CANDIDATES
from instructbrush.core.instruction.instruction import own_scales
from instructbrush.core.learning import run
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.run import RunCallbacks, ScaleChoice, learn, wants_scales
from instructbrush.core.learning.settings import POCKET, LearningSettings
from instructbrush.core.learning.trainer import Trainer

# The fewest samples that allow a search of one edit.
LONG_ENOUGH = replace(POCKET, steps=3, batch=12, tokens=2)


class Recorder(RunCallbacks):
    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.tried: list[int] = []
        self.kept: list[int] = []

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        if done == self.stop_at:
            raise KeyboardInterrupt

    def after_candidate(self, trainer: Trainer, done: int, total: int) -> None:
        self.tried.append(done)
        if self.stop_at == -done:
            raise KeyboardInterrupt

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        self.kept.append(trainer.steps_done)


def latents(seed: int) -> PairLatents:
    generator = torch.Generator().manual_seed(seed)
    return PairLatents(
        list(torch.randn(2, 4, 8, 8, generator=generator)), list(torch.randn(2, 4, 8, 8, generator=generator))
    )


def request(editor: DiffusersEditor, settings: LearningSettings = LONG_ENOUGH) -> LearningRequest:
    context, null = editor.encode_text(["make it snow", ""])
    return LearningRequest(editor.denoiser, latents(3), InitText("make it snow", context, 3), null, settings)


def test_chosen_scales_go_into_the_instruction(editor: DiffusersEditor) -> None:
    recorder = Recorder()
    found = learn(request(editor), recorder, ScaleChoice())
    assert own_scales(found) in CANDIDATES and recorder.tried == [1, 2, 3, 4]
    plain = learn(request(editor))
    assert own_scales(plain) is None
    # The search changes nothing that is learned.
    assert all(torch.equal(tensor, plain.learned()[name]) for name, tensor in found.learned().items())


def test_compares_on_pairs_that_are_held_out(
    editor: DiffusersEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    search = run.find_scales
    monkeypatch.setattr(
        run,
        "find_scales",
        lambda denoiser, pairs, *rest: compared.append(pairs) or search(denoiser, pairs, *rest),
    )
    held_out = latents(4)
    learn(request(editor), scales=ScaleChoice(held_out))
    learn(request(editor), scales=ScaleChoice())
    assert torch.equal(compared[0][0][0], held_out.before[0])
    assert torch.equal(compared[1][0][0], latents(3).before[0])


def test_short_runs_are_not_searched(editor: DiffusersEditor) -> None:
    recorder = Recorder()
    found = learn(request(editor, replace(LONG_ENOUGH, batch=11)), recorder, ScaleChoice())
    assert own_scales(found) is None and not recorder.tried


def test_cancelled_runs_are_not_searched(editor: DiffusersEditor) -> None:
    recorder = Recorder(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        learn(request(editor), recorder, ScaleChoice())
    assert recorder.kept == [2] and not recorder.tried


def test_a_cancelled_search_keeps_what_is_learned(editor: DiffusersEditor) -> None:
    recorder = Recorder(stop_at=-2)
    with pytest.raises(KeyboardInterrupt):
        learn(request(editor), recorder, ScaleChoice())
    assert recorder.kept == [3] and recorder.tried == [1, 2]


def test_a_search_without_memory_leaves_the_default(
    editor: DiffusersEditor, caplog: pytest.LogCaptureFixture
) -> None:
    class FullDevice(Recorder):
        def after_candidate(self, trainer: Trainer, done: int, total: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = learn(request(editor), FullDevice(), ScaleChoice())
    assert own_scales(found) is None and "the model's default is kept" in caplog.text


@pytest.mark.parametrize(
    ("preset", "guidance", "searches"),
    [
        ("auto", None, True),
        ("pocket", None, True),
        ("custom", None, True),
        ("paper", None, False),
        ("paper_guided", None, False),
        ("paper", "search", True),
        ("pocket", "default", False),
    ],
)
def test_presets_of_papers_keep_the_scales_of_the_paper(
    preset: str, guidance: str | None, searches: bool
) -> None:
    assert wants_scales(preset, guidance) == searches
