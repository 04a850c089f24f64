"""Options that all fine-tuning commands share, and the paths inside a run's folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...core.errors import LearningError
from ...core.finetuning.settings import FineTuningSettings
from ...core.storage.files import check_writable
from ..options import Several, seed_number
from .model import FROZEN_PARTS

PRECISIONS = ("no", "fp16", "bf16")


class RunFolder:
    """Paths inside the folder of a run."""

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.log = self.path / "log.jsonl"
        self.first_checkpoint = self.path / "first_stage.safetensors"
        self.first_log = self.path / "first_stage.jsonl"
        self.model = self.path / "model"
        self.connector = self.path / "connector.safetensors"

    def sample_image(self, step: int) -> Path:
        """Returns the path of the sample image of a step."""
        return self.path / "pictures" / f"{step:06d}.png"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all fine-tuning commands share."""
    _add_data_options(parser)
    _add_model_options(parser)
    _add_training_options(parser)
    _add_loss_options(parser)
    _add_output_options(parser)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="diffusers folder: an InstructPix2Pix model or plain Stable Diffusion 1.5 or 2.1; or 'pocket'",
    )
    parser.add_argument(
        "--data",
        required=True,
        action=Several,
        metavar="DIR",
        help="UltraEdit's .parquet files, or folders with pairs.json",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder of the run, shared by all machines: model, checkpoint, log and sample images",
    )
    parser.add_argument("--resume", action="store_true", help="resume from the checkpoint in --out")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--new-channels",
        choices=("zero", "random"),
        default="zero",
        help="weights of input channels that the model lacks: zero as in InstructPix2Pix and in UltraEdit's "
        "code, random as in UltraEdit's paper (default zero)",
    )
    parser.add_argument(
        "--freeze",
        choices=FROZEN_PARTS,
        action=Several,
        default=[],
        help="parts of the UNet that are not trained; with keys-values, learned instructions keep working",
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    defaults = FineTuningSettings()
    parser.add_argument(
        "--steps", type=int, default=defaults.steps, help=f"total number of steps (default {defaults.steps})"
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=defaults.batch,
        help=f"samples that a process handles at once (default {defaults.batch})",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=defaults.accumulation,
        help=f"batches in a step (default {defaults.accumulation})",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=defaults.learning_rate,
        help=f"learning rate (default {defaults.learning_rate})",
    )
    parser.add_argument(
        "--final-rate",
        type=float,
        metavar="RATE",
        help="learning rate at the last step, reached along a cosine (default: the rate is constant)",
    )
    parser.add_argument(
        "--warmup",
        type=int,
        default=defaults.warmup,
        help=f"steps over which the rate rises (default {defaults.warmup})",
    )
    parser.add_argument(
        "--average",
        type=float,
        default=defaults.average_decay,
        help=f"decay of the weights' moving average (default {defaults.average_decay})",
    )
    parser.add_argument(
        "--beta2",
        type=float,
        default=defaults.beta2,
        help=f"AdamW's decay of squared gradients (default {defaults.beta2})",
    )
    parser.add_argument(
        "--resolution",
        type=int,
        default=256,
        help="side in pixels; images are scaled and cropped (default 256)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of the computation; weights stay in fp32 (default: accelerate's, else no)",
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="gradient checkpointing: less memory, a third more time"
    )
    parser.add_argument(
        "--seed", type=seed_number, default=defaults.seed, help=f"random seed (default {defaults.seed})"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=defaults.threads,
        help=f"threads in each process that decode images (default {defaults.threads})",
    )


def _add_loss_options(parser: argparse.ArgumentParser) -> None:
    defaults = FineTuningSettings()
    parser.add_argument(
        "--dropout",
        type=float,
        default=defaults.dropout,
        help="share of samples without text, share without image, and share without both, each "
        f"(default {defaults.dropout})",
    )
    parser.add_argument(
        "--snr-limit",
        type=float,
        metavar="LIMIT",
        help="limit of Min-SNR's loss weights, such as 5 (default: all timesteps weigh the same)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save-every", type=int, default=1000, help="steps between checkpoints (default 1000)"
    )
    parser.add_argument(
        "--log-every", type=int, default=50, help="steps between lines of log.jsonl (default 50)"
    )
    parser.add_argument(
        "--pictures-every",
        type=int,
        default=1000,
        help="steps between sample images; 0 draws none (default 1000)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with exit code 1 if pairs could not be used and were skipped",
    )
    parser.add_argument(
        "--validation",
        metavar="DIR",
        help="unseen data for the sample images (default: the first pairs of --data)",
    )


def read_settings(options: argparse.Namespace) -> FineTuningSettings:
    """Checks the options and the run's folder, before anything is loaded. Returns the settings.

    Raises:
        LearningError: an option is invalid, the folder already holds a run, or there is none to resume.
        StorageError: the folder cannot be written to.
    """
    for name in ("resolution", "save_every", "log_every"):
        if getattr(options, name) < 1:
            raise LearningError(
                f"Fine-tuning: --{name.replace('_', '-')} is {getattr(options, name)}; it must be 1 or more."
            )
    folder = RunFolder(options.out)
    exists = folder.checkpoint.exists() or folder.first_checkpoint.exists()
    if options.resume and not exists:
        raise LearningError(
            f"Fine-tuning: '{options.out}' has no checkpoint to resume from. Leave --resume out."
        )
    if exists and not options.resume:
        raise LearningError(
            f"Fine-tuning: '{options.out}' already holds a run. Add --resume to continue it, or choose "
            "another --out."
        )
    check_writable(folder.checkpoint)
    return FineTuningSettings(
        steps=options.steps,
        batch=options.batch,
        accumulation=options.accumulate,
        learning_rate=options.rate,
        final_rate=options.final_rate,
        warmup=options.warmup,
        beta2=options.beta2,
        average_decay=options.average,
        dropout=options.dropout,
        snr_limit=options.snr_limit,
        seed=options.seed,
        threads=options.threads,
    )


def check_probability(options: argparse.Namespace, name: str) -> None:
    """Checks an option that is a probability.

    Raises:
        LearningError: the value is not in 0..1.
    """
    value = getattr(options, name)
    if not 0 <= value <= 1:
        raise LearningError(
            f"Fine-tuning: --{name.replace('_', '-')} is {value}; it is a probability, 0 to 1."
        )
