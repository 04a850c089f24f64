"""Lists of edits: read from a model's answer in any common form, or from a user's lines."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InstructionError
from .answers import json_values, one_line, single_spaced, without_thoughts
from .edit_words import VALUES, VERB, is_whole, without_determiner
from .explain import MOST_LETTERS, MOST_REASON

# Length limit of a region's words, in characters.
MOST_REGION = 60
# Limits of what is read of one text, in characters and edits. Of a longer text the end is read.
_MOST_TEXT = 100_000
_MOST_READ = 100
# Levels of objects and lists in JSON that are read.
_MOST_DEPTH = 8

_LIST_KEYS = ("edits", "instructions", "steps", "edit_list", "actions", "tasks", "changes")
_TEXT_KEYS = ("instruction", "edit", "step", "action", "command", "text", "change")
_REGION_KEYS = ("region", "object", "objects", "where", "target", "area", "mask")

_NUMBERED = r"(?:step|edit|instruction)"
# "1.", "2)", "(3)", "[4]", "#5:", "6 -", "a)", "B.", "iv)", "Step 7:", "Edit 8 -", "**9.**", "-", "*" and
# bullets at the start of a line.
_MARK = re.compile(
    rf"^[\s#]*(?:(?:\*{{0,2}}(?:{_NUMBERED} ?#?\d{{1,3}} ?[-–—.):]+|[(\[]?\d{{1,3}}[.):\]]+|"
    r"\d{1,3} ?[-–—]+|\(?(?:[a-z]|[ivx]{2,4})[.)]+)\*{0,2}|[-*+•–—·▪●○◦‣]+)\s+)+",
    re.IGNORECASE,
)
# Numbers and letters within a line.
_INNER_MARK = re.compile(
    rf"(?:^|\s)(?:{_NUMBERED} ?#?\d{{1,2}} ?[-–—.):]+|\(?\d{{1,2}}[.)]|\(?[a-h]\))\s+(?=[A-Za-z\"'*])",
    re.IGNORECASE,
)
# "**Recolor the hat**: make the hat red", "**Recolor the hat:** make ...", "Recolor: make the hat red".
_TITLED = re.compile(r"^(\**)([^*:]{1,80}?)(\** ?: ?\**|\*+ ?[-–—]+) (\S.*)$")
_REFERS_BACK = re.compile(r"\b(?:it|its|them|their)\b", re.IGNORECASE)
# The line below the titles of a table: "|---|:---:|".
_TABLE_LINE = re.compile(r"^[ :-]*\|[ |:-]*-[ |:-]*$")
_NUMBERED_KEY = re.compile(rf"^{_NUMBERED}?[ _#-]?\d{{1,3}}$")
_LABEL = re.compile(
    r"^(?:edits?|instructions?|steps?|commands?|answers?|first|second|third|lastly)\s*[:,]\s*", re.I
)
_LEAD = re.compile(
    r"^(?:(?:please|kindly|first|secondly|then|next|finally|also|and|so|now|just)\b[,\s]*|"
    r"(?:i|we|you|one)(?:'d| would| should| could| can| will|'ll| need to| have to)\s+|let'?s\s+)+",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^(?:i(?:'m| am)?\s+(?:very |so |really )?(?:sorry|afraid|unable|not able)|(?:i'm )?sorry|apologies|"
    r"as an? (?:ai|language|assistant)|(?:i|we) (?:can ?not|can't|won't|will not|do not|don't|couldn't)|"
    r"unfortunately|there (?:is|are|'s) no|nothing\b|none\b|n/?a\b|no (?:edit|change|instruction)|"
    r"null\b|unknown\b)",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\s*;\s*|\n+")
_SUBJECT = r"(?:(?:please|(?:i|we|you)(?:'d| would| should| could| can))\s+)?"
_JOINS = re.compile(
    r"\s*(?:,\s*(?:and\s+)?|\s+and\s+)(?:(?:then|also|next|finally|afterwards|after that)\s*,?\s+)?"
    rf"(?={_SUBJECT}{VERB})|\s*,?\s+(?:then|afterwards|after that)\s*,?\s+(?={_SUBJECT}{VERB})",
    re.IGNORECASE,
)
_STARTS_WITH_VERB = re.compile(VERB, re.IGNORECASE)
_INTRODUCTION = re.compile(rf"^[^:]{{1,80}}: (?={_SUBJECT}{VERB})", re.IGNORECASE)
_PRESENCE = re.compile(
    r"(add|insert|put|place|remove|delete|erase) (.+?)"
    r"(?: (?:to|from|on(?:to)?|in(?:to)?|at|over|near|beside|under) (.+))?"
)
_FRAME = " \t\"'“”‘’`*_"


@dataclass(frozen=True)
class Edit:
    """One edit of a list."""

    instruction: str
    """One line of at most ``MOST_LETTERS`` characters."""
    region: str = ""
    """Words for what changes, separated by commas; empty if none are named."""

    def __str__(self) -> str:
        return f"{self.instruction} | {self.region}" if self.region else self.instruction


@dataclass(frozen=True)
class EditList:
    """Edits in the order in which they are made."""

    edits: tuple[Edit, ...]
    reason: str = ""
    """The model's reason, if it gave one."""
    remarks: tuple[str, ...] = ()
    """What was left out, and why, as sentences for the user."""

    @property
    def text(self) -> str:
        """One edit a line, as ``read_edits`` reads it: ``make the hat red | hat``."""
        return "\n".join(map(str, self.edits))


def read_edits(text: str, most: int, from_model: bool = False) -> EditList:
    """Reads edits from lines, a numbered list, JSON or sentences.

    A region may follow an instruction after ``|``. Text without a list is split at the ends of sentences, and
    at "and", "then" and commas before a verb.

    Args:
        text: a user's lines, or an answer. Text between ``<think>`` and ``</think>`` is ignored.
        most: largest number of edits; the others are left out.
        from_model: whether the text is an answer. An answer without a list needs sentences that begin with
            a verb, because other sentences are talk.

    Raises:
        InstructionError: there is no edit in the text. The message says what is wrong.
    """
    text, ends_in_thought = without_thoughts(text.replace("’", "'"))
    items, reason = _items(text[-_MOST_TEXT:], from_model)
    found = checked_edits(items, most)
    if found.edits:
        return EditList(found.edits, reason, found.remarks)
    if ends_in_thought:
        raise InstructionError("It reached the token limit before it answered: allow more tokens.")
    if _REFUSAL.match(text.strip(f"{_FRAME}\n[]{{}}")):
        raise InstructionError("It names no edit.")
    raise InstructionError(" ".join(["There was no edit in it.", *found.remarks]))


def checked_edits(edits: Sequence[Edit], most: int) -> EditList:
    """Leaves out edits that are empty, too long, repeated, contradict an earlier one or exceed ``most``."""
    kept: list[Edit] = []
    remarks: list[str] = []
    left = 0
    for edit in edits[:_MOST_READ]:
        quoted = f"'{edit.instruction[:60]}'"
        if not any(letter.isalnum() for letter in edit.instruction) or _REFUSAL.match(edit.instruction):
            continue
        if len(edit.instruction) > MOST_LETTERS:
            remarks.append(f"{quoted}... is longer than {MOST_LETTERS} letters, so it is left out.")
        elif any(_same(edit, other) for other in kept):
            remarks.append(f"{quoted} is named twice.")
        elif other := next((other for other in kept if contradict(edit, other)), None):
            remarks.append(f"{quoted} contradicts '{other.instruction}', so it is left out.")
        elif len(kept) < most:
            kept.append(edit)
        else:
            left += 1
    if left:
        remarks.append(f"Only the first {most} of {most + left} edits are used.")
    return EditList(tuple(kept), "", tuple(remarks))


def contradict(first: Edit, second: Edit) -> bool:
    """Whether two edits undo each other: "make it brighter" and "make it darker", "add" and "remove".

    Edits of different regions or in different places do not.
    """
    one, other = _change(first.instruction), _change(second.instruction)
    if one is None or other is None or one[:2] != other[:2] or one[2] == other[2]:
        return False
    return _may_be_one(first.region, second.region) and _may_be_one(one[3], other[3])


def _may_be_one(first: str, second: str) -> bool:
    """Whether the words for two places may mean the same one. Without words it may be any place."""
    return not first or not second or _plain(first) == _plain(second)


def _same(first: Edit, second: Edit) -> bool:
    return _plain(first.instruction) == _plain(second.instruction) and first.region == second.region


def _plain(text: str) -> str:
    words = re.findall(r"\w+", text.lower())
    return " ".join(word for word in words if word not in ("the", "a", "an", "please"))


def _change(instruction: str) -> tuple[str, str, str, str] | None:
    """Returns property, object, new value and place of an instruction; None if the grammar knows no change.

    The place is empty if none is named.
    """
    text = " ".join(re.findall(r"[\w']+", instruction.lower()))
    if found := _PRESENCE.fullmatch(text):
        is_there = found[1] in ("add", "insert", "put", "place")
        return "presence", without_determiner(found[2]), str(is_there), found[3] or ""
    pattern = r"(?:make|turn|paint|dye|change|colou?r|recolou?r) (.+?) (?:to |into )?(?:a |the )?(\w+)"
    if (found := re.fullmatch(pattern, text)) and found[2] in VALUES:
        name, value = VALUES[found[2]]
        return name, "" if is_whole(found[1]) else without_determiner(found[1]), value, ""
    return None


def _items(text: str, from_model: bool) -> tuple[list[Edit], str]:
    """Returns all edits of a text, unchecked, and the reason."""
    found = _from_json(text)
    if found is not None:
        return found
    lines = _without_tables([line for line in single_spaced(text) if line.strip(_FRAME)])
    marked = [line for line in lines if _MARK.match(line)]
    if len(lines) == 1 and len(parts := _INNER_MARK.split(lines[0])) > 2:
        # The first part is the text before the first number.
        marked = parts[1:]
    if marked:
        return [_edit(line) for line in marked], ""
    if len(lines) > 1 and not from_model:
        return [_edit(line) for line in lines if not line.rstrip(_FRAME).endswith(":")], ""
    if len(lines) > 1 and any("|" in line for line in lines):
        found = [[_edit(line)] if "|" in line else _from_sentences(line, from_model) for line in lines]
        return [edit for edits in found for edit in edits], ""
    return _from_sentences("\n".join(lines), from_model), ""


def _without_tables(lines: Sequence[str]) -> list[str]:
    """Turns rows of tables into ``instruction | region``, and drops their titles.

    Splits lines such as ``instruction | region; instruction | region``.
    """
    borders = {place for place, line in enumerate(lines) if _TABLE_LINE.match(line)}
    kept = []
    for place, line in enumerate(lines):
        if place in borders or place + 1 in borders:
            continue
        if borders and "|" in line:
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            is_number = not any(letter.isalpha() for letter in cells[0])
            kept.append(" | ".join(cells[1:3] if is_number else cells[:2]))
        else:
            kept += [part.strip() for part in line.split(";")] if line.count("|") > 1 else [line]
    return kept


def split_sentence(text: str) -> list[str]:
    """Splits a text into commands that begin with a verb: at ends of sentences, "and", "then" and commas.

    Drops other sentences, and words such as "please" or "first, I would" before a command.
    """
    commands = []
    for sentence in _SENTENCES.split("\n".join(single_spaced(text))):
        start = _LEAD.sub("", _LABEL.sub("", _MARK.sub("", sentence).strip(_FRAME)))
        if not _STARTS_WITH_VERB.match(start):
            start = _INTRODUCTION.sub("", start)
        parts = [_LEAD.sub("", part.strip(_FRAME)) for part in _JOINS.split(start)]
        commands += [part for part in parts if _STARTS_WITH_VERB.match(part)]
    return commands


def _from_sentences(text: str, from_model: bool) -> list[Edit]:
    instruction, _, region = text.partition("|")
    edits = [_edit(command) for command in split_sentence(instruction)]
    if len(edits) == 1 and region:
        return [Edit(edits[0].instruction, _region(region))]
    return edits if edits or from_model else [_edit(text)]


def _edit(line: str) -> Edit:
    instruction, region = [*_MARK.sub("", one_line(line)).split("|"), ""][:2]
    instruction = _without_title(_LABEL.sub("", instruction.strip(_FRAME)))
    instruction = _LEAD.sub("", instruction) or instruction
    return Edit(instruction.strip(_FRAME + ".,;:"), _region(region))


def _without_title(text: str) -> str:
    """Returns the command of "**Recolor the hat**: make the hat red"; a bold command without its reason.

    Keeps the title if the command needs it: "Hat: make it red".
    """
    found = _TITLED.match(text)
    if not found:
        return text
    title, rest = found[2].strip(), found[4]
    is_bold = "*" in found[1] + found[3]
    title_commands = bool(_STARTS_WITH_VERB.match(title))
    if not _STARTS_WITH_VERB.match(_LEAD.sub("", rest.strip(_FRAME))):
        return title if is_bold and title_commands else text.replace("**", "")
    # "add a sign that says: open the door" is no title.
    is_title = is_bold or not title_commands
    return rest if is_title and not _REFERS_BACK.search(rest) else text.replace("**", "")


def _region(words: object) -> str:
    if isinstance(words, list):
        words = ", ".join(each for each in words if isinstance(each, str))
    text = one_line(words).strip(_FRAME + ".,;:") if isinstance(words, str) else ""
    return "" if len(text) > MOST_REGION or is_whole(text) or _REFUSAL.match(text) else text


def _from_json(text: str) -> tuple[list[Edit], str] | None:
    """Returns the edits of the last JSON that holds some, and the reason; None without such JSON."""
    last: tuple[list[Edit], str] | None = None
    end = 0
    for value, start, stop in json_values(text):
        edits = _from_value(value)
        if edits is None:
            continue
        reason = value.get("reason") if isinstance(value, dict) else None
        reason = one_line(reason)[:MOST_REASON] if isinstance(reason, str) else ""
        # Objects below each other, without words between them, are one list.
        if last is not None and not text[end:start].strip(" \t\r\n,"):
            last = [*last[0], *edits], last[1] or reason
        elif edits or last is None:
            last = edits, reason
        end = stop
    return last


def _from_value(value: Any, depth: int = _MOST_DEPTH) -> list[Edit] | None:
    """Returns the edits of a JSON value; None if it is of another kind."""
    if not depth:
        return None
    if isinstance(value, list):
        items = [each for each in value if isinstance(each, str | dict)]
        if value and not items:
            return None
        found = [
            [_edit(each)] if isinstance(each, str) else _from_value(each, depth - 1) or [] for each in items
        ]
        return [edit for edits in found for edit in edits]
    fields = {str(key).strip().lower(): each for key, each in value.items()}
    for key in _LIST_KEYS:
        listed = fields.get(key)
        if isinstance(listed, dict):
            edits = _from_value(listed, depth - 1)
            return _from_value(_listed(listed), depth - 1) if edits is None else edits
        if isinstance(listed, list):
            return _from_value(listed, depth - 1)
        if isinstance(listed, str):
            return [_edit(line) for line in listed.splitlines()]
    for key in _TEXT_KEYS:
        if isinstance(fields.get(key), str):
            region = next((fields[name] for name in _REGION_KEYS if fields.get(name)), "")
            edit = _edit(fields[key])
            return [Edit(edit.instruction, _region(region) or edit.region)]
    listed = _listed(fields)
    # {"1": "make it night", "2": "add snow"}
    is_numbered = listed and all(_NUMBERED_KEY.match(key) for key in fields if key != "reason")
    return _from_value(listed, depth - 1) if is_numbered else None


def _listed(fields: Mapping[str, Any]) -> list[Any]:
    return [each for key, each in fields.items() if key.strip().lower() != "reason"]
