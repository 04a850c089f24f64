"""Two processes and one folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from instructbrush.core.errors import BuildError, StorageError
from instructbrush.core.generation.locks import only_process
from instructbrush.tests.support.builds.numbered_builds import numbered_build

HOLD = """
import sys, time
from pathlib import Path
from instructbrush.core.generation.locks import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with (
        pytest.raises(BuildError, match="is in use: another process runs"),
        only_process(tmp_path),
    ):
        pass
    process.kill()
    process.wait()
    with only_process(tmp_path):
        numbered_build(tmp_path).begin()  # the lock is no other file in the folder


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"), only_process(tmp_path / "file"):
        pass
