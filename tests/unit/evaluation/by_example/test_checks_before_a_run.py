"""Effects that a run refuses before it begins."""

from pathlib import Path

import pytest

from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_example.datasets.effect_files import EffectFiles
from instructbrush.core.evaluation.by_example.results import EffectFolder
from instructbrush.core.evaluation.by_example.run import EffectRunSettings
from instructbrush.core.evaluation.runner import run


def effect(name: str, pairs: int) -> EffectFiles:
    """Returns an effect whose images nobody reads."""
    files = tuple((str(index), Path("before.png"), Path("after.png")) for index in range(pairs))
    return EffectFiles(name, "global", "make it snow", files, files)


def test_refuses_effects_with_too_few_pairs_for_a_method(tmp_path: Path) -> None:
    effects = [effect("rain", 4), effect("snow", 1)]
    for methods, told in (
        (("words", "visii_4"), "Effect 'snow' has 1 training pair, and the method 'visii_4' needs 4. Leave"),
        (("lora_r16",), "Effect 'snow' has 1 training pair, and the method 'lora_r16' needs 2. Leave"),
    ):
        with pytest.raises(EvaluationError, match=told):
            run(effects, EffectRunSettings(methods), EffectFolder(tmp_path / "none"), data="test")
    assert not (tmp_path / "none").exists()
    EffectRunSettings(("visii_1", "one_shot")).check(effects)
    EffectRunSettings(("visii_4", "lora_r4")).check(effects[:1])


def test_refuses_effects_that_would_share_their_results(tmp_path: Path) -> None:
    twice = [effect("a-b", 2), effect("c", 2), effect("a-b", 3)]
    told = "2 of its effects or items are called 'a-b', so they would share their results. Give each a name"
    with pytest.raises(EvaluationError, match=told):
        run(twice, EffectRunSettings(("words",)), EffectFolder(tmp_path / "none"), data="test")
    assert not (tmp_path / "none").exists()
