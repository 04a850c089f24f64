"""A ComfyUI that is too old gets one sentence, not a traceback. Each runs in an interpreter of its own, with a tree that has no more than the pack looks at."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import importlib.util, logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
sys.path.insert(0, {comfyui!r})
import folder_paths
spec = importlib.util.spec_from_file_location("custom_nodes/instructbrush", {root!r} + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
print(getattr(module, "NODE_CLASS_MAPPINGS", None), "torch" in sys.modules)
"""


def loaded_by(comfyui: Path, version: str | None, root: Path) -> tuple[str, str]:
    """What a ComfyUI of this version finds in the pack, and what its log says."""
    (comfyui / "folder_paths.py").write_text("")
    if version is not None:
        (comfyui / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    code = LOAD.format(comfyui=str(comfyui), root=str(root))
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=comfyui)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("0.3.0", "0.3.0"),
        ("0.29.9", "0.29.9"),
        ("0.3.75-dev", "0.3.75-dev"),
        (None, "an old one that tells no version"),
    ],
)
def test_a_comfyui_that_is_too_old_gets_one_sentence(
    tmp_path: Path, repository: Path, version: str | None, found: str
) -> None:
    printed, log = loaded_by(tmp_path, version, repository)
    # An empty table, so that it asks for no entry point either.
    assert printed == "{} False"
    assert (
        log
        == f"ERROR InstructBrush needs ComfyUI 0.30.0 or newer, and this one is {found}: update ComfyUI. Until then its nodes are not there."
    )


@pytest.mark.parametrize("version", ["0.30.0", "0.30", "0.30.1", "0.100.0", "1.0", "v0.31.0", "nightly"])
def test_one_that_is_new_enough_or_tells_no_number_asks_for_the_entry_point(
    tmp_path: Path, repository: Path, version: str
) -> None:
    assert loaded_by(tmp_path, version, repository) == ("None False", "")


def test_what_is_needed_is_what_is_declared(repository: Path) -> None:
    declared = re.search(
        r'^requires-comfyui = ">=([\d.]+)"',
        (repository / "pyproject.toml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    named = re.search(
        r'^_OLDEST = "([\d.]+)"', (repository / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert declared and named and declared[1] == named[1]
