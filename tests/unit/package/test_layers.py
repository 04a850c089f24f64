"""The layer rules, read from the source: which folder may import which, and what no file may call."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for top in ("cli", "core", "nodes") for path in (REPOSITORY / top).rglob("*.py"))
COMFYUI = {
    "comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras",
    "comfyui_version", "execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server",
}  # fmt: skip
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "dill", "shelve", "marshal",
    "subprocess", "requests", "urllib", "http", "httpx", "aiohttp", "socket",
}  # fmt: skip
ROUTES = ("nodes", "comfy", "routes")
ENDPOINTS = ("core", "generation", "language")
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pip.main"}
CORE_ORDER = (
    "errors", "devices", "windows", "progress", "storage", "diffusion", "models", "instruction", "regions",
    "editing", "encoders", "pairs", "learning", "reasoning", "finetuning", "evaluation", "generation",
)  # fmt: skip
"""Each part of core imports only parts before it. ARCHITECTURE.md repeats this list."""
TOPS = {
    "core": {"core"},
    "cli": {"core", "cli"},
    "nodes": {"core", "nodes"},
}
"""Top-level folder -> the top-level folders it may import."""


def absolute_imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields (line, module) of every absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def relative_imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields (line, dotted path from the repository's root) of every relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            base = package[: len(package) - node.level + 1]
            module = tuple(node.module.split(".")) if node.module else ()
            for name in node.names:
                yield node.lineno, (*base, *module, name.name)


def call_errors(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                yield node.lineno, f"calls {name}"


def absolute_errors(tree: ast.AST, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    for line, module in absolute_imports(tree):
        top = module.split(".")[0]
        public = module == "comfy_api" or module.startswith("comfy_api.")
        if top in COMFYUI and parts[0] != "nodes":
            yield line, f"imports {module}: only nodes may import ComfyUI"
        elif top in COMFYUI and parts[:2] != ("nodes", "comfy") and not public:
            yield line, f"imports {module}: only nodes/comfy touches ComfyUI's internals"
        # ComfyUI's server takes the responses of routes from aiohttp. urllib.parse opens nothing. Builds ask
        # the language models whose address the user gives.
        allowed = module == "urllib.parse" or (top == "aiohttp" and parts[:3] == ROUTES)
        allowed |= top == "httpx" and parts[:3] == ENDPOINTS
        if top in FORBIDDEN_MODULES and not allowed:
            yield line, f"imports {module}: not in cli, core or nodes"
        if top == "instructbrush":
            yield (
                line,
                f"imports {module}: ComfyUI loads the pack under another name, so imports are relative",
            )


def relative_errors(tree: ast.AST, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    for line, target in relative_imports(tree, parts[:-1]):
        if target[0] not in TOPS[parts[0]]:
            yield (
                line,
                f"imports {'.'.join(target)}: {parts[0]} may import {' and '.join(sorted(TOPS[parts[0]]))}",
            )
        elif parts[0] == "core" and target[0] == "core" and len(parts) > 1 and parts[1] != "__init__.py":
            here, there = CORE_ORDER.index(parts[1].removesuffix(".py")), CORE_ORDER.index(target[1])
            if there > here:
                yield line, f"imports {'.'.join(target)}: {CORE_ORDER[there]} comes after {CORE_ORDER[here]}"


def layer_errors(name: str, source: str) -> list[str]:
    """Returns what a file called `name` (relative to the root) does against the rules."""
    tree, parts = ast.parse(source), Path(name).parts
    found = [*absolute_errors(tree, parts), *relative_errors(tree, parts), *call_errors(tree)]
    return [f"{name}:{line} {error}" for line, error in found]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_file_keeps_the_layer_rules(path):
    assert layer_errors(str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")) == []


def test_order_names_every_part_of_core():
    parts = {
        path.name.removesuffix(".py") for path in (REPOSITORY / "core").iterdir() if path.name[0] not in "_."
    }
    assert parts == set(CORE_ORDER)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("core/errors.py", "import comfy.utils", "only nodes may import ComfyUI"),
        ("core/errors.py", "def f():\n    from folder_paths import x", "only nodes may import ComfyUI"),
        ("core/errors.py", "from comfy_api.latest import io", "only nodes may import ComfyUI"),
        ("core/pairs/a.py", "from ...nodes.comfy import folders", "core may import core"),
        ("core/errors.py", "from ..cli import main", "core may import core"),
        ("core/storage/a.py", "from ..learning.trainer import Trainer", "learning comes after storage"),
        ("core/models/a.py", "from .. import editing", "editing comes after models"),
        ("cli/a.py", "from ..nodes import editing", "cli may import cli and core"),
        ("cli/a.py", "import folder_paths", "only nodes may import ComfyUI"),
        ("nodes/a.py", "import comfy.model_management", "only nodes/comfy touches"),
        ("nodes/a.py", "from server import PromptServer", "only nodes/comfy touches"),
        ("nodes/a.py", "from ..tools import get_comfyui", "nodes may import core and nodes"),
        ("nodes/comfy/a.py", "import subprocess", "not in cli, core or nodes"),
        ("nodes/a.py", "from urllib.request import urlopen", "not in cli, core or nodes"),
        ("core/generation/engine/a.py", "import httpx", "not in cli, core or nodes"),
        ("core/generation/language/a.py", "import requests", "not in cli, core or nodes"),
        ("core/errors.py", "import torch\ntorch.load('x')", "calls torch.load"),
        ("core/errors.py", "eval('1')", "calls eval"),
        ("core/errors.py", "from instructbrush.core import errors", "imports are relative"),
    ],
)
def test_rule_catches(name, source, complaint):
    (found,) = layer_errors(name, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("cli/a.py", "from ..core.learning import trainer\nfrom . import options"),
        ("core/generation/language/a.py", "import httpx\nfrom ..errors import Refused"),
        ("nodes/a.py", "from comfy_api.latest import io, ui"),
        ("nodes/comfy/a.py", "import comfy.utils\nimport folder_paths\nfrom server import PromptServer"),
        ("core/pairs/a.py", "from ..errors import PairError\nmodel.eval()\nre.compile('x')"),
        ("nodes/a.py", "from ..core.errors import PairError\nfrom .comfy import folders"),
    ],
)
def test_rules_allow(name, source):
    assert layer_errors(name, source) == []
