"""The translations of panels (web/locales) have the texts of web/js and sentences of the Python sources."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PLACEHOLDER = re.compile(r"\{(\w+)\}")
STRING = r'"(?:[^"\\]|\\.)*"'
# The second argument of the calls, with values, begins after a comma outside of quotes and brackets.
CALL = re.compile(rf"\btranslate\(((?:{STRING}|[^\"(),]|\([^()]*\))*)", re.DOTALL)

# Where the sources put sentences together.
SEAM = re.compile(r"[,:;.] |  | \(|\b(?:before|after|pairs?|the training|it is) |\b(?:white|empty)\.")


@pytest.fixture
def locales(repository) -> Path:
    return repository / "web" / "locales"


def read(path: Path) -> dict[str, str]:
    """Reads translations. A key that appears twice is an error."""

    def unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), {key for key in keys if keys.count(key) > 1}
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)


def texts_of_panels(repository: Path) -> set[str]:
    """The texts in all calls of translate; both of `translate(one ? "a" : "b")`."""
    found: set[str] = set()
    for path in (repository / "web" / "js").rglob("*.js"):
        for (argument,) in map(re.Match.groups, CALL.finditer(path.read_text(encoding="utf-8"))):
            joined = re.sub(r'"\s*\+\s*"', "", argument)
            found.update(json.loads(text) for text in re.findall(STRING, joined))
    return found


def python_texts(repository: Path) -> str:
    """All texts of core and nodes, in lower case. Values in f-strings are a control character."""

    def texts(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value

    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("core", "nodes")
        for path in (repository / folder).rglob("*.py")
    ]
    return "\n".join(text for tree in trees for node in ast.walk(tree) for text in texts(node)).lower()


def test_panels_have_a_translation_for_every_text(repository, locales):
    assert set(read(locales / "zh.json")) == texts_of_panels(repository)


@pytest.mark.parametrize("name", ["zh", "zh_server"])
def test_translations_have_the_values_of_their_texts(name, locales):
    for text, translated in read(locales / f"{name}.json").items():
        values = PLACEHOLDER.findall(text)
        assert set(values) == set(PLACEHOLDER.findall(translated)), text
        assert translated.strip(), text


def test_sentences_of_the_server_are_in_its_sources(repository, locales):
    known = python_texts(repository)
    for sentence in read(locales / "zh_server.json"):
        # The parts between values, and the parts of sentences that are put together from several texts.
        whole = [part.strip() for part in PLACEHOLDER.split(sentence.lower())[::2]]
        parts = [piece for part in whole for piece in ([part] if part in known else SEAM.split(part))]
        pieces = [piece.strip(" .,:'") for piece in parts]
        missing = [piece for piece in pieces if len(piece.split()) > 1 and piece not in known]
        assert not missing, sentence
        values = PLACEHOLDER.findall(sentence)
        assert len(values) == len(set(values)), f"'{sentence}' has two values of one name"
        assert any(len(part) > 2 for part in whole), f"'{sentence}' would match everything"


def shape(page: str) -> tuple[list[str], int, int]:
    """Levels of headings, rows of tables and code blocks of a help page."""
    lines = page.splitlines()
    levels = [line.split(" ")[0] for line in lines if line.startswith("#")]
    return levels, sum(line.startswith("|") for line in lines), sum(line.startswith("```") for line in lines)


def test_every_help_page_has_a_chinese_one_of_its_shape(repository):
    pages = repository / "web" / "docs"
    english = sorted(pages.glob("InstructBrush*.md"))
    assert english
    for path in english:
        translated = (pages / path.stem / "zh.md").read_text(encoding="utf-8")
        assert shape(translated) == shape(path.read_text(encoding="utf-8")), path.stem
