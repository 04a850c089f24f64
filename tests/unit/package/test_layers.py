"""The layer rules, read from the source: who may import what, what nobody may call, and how long a file may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for room in ("cli", "core", "nodes") for path in (REPOSITORY / room).rglob("*.py"))
COMFYUI = {
    "comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "comfyui_version",
    "execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server",
}  # fmt: skip
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "shelve",
    "marshal",
    "subprocess",
    "requests",
    "urllib",
    "http",
    "httpx",
    "aiohttp",
    "socket",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pip.main"}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every absolute import: line number, full dotted name of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def relative_imports(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    """Every relative import: line number, number of dots, module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            for name in node.names:
                yield node.lineno, node.level, f"{node.module}.{name.name}" if node.module else name.name


def called(node: ast.Call) -> str:
    """Dotted name of what is called, or the empty string."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def layer_errors(name: str, source: str) -> list[str]:
    """What a file called `name` (relative to the root) may not contain."""
    tree = ast.parse(source)
    parts = Path(name).parts
    in_core, in_comfy = parts[0] == "core", parts[:2] == ("nodes", "comfy")
    found = []
    for line, module in imports(tree):
        top = module.split(".")[0]
        if in_core and top in COMFYUI:
            found.append(f"{name}:{line} imports {module}: core knows nothing of ComfyUI")
        if (
            not in_core
            and not in_comfy
            and top in COMFYUI
            and not (module == "comfy_api" or module.startswith("comfy_api."))
        ):
            found.append(f"{name}:{line} imports {module}: only nodes/comfy touches ComfyUI's insides")
        if top in FORBIDDEN_MODULES:
            found.append(f"{name}:{line} imports {module}: not in core or nodes")
        if top == "instructbrush":
            found.append(
                f"{name}:{line} imports {module}: relative imports only, ComfyUI loads the pack under another name"
            )
    for line, level, module in relative_imports(tree):
        reached = (*parts[:-1][: len(parts) - level], *module.split("."))
        if in_core and reached[0] in ("nodes", "tools", "tests"):
            found.append(f"{name}:{line} imports {'.'.join(reached)}: core stands alone")
        if not in_core and reached[0] in ("tools", "tests"):
            found.append(
                f"{name}:{line} imports {'.'.join(reached)}: contributors' code stays out of the pack"
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in FORBIDDEN_CALLS:
            found.append(f"{name}:{node.lineno} calls {called(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_layers(path):
    assert layer_errors(str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("core/a.py", "import comfy.utils", "core knows nothing of ComfyUI"),
        ("core/a.py", "def f():\n    from folder_paths import x", "core knows nothing of ComfyUI"),
        ("core/a.py", "from comfy_api.latest import io", "core knows nothing of ComfyUI"),
        ("core/b/a.py", "from ...nodes.comfy import paths", "core stands alone"),
        ("core/a.py", "from .. import nodes", "core stands alone"),
        ("nodes/a.py", "import comfy.model_management", "only nodes/comfy touches"),
        ("nodes/a.py", "from server import PromptServer", "only nodes/comfy touches"),
        ("nodes/a.py", "from ..tools import get_comfyui", "contributors' code"),
        ("nodes/comfy/a.py", "import subprocess", "not in core or nodes"),
        ("nodes/a.py", "from urllib.request import urlopen", "not in core or nodes"),
        ("core/a.py", "import torch\ntorch.load('x')", "calls torch.load"),
        ("core/a.py", "eval('1')", "calls eval"),
        ("core/a.py", "from instructbrush.core import errors", "relative imports only"),
    ],
)
def test_each_rule_catches(name, source, complaint):
    (found,) = layer_errors(name, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("nodes/a.py", "from comfy_api.latest import io, ui"),
        ("nodes/comfy/a.py", "import comfy.utils\nimport folder_paths\nfrom server import PromptServer"),
        ("core/b/a.py", "from ..errors import PairError\nmodel.eval()\nre.compile('x')"),
        ("nodes/a.py", "from ..core.errors import PairError\nfrom .comfy import paths"),
    ],
)
def test_what_is_allowed_stays_allowed(name, source):
    assert layer_errors(name, source) == []


def test_no_file_has_grown_into_two_rooms():
    kinds = {"core": "*.py", "nodes": "*.py", "tools": "*.py", "web": "*.js"}
    files = [path for room, kind in kinds.items() for path in (REPOSITORY / room).rglob(kind)]
    assert files
    long = {
        str(path.relative_to(REPOSITORY)): count
        for path in files
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
