"""Nodes that let people judge."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io

from ..core.diffusion.schedule import SEEDS
from ..core.errors import EvaluationError
from ..core.evaluation.preference.ratings import Study
from ..core.evaluation.preference.study import FILE, StudyItem
from ..core.storage.image_tensors import image_batch
from .comfy.folders import paths
from .shared.node import FileFingerprints, Node

_MOST_CHARACTERS = 4 * 2**20
"""Of the judgements that a prompt carries."""

_FILES = FileFingerprints(lambda study: paths.file_state(paths.study_folder(study) / FILE))


class JudgePreference(Node):
    """Two sets of results side by side, blind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushPreference",
            display_name="Judge Preference",
            category="InstructBrush/evaluation",
            description="Shows the results of two methods side by side in the node, blind and shuffled, and asks which is better: first, tie or second "
            "(keys 1, 2 and 3; 0 takes the last one back). Judgements are kept in the study and go on where they stopped; TrueSkill rates the methods.",
            search_aliases=[
                "human evaluation",
                "user study",
                "trueskill",
                "preference",
                "a/b test",
                "compare images",
                "vote",
                "side by side",
                "blind test",
            ],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "study",
                    default="study",
                    tooltip="Name of the study: images and judgements are kept under it in output/instructbrush_studies. Another name begins another study.",
                ),
                io.Image.Input(
                    "first",
                    optional=True,
                    tooltip="Results of the first method. A study that has begun also goes on with no images connected at all.",
                ),
                io.Image.Input(
                    "second",
                    optional=True,
                    tooltip="Results of the second method, as many, in the same order and of the same size.",
                ),
                io.Image.Input(
                    "third",
                    optional=True,
                    tooltip="Results of a third method. Every two methods are compared.",
                ),
                io.Image.Input("fourth", optional=True, tooltip="Results of a fourth method."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The images before the edit, as many or one for all, shown beside the results.",
                ),
                io.String.Input(
                    "first_name",
                    default="method A",
                    optional=True,
                    tooltip="What the ratings call the first method. Not shown while judging.",
                ),
                io.String.Input(
                    "second_name",
                    default="method B",
                    optional=True,
                    tooltip="What the ratings call the second method.",
                ),
                io.String.Input(
                    "third_name",
                    default="method C",
                    optional=True,
                    tooltip="What the ratings call the third method.",
                    advanced=True,
                ),
                io.String.Input(
                    "fourth_name",
                    default="method D",
                    optional=True,
                    tooltip="What the ratings call the fourth method.",
                    advanced=True,
                ),
                io.String.Input(
                    "instructions",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="What the edit was to do, shown above the images: one line for all, one line for each image, or nothing.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEEDS - 1,
                    control_after_generate=False,
                    optional=True,
                    tooltip="Draws the order of the comparisons and the sides. A study keeps the order it began with.",
                ),
                io.String.Input(
                    "judgements",
                    default="",
                    optional=True,
                    socketless=True,
                    dynamic_prompts=False,
                    extra_dict={"hidden": True},
                    tooltip="Judgements on their way to the study, written by the node's panel.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report", tooltip="Progress and ratings as a table, the best method first."
                ),
                io.Float.Output(
                    display_name="first_mu",
                    tooltip="TrueSkill's estimate of the first method's skill: 25 before any judgement, more is better.",
                ),
                io.Float.Output(
                    display_name="first_sigma",
                    tooltip="How unsure it is: 8.33 before any judgement, lower is surer.",
                ),
                io.Float.Output(display_name="second_mu", tooltip="The same of the second method."),
                io.Float.Output(display_name="second_sigma", tooltip="How unsure that is."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, study: str | None = None, **_rest: Any) -> str:
        # Another run of the node, or another prompt, may have stored judgements since.
        return _FILES.fingerprint(study)

    @classmethod
    def execute(
        cls,
        study: str,
        first: torch.Tensor | None = None,
        second: torch.Tensor | None = None,
        third: torch.Tensor | None = None,
        fourth: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        first_name: str = "method A",
        second_name: str = "method B",
        third_name: str = "method C",
        fourth_name: str = "method D",
        instructions: str = "",
        seed: int = 0,
        judgements: str = "",
    ) -> io.NodeOutput:
        _FILES.record(study)
        folder = paths.study_folder(study)
        given = [(first_name, first), (second_name, second), (third_name, third), (fourth_name, fourth)]
        connected = [
            (name.strip(), image_batch(images, f"'{name}'", EvaluationError))
            for name, images in given
            if images is not None
        ]
        if not connected:
            stored = Study.open(folder)
            named = stored.methods[:2]
        elif first is None or second is None:
            raise EvaluationError(
                "Judge Preference: connect both first and second; or no images at all, to go on with a study that has begun."
            )
        else:
            sources = None if source is None else image_batch(source, "Source", EvaluationError)
            stored = Study.begin(folder, _items(connected, sources, instructions), seed)
            named = tuple(name for name, _ in connected[:2])
        events, remark = _received(judgements, stored)
        left_out = stored.add_events(events)
        if left_out:
            remark = f"{len(left_out)} judgements were left out: {left_out[0]}."
        report = "\n".join(filter(None, [stored.report(), remark]))
        rated = {rating.method: rating for rating in stored.ratings()}
        figures = [figure for name in named for figure in (rated[name].mu, rated[name].sigma)]
        shown = _shown(stored, [event["id"] for event in events if isinstance(event.get("id"), str)], remark)
        return io.NodeOutput(report, *figures, ui={"preference": [shown]})


def _items(
    connected: list[tuple[str, torch.Tensor]], source: torch.Tensor | None, instructions: str
) -> list[StudyItem]:
    counts = {name: len(images) for name, images in connected}
    if len(counts) < len(connected):
        raise EvaluationError(
            f"Judge Preference: two methods have the same name ({', '.join(name for name, _ in connected)}). Give each its own."
        )
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise EvaluationError(
            f"Judge Preference: the methods have different numbers of images: {told}. Connect as many of each, in the same order."
        )
    (count,) = set(counts.values())
    if source is not None and len(source) not in (1, count):
        raise EvaluationError(
            f"Judge Preference: {len(source)} source images do not fit {count} results. Connect as many, or one for all."
        )
    lines = [line.strip() for line in instructions.strip().splitlines()]
    if len(lines) not in (0, 1, count):
        raise EvaluationError(
            f"Judge Preference: {len(lines)} lines of instructions do not fit {count} images. Write a line for each, one for all, or none."
        )
    return [
        StudyItem(
            id=str(index),
            results={name: images[index, ..., :3] for name, images in connected},
            instruction=lines[index % len(lines)] if lines else "",
            source=None if source is None else source[index % len(source), ..., :3],
        )
        for index in range(count)
    ]


def _received(judgements: str, study: Study) -> tuple[list[Mapping[str, Any]], str]:
    """The judgements that came with the prompt, and a remark where they belong to another study."""
    if not judgements.strip():
        return [], ""
    try:
        if len(judgements) > _MOST_CHARACTERS:
            raise ValueError(f"{len(judgements)} characters are too many")
        content = json.loads(judgements)
        key, events = content["key"], content["events"]
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise ValueError("there is no list of events")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"Judge Preference: the judgements cannot be read ({error!r}). Judge in the node's panel, or empty the field."
        ) from error
    if key != study.key:
        return [], f"{len(events)} judgements of another study were left out." if events else ""
    return events, ""


def _shown(study: Study, received: list[str], remark: str) -> dict[str, Any]:
    """What the panel gets. It tells no sides, and no ratings before the end, from which sides could be guessed."""
    name = study.folder.relative_to(paths.output_studies()).as_posix()
    return {
        "key": study.key,
        "study": name,
        "folder": f"{paths.STUDIES}/{name}",
        "comparisons": [
            {"instruction": each.instruction, "images": each.images} for each in study.comparisons
        ],
        "judged": [asdict(judgement) for judgement in study.judgements],
        "known": sorted({*study.event_ids, *received}),
        "ratings": None if study.pending else [asdict(rating) for rating in study.ratings()],
        "remark": remark,
    }
