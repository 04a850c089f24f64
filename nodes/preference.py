"""Nodes for human judgement."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io

from ..core.diffusion.schedule import SEEDS
from ..core.errors import EvaluationError
from ..core.evaluation.preference.ratings import MethodRating
from ..core.evaluation.preference.study import Study
from ..core.evaluation.preference.study_file import FILE, StudyItem
from ..core.evaluation.preference.voting import ULTRAEDIT_CRITERIA, VOTES, Vote, Voting
from ..core.storage.image_tensors import image_batch
from ..core.storage.json_text import parse_json
from .comfy.folders import paths
from .shared.node import Choice, FileFingerprints, Node

# Maximum length of the judgements in a prompt.
_MAX_CHARACTERS = 4 * 2**20

_FILES = FileFingerprints(lambda study: paths.file_state(paths.study_folder(study) / FILE))


class JudgePreference(Node):
    """Compares results of two to four methods side by side, blind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructBrushPreference",
            display_name="Judge Preference",
            category="InstructBrush/evaluation",
            description="Shows the results of two methods side by side, blind and shuffled, and asks which "
            "is better: first, tie or second (keys 1, 2 and 3; 0 undoes the last judgement). It can also "
            "show all methods and ask for the best one, or ask by several criteria. The study "
            "stores the judgements, so you can continue later. TrueSkill rates the methods.",
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
                "best of four",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "study",
                    default="study",
                    tooltip="Name of the study. Its images and judgements are stored under this name in "
                    "output/instructbrush_studies. A new name starts a new study.",
                ),
                io.Image.Input(
                    "first",
                    optional=True,
                    tooltip="Results of the first method: a batch, or a list, whose images may differ in "
                    "size. A study that was started before can continue without connected images.",
                ),
                io.Image.Input(
                    "second",
                    optional=True,
                    tooltip="Results of the second method: as many images, in the same order and of the same "
                    "size.",
                ),
                io.Image.Input(
                    "third",
                    optional=True,
                    tooltip="Results of a third method. Each method is compared with every other.",
                ),
                io.Image.Input("fourth", optional=True, tooltip="Results of a fourth method."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The images before the edit, shown beside the results: one for each result, or "
                    "one for all.",
                ),
                io.String.Input(
                    "first_name",
                    default="method A",
                    optional=True,
                    tooltip="Name of the first method in the ratings. Not shown while judging.",
                ),
                io.String.Input(
                    "second_name",
                    default="method B",
                    optional=True,
                    tooltip="Name of the second method in the ratings.",
                ),
                io.String.Input(
                    "third_name",
                    default="method C",
                    optional=True,
                    tooltip="Name of the third method in the ratings.",
                    advanced=True,
                ),
                io.String.Input(
                    "fourth_name",
                    default="method D",
                    optional=True,
                    tooltip="Name of the fourth method in the ratings.",
                    advanced=True,
                ),
                io.String.Input(
                    "instructions",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="The instruction of the edit, shown above the images: one line for all, one line "
                    "for each image, or nothing.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEEDS - 1,
                    control_after_generate=False,
                    optional=True,
                    tooltip="Draws the order of the comparisons and the sides. A study keeps the order that "
                    "it started with.",
                ),
                io.String.Input(
                    "judgements",
                    default="",
                    optional=True,
                    socketless=True,
                    dynamic_prompts=False,
                    extra_dict={"hidden": True},
                    tooltip="Judgements that are not stored in the study yet. The node's panel writes them.",
                ),
                Choice(
                    "vote",
                    options=list(VOTES),
                    default=VOTES[0],
                    optional=True,
                    tooltip="pairs: each two methods are compared, and ties are possible. best: the results "
                    "of all methods are shown, and one is picked as the best (keys 1 to 4), as in "
                    "ReasonPix2Pix's user study.",
                ),
                io.String.Input(
                    "criteria",
                    default="",
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="Criteria to judge by, separated by commas: the same images are judged once by "
                    "each. UltraEdit's are: consistency, instruction alignment, image quality. Empty: the "
                    "images are judged once, as a whole.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report", tooltip="Progress and ratings as a table, best method first."
                ),
                io.Float.Output(
                    display_name="first_mu",
                    tooltip="TrueSkill rating of the first method: 25 at the start, higher is better.",
                ),
                io.Float.Output(
                    display_name="first_sigma",
                    tooltip="Uncertainty of this rating: 8.33 at the start, lower is more certain.",
                ),
                io.Float.Output(display_name="second_mu", tooltip="TrueSkill rating of the second method."),
                io.Float.Output(display_name="second_sigma", tooltip="Uncertainty of this rating."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, study: Sequence[str | None] = (None,), **_rest: Any) -> str:
        # Another prompt may have stored judgements since the last run.
        return _FILES.fingerprint(study[0])

    @classmethod
    def execute(
        cls,
        study: Sequence[str],
        first: Sequence[torch.Tensor] = (),
        second: Sequence[torch.Tensor] = (),
        third: Sequence[torch.Tensor] = (),
        fourth: Sequence[torch.Tensor] = (),
        source: Sequence[torch.Tensor] = (),
        first_name: Sequence[str] = ("method A",),
        second_name: Sequence[str] = ("method B",),
        third_name: Sequence[str] = ("method C",),
        fourth_name: Sequence[str] = ("method D",),
        instructions: Sequence[str] = ("",),
        seed: Sequence[int] = (0,),
        judgements: Sequence[str] = ("",),
        vote: Sequence[Vote] = ("pairs",),
        criteria: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        _FILES.record(study[0])
        folder = paths.study_folder(study[0])
        inputs = [
            (first_name[0], first),
            (second_name[0], second),
            (third_name[0], third),
            (fourth_name[0], fourth),
        ]
        methods = [(name.strip(), _images(given, f"'{name}'")) for name, given in inputs if given]
        if not methods:
            stored = Study.open(folder)
            rated_methods = stored.methods[:2]
        elif not first or not second:
            raise EvaluationError(
                "Judge Preference: connect both first and second, or connect no images to continue a study "
                "that was started before."
            )
        else:
            items = _items(methods, _images(source, "Source"), "\n".join(instructions))
            voting = Voting(vote[0], tuple(each.strip() for each in criteria[0].split(",") if each.strip()))
            stored = Study.begin(folder, items, seed[0], voting)
            rated_methods = tuple(name for name, _ in methods[:2])
        events, remark = _read_judgements(judgements[0], stored)
        left_out = stored.add_events(events)
        if left_out:
            remark = f"{len(left_out)} judgements were left out: {left_out[0]}."
        report = "\n".join(filter(None, [stored.report(), remark]))
        ratings = {rating.method: rating for rating in stored.ratings()}
        figures = [figure for name in rated_methods for figure in (ratings[name].mu, ratings[name].sigma)]
        event_ids = [event["id"] for event in events if isinstance(event.get("id"), str)]
        return io.NodeOutput(report, *figures, ui={"preference": [_panel_data(stored, event_ids, remark)]})


def _images(given: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    """The images [H, W, 3] of a batch or a list."""
    return [image[..., :3] for images in given for image in image_batch(images, name, EvaluationError)]


def _items(
    methods: list[tuple[str, list[torch.Tensor]]], sources: list[torch.Tensor], instructions: str
) -> list[StudyItem]:
    counts = {name: len(images) for name, images in methods}
    if len(counts) < len(methods):
        names = ", ".join(name for name, _ in methods)
        raise EvaluationError(
            f"Judge Preference: two methods have the same name ({names}). Give each method a different name."
        )
    if len(set(counts.values())) > 1:
        count_list = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise EvaluationError(
            f"Judge Preference: the methods have different numbers of images: {count_list}. Connect the same "
            "number for each, in the same order."
        )
    (count,) = set(counts.values())
    if len(sources) not in (0, 1, count):
        raise EvaluationError(
            f"Judge Preference: {len(sources)} source images do not fit {count} results. Connect one for "
            "each, or one for all."
        )
    lines = [line.strip() for line in instructions.strip().splitlines()]
    if len(lines) not in (0, 1, count):
        raise EvaluationError(
            f"Judge Preference: {len(lines)} lines of instructions do not fit {count} images. Write a line "
            "for each, one for all, or none."
        )
    return [
        StudyItem(
            id=str(index),
            results={name: images[index] for name, images in methods},
            instruction=lines[index % len(lines)] if lines else "",
            source=sources[index % len(sources)] if sources else None,
        )
        for index in range(count)
    ]


def _read_judgements(judgements: str, study: Study) -> tuple[list[Mapping[str, Any]], str]:
    """Returns the events of the prompt, and a remark if they belong to another study."""
    if not judgements.strip():
        return [], ""
    try:
        if len(judgements) > _MAX_CHARACTERS:
            raise ValueError(f"{len(judgements)} characters are too many")
        content = parse_json(judgements)
        key = content["key"]
        events = content["events"]
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise ValueError("there is no list of events")
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"Judge Preference: the judgements cannot be read ({error!r}). Judge in the node's panel, or "
            "empty the field."
        ) from error
    if key != study.key:
        return [], f"{len(events)} judgements of another study were left out." if events else ""
    return events, ""


def _panel_data(study: Study, received_ids: list[str], remark: str) -> dict[str, Any]:
    """Returns the data of the node's panel. Without methods and early ratings, so that judges stay blind."""
    name = study.folder.relative_to(paths.output_studies()).as_posix()
    return {
        "key": study.key,
        "study": name,
        "folder": f"{paths.STUDIES}/{name}",
        "vote": study.voting.vote,
        "questions": {each: ULTRAEDIT_CRITERIA.get(each, "") for each in study.voting.criteria},
        "comparisons": [
            {"instruction": each.instruction, "images": each.images, "criterion": each.criterion}
            for each in study.comparisons
        ],
        "judged": [asdict(judgement) for judgement in study.judgements],
        "known": sorted({*study.event_ids, *received_ids}),
        "ratings": None if study.pending else _figures(study.ratings()),
        "by_criterion": {}
        if study.pending
        else {each: _figures(study.ratings(criterion=each)) for each in study.voting.criteria},
        "remark": remark,
    }


def _figures(ratings: Sequence[MethodRating]) -> list[dict[str, Any]]:
    # JSON has no nan.
    return [{**asdict(each), "share": None if math.isnan(each.share) else each.share} for each in ratings]
