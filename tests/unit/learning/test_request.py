"""Rules of a learning request: init texts, learned rows and the direction loss."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import LearningError, WorthlessError
from instructbrush.core.learning.objective import Direction, PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest, with_direction
from instructbrush.core.learning.run import RunCallbacks, learn
from instructbrush.core.learning.settings import POCKET, POCKET_TEXT, LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.pairs.pairs import EditPairs, make_pairs

SMALL = replace(POCKET, steps=3, tokens=2, segments=1)
WIDTH = 128


@pytest.fixture
def pairs(pair_tensors: Callable[..., tuple[Tensor, Tensor]]) -> EditPairs:
    return make_pairs(*pair_tensors(1, 64, 64))


@pytest.fixture
def request_of(editor: DiffusersEditor) -> Callable[..., LearningRequest]:
    """Makes a request from an init text and settings."""
    draw = torch.Generator().manual_seed(3)
    before, after = torch.randn(2, 1, 4, 8, 8, generator=draw)
    latents = PairLatents(list(before), list(after))

    def make(text: str = "make it snow", settings: LearningSettings = SMALL) -> LearningRequest:
        context, null_context = editor.encode_text([text, ""])
        init_text = InitText(text, context, editor.count_tokens(text))
        return LearningRequest(editor.denoiser, latents, init_text, null_context, settings)

    return make


def test_learns_as_many_rows_as_the_init_text_has(request_of: Callable[..., LearningRequest]) -> None:
    unset = replace(SMALL, tokens=None)
    assert request_of("make it snow", unset).rows == 3
    assert request_of("", unset).rows == 10
    assert request_of("make it snow", SMALL).rows == 2


def test_cuts_a_long_init_text_to_the_window_and_says_so(
    request_of: Callable[..., LearningRequest],
) -> None:
    request = request_of("make it night " * 20, replace(SMALL, tokens=None, steps=1))
    assert (request.init_text.tokens, request.rows) == (60, 30)
    assert "has 60 tokens, the text encoder reads 30" in request.init_text.remark
    assert request_of().init_text.remark == ""
    assert learn(request).info.init_text == "make it night " * 20


def test_has_no_direction_without_a_weight_or_a_clip(pairs: EditPairs) -> None:
    assert with_direction(POCKET, pairs, pocket_clip("cpu"), WIDTH) == (POCKET, None, "")
    settings, direction, remark = with_direction(POCKET_TEXT, pairs, None, WIDTH)
    assert direction is None and settings == replace(POCKET_TEXT, direction_weight=0.0)
    assert "The direction loss (weight 0.1) is left out: it takes the CLIP" in remark
    assert "128 wide, and there is no CLIP. Only the noise error is minimized. Give that CLIP" in remark


def test_takes_the_direction_of_a_clip_of_the_same_width(pairs: EditPairs) -> None:
    clip = pocket_clip("cpu")
    settings, direction, remark = with_direction(POCKET_TEXT, pairs, clip, WIDTH)
    assert settings == POCKET_TEXT and direction is not None and not remark
    assert torch.equal(direction.target, Direction.of(pairs, clip).target)


def test_refuses_or_skips_a_clip_of_another_width(pairs: EditPairs) -> None:
    clip = pocket_clip("cpu")
    with pytest.raises(
        LearningError, match=r"text states are 768 wide; the one given projects states 128 wide"
    ):
        with_direction(POCKET_TEXT, pairs, clip, 768)
    settings, direction, remark = with_direction(POCKET_TEXT, pairs, clip, 768, skip_other_clip=True)
    assert direction is None and settings == replace(POCKET_TEXT, direction_weight=0.0)
    assert "768 wide, and the CLIP projects text states 128 wide" in remark


class Recorder(RunCallbacks):
    """Records the calls, and raises an error after a step."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls: list[object] = []
        self._error = error

    def before_steps(self, trainer: Trainer) -> None:
        self.calls.append("before")

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        self.calls.append((done, total))
        if self._error is not None and done == 2:
            raise self._error

    def discard(self, trainer: Trainer) -> None:
        self.calls.append("discard")

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        self.calls.append(error)


def test_calls_back_after_every_step(request_of: Callable[..., LearningRequest]) -> None:
    recorder = Recorder()
    assert learn(replace(request_of(), title="snow"), recorder).info.title == "snow"
    assert recorder.calls == ["before", (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_keeps_what_is_learned_when_a_run_stops(
    request_of: Callable[..., LearningRequest], error: BaseException
) -> None:
    recorder = Recorder(error)
    with pytest.raises(type(error)):
        learn(request_of(), recorder)
    assert recorder.calls == ["before", (1, 3), (2, 3), error]


def test_discards_a_worthless_result(request_of: Callable[..., LearningRequest]) -> None:
    recorder = Recorder()
    still = replace(SMALL, learning_rate=1e-30, final_learning_rate=1e-30)
    with pytest.raises(WorthlessError, match="nothing changed in 3 steps"):
        learn(request_of(settings=still), recorder)
    assert recorder.calls[-1] == "discard"


@pytest.mark.parametrize(
    ("weights", "losses"),
    [((1.0, 0.1), "noise, direction"), ((4.0, 0.0), "noise"), ((0.0, 0.1), "direction")],
)
def test_result_records_the_losses_that_acted(
    request_of: Callable[..., LearningRequest],
    editor: DiffusersEditor,
    pairs: EditPairs,
    weights: tuple[float, float],
    losses: str,
) -> None:
    settings = replace(
        POCKET_TEXT, steps=1, batch=1, tokens=2, noise_weight=weights[0], direction_weight=weights[1]
    )
    choice = with_direction(settings, pairs, pocket_clip("cpu"), WIDTH)
    plain = request_of(settings=replace(settings, direction_weight=0.0))
    request = replace(plain, settings=choice.settings, direction=choice.direction)
    assert learn(request).info.settings["losses"] == losses
