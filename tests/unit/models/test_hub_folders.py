import os
from pathlib import Path

import pytest

from instructbrush.core.models.hub_folders import model_folder, model_title


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    home = tmp_path / "models--owner--some-model"
    for age, name in enumerate(("new", "old")):
        (home / "snapshots" / name).mkdir(parents=True)
        os.utime(home / "snapshots" / name, (1000 - age, 1000 - age))
    return home


def test_main_is_preferred_to_the_newest(cached: Path) -> None:
    assert model_folder(cached) == cached / "snapshots" / "new"
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("old\n")
    assert model_folder(cached) == cached / "snapshots" / "old"


@pytest.mark.parametrize("told", [b"gone", b"../../elsewhere", b"\xff\xfe", b"", b"\0"])
def test_a_damaged_reference_leaves_the_newest(cached: Path, told: bytes) -> None:
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_bytes(told)
    (cached.parent / "elsewhere").mkdir()
    assert model_folder(cached) == cached / "snapshots" / "new"


def test_other_folders_and_files_stay(tmp_path: Path) -> None:
    (tmp_path / "empty" / "snapshots").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "own" / "unet").mkdir(parents=True)
    (tmp_path / "own" / "snapshots" / "step-100").mkdir(parents=True)
    for name in ("empty", "file", "missing", "own"):
        assert model_folder(tmp_path / name) == tmp_path / name


def test_the_title_is_the_models_name(cached: Path, tmp_path: Path) -> None:
    assert model_title(model_folder(cached)) == "some-model"
    assert model_title(cached) == "some-model"
    (tmp_path / "link").symlink_to(cached / "snapshots" / "old")
    assert model_title(tmp_path / "link") == "some-model"
    assert model_title(tmp_path) == tmp_path.name
