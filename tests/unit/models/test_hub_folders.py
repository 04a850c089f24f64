"""Folders of the Hugging Face cache."""

import os
from pathlib import Path

import pytest

from instructbrush.core.editing.loading import describe
from instructbrush.core.errors import ModelError
from instructbrush.core.models.builtin import POCKET_REGION_FOLDER, resolved
from instructbrush.core.models.hub_folders import how_to_download, model_folder, model_title


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    home = tmp_path / "models--owner--some-model"
    for age, name in enumerate(("new", "old")):
        (home / "snapshots" / name).mkdir(parents=True)
        os.utime(home / "snapshots" / name, (1000 - age, 1000 - age))
    return home


def test_prefers_main_to_the_newest_snapshot(cached: Path) -> None:
    assert model_folder(cached) == cached / "snapshots" / "new"
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("old\n")
    assert model_folder(cached) == cached / "snapshots" / "old"


def test_knows_a_built_in_model_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(POCKET_REGION_FOLDER)
    monkeypatch.chdir(POCKET_REGION_FOLDER.parent)
    for path in (link, Path("pocket_region"), str(POCKET_REGION_FOLDER)):
        assert resolved(path) == POCKET_REGION_FOLDER
        assert describe(path).title == "pocket region editor" and describe(path).reads_mask
    assert resolved(tmp_path) == tmp_path


@pytest.mark.parametrize("reference", [b"gone", b"../../elsewhere", b"\xff\xfe", b"", b"\0"])
def test_takes_the_newest_snapshot_if_main_is_damaged(cached: Path, reference: bytes) -> None:
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_bytes(reference)
    (cached.parent / "elsewhere").mkdir()
    assert model_folder(cached) == cached / "snapshots" / "new"


def test_returns_other_folders_and_files_unchanged(tmp_path: Path) -> None:
    (tmp_path / "empty" / "snapshots").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "own" / "unet").mkdir(parents=True)
    (tmp_path / "own" / "snapshots" / "step-100").mkdir(parents=True)
    for name in ("empty", "file", "missing", "own"):
        assert model_folder(tmp_path / name) == tmp_path / name


def test_title_is_the_name_of_the_model(cached: Path, tmp_path: Path) -> None:
    assert model_title(model_folder(cached)) == "some-model"
    assert model_title(cached) == "some-model"
    (tmp_path / "link").symlink_to(cached / "snapshots" / "old")
    assert model_title(tmp_path / "link") == "some-model"
    assert model_title(tmp_path) == tmp_path.name


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("timbrooks/instruct-pix2pix", "timbrooks/instruct-pix2pix"),
        ("InstructPix2Pix", "timbrooks/instruct-pix2pix"),
        ("someone/fine.tune_2", "someone/fine.tune_2"),
    ],
)
def test_says_how_to_download_a_model_of_the_hub(name: str, hub: str) -> None:
    folder = hub.partition("/")[2]
    with pytest.raises(ModelError, match="there is no such file or folder") as caught:
        describe(name)
    assert f"hf download {hub} --local-dir {folder}" in str(caught.value)


@pytest.mark.parametrize("name", ["models/a/b", "../a", "/a/b", "nothing", "a/../b"])
def test_takes_no_path_for_a_name_of_the_hub(name: str) -> None:
    assert how_to_download(name) == ""
    with pytest.raises(ModelError, match=r"Check the path\.$"):
        describe(name)
