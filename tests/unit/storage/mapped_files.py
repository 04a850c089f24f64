"""Whether a file is mapped into this process. Windows neither replaces nor deletes mapped files."""

from pathlib import Path

import pytest

MAPS = Path("/proc/self/maps")


def assert_not_mapped(path: Path) -> None:
    if not MAPS.is_file():
        pytest.skip("only Linux lists what is mapped")
    assert str(path.resolve()) not in MAPS.read_text(encoding="utf-8", errors="replace")
