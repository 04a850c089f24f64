"""``python -m instructbrush reason train``: trains an editor with a connector to an MLLM (ReasonPix2Pix)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...core.editing.editor import DiffusersEditor
from ...core.encoders.mllm import Mllm, load_mllm
from ...core.encoders.mllm_chat import STATES_TASK
from ...core.errors import LearningError, ModelError
from ...core.finetuning.accelerator import make_accelerator
from ...core.finetuning.dataset import find_blocks, first_usable_records
from ...core.finetuning.export import save_model
from ...core.finetuning.objective import EditInputs
from ...core.finetuning.reasoning.pair_states import (
    LazyMllm,
    MllmIdentity,
    NeededStates,
    PairStates,
    load_or_compute_states,
)
from ...core.finetuning.reasoning.text_selection import PairTexts, TextSelection
from ...core.finetuning.reasoning.with_connector import ConnectorInputs, ConnectorLoss, ConnectorStream
from ...core.finetuning.trainer import FineTuning
from ...core.models.builtin import POCKET_READER_FOLDER, resolved, title_of
from ...core.models.weights import fingerprint
from ...core.reasoning.connector import (
    Connector,
    ConnectorConfig,
    config_for,
    load_connector,
    new_connector,
    save_connector,
    text_fingerprint,
)
from ...core.reasoning.state_cache import padded
from . import first_stage
from .finetune import CHANNELS
from .model import SAMPLE_PAIRS, load_model, model_identity, prepare_model, save_sample_image
from .options import RunFolder, add_run_options, check_probability, read_settings
from .run import train_to_end

if TYPE_CHECKING:
    from accelerate import Accelerator

# --mllm-precision -> dtype and bits.
_PRECISIONS: dict[str, tuple[torch.dtype | None, int | None]] = {
    "auto": (None, None),
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "fp32": (torch.float32, None),
    "8bit": (None, 8),
    "4bit": (None, 4),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``reason train``."""
    add_run_options(parser)
    parser.add_argument(
        "--mllm", required=True, help="folder of a vision-language model such as LLaVA-1.5, or 'pocket'"
    )
    parser.add_argument(
        "--mllm-precision",
        choices=_PRECISIONS,
        default="auto",
        help="precision of its weights (default auto: as stored, fp32 on the CPU)",
    )
    parser.add_argument(
        "--mllm-batch", type=int, default=4, help="images with words that it reads at once (default 4)"
    )
    parser.add_argument(
        "--states",
        metavar="DIR",
        help="folder of its states (default: states/ in --out); runs on the same data may share it",
    )
    parser.add_argument(
        "--connector", metavar="FILE", help="trained connector to start from (default: an untrained one)"
    )
    parser.add_argument(
        "--indirect",
        type=float,
        default=0.5,
        help="probability of an indirect instruction if a pair has both kinds (default 0.5)",
    )
    first_stage.add_options(parser)


def train(options: argparse.Namespace) -> None:
    """Trains a connector and an editor. ``--resume`` continues exactly from the last checkpoint.

    Raises:
        LearningError: an option is invalid, the run already exists, the checkpoint belongs to another run,
            the states are another MLLM's, or the loss is not finite.
        ModelError, PairError, DataError: models, connector or data cannot be used.
    """
    settings = read_settings(options)
    check_probability(options, "indirect")
    if options.mllm_batch < 1:
        raise LearningError(f"Fine-tuning: --mllm-batch is {options.mllm_batch}; it must be 1 or more.")
    texts = TextSelection(options.indirect)
    blocks = find_blocks([Path(place) for place in options.data], options.strict)
    shown_blocks = find_blocks([Path(options.validation)]) if options.validation else blocks
    first = first_stage.FirstStage(options, settings, blocks)
    start_connector = load_connector(options.connector) if options.connector else None
    accelerator = make_accelerator(options.precision, settings.accumulation)
    editor, source = load_model(options, accelerator.device, CHANNELS)
    if start_connector is not None:
        _check_editor(start_connector.config, editor)
    watched: list[PairTexts] = []
    if options.pictures_every:
        # The last text is an indirect instruction if the pair has one.
        records = first_usable_records(shown_blocks, SAMPLE_PAIRS, indirect=True)
        watched = [PairTexts(record, texts.of(record)[-1:]) for record in records]
    read_texts = TextSelection(0.5) if first.reads_both_kinds else texts
    needed = NeededStates(read_texts, tuple(dict.fromkeys((*blocks, *first.blocks))), watched)
    states = _load_states(options, accelerator, needed, start_connector)
    models = {
        **model_identity(options, editor),
        "MLLM": str(states.mllm),
        "MLLM's weights": states.mllm.fingerprint,
        "connector": fingerprint(start_connector.state_dict()) if start_connector else "",
    }
    # Before prepare_model casts the text encoder, which would change its fingerprint.
    connector = _make_connector(start_connector, editor, states.mllm, settings.seed).to(accelerator.device)
    skipped = first.train(accelerator, editor, connector, states, models)
    unet = prepare_model(editor, accelerator, options.checkpointing, options.freeze)
    stream = ConnectorStream(blocks, options.resolution, settings.seed, texts, states)
    stream.skipped |= skipped
    edit_inputs = EditInputs(editor, settings.seed, settings.dropout, settings.snr_limit)
    run = FineTuning(
        accelerator,
        ConnectorLoss(unet, connector),
        ConnectorInputs(edit_inputs, options.meaning_weight),
        stream,
        settings,
        {**models, "indirect": options.indirect, **first.identity(accelerator.num_processes)},
    )

    def draw_samples(path: Path) -> None:
        pairs = [replace(record, words=words).read() for record, (words,) in watched]
        pairs = [pair.cropped(options.resolution) for pair in pairs]
        hidden, mask = padded([states.of(record, words) for record, (words,) in watched])
        context = connector.encode(editor.encode_text([pair.words for pair in pairs]), hidden, mask)
        save_sample_image(editor, pairs, path, context)

    def save_result(folder: Path) -> None:
        save_connector(connector, folder.with_name("connector.safetensors"))
        save_model(editor, source, folder)

    train_to_end(run, options, draw_samples if watched else None, save_result)
    if accelerator.is_main_process:
        print(f"{RunFolder(options.out).connector}: connects '{states.mllm.name}' to that model")


def _load_states(
    options: argparse.Namespace,
    accelerator: Accelerator,
    needed: NeededStates,
    start_connector: Connector | None,
) -> PairStates:
    """Returns the states of all pairs, see ``load_or_compute_states``."""
    folder = POCKET_READER_FOLDER if options.mllm == "pocket" else resolved(options.mllm)
    dtype, bits = _PRECISIONS[options.mllm_precision]
    task = start_connector.config.task if start_connector else STATES_TASK

    def load() -> Mllm:
        mllm = load_mllm(folder, accelerator.device, dtype, bits, lazily=True)
        if start_connector is not None:
            _check_mllm(start_connector.config, MllmIdentity.of(mllm, task))
        return mllm

    mllm = LazyMllm(title_of(folder), task, load, options.mllm_batch)
    states_folder = Path(options.states or Path(options.out) / "states")
    return load_or_compute_states(states_folder, mllm, needed, accelerator)


def _make_connector(
    start_connector: Connector | None, editor: DiffusersEditor, mllm: MllmIdentity, seed: int
) -> Connector:
    """Returns an untrained connector between an MLLM and an editor, or prepares ``start_connector``."""
    origin = {
        "mllm_name": mllm.name,
        "mllm_fingerprint": mllm.fingerprint,
        "task": mllm.task,
        "text_fingerprint": text_fingerprint(editor.text_encoder.state_dict()),
    }
    family = editor.description.family
    if start_connector is None:
        return new_connector(config_for(family, mllm.width, **origin), seed)
    # If all states were cached, the MLLM was never loaded, and so never checked.
    _check_mllm(start_connector.config, mllm)
    start_connector.config = replace(start_connector.config, family=family.name, **origin)
    return start_connector.requires_grad_(True)


def _check_mllm(config: ConnectorConfig, mllm: MllmIdentity) -> None:
    """Checks that a connector was trained with an MLLM.

    Raises:
        ModelError: it was trained with another one.
    """
    if config.mllm_width != mllm.width or config.mllm_fingerprint not in ("", mllm.fingerprint):
        raise ModelError(
            f"Connector: it was trained with another MLLM ({config.mllm_name or 'not named'}, "
            f"{config.mllm_width} wide) than '{mllm.name}' ({mllm.width} wide). Give that one with --mllm, "
            "or leave --connector out."
        )


def _check_editor(config: ConnectorConfig, editor: DiffusersEditor) -> None:
    """Checks that an editor accepts a connector's text states.

    Raises:
        ModelError: it does not.
    """
    description = editor.description
    if config.text_width != description.family.context_width or config.queries > editor.window:
        raise ModelError(
            f"Connector: it gives {config.queries} text states {config.text_width} wide for {config.family}; "
            f"{description.title} takes {editor.window} of {description.family.context_width}. Give the "
            "model it was trained for with --model, or leave --connector out."
        )
