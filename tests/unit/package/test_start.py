"""Start with a ComfyUI that is too old or new enough.

Every test starts an interpreter with a stand-in for ComfyUI that has only what the pack looks at.
"""

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
    """Imports the pack as ComfyUI does. Returns what the script prints and what the log says."""
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
        ("0.3.0", "ComfyUI 0.3.0"),
        ("0.29.9", "ComfyUI 0.29.9"),
        ("0.3.75-dev", "ComfyUI 0.3.75-dev"),
        (None, "an older ComfyUI of unknown version"),
    ],
)
def test_logs_one_sentence_on_an_old_comfyui(
    tmp_path: Path, repository: Path, version: str | None, found: str
) -> None:
    printed, log = loaded_by(tmp_path, version, repository)
    # With an empty table ComfyUI does not ask for the entry point.
    assert printed == "{} False"
    assert log == (
        f"ERROR InstructBrush needs ComfyUI 0.30.0 or newer, but this is {found}. Update ComfyUI. "
        "Until then the nodes are not available."
    )


@pytest.mark.parametrize("version", ["0.30.0", "0.30", "0.30.1", "0.100.0", "1.0", "v0.31.0", "nightly"])
def test_accepts_new_versions_and_versions_without_numbers(
    tmp_path: Path, repository: Path, version: str
) -> None:
    assert loaded_by(tmp_path, version, repository) == ("None False", "")


def test_requires_the_version_that_pyproject_declares(repository: Path) -> None:
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    package = (repository / "__init__.py").read_text(encoding="utf-8")
    declared = re.search(r'^requires-comfyui = ">=([\d.]+)"', project, re.MULTILINE)
    required = re.search(r'^_OLDEST = "([\d.]+)"', package, re.MULTILINE)
    assert declared and required and declared[1] == required[1]
