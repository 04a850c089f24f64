"""Every reader of the package, with a intact file of its kind and suitable damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from instructbrush.core.evaluation.by_example.datasets.clean_ip2p import read_clean_ip2p
from instructbrush.core.evaluation.by_example.results import EffectFolder
from instructbrush.core.evaluation.by_instruction.datasets.emu_edit import read_emu_edit
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.evaluation.by_instruction.results import ItemFolder
from instructbrush.core.instruction.file import load_instruction, read_thumbnail
from instructbrush.core.learning.checkpoint import load_checkpoint, save_checkpoint
from instructbrush.core.models.builtin import POCKET_FOLDER, POCKET_READER_FOLDER
from instructbrush.core.models.hub_folders import model_folder
from instructbrush.core.models.tokenizer import tokenizer_from_folder
from instructbrush.core.pairs.pairs import load_pairs
from instructbrush.core.reasoning.connector import (
    load_connector,
)
from instructbrush.core.reasoning.state_cache import StateStore
from instructbrush.core.storage.image_files import read_image

from . import mutations
from .intact_files import (
    EMU_EDIT_ROW,
    REASONING_ROW,
    RUN,
    linked_folder,
    read_answer,
    read_effects,
    read_mask_file,
    read_mllm_folder,
    read_study,
    write_answer,
    write_bare_answer,
    write_effects,
    write_image,
    write_metadata,
    write_outcome,
    write_pairs,
    write_prompt,
    write_reason,
    write_reference,
    write_run,
    write_score,
    write_seeds,
    write_study,
    write_table,
)
from .intact_tensors import (
    STATE_KEY,
    make_trainer,
    read_states_list,
    read_weights,
    write_blend,
    write_connector,
    write_instruction,
    write_state,
    write_states_list,
    write_thumbnail,
    write_weights,
)
from .mutations import Damaged


@dataclass(frozen=True)
class Case:
    """A kind of file, with its reader."""

    name: str
    write: Callable[[Path], Path]
    """Writes a intact file, and all that it needs, into an empty folder. Returns the file to damage."""
    read: Callable[[Path], object]
    damage: Callable[[bytes], Damaged]
    """Makes a strategy of damage from the sound bytes."""
    share: float = 1
    """Relative share of the trials. Fast readers get more."""


def _read_direction(file: Path) -> object:
    return read_clean_ip2p(file.parents[1])


CASES = (
    Case("instruction", write_instruction, load_instruction, mutations.of_tensors, 6),
    Case("blend", write_blend, load_instruction, mutations.of_tensors, 4),
    Case("thumbnail", write_thumbnail, read_thumbnail, mutations.of_thumbnail("modelspec.thumbnail"), 4),
    Case(
        "checkpoint",
        lambda folder: save_checkpoint(make_trainer(), folder / "x"),
        lambda file: load_checkpoint(make_trainer(), file),
        mutations.of_tensors,
        2,
    ),
    Case("weights", write_weights, read_weights, mutations.of_tensors, 6),
    Case("connector", write_connector, load_connector, mutations.of_tensors, 3),
    Case("state", write_state, lambda file: StateStore(file.parent).get(STATE_KEY), mutations.of_tensors, 2),
    Case("list of states", write_states_list, read_states_list, mutations.of_json_file, 2),
    Case("pairs.json", write_pairs, lambda file: load_pairs(file.parent), mutations.of_json_file, 1.5),
    Case("run.json", write_run, lambda file: EffectFolder(file.parent).begin(RUN), mutations.of_json_file, 3),
    Case(
        "outcome",
        write_outcome,
        lambda file: EffectFolder(file.parents[2]).finished(),
        mutations.of_json_file,
        3,
    ),
    Case(
        "score", write_score, lambda file: ItemFolder(file.parents[2]).finished(), mutations.of_json_file, 2
    ),
    Case("study", write_study, read_study, mutations.of_lines, 5),
    Case("answer", write_answer, read_answer, mutations.of_bytes, 3),
    Case("bare answer", write_bare_answer, read_answer, mutations.of_json_file, 3),
    Case("reason.json", write_reason, lambda file: read_reason(file.parent), mutations.of_json_file, 1),
    Case("prompt.json", write_prompt, _read_direction, mutations.of_json_file, 2),
    Case("metadata.jsonl", write_metadata, _read_direction, mutations.of_lines, 2),
    Case("seeds.json", write_seeds, lambda file: read_clean_ip2p(file.parent), mutations.of_json_file, 2),
    Case("effects.json", write_effects, read_effects, mutations.of_json_file, 2),
    Case(
        "Emu Edit table",
        write_table([EMU_EDIT_ROW], "test-00000-of-00001.parquet"),
        read_emu_edit,
        mutations.of_bytes,
        2,
    ),
    Case(
        "reasoning table",
        write_table([REASONING_ROW] * 2, "test.parquet"),
        read_reason,
        mutations.of_bytes,
        2,
    ),
    *(
        Case(f"image {name}", write_image(kind, mode), read_image, mutations.of_bytes, 1)
        for name, kind, mode in (
            ("PNG", "PNG", "RGBA"),
            ("PNG 16", "PNG", "I;16"),
            ("PNG palette", "PNG", "P"),
            ("JPEG", "JPEG", "RGB"),
            ("JPEG CMYK", "JPEG", "CMYK"),
            ("WEBP", "WEBP", "RGBA"),
            ("GIF", "GIF", "P"),
            ("BMP", "BMP", "RGB"),
            ("TIFF", "TIFF", "RGB"),
            ("TIFF 16", "TIFF", "I;16"),
            ("TIFF float", "TIFF", "F"),
        )
    ),
    Case("mask", write_image("PNG", "L"), read_mask_file, mutations.of_bytes, 1),
    Case(
        "settings of an MLLM",
        linked_folder(POCKET_READER_FOLDER, "config.json"),
        read_mllm_folder,
        mutations.of_json_file,
        0.3,
    ),
    Case(
        "vocabulary",
        linked_folder(POCKET_FOLDER / "tokenizer", "vocab.json"),
        lambda file: tokenizer_from_folder(file.parent),
        mutations.of_json_file,
        0.02,
    ),
    Case(
        "merges",
        linked_folder(POCKET_FOLDER / "tokenizer", "merges.txt"),
        lambda file: tokenizer_from_folder(file.parent),
        mutations.of_bytes,
        0.02,
    ),
    Case(
        "reference of a cache",
        write_reference,
        lambda file: model_folder(file.parents[1]),
        mutations.of_bytes,
        0.5,
    ),
)
