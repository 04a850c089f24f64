"""The shape of the code: size of folders, files, lines and parameter lists."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

MOST_FILES = 12
MOST_LINES = 400
MOST_COLUMNS = 110
MOST_PARAMETERS = 7


@pytest.fixture(scope="module")
def sources(repository: Path) -> list[Path]:
    """Every Python and JavaScript file of the repository."""
    found = [repository / "__init__.py", repository / "__main__.py"]
    for top in ("cli", "core", "nodes", "tools", "tests", "web"):
        for kind in ("*.py", "*.js"):
            found += (repository / top).rglob(kind)
    assert len(found) > 300
    return sorted(found)


def test_folders_are_small(sources, repository):
    counts = Counter(str(path.parent.relative_to(repository)) for path in sources)
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_files_are_short(sources, repository):
    lengths = {
        str(path.relative_to(repository)): len(path.read_text("utf-8").splitlines()) for path in sources
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_lines_are_short(sources, repository):
    long = []
    for path in sources:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if len(line) > MOST_COLUMNS:
                long.append(f"{path.relative_to(repository)}:{number}")
    assert long == []


def crowded(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of functions with too many parameters; the `execute` of nodes is ComfyUI's."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "execute":
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [each.arg for each in given if each.arg not in ("self", "cls")]
            if len(names) > MOST_PARAMETERS:
                yield node.lineno, node.name


def test_functions_have_few_parameters(sources, repository):
    found = []
    for path in sources:
        if path.suffix == ".py":
            name = path.relative_to(repository)
            found += [f"{name}:{line} {function}" for line, function in crowded(path.read_text("utf-8"))]
    assert found == []


def test_crowded_functions_are_found():
    seven = "def f(self, a, b, c, d, e, f, g): pass"
    eight = "async def f(a, b, c, d, e, f, /, g, *, h): pass"
    node = "def execute(cls, a, b, c, d, e, f, g, h, i): pass"
    assert [name for source in (seven, eight, node) for _, name in crowded(source)] == ["f"]
