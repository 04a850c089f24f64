"""Checks ARCHITECTURE.md and the other documents against the code."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructbrush.cli.main import build_parser
from instructbrush.tests.unit.package.test_layers import CORE_ORDER, relative_imports

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md", "core/models/*/MODEL_CARD.md")
PATH = re.compile(r"`((?:cli|core|nodes|tests|tools|web|locales|docs|\.github)/[\w./-]*)`")


@pytest.fixture(scope="module")
def architecture(repository: Path) -> str:
    return (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")


def drawn_folders(text: str) -> list[tuple[int, str]]:
    """Returns (indentation, name) of every folder in the drawing."""
    drawing = text.split("```")[1]
    return [(len(space), name) for space, name in re.findall(r"^( *)([\w]+)/ ", drawing, re.MULTILINE)]


def packages(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def test_page_fits_on_one_screen(architecture):
    assert len(architecture.splitlines()) <= 60


def test_drawing_names_the_folders_of_core_in_their_order(architecture, repository):
    folders = drawn_folders(architecture)
    first = folders.index((0, "core")) + 1
    last = folders.index((0, "nodes"))
    drawn = [name for _, name in folders[first:last]]
    assert drawn == [name for name in CORE_ORDER if (repository / "core" / name).is_dir()]
    assert set(drawn) == packages(repository / "core")


def test_drawing_names_every_top_folder(architecture, repository):
    top = {name for indentation, name in drawn_folders(architecture) if indentation == 0} | {"locales"}
    code = {path.parent.name for kind in ("*/*.py", "*/*/*.js") for path in repository.glob(kind)}
    code -= {"js", "docs", "build", "output"} | {path.name for path in repository.glob(".*")}
    assert {name for name in top if not (repository / name).is_dir()} == set()
    assert {name for name in code if (repository / name).is_dir()} <= top


def test_drawing_names_the_folders_of_nodes(architecture, repository):
    drawing = architecture.split("```")[1]
    missing = [name for name in packages(repository / "nodes") if f"{name}/" not in drawing]
    missing += [name for name in packages(repository / "nodes" / "comfy") if name not in drawing]
    assert missing == []


def journeys(text: str) -> list[list[str]]:
    """Returns the files of every chain "`a` → `b` → ..."."""
    flat = re.sub(r"\s+", " ", text)
    chains = re.findall(r"`[^`]+`(?: → `[^`]+`)+", flat)
    return [re.findall(r"`([^`]+)`", chain) for chain in chains]


def imported_files(repository: Path, name: str) -> set[str]:
    """Returns the files of the pack that a file imports."""
    tree = ast.parse((repository / name).read_text(encoding="utf-8"))
    found = set()
    for _, target in relative_imports(tree, Path(name).parts[:-1]):
        for parts in (target, target[:-1]):
            file = "/".join(parts) + ".py"
            if (repository / file).is_file():
                found.add(file)
    return found


def test_each_file_of_a_journey_imports_the_next(architecture, repository):
    chains = journeys(architecture)
    assert len(chains) == 5
    broken = []
    for chain in chains:
        for first, second in zip(chain, chain[1:], strict=False):
            if second not in imported_files(repository, first):
                broken.append(f"{first} does not import {second}")
    assert broken == []


def documents(repository: Path) -> list[Path]:
    return [path for pattern in DOCUMENTS for path in sorted(repository.glob(pattern))]


def test_paths_in_documents_exist(repository):
    missing, seen = [], 0
    for document in documents(repository):
        for name in PATH.findall(document.read_text(encoding="utf-8")):
            seen += 1
            if not (repository / name).exists():
                missing.append(f"{document.relative_to(repository)}: {name}")
    assert seen > 40
    assert missing == []


def test_links_in_documents_lead_to_files(repository):
    missing, seen = [], 0
    for document in documents(repository):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                seen += 1
                if not (document.parent / target).exists():
                    missing.append(f"{document.relative_to(repository)}: {target}")
    assert seen > 20
    assert missing == []


def commands(text: str) -> Iterator[list[str]]:
    """Yields the arguments of every whole command of the package in code blocks."""
    blocks = "\n".join(text.split("```")[1::2])
    for name, value in re.findall(r'^(\w+)="(.*)"$', blocks, re.MULTILINE):
        blocks = blocks.replace(f"${name}", value)
    for line in blocks.replace("\\\n", " ").splitlines():
        match = re.match(r"(?:python|accelerate launch .*) -m instructbrush (.*)", line)
        if match and "..." not in line and "|" not in line:
            yield shlex.split(match[1], comments=True)


def test_commands_in_documents_parse(repository):
    parser, seen = build_parser(), set()
    for document in documents(repository):
        for arguments in commands(document.read_text(encoding="utf-8")):
            parser.parse_args(arguments)
            seen.add(arguments[0])
    known = next(action for action in parser._actions if action.choices)
    assert seen == set(known.choices or ())
