"""Names of what lies in folders already: what may be offered can also be found again."""

import os
from pathlib import Path

import pytest

from instructbrush.core.errors import PairError
from instructbrush.core.storage.names import is_usable, resolve_inside


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps these names for itself")
def test_what_lies_there_may_have_a_name_that_windows_keeps(tmp_path: Path) -> None:
    assert resolve_inside(tmp_path, "aux/con.v2") == tmp_path / "aux" / "con.v2"


def test_paths_that_are_too_long_as_a_whole_say_so(tmp_path: Path) -> None:
    with pytest.raises(
        PairError,
        match=r"Name 'deep/deep/.*…' cannot be used: its path would be \d{4} bytes long, at most 4000 are possible\. Use a plain name",
    ):
        resolve_inside(tmp_path, "deep/" * 900 + "x", error=PairError)


def test_links_are_not_resolved_away(tmp_path: Path) -> None:
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
def test_what_can_be_offered(name: str, usable: bool) -> None:
    assert is_usable(name) == usable
