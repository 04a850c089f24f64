"""Atomic writing of files, and the check for space before a long run."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from instructbrush.core import windows
from instructbrush.core.errors import ModelError, StorageError
from instructbrush.core.storage import files
from instructbrush.core.storage.files import (
    append_text,
    atomic_write,
    check_writable,
    replaced_folder,
    write_error,
    write_tensors,
    write_text,
)

_KILLED = """
import os, sys
from pathlib import Path
from instructbrush.core.storage.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""
_WAITING = """
import sys
from pathlib import Path
from instructbrush.core.storage.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("slow")
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_removes_files_of_killed_processes_but_not_of_running_ones(tmp_path: Path) -> None:
    path = tmp_path / "snow.json"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    # The second process removed the file that the first one left.
    assert len(list(tmp_path.iterdir())) == 1
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as slow:
        assert slow.stdout is not None
        assert slow.stdin is not None
        assert slow.stdout.readline() == "open\n"
        write_text("fast", path)
        assert len(list(tmp_path.iterdir())) == 2
        slow.stdin.write("\n")
        slow.stdin.flush()
    assert path.read_text() == "slow"
    assert os.listdir(tmp_path) == ["snow.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_replaces_a_file_only_when_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to replace or to delete a file that any process has open, safetensors' writer too."""
    replace = Path.replace
    replaced = []

    def refusing(source: Path, target: Path) -> Path:
        handles = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert not {str(source), str(target)} & set(handles)
        replaced.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refusing)
    path = tmp_path / "snow.safetensors"
    for value in range(2):
        with atomic_write(path) as temporary:
            assert not temporary.exists()
            save_file({"x": torch.full((3,), value)}, temporary)
    assert replaced == [path.name] * 2 and os.listdir(tmp_path) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_asks_windows_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virus scanner has the file open for a moment."""
    replace, refused = Path.replace, []

    def busy(source: Path, target: Path) -> Path:
        if len(refused) < 2:
            refused.append(target)
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(StorageError, match="cannot access"):
        write_text("new", tmp_path / "x.txt")
    refused.clear()
    monkeypatch.setattr(windows, "is_windows", lambda: True)
    write_text("new", tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "new" and len(refused) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_writes_to_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    write_text("x", path)
    assert path.read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text("old", path)
    with (
        pytest.raises(
            StorageError,
            match=r"'x\.txt' cannot be written to .*: no space is left there\. "
            r"Free some space, or choose another disk\.",
        ),
        atomic_write(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("call", ["chmod", "fsync"])
def test_writes_to_disks_without_permissions_or_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, call, refuse)
    write_text("new", tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "new"


def test_equal_tensors_and_texts_make_equal_files(tmp_path: Path) -> None:
    texts = {str(number): "".join(map(chr, range(0x250))) for number in range(20)}
    tensors = {"x": torch.arange(3)}
    write_tensors(tensors, tmp_path / "a.safetensors", texts)
    write_tensors(tensors, tmp_path / "b.safetensors", dict(reversed(texts.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == texts
        assert file.get_tensor("x").equal(tensors["x"])


def test_appends_lines(tmp_path: Path) -> None:
    append_text("one\n", tmp_path / "x.txt")
    append_text("zwölf\n", tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "one\nzwölf\n"


def test_append_to_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("one\n")

    def refuse(handle: int) -> None:
        assert path.read_text() == "one\ntwo\n"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="no space is left there"):
        append_text("two\n", path)
    assert path.read_text() == "one\n"


def test_checks_folder_and_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "x.safetensors", 1000)
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError, match=r"'x' cannot be written to .*file: .*Check that the folder exists"
    ):
        check_writable(tmp_path / "file" / "x")
    with pytest.raises(StorageError, match=r"a folder has this name"):
        check_writable(tmp_path / "new")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(total=10, free=1))
    with pytest.raises(StorageError, match=r"'x' needs about 2\.5 MB in .*, where 0\.0 MB are free"):
        check_writable(tmp_path / "x", 2_500_000)


def test_writes_to_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.os, "listdir", refuse)
    write_text("x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "x"


def test_accepts_a_disk_with_unknown_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(files.shutil, "disk_usage", refuse)
    check_writable(tmp_path / "x", 10)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    check_writable(tmp_path / "x", 10)


class TestReplacedFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "set").mkdir()
        write_text("older", tmp_path / "set" / "a.txt")
        return tmp_path / "set"

    def content(self, folder: Path) -> dict[str, str]:
        names = sorted(path.name for path in folder.parent.iterdir())
        assert names == ["set"]
        return {path.name: path.read_text() for path in folder.iterdir()}

    def test_replaces_an_older_folder_or_makes_a_new_one(self, folder: Path) -> None:
        for place in (folder, folder.parent / "deep" / "set"):
            with replaced_folder(place) as unfinished:
                write_text("newer", unfinished / "b.txt")
        assert (folder.parent / "deep" / "set" / "b.txt").read_text() == "newer"
        shutil.rmtree(folder.parent / "deep")
        assert self.content(folder) == {"b.txt": "newer"}

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ModelError])
    def test_any_error_leaves_the_older_folder(self, folder: Path, error: type[BaseException]) -> None:
        with pytest.raises(error), replaced_folder(folder) as unfinished:
            write_text("newer", unfinished / "b.txt")
            raise error("stop")
        assert self.content(folder) == {"a.txt": "older"}

    def test_a_full_disk_is_named_and_leaves_the_older_folder(self, folder: Path) -> None:
        with pytest.raises(StorageError, match="'set' cannot be written"), replaced_folder(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert self.content(folder) == {"a.txt": "older"}

    def test_puts_back_what_a_killed_process_moved_aside(self, folder: Path) -> None:
        folder.rename(folder.with_name(".set.older"))
        with pytest.raises(ValueError, match="stop"), replaced_folder(folder):
            raise ValueError("stop")
        assert self.content(folder) == {"a.txt": "older"}


def test_says_on_windows_what_is_full_or_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "is_windows", lambda: True)
    path = tmp_path / ("long" * 60)
    full = SafetensorError("I/O error: There is not enough space on the disk. (os error 112)")
    assert "no space is left there" in str(write_error(path, full))
    missing = FileNotFoundError(errno.ENOENT, "The system cannot find the path specified")
    missing.winerror = 3  # type: ignore[attr-defined]
    assert "its path is too long" in str(write_error(path, missing))
    assert "Check that the folder exists" in str(write_error(Path("x"), missing))


def test_ends_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's tempfile tries for ever on Windows."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(Path, "mkdir", lambda path, *given, **named: None if path == tmp_path else refuse())
    for attempt in (lambda: write_text("x", tmp_path / "x"), lambda: check_writable(tmp_path / "x")):
        with pytest.raises(StorageError, match="Access is denied"):
            attempt()
