"""Names that users give to files, and names of files that exist."""

import os
from pathlib import Path

import pytest

from instructbrush.core.errors import InstructionError, ModelError, PairError
from instructbrush.core.storage import names
from instructbrush.core.storage.names import is_usable, resolve_inside


@pytest.mark.skipif(os.name == "nt", reason="Windows reserves these names")
def test_accepts_existing_files_with_names_reserved_on_windows(tmp_path: Path) -> None:
    assert resolve_inside(tmp_path, "aux/con.v2") == tmp_path / "aux" / "con.v2"


def test_rejects_paths_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(
        PairError,
        match=r"Name 'deep/deep/.*…' cannot be used: its path would be \d{4} bytes long; "
        r"at most 4000 are possible\. Use a plain name",
    ):
        resolve_inside(tmp_path, "deep/" * 900 + "x", error=PairError)


def test_keeps_links_in_paths(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path.parent)
    assert resolve_inside(tmp_path, "link/file", ".txt") == tmp_path / "link" / "file.txt"


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("snow", True),
        ("snow v1.5", True),
        ("雪", True),
        ("..", False),
        (" snow", False),
        ("a\\b", False),
        ("a\nb", False),
        ("half\udc80", False),
        ("a" * 256, False),
    ],
)
def test_tells_which_names_are_usable(name: str, usable: bool) -> None:
    assert is_usable(name) == usable


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("..", "made of dots"),
        ("../x", "made of dots"),
        ("a/../../x", "made of dots"),
        ("/etc/x", "starts with a slash"),
        ("a//b", "starts with a slash, or a part of it is empty"),
        ("a\\b", "a backslash"),
        ("a\0b", "a control character"),
        ("a\nb", "a control character"),
        ("\ud800", "an incomplete character"),
        ("con", "'con' is reserved on Windows"),
        ("Nul.x", "'Nul.x' is reserved on Windows"),
        ("a" * 300, "300 bytes long; at most 235 are possible"),
        ("雪" * 100, "300 bytes long"),
        ("12:30", 'one of " \\* : < > \\? \\|'),
        ("weather./snow", "ends with a dot or a space"),
        (".weather/snow", "a folder in it starts with a dot"),
        ("a/" * 9 + "snow", "it has 10 parts; at most 9 are possible"),
    ],
)
def test_rejects_invalid_names(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(
        InstructionError,
        match=rf"cannot be used: .*{reason}.*\. Use a plain name such as 'snow' or 'weather/snow'\.$",
    ):
        resolve_inside(tmp_path, name, ".safetensors", new=True)


def test_accepts_sub_folders_dots_and_the_ending(tmp_path: Path) -> None:
    assert (
        resolve_inside(tmp_path, "weather/snow v1.5", ".safetensors", new=True)
        == tmp_path / "weather" / "snow v1.5.safetensors"
    )
    assert resolve_inside(tmp_path, " snow.safetensors", ".safetensors").name == "snow.safetensors"
    # Names of existing files need to be valid on this system only.
    assert resolve_inside(tmp_path, "12?30", ".safetensors").name == "12?30.safetensors"
    with pytest.raises(ModelError):
        resolve_inside(tmp_path, "..", error=ModelError)


@pytest.mark.parametrize(
    ("name", "path"), [("weather\\snow", "weather/snow"), ("雪" * 200, "雪" * 200), ("..\\snow", "")]
)
def test_reads_names_as_windows_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    """ComfyUI's own lists have backslashes there, and names are counted in UTF-16."""
    with pytest.raises(InstructionError):
        resolve_inside(tmp_path, name)
    monkeypatch.setattr(names, "is_windows", lambda: True)
    if path:
        assert resolve_inside(tmp_path, name) == tmp_path / path
    else:
        with pytest.raises(InstructionError, match="made of dots"):
            resolve_inside(tmp_path, name)
