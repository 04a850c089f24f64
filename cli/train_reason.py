"""``python -m instructbrush reason train``: tune an editor together with a connector to a vision-language model (ReasonPix2Pix), on one GPU or many."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..core.editing.editor import DiffusersEditor
from ..core.encoders.mllm import STATES_TASK, Mllm, load_mllm
from ..core.errors import LearningError, ModelError
from ..core.finetuning.dataset import Block, find_blocks, first_rows
from ..core.finetuning.export import save_model
from ..core.finetuning.pair_states import Chat, PairStates, Reader, Texts, states_of_pairs
from ..core.finetuning.trainer import FineTuning, make_accelerator
from ..core.finetuning.with_connector import ReasonedError, ReasonedInputs, ReasonedStream
from ..core.models.builtin import POCKET_READER_FOLDER, TITLES
from ..core.models.weights import fingerprint
from ..core.reasoning.connector import (
    Connector,
    ConnectorConfig,
    config_for,
    load_connector,
    new_connector,
    save_connector,
    text_fingerprint,
)
from ..core.reasoning.state_cache import padded
from .training_run import SHOWN, add_run_options, carry_out, load_tunable, make_ready, save_sheet, settings_of

if TYPE_CHECKING:
    from accelerate import Accelerator

_CHANNELS = 8
"""Noise and image."""
_PRECISIONS: dict[str, tuple[torch.dtype | None, int | None]] = {
    "auto": (None, None),
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "fp32": (torch.float32, None),
    "8bit": (None, 8),
    "4bit": (None, 4),
}
"""--mllm-precision -> dtype and bits."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``reason train``."""
    add_run_options(parser)
    parser.add_argument(
        "--mllm", required=True, help="folder of a vision-language model such as LLaVA-1.5, or 'pocket'"
    )
    parser.add_argument(
        "--mllm-precision",
        choices=_PRECISIONS,
        default="auto",
        help="of its weights (default auto: as stored, fp32 on the CPU)",
    )
    parser.add_argument(
        "--mllm-batch", type=int, default=4, help="images with words that it reads at once (default 4)"
    )
    parser.add_argument(
        "--states",
        metavar="DIR",
        help="where its states are kept (default: states/ in --out); runs on the same data may share it",
    )
    parser.add_argument(
        "--connector", metavar="FILE", help="a trained connector to begin with (default: an untrained one)"
    )
    parser.add_argument(
        "--indirect",
        type=float,
        default=0.5,
        help="chance of an indirect instruction where a pair has both kinds (default 0.5)",
    )


def train(options: argparse.Namespace) -> None:
    """Train a connector and tune the model with it. Stopped, it goes on from its last checkpoint with ``--resume``, and then does what it would have done.

    Raises:
        LearningError: options that make no sense, a run that is there already or that the checkpoint does not belong to, states of another MLLM, a loss that
            is not finite.
        ModelError, PairError, DataError: models, connector or data cannot be used.
    """
    settings = settings_of(options)
    if not 0 <= options.indirect <= 1:
        raise LearningError(f"Fine-tuning: --indirect is {options.indirect}; it is a chance, 0 to 1.")
    if options.mllm_batch < 1:
        raise LearningError(f"Fine-tuning: --mllm-batch is {options.mllm_batch}; it must be 1 or more.")
    texts, blocks = (
        Texts(options.indirect),
        find_blocks([Path(place) for place in options.data], options.strict),
    )
    seen = find_blocks([Path(options.validation)]) if options.validation else blocks
    begun = load_connector(options.connector) if options.connector else None
    accelerator = make_accelerator(options.precision, settings.accumulation)
    editor, source = load_tunable(options, accelerator.device, _CHANNELS)
    if begun is not None:
        _check_editor(begun.config, editor)
    # Of a pair that has both kinds an indirect instruction is shown.
    watched = [(row, texts.of(row)[-1:]) for row in first_rows(seen, SHOWN)] if options.pictures_every else []
    states = _states(options, accelerator, texts, blocks, watched, begun)
    identity = {
        "model": editor.description.fingerprint,
        "resolution": options.resolution,
        "indirect": options.indirect,
        "MLLM": str(states.reader),
        "MLLM's weights": states.reader.fingerprint,
        "connector": fingerprint(begun.state_dict()) if begun else "",
    }
    # Before the text encoder is brought to another precision, which would change its fingerprint.
    connector = _connector(begun, editor, states.reader, settings.seed).to(accelerator.device)
    error = ReasonedError(make_ready(editor, accelerator, options.checkpointing), connector)
    stream = ReasonedStream(blocks, options.resolution, settings.seed, texts, states)
    run = FineTuning(
        accelerator,
        error,
        ReasonedInputs(editor, settings.seed, settings.dropout),
        stream,
        settings,
        identity,
    )

    def keep(folder: Path) -> None:
        save_connector(connector, folder.with_name("connector.safetensors"))
        save_model(editor, source, folder)

    carry_out(
        run,
        options,
        (lambda path: _show(editor, connector, states, watched, options.resolution, path))
        if watched
        else None,
        keep,
    )
    if accelerator.is_main_process:
        print(f"{Path(options.out) / 'connector.safetensors'}: between '{states.reader.name}' and that model")


def _states(
    options: argparse.Namespace,
    accelerator: Accelerator,
    texts: Texts,
    blocks: Sequence[Block],
    watched: Sequence[Chat],
    begun: Connector | None,
) -> PairStates:
    """See :func:`~..core.finetuning.pair_states.states_of_pairs`."""
    source = POCKET_READER_FOLDER if options.mllm == "pocket" else Path(options.mllm)
    dtype, bits = _PRECISIONS[options.mllm_precision]
    task = begun.config.task if begun else STATES_TASK

    def load() -> Mllm:
        mllm = load_mllm(source, accelerator.device, dtype, bits, lazily=True)
        if begun is not None:
            _check_reader(begun.config, Reader.of(mllm, task))
        return mllm

    folder, name = (
        Path(options.states or Path(options.out) / "states"),
        TITLES.get(source) or source.resolve().name,
    )
    return states_of_pairs(folder, load, name, task, texts, blocks, watched, options.mllm_batch, accelerator)


def _connector(begun: Connector | None, editor: DiffusersEditor, reader: Reader, seed: int) -> Connector:
    """An untrained connector between an MLLM and an editor, or one to go on with."""
    known = {"mllm_name": reader.name, "mllm_fingerprint": reader.fingerprint, "task": reader.task}
    known["text_fingerprint"] = text_fingerprint(editor.text_encoder.state_dict())
    family = editor.description.family
    if begun is None:
        return new_connector(config_for(family, reader.width, **known), seed)
    _check_reader(begun.config, reader)  # states may be there without the MLLM
    begun.config = replace(begun.config, family=family.name, **known)
    return begun.requires_grad_(True)


def _check_reader(config: ConnectorConfig, reader: Reader) -> None:
    """See that a connector to begin with was trained with an MLLM.

    Raises:
        ModelError: it was trained with another one.
    """
    if config.mllm_width != reader.width or config.mllm_fingerprint not in ("", reader.fingerprint):
        raise ModelError(
            f"Connector: it was trained with another MLLM ({config.mllm_name or 'not named'}, {config.mllm_width} wide) than '{reader.name}' "
            f"({reader.width} wide). Give that one with --mllm, or leave --connector away."
        )


def _check_editor(config: ConnectorConfig, editor: DiffusersEditor) -> None:
    """See that a connector to begin with gives text states that the editor takes.

    Raises:
        ModelError: it does not.
    """
    description = editor.description
    if config.text_width != description.family.context_width or config.queries > editor.window:
        raise ModelError(
            f"Connector: it gives {config.queries} text states {config.text_width} wide for {config.family}; {description.title} takes {editor.window} of "
            f"{description.family.context_width}. Give the model it was trained for with --model, or leave --connector away."
        )


def _show(
    editor: DiffusersEditor,
    connector: Connector,
    states: PairStates,
    watched: list[Chat],
    side: int,
    path: Path,
) -> None:
    """See :func:`~.training_run.save_sheet`."""
    pairs = [replace(row, words=words).read().framed(side) for row, (words,) in watched]
    hidden, mask = padded([states.of(row, words) for row, (words,) in watched])
    save_sheet(
        editor,
        pairs,
        path,
        connector.encode(editor.encode_text([pair.words for pair in pairs]), hidden, mask),
    )
