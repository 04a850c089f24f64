"""The datasheet of a build (Gebru et al. 2021; supplement F), filled from what the build did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...engine.figures import StageCount
from ...scoring import TITLES, Thresholds
from ..edit_types import EDIT_TYPES
from ..regions import FREE_FORM, REGION
from ..stages import UltraEditSettings
from .quality import COLUMNS, Quality
from .statistics import TypeCounts

DATASHEET = "DATASHEET.md"

_STAGES = {
    "source": "The source is read.",
    "captions": "Captions that are too short or too long are refused. The square in the middle of each image "
    "is the anchor.",
    "instructions": "A language model writes edits for each caption: an instruction and the new caption.",
    "types": "Grammar names the type of each instruction, by its first verb and object.",
    "objects": "The edited objects are decided, at most two; none stand for the whole image.",
    "masks": "A finder finds them. Masks that are too large, too small or fragmented are refused; others are "
    "widened to contours, and the rest of their boxes is gray (soft mask).",
    "pairs": "Pairs are made with several seeds and scored. The best that passes every threshold is kept.",
}

_USE = (
    "## Uses",
    "",
    "Training of editing models (`finetune`, `train-region`), learning instructions from pairs, and "
    "comparisons of editing models. Do not use it to make images that deceive or harm.",
    "",
    "## Limits",
    "",
    "Instructions, captions, masks and images are made by models and are not checked by people. They carry "
    "the models' biases, an instruction may not fit its image, and an edit may be incomplete. The scores are "
    "those of the models above: they rank edits and do not prove them.",
    "",
    "## Distribution and maintenance",
    "",
    "<fill in: where it is, its license, who answers questions, how errors are corrected>",
    "",
)


@dataclass(frozen=True)
class Facts:
    """What a datasheet cannot read from the build's tables."""

    source: str
    language_model: str
    models: Mapping[str, str]
    """What it does -> name of the model: generator, finder, CLIP, DINOv2."""


def datasheet(
    settings: UltraEditSettings,
    facts: Facts,
    counts: Sequence[StageCount],
    types: Mapping[str, TypeCounts],
    quality: Mapping[str, Quality],
) -> str:
    """Returns the datasheet as Markdown."""
    return "\n".join(
        (
            "# Datasheet",
            "",
            "Written by the build. Sections in angle brackets are for you to fill in.",
            "",
            "## Motivation",
            "",
            "The data is for training and comparing models that edit images by instructions, with or without "
            "a region. It is made as UltraEdit's is (Zhao et al. 2024).",
            "",
            "Who made it, and for whom: <fill in>",
            "",
            *_composition(counts, types),
            "## Collection",
            "",
            f"Source: {facts.source}. Its license holds for the anchors: <fill in>",
            "",
            f"Language model: {facts.language_model}.",
            *(f"{what[0].upper()}{what[1:]}: {name}." for what, name in facts.models.items()),
            "",
            *_process(settings, counts, quality.get("overall")),
            *_USE,
        )
    )


def _composition(counts: Sequence[StageCount], types: Mapping[str, TypeCounts]) -> list[str]:
    rows = {kind: types[kind].total if kind in types else 0 for kind in (FREE_FORM, REGION)}
    return [
        "## Composition",
        "",
        f"{sum(rows.values())} edits of {counts[0].kept} source images: {rows[FREE_FORM]} free-form and "
        f"{rows[REGION]} with a region. Each row has a source and an edited image, an instruction, two "
        "captions, scores, and for a region a mask: white where the edit acts, gray where it may, black "
        "where it must not. The rows have no split and no labels. No image is linked: the tables hold all of "
        "them.",
        "",
        *_type_table(types),
        "",
        "People: the images and captions are the source's; what they show of people is not checked.",
        "",
    ]


def _process(settings: UltraEditSettings, counts: Sequence[StageCount], overall: Quality | None) -> list[str]:
    return [
        "## Process",
        "",
        *_process_table(counts),
        "",
        f"Captions have {settings.caption_words[0]} to {settings.caption_words[1]} words. Questions show "
        f"examples out of {len(settings.pool)}. Images have {settings.side} x {settings.side} px; "
        f"{settings.seeds} seeds are tried for each edit. Masks cover {settings.mask_area[0]:.0%} to "
        f"{settings.mask_area[1]:.0%} of the image in at most {settings.mask_fragments} fragments; the "
        f"soft mask's s is drawn from {settings.softness[0]:g} to {settings.softness[1]:g}.",
        "",
        *_score_table(settings.thresholds, overall),
        "",
        "### Refusals",
        "",
        *_refusals(counts),
        "",
    ]


def _type_table(types: Mapping[str, TypeCounts]) -> list[str]:
    lines = ["| Type | " + " | ".join(f"{kind} | different" for kind in types) + " |"]
    lines.append("|---|" + "---:|---:|" * len(types))
    for number, head in enumerate(EDIT_TYPES):
        cells = (f"{each.instances[number]} | {each.unique[number]}" for each in types.values())
        lines.append(f"| {head} | {' | '.join(cells)} |")
    return lines


def _process_table(counts: Sequence[StageCount]) -> list[str]:
    lines = ["| Stage | What it does | Rows | Refused | Rows out |", "|---|---|---:|---:|---:|"]
    return lines + [
        f"| {c.name} | {_STAGES.get(c.name, '')} | {c.rows} | {c.rows - c.kept} | {c.out} |" for c in counts
    ]


def _score_table(thresholds: Thresholds, overall: Quality | None) -> list[str]:
    lines = ["| Score | Least | Mean of the kept rows |", "|---|---:|---:|"]
    for name in COLUMNS:
        value = overall.means[name] if overall else float("nan")
        shown = "not computed" if value != value else f"{value:.4f}"
        lines.append(f"| {TITLES[name]} | {getattr(thresholds, name):g} | {shown} |")
    return lines


def _refusals(counts: Sequence[StageCount]) -> list[str]:
    lines = [f"- {each.name}: {reason}, {number} rows" for each in counts for reason, number in each.refused]
    return lines or ["None."]
