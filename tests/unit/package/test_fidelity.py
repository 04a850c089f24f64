"""Checks docs/fidelity.md against the code: files, symbols, options, settings and the rows of differences."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructbrush.cli.main import build_parser
from instructbrush.core.learning.settings import PRESETS, read_changes_of
from instructbrush.tools.benchmarks import reason_bench

PLACE = re.compile(r"`((?:cli|core|nodes|tools)/[\w/.]+\.py):([\w.]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
VERDICTS = ("**exact**", "**ours**", "**different**", "**not there**")


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "fidelity.md").read_text(encoding="utf-8")


def symbols(tree: ast.Module) -> set[str]:
    """Returns the names that a file defines, and ``Class.name`` for what its classes define."""
    found = set()
    for node in tree.body:
        for name in defined(node):
            found.add(name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in defined(inner)}
    return found


def defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Returns the options of a command and of all commands below it."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= options(child)
    return found


def test_places_exist(page, repository):
    places = PLACE.findall(page)
    assert len(places) > 120
    known = {}
    missing = []
    for file, symbol in places:
        path = repository / file
        if file not in known:
            known[file] = symbols(ast.parse(path.read_text("utf-8"))) if path.is_file() else set()
        if symbol not in known[file]:
            missing.append(f"{file}:{symbol}")
    assert missing == []


def test_options_exist(page):
    known = options(build_parser()) | options(reason_bench.parser())
    named = set(OPTION.findall(page))
    assert len(named) > 25
    assert named - known == set()


def test_settings_and_presets_exist(page):
    changes = re.findall(r"`(?:learn )?--set ([\w.]+=[\w.]+)", page)
    assert len(changes) > 6
    read_changes_of("attention", [change for change in changes if "clamp" not in change])
    named = re.findall(r"^\| (\w+) space, `(\w+)`", page, re.MULTILINE)
    assert set(named) == {(space, name) for space, presets in PRESETS.items() for name in presets}


def test_differences_are_numbered_and_referred_to(page):
    rows = re.findall(r"^\| ([IVRU]\d+) \|", page, re.MULTILINE)
    assert len(rows) == len(set(rows)) > 30
    for letter in "IVRU":
        numbers = [int(row[1:]) for row in rows if row[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))
    text = re.sub(r"^\| [IVRU]\d+ \|", "", page, flags=re.MULTILINE)
    # "I5 to I9" names all between.
    for letter, first, last in re.findall(r"\b([IVRU])(\d+) to [IVRU](\d+)", text):
        text += " ".join(f" {letter}{number}" for number in range(int(first), int(last) + 1))
    assert {name for name in re.findall(r"\b[IVRU]\d{1,2}\b", text) if name not in rows} == set()


def test_every_row_of_differences_has_all_its_cells(page):
    for line in page.splitlines():
        if re.match(r"\| [IVRU]\d+ \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 5 and all(cells), line


def test_verdicts_are_the_four_words(page):
    tables = page.split("## Which preset is what")[1]
    bold = set(re.findall(r"\*\*[a-z ]+\*\*", tables))
    assert bold - set(VERDICTS) <= {"**auto**", "**no public weights were run**", "**no DINO column**"}
