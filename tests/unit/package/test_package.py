"""The package as scripts import it: without ComfyUI and network, and with torch only when needed."""

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


def run_isolated(code: str, folder: Path) -> str:
    """Returns what `code` prints in a new interpreter without network and ComfyUI, started in `folder`."""
    command = [sys.executable, "-I", "-c", NO_NETWORK + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(("instructbrush", *parts))


def test_importing_the_package_imports_no_large_library(tmp_path):
    printed = run_isolated(
        "import instructbrush as p; print(p.__file__); print(p.WEB_DIRECTORY);"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'transformers', 'comfy') if m in sys.modules])",
        tmp_path,
    )
    assert printed.splitlines() == [str(REPOSITORY / "__init__.py"), "./web", "[]"]


def test_core_and_cli_modules_import_neither_comfyui_nor_slow_libraries(tmp_path):
    names = [module_name(path) for path in CORE]
    assert len(names) > 100
    slow = ("diffusers", "transformers", "open_clip", "comfy", "comfy_api", "folder_paths", "server")
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    code += f"print([name for name in {slow!r} if name in sys.modules])"
    assert run_isolated(code, tmp_path).strip() == "[]"


def test_loads_under_another_name_as_in_comfyui(tmp_path):
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
    assert run_isolated(code, tmp_path).split() == ["True", "False"]


def toml_list(text: str, key: str) -> list[str]:
    """Returns a list of strings from pyproject.toml. Python 3.10 has no tomllib."""
    block = re.search(rf"^{key} = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block, f"{key} is not in pyproject.toml"
    return re.findall(r'"([^"]+)"', block.group(1))


@pytest.fixture(scope="module")
def pyproject() -> str:
    return (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_lists_of_requirements_agree_and_do_not_contain_torch(pyproject):
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required and required == toml_list(pyproject, "dependencies")
    torch = re.compile(r"(torch|torchvision|torchaudio|xformers|nvidia.*|triton)\b(?!_)")
    assert not [line for line in required if torch.match(line)]
    # Upper bounds and exact versions would conflict with ComfyUI's requirements.
    assert not [line for line in required if "==" in line or "<" in line]


def test_lists_every_package(pyproject):
    files = [path for folder in ("cli", "core", "nodes") for path in (REPOSITORY / folder).rglob("*.py")]
    packages = {module_name(path) for path in files if path.name == "__init__.py"}
    folders = {module_name(path.parent / "__init__.py") for path in files}
    assert folders == packages, "a folder with code has no __init__.py"
    assert set(toml_list(pyproject, "packages")) == {"instructbrush", *packages}


def test_has_the_fields_of_the_comfy_registry(pyproject):
    comfy = pyproject.split("[tool.comfy]")[1].split("\n[")[0]
    for field in ("PublisherId", "DisplayName", "Icon", "requires-comfyui"):
        assert re.search(rf'^{field} = "[^"]+"', comfy, re.MULTILINE), field
    assert 'name = "instructbrush"' in pyproject
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")


def test_model_configurations_contain_no_absolute_paths(repository: Path) -> None:
    files = sorted((repository / "core" / "models").rglob("*.json"))
    assert len(files) > 10
    absolute = re.compile(r': "(/|[A-Za-z]:\\)')
    assert not [str(file) for file in files if absolute.search(file.read_text(encoding="utf-8"))]
