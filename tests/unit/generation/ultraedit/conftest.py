"""One finished build of the pocket world for all tests here."""

from dataclasses import replace
from pathlib import Path

import pytest

from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.export import export_table
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.scoring import POCKET_THRESHOLDS
from instructbrush.core.generation.ultraedit.pairs import EditedAnchors
from instructbrush.core.generation.ultraedit.stages import (
    ULTRAEDIT_COLUMNS,
    UltraEditSettings,
    ultraedit_stages,
)
from instructbrush.tests.unit.generation.ultraedit.scripted import Scenes, Scripted


@pytest.fixture(scope="session")
def settings() -> UltraEditSettings:
    """Free-form and region edits with the built-in models, in few steps."""
    return UltraEditSettings(
        Scripted(),
        mode="both",
        side=128,
        seeds=2,
        free_form=EditedAnchors(steps=4),
        region=EditedAnchors(region=True, steps=4),
        thresholds=replace(POCKET_THRESHOLDS, clip_sim_dir=0.1),
    )


@pytest.fixture(scope="session")
def built(settings: UltraEditSettings, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A finished build with its tables in ``data``."""
    folder: Path = tmp_path_factory.mktemp("ultraedit") / "build"
    build = Build(folder, Scenes(2), ultraedit_stages(settings))
    run_build(build)
    export_table(build, ULTRAEDIT_COLUMNS, folder / "data")
    return build
