"""Scores, thresholds and the best pair."""

from dataclasses import replace

import pytest
import torch

from instructbrush.core.encoders.clip import image_features, text_features
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import BuildError
from instructbrush.core.generation import scoring
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.scoring import (
    SCORES,
    PairScorer,
    Scores,
    Thresholds,
    best_pair,
)

OPEN = Thresholds(-1, -1, -1, -1, -1, -1, 0)
CAPTIONS = "a red circle", "a blue circle"


def scores(direction: float | None = 0.5, out: float = 0.5, **others: float | None) -> Scores:
    return {**dict.fromkeys(SCORES, 0.5), "clip_sim_dir": direction, "clip_sim_target": out, **others}


def test_scores_are_those_of_the_papers(make_image) -> None:
    clip = pocket_clip()
    images = torch.stack([make_image(n) for n in range(3)])
    pairs = [(images[0], images[1]), (images[0], images[2])]
    scored = PairScorer(clip, None).score(pairs, *CAPTIONS)
    seen, said = image_features(clip, images), text_features(clip, CAPTIONS)
    for number, each in enumerate(scored, 1):
        edit, words = seen[number] - seen[0], said[1] - said[0]
        assert each["clip_sim_image"] == pytest.approx(float(seen[0] @ seen[number]), abs=1e-5)
        assert each["clip_sim_source"] == pytest.approx(float(seen[0] @ said[0]), abs=1e-5)
        assert each["clip_sim_target"] == pytest.approx(float(seen[number] @ said[1]), abs=1e-5)
        expected = float(edit @ words / edit.norm() / words.norm())
        assert each["clip_sim_dir"] == pytest.approx(expected, abs=1e-5)
        assert each["dinov2_sim"] is None
        assert each["ssim"] is not None and -1 <= each["ssim"] < 1


def test_scores_without_captions_are_left_out(make_image) -> None:
    (each,) = PairScorer(pocket_clip(), None).score([(make_image(0), make_image(1))])
    assert {name for name in SCORES if each[name] is None} == {
        "clip_sim_dir",
        "clip_sim_source",
        "clip_sim_target",
        "dinov2_sim",
    }


def test_each_caption_is_encoded_once(make_image, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def encode(clip, texts):
        encoded.extend(texts)
        return text_features(clip, texts)

    monkeypatch.setattr(scoring, "text_features", encode)
    scorer = PairScorer(pocket_clip(), None)
    scorer.score([(make_image(0), make_image(1))], *CAPTIONS)
    assert sorted(encoded) == sorted(CAPTIONS)
    (equal,) = scorer.score([(make_image(0), make_image(1))], CAPTIONS[0], CAPTIONS[0])
    assert len(encoded) == 3 and equal["clip_sim_dir"] is None and equal["clip_sim_target"] is not None


def test_images_that_are_not_finite_stop_the_build(make_image) -> None:
    image = make_image(0)
    with pytest.raises(BuildError, match="not finite"):
        PairScorer(pocket_clip(), None).score([(image, image), (image, image * torch.nan)], *CAPTIONS)


@pytest.mark.parametrize("name", SCORES)
def test_each_score_has_its_threshold(name: str) -> None:
    limits = replace(OPEN, **{name: 0.4})
    assert limits.problem({**scores(), name: 0.4}) is None
    assert limits.problem({**scores(), name: None}) is None
    problem = limits.problem({**scores(), name: 0.39})
    assert problem is not None
    assert problem[0].endswith("is too low")
    assert problem[1] == "0.390; at least 0.4"


def test_defaults_are_those_of_the_papers_scripts() -> None:
    default = Thresholds()
    assert (default.clip_sim_image, default.of_regions.clip_sim_image) == (0.75, 0.7)
    assert (default.clip_sim_dir, default.clip_sim_source, default.clip_sim_target) == (0.22, 0.2, 0.2)
    assert default.dinov2_sim == 0.4


def test_keeps_the_best_direction_of_those_that_pass(make_image) -> None:
    pairs = [(make_image(0), make_image(n)) for n in range(1, 4)]
    several = [scores(0.3), scores(0.9, clip_sim_image=0.1), scores(0.6)]
    assert best_pair(pairs, several, replace(OPEN, clip_sim_image=0.2)) == 2
    assert best_pair(pairs, several, OPEN) == 1
    assert best_pair(pairs, [scores(None, 0.1), scores(None, 0.3), scores(None, 0.2)], OPEN) == 1


def test_refuses_a_row_whose_pairs_all_fail(make_image) -> None:
    pairs = [(make_image(0), make_image(n)) for n in range(1, 3)]
    with pytest.raises(Refused) as refusal:
        best_pair(pairs, [scores(0.1), scores(0.15)], Thresholds(0, 0.2, 0, 0, 0, 0))
    assert (refusal.value.reason, refusal.value.detail) == ("CLIP dir is too low", "0.150; at least 0.2")
    same = make_image(0)
    with pytest.raises(Refused, match="the edit changes nothing"):
        best_pair([(same, same)], [scores()], replace(OPEN, least_change=0.01))
