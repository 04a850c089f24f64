"""Files that are written whole or not at all, and the names that users give them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instructbrush.core.devices import named_device
from instructbrush.core.errors import DeviceError, InstructionError, ModelError, StorageError
from instructbrush.core.storage import files
from instructbrush.core.storage.files import check_target, replacing, write_text
from instructbrush.core.storage.names import resolve_inside

_KILLED = """
import os, sys
from pathlib import Path
from instructbrush.core.storage.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""
_WAITING = """
import sys
from pathlib import Path
from instructbrush.core.storage.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("slow")
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "snow.json"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    # The second has removed what the first left.
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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_no_utf_8_can_be_written(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    write_text("x", path)
    assert path.read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_the_older_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text("old", path)
    with (
        pytest.raises(
            StorageError,
            match=r"'x\.txt' cannot be written to .*: no space is left there\. Free some space, or choose another disk\.",
        ),
        replacing(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("call", ["chmod", "fsync"])
def test_a_disk_that_knows_no_permissions_or_no_fsync_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, call, refuse)
    write_text("new", tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "new"


def test_a_target_is_checked_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(tmp_path / "new" / "x.safetensors", 1000)
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError, match=r"'x' cannot be written to .*file: .*Check that the folder is there"
    ):
        check_target(tmp_path / "file" / "x")
    with pytest.raises(StorageError, match=r"a folder has this name"):
        check_target(tmp_path / "new")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StorageError, match=r"'x' needs about 2\.5 MB in .*, where 0\.0 MB are free"):
        check_target(tmp_path / "x", 2_500_000)


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
        ("\ud800", "half a character"),
        ("con", "'con' is reserved on Windows"),
        ("Nul.x", "'Nul.x' is reserved on Windows"),
        ("a" * 300, "300 bytes long, at most 235 are possible"),
        ("雪" * 100, "300 bytes long"),
        ("12:30", 'one of " \\* : < > \\? \\|'),
        ("weather./snow", "ends with a dot or a space"),
    ],
)
def test_names_that_cannot_be_used_say_why(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(
        InstructionError,
        match=rf"cannot be used: .*{reason}.*\. Use a plain name such as 'snow' or 'weather/snow'\.$",
    ):
        resolve_inside(tmp_path, name, ".safetensors", new=True)


def test_names_may_have_sub_folders_dots_and_the_ending(tmp_path: Path) -> None:
    assert (
        resolve_inside(tmp_path, "weather/snow v1.5", ".safetensors", new=True)
        == tmp_path / "weather" / "snow v1.5.safetensors"
    )
    assert resolve_inside(tmp_path, " snow.safetensors", ".safetensors").name == "snow.safetensors"
    # What lies there already may be called what this system allows.
    assert resolve_inside(tmp_path, "12?30", ".safetensors").name == "12?30.safetensors"
    with pytest.raises(ModelError):
        resolve_inside(tmp_path, "..", error=ModelError)


def test_a_folder_that_does_not_show_its_files_takes_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.os, "listdir", refuse)
    write_text("x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "x"


def test_a_disk_that_does_not_say_its_free_space_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(files.shutil, "disk_usage", refuse)
    check_target(tmp_path / "x", 10)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(0, 0, 0))
    check_target(tmp_path / "x", 10)


def test_devices_go_by_names_that_users_write() -> None:
    assert named_device("cpu").type == "cpu"
    assert named_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    assert named_device(" CPU ") == named_device("cpu:0") == named_device("cpu")
    with pytest.raises(
        DeviceError, match=r"Device 'toaster' is none that torch knows\. This machine has cpu"
    ):
        named_device("toaster")
    with pytest.raises(
        DeviceError,
        match=r"Device 'cuda:99' is not there, or this torch was not built for it\. This machine has cpu",
    ):
        named_device("cuda:99")
    for name in ("GPU:99", "cpu:7", "meta"):
        with pytest.raises(DeviceError, match=f"Device '{name}' is not there"):
            named_device(name)
    for name in ("", "0", "cuda:", "gpux"):
        with pytest.raises(DeviceError, match=f"Device '{name}' is none that torch knows"):
            named_device(name)
