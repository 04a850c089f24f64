"""The package as users and scripts import it: without ComfyUI, without network, without torch until something needs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
CORE = sorted(path for folder in ("cli", "core") for path in (REPOSITORY / folder).rglob("*.py"))

NO_NETWORK = """
import socket, sys
def refuse(*a, **k): raise PermissionError("import tried to use the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def fresh(code: str, folder: Path, isolated: bool = True) -> str:
    """What `code` prints in a new interpreter that starts in `folder`, cannot reach a network and has no ComfyUI on its path."""
    done = subprocess.run(
        [sys.executable, *(["-I"] if isolated else []), "-c", NO_NETWORK + code],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(("instructbrush", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def test_importing_the_package_is_light(tmp_path):
    printed = fresh(
        "import instructbrush as p; print(p.__file__); print(p.WEB_DIRECTORY);"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'transformers', 'comfy') if m in sys.modules])",
        tmp_path,
    )
    assert printed.splitlines() == [str(REPOSITORY / "__init__.py"), "./web", "[]"]


def test_every_core_module_imports_without_comfyui_and_without_the_slow_libraries(tmp_path):
    names = [module_name(path) for path in CORE]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "print([m for m in ('diffusers', 'transformers', 'open_clip', 'comfy', 'comfy_api', 'folder_paths', 'server') if m in sys.modules])"
    assert fresh(code, tmp_path).strip() == "[]"


def test_comfyui_loads_the_root_under_another_name(tmp_path):
    code = f"""
import importlib.util
root = {str(REPOSITORY)!r}
spec = importlib.util.spec_from_file_location("some/place/custom_nodes/x", root + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules["some/place/custom_nodes/x"] = module
spec.loader.exec_module(module)
import inspect
print(inspect.iscoroutinefunction(module.comfy_entrypoint), hasattr(module, "NODE_CLASS_MAPPINGS"))
"""
    assert fresh(code, tmp_path).split() == ["True", "False"]


def toml_list(text: str, key: str) -> list[str]:
    """A list of strings from pyproject.toml (tomllib is 3.11's)."""
    block = re.search(rf"^{key} = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block, f"{key} is not in pyproject.toml"
    return re.findall(r'"([^"]+)"', block.group(1))


@pytest.fixture(scope="module")
def pyproject() -> str:
    return (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_both_lists_of_requirements_agree_and_leave_torch_alone(pyproject):
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == toml_list(pyproject, "dependencies")
    assert not [
        line
        for line in required
        if re.match(r"(torch|torchvision|torchaudio|xformers|nvidia.*|triton)\b(?!_)", line)
    ]
    assert not [line for line in required if "==" in line or "<" in line], (
        "lower bounds only: ComfyUI decides the rest"
    )


def test_every_room_is_packaged(pyproject):
    rooms = {
        module_name(path)
        for room in ("cli", "core", "nodes")
        for path in (REPOSITORY / room).rglob("__init__.py")
    }
    folders = {
        module_name(path.parent / "__init__.py")
        for room in ("cli", "core", "nodes")
        for path in (REPOSITORY / room).rglob("*.py")
    }
    assert folders == rooms, "a folder with code has no __init__.py"
    assert set(toml_list(pyproject, "packages")) == {"instructbrush", *rooms}


def test_registry_fields(pyproject):
    comfy = pyproject.split("[tool.comfy]")[1].split("\n[")[0]
    for field in ("PublisherId", "DisplayName", "Icon", "requires-comfyui"):
        assert re.search(rf'^{field} = "[^"]+"', comfy, re.MULTILINE), field
    assert 'name = "instructbrush"' in pyproject
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")


def test_shipped_configurations_name_no_place_of_the_machine_they_were_made_on(repository: Path) -> None:
    files = sorted((repository / "core" / "models").rglob("*.json"))
    named = [
        str(file) for file in files if re.search(r': "(/|[A-Za-z]:\\)', file.read_text(encoding="utf-8"))
    ]
    assert len(files) > 10 and not named
