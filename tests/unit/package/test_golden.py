"""Compares options of the command line and headers of files with tests/golden.

A deliberate change is recorded with INSTRUCTBRUSH_RECORD=1.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from instructbrush.cli import learn
from instructbrush.cli import main as commandline

CHANGING = {"created", "losses", "final_loss", "fingerprint", "modelspec.date", "modelspec.thumbnail"}
"""Metadata that hold figures or a clock."""


def compare(found: Any, record: Path) -> None:
    found = json.loads(json.dumps(found))
    if os.environ.get("INSTRUCTBRUSH_RECORD"):
        record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(record.read_text(encoding="utf-8"))


@pytest.fixture
def golden(repository) -> Path:
    return repository / "tests" / "golden"


def commands(
    parser: argparse.ArgumentParser, path: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that has options, by its words."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path, parser
    for group in groups:
        for name, child in group.choices.items():
            yield from commands(child, f"{path} {name}".strip())


def option(action: argparse.Action) -> dict[str, Any]:
    """Everything of an option but its help text."""
    default = (
        action.default if isinstance(action.default, str | int | float | bool | None) else str(action.default)
    )
    choices = None if action.choices is None else list(action.choices)
    return {
        "names": action.option_strings or [action.dest],
        "default": default,
        "choices": choices,
        "required": action.required,
        "nargs": action.nargs,
    }


def test_options_of_the_command_line(golden):
    found = {
        name: [option(action) for action in parser._actions]
        for name, parser in commands(commandline.build_parser())
    }
    compare(found, golden / "commands.json")


def header(path: Path) -> dict[str, Any]:
    """Names, dtypes and shapes of tensors, and the metadata of a safetensors file without figures."""
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        tensors = {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}
        metadata = {name: plain(value) for name, value in sorted((file.metadata() or {}).items())}
        return {"tensors": tensors, "metadata": without_figures(metadata)}


def plain(text: str) -> Any:
    """JSON as JSON, other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def without_figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "..." if key in CHANGING else without_figures(each) for key, each in value.items()}
    return [without_figures(each) for each in value] if isinstance(value, list) else value


def test_headers_of_files(golden, write_pairs, tmp_path, monkeypatch):
    pairs, learned = write_pairs(tmp_path / "pairs", 2), tmp_path / "edit.safetensors"
    monkeypatch.setattr(learn, "remove_checkpoints", lambda *files: None)
    monkeypatch.setattr(learn, "CHECKPOINT_SECONDS", 0.0)
    learning = (
        "learn",
        "--pairs",
        pairs,
        "--out",
        learned,
        "--steps",
        "2",
        "--init",
        "make it blue",
        "--device",
        "cpu",
    )
    assert commandline.main([str(each) for each in learning]) == 0
    applying = (
        "apply",
        "--instruction",
        learned,
        "--images",
        pairs / "0_0.png",
        "--out",
        tmp_path / "out",
        "--steps",
        "2",
        "--device",
        "cpu",
    )
    assert commandline.main([str(each) for each in applying]) == 0
    (edited,) = (tmp_path / "out").iterdir()
    with Image.open(edited) as image:
        found = {
            "instruction": header(learned),
            "checkpoint": header(tmp_path / ".edit.checkpoint"),
            "edited image": {"size": image.size, "mode": image.mode, "text": sorted(image.text)},
        }
    compare(found, golden / "headers.json")
