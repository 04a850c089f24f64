"""Lists of before/after pairs: JSON, JSON lines and CSV files, and the names that data sets give a pair's
parts."""

import csv
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from ..errors import PairError
from ..storage.json_text import decoded_text, parse_json
from ..storage.names import resolve_inside
from .table_images import ImagePlace

# Names of a pair's parts in lists and tables. The first name that is present counts.
BEFORE = (
    *("before", "source_image", "original_image", "input_image", "control_image", "source_img", "src_img"),
    *("source", "original", "input", "control", "image", "file_name"),
)
AFTER = (
    *("after", "edited_image", "output_image", "target_image", "edited_img", "target_img"),
    *("edited", "target", "output"),
)
WORDS = (
    *("words", "edit_prompt", "instruction", "edit_instruction", "edit"),
    *("prompt", "text", "caption", "edited_prompt_list"),
)
MASK = ("mask", "mask_image", "mask_img")
CAPTION = ("source_caption", "original_prompt", "input_caption", "original_caption", "before_caption")
"""What a pair's image shows before the edit."""
EDITED_CAPTION = ("target_caption", "edited_prompt", "output_caption", "edited_caption", "after_caption")
"""What it shows after the edit."""
REASONING = "reasoning"
"""Indirect instructions: a text or a list of texts."""

# Largest lists. Parsed JSON takes up to 20 times its size; the other lists are read line by line.
_MOST_JSON_BYTES = 2**26
_MOST_LINES_BYTES = 2**30
# Most messages about entries that are kept. All are counted.
MOST_LISTED = 20

Refuse = Callable[[PairError], None]
"""Called for every entry that cannot be used. Raises to stop there."""


@dataclass(frozen=True)
class ListedPair:
    """A pair's files, or cells of a table."""

    name: str
    before: ImagePlace
    after: ImagePlace
    words: str = ""
    """What the edit is, "" if unknown. Fine-tuning needs it, learning an instruction does not."""
    mask: ImagePlace | None = None
    """An image, white where the edit acts."""
    reasoning: tuple[str, ...] = ()
    """Indirect instructions for the same edit."""
    captions: tuple[str, str] = ("", "")
    """What the images before and after show, "" if unknown."""


class Refusals:
    """Counts entries that cannot be used, and keeps the first messages: a list may hold nothing else."""

    def __init__(self) -> None:
        self.count = 0
        self.first: PairError | None = None
        self.texts: list[str] = []
        """The first messages."""

    def add(self, error: PairError) -> None:
        """Counts an entry. This is a ``Refuse``."""
        self.count += 1
        if self.first is None:
            self.first = error
        if len(self.texts) < MOST_LISTED:
            self.texts.append(str(error))


def stop(error: PairError) -> None:
    """Stops at the first entry that cannot be used.

    Raises:
        PairError: always.
    """
    raise error


def first_of(names: tuple[str, ...], present: Mapping[str, Any]) -> str | None:
    """The first of some names that a table or an entry has a value for."""
    return next((name for name in names if present.get(name) is not None), None)


def indirect_texts(value: Any, name: str) -> tuple[str, ...]:
    """The indirect instructions in a table or list: a text, a list of texts, or nothing. Drops blank ones.

    Raises:
        PairError: the value is something else; ``name`` is the pair's.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise PairError(
            f"Pair '{name}': its reasoning is {str(value)[:60]}; a text or a list of texts is needed."
        )
    return tuple(text.strip() for text in texts if text and text.strip())


def direct_words(value: Any) -> str:
    """The words of a pair in a table or list: a text, or the first of a list of texts; "" if there are
    none."""
    texts = value if isinstance(value, list) else [value]
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def text_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The text under the first of some names that a table or an entry has; "" if there is none."""
    name = first_of(names, fields)
    return direct_words(fields[name]) if name else ""


def read_list(file: Path, refuse: Refuse = stop, most: int | None = None) -> list[ListedPair]:
    """The pairs of a list, see ``pairs_in`` in core/pairs/layouts.py.

    Raises:
        PairError: the list cannot be read, or has more than ``most`` entries.
    """
    found = []
    for number, entry in enumerate(list_entries(file)):
        if number == most:
            raise PairError(
                f"{file.name} of '{file.parent.name}' has more than {most} entries. Write a list of the "
                "pairs that show your edit."
            )
        try:
            found.append(_listed_pair(file, number, entry))
        except PairError as error:
            refuse(error)
    return found


def list_entries(file: Path) -> Iterator[Any]:
    """Yields the entries of a list. Entries of JSON lines are texts, which are parsed one by one.

    Raises:
        PairError: the list cannot be read.
    """
    where = f"{file.name} of '{file.parent.name}'"
    in_lines = file.suffix in (".jsonl", ".csv")
    most = _MOST_LINES_BYTES if in_lines else _MOST_JSON_BYTES
    try:
        size = file.stat().st_size
        if size > most:
            raise PairError(
                f"{where} has {size / 2**20:.0f} MB, at most {most / 2**20:.0f} MB are read. "
                + ("Split it." if in_lines else "Write the pairs as JSON lines, into pairs.jsonl.")
            )
        if not in_lines:
            yield from _json_entries(file.read_bytes())
            return
        with file.open("rb") as content:
            encoding = json.detect_encoding(content.read(4))
            content.seek(0)
            with TextIOWrapper(content, encoding, newline="\n") as lines:
                if file.suffix == ".csv":
                    yield from _csv_rows(lines)
                else:
                    yield from (line.removesuffix("\n") for line in lines if line.strip())
    except (OSError, ValueError, csv.Error) as error:
        raise PairError(f'{where} must be a list of {{"before": file, "after": file}} ({error}).') from error


def _json_entries(content: bytes) -> list[Any]:
    value = parse_json(decoded_text(content), finite=False)
    entries = value.get("pairs") if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise ValueError("there is no list in it")
    return entries


def _csv_rows(lines: TextIO) -> Iterator[dict[str, str]]:
    """The rows of a CSV file. Columns are separated by commas, semicolons or tabs, as the first line
    shows."""
    first_line = next(lines, "")
    delimiter = max(",;\t", key=first_line.count)
    return csv.DictReader(chain([first_line], lines), delimiter=delimiter, skipinitialspace=True, restkey="")


def _listed_pair(file: Path, number: int, entry: Any) -> ListedPair:
    where = f"{file.name} of '{file.parent.name}', entry {number}"
    fields = entry_fields(entry, where)
    before = file_named(fields, BEFORE, where)
    after = file_named(fields, AFTER, where)
    mask = file_named(fields, MASK, where)
    if before is None or after is None:
        missing = "before" if before is None else "after"
        raise PairError(f'{where} lacks \'{missing}\': it must be {{"before": file, "after": file}}.')
    return ListedPair(
        Path(before.replace("\\", "/")).stem,
        file_inside(file, before),
        file_inside(file, after),
        text_of(fields, WORDS),
        file_inside(file, mask) if mask else None,
        indirect_texts(fields.get(REASONING), f"{number} of {file.parent.name}"),
        (text_of(fields, CAPTION), text_of(fields, EDITED_CAPTION)),
    )


def entry_fields(entry: Any, where: str) -> dict[str, Any]:
    """The values of an entry by their names, in lower case.

    Raises:
        PairError: it is not a table; ``where`` says which entry it is.
    """
    try:
        fields = parse_json(entry, finite=False) if isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            raise ValueError(f"it is {str(fields)[:60]}")
        # Newer image folders name the column of "before" "before_file_name".
        return {name.strip().lower().removesuffix("_file_name"): value for name, value in fields.items()}
    except ValueError as error:
        raise PairError(f'{where} must be {{"before": file, "after": file}} ({error}).') from error


def file_named(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> str | None:
    """The file name under the first of some names; None if there is none.

    Raises:
        PairError: the value is not a text; ``where`` says which entry it is.
    """
    name = first_of(names, fields)
    if name is None or fields[name] == "":
        return None
    if not isinstance(fields[name], str):
        raise PairError(
            f"{where}: '{name}' is {str(fields[name])[:60]}. Write the name of an image inside the folder."
        )
    return fields[name]


def file_inside(file: Path, name: str) -> Path:
    """The image that a list names. The name must stay inside the folder; links may lead elsewhere.

    Raises:
        PairError: it is outside the folder, or does not exist.
    """
    where = f"{file.name} of '{file.parent.name}'"
    plain = posixpath.normpath(name.replace("\\", "/"))
    if plain.startswith(("/", "../")) or plain == "..":
        raise PairError(f"{where}: '{name[:200]}' is outside the folder. Move the image into it.")
    try:
        path = resolve_inside(file.parent, plain, error=PairError)
    except PairError as error:
        raise PairError(f"{where}: {error}") from error
    if not os.path.isfile(path):
        raise PairError(f"{where}: '{name[:200]}' does not exist.")
    return path
