"""Presets, the rule of learning rates, and settings of earlier versions."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from instructbrush.core.errors import LearningError
from instructbrush.core.learning.settings import (
    PAPER,
    PAPER_GUIDED,
    POCKET,
    POCKET_TEXT,
    PRESETS,
    VISII,
    LearningSettings,
    preset_for,
    read_changes,
    read_changes_of,
)


@pytest.mark.parametrize(
    ("preset", "final"), [(POCKET, 1e-4), (POCKET_TEXT, 1e-4), (PAPER, 1e-3), (VISII, 1e-3)]
)
def test_final_rate_follows_a_new_rate_in_the_presets_proportion(
    preset: LearningSettings, final: float
) -> None:
    changed = preset.changed(learning_rate=1e-3)
    assert changed.learning_rate == changed.rate_at(0) == 1e-3
    assert changed.final_learning_rate == pytest.approx(final)
    assert changed.rate_at(changed.steps - 1) == pytest.approx(final)


def test_given_final_rate_is_kept() -> None:
    assert POCKET.changed(learning_rate=1e-3, final_learning_rate=5e-4).final_learning_rate == 5e-4
    assert POCKET.changed(final_learning_rate=5e-4) == replace(POCKET, final_learning_rate=5e-4)
    # None means that no final rate is given.
    assert POCKET.changed(learning_rate=6e-2, final_learning_rate=None) == POCKET
    assert POCKET.changed(steps=3) == replace(POCKET, steps=3)


def test_refuses_a_rate_out_of_range() -> None:
    with pytest.raises(LearningError, match="learning_rate is 0; it must be above 0"):
        POCKET.changed(learning_rate=0)


def test_two_readings_of_the_paper_differ_in_the_objective_alone() -> None:
    assert (PAPER.objective, PAPER.text_scale, PAPER.image_scale) == ("plain", 7.5, 1.5)
    assert replace(PAPER, objective="guided") == PAPER_GUIDED


def test_chooses_a_preset_by_family_or_name() -> None:
    assert preset_for("pocket") == POCKET and preset_for("sd15") == PAPER
    assert preset_for("pocket", "attention", "paper_guided") == PAPER_GUIDED
    assert preset_for("sd15", "text", "pocket") == POCKET_TEXT
    with pytest.raises(LearningError, match="text space has no preset 'paper_guided'. Choose from auto, poc"):
        preset_for("sd15", "text", "paper_guided")


def test_accepts_the_former_name_of_the_weights() -> None:
    values = asdict(POCKET) | {"weighting": "min_snr"}
    assert LearningSettings(**values) == POCKET
    assert read_changes(["attention.weighting=min_snr"])["attention"] == {"weighting": "min_snr"}
    assert POCKET.changed(weighting="min_snr").weighting == "snr"


def test_checkpoints_keep_what_version_0_1_wrote() -> None:
    assert POCKET.decisive()["weighting"] == "min_snr" and PAPER.decisive()["weighting"] == "none"
    assert "weight_decay" not in POCKET.decisive()
    assert POCKET.changed(weight_decay=0.01).decisive()["weight_decay"] == 0.01


def test_reads_settings_of_one_space() -> None:
    texts = ["weight_decay=0.01", "include_bos=true", "clip_norm=null", "noise=fixed"]
    read = read_changes_of("text", texts)
    assert read == {"weight_decay": 0.01, "include_bos": True, "clip_norm": None, "noise": "fixed"}
    assert POCKET_TEXT.changed(**read).clip_norm is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=3", r"'speed=3' is not NAME=VALUE with a name of tokens"),
        ("seed=3", r"'seed=3' is not NAME=VALUE"),
        ("text.tokens=3", r"'text.tokens=3' is not NAME=VALUE"),
        ("tokens=many", r"attention.tokens is 'many'; it must be of type int"),
        ("weight_decay=2", r"weight_decay is 2; it must lie between 0 and 1"),
        ("weighting=min", r"weighting is 'min'; it must be one of snr, none"),
        ("clip_norm=Infinity", r"attention.clip_norm is 'Infinity'; it must be of type float"),
        ("clip_norm=1e999", r"attention.clip_norm is '1e999'; it must be of type float"),
        ("clip_norm=0", r"clip_norm is 0; it must be above 0"),
        ("clip_norm=-1", r"clip_norm is -1; it must be above 0"),
        ("text_scale=NaN", r"attention.text_scale is 'NaN'; it must be of type float"),
        ("image_scale=-1", r"image_scale is -1; it must lie between 0 and 1000"),
        ("rank=8", r"rank is a setting of the adapter space, and the attention space is chosen"),
    ],
)
def test_refuses_texts_that_are_no_settings(text: str, message: str) -> None:
    with pytest.raises(LearningError, match=message):
        read_changes_of("attention", [text])


def test_settings_of_adapters_belong_to_their_space() -> None:
    assert read_changes_of("adapter", ["rank=8"]) == {"rank": 8}
    assert read_changes(["adapter.rank=8"])["adapter"] == {"rank": 8}
    with pytest.raises(LearningError, match="bypass is a setting of the adapter space, and the text space"):
        read_changes(["text.bypass=8"])


@pytest.mark.parametrize("read", [read_changes, lambda texts: read_changes_of("attention", texts)])
def test_no_text_changes_nothing(read: Callable[[list[str]], object]) -> None:
    assert read([]) in ({}, {space: {} for space in PRESETS})
