"""Options that all builds share: source, folder, workers and language models."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.errors import BuildError
from ...core.generation.engine.build import ANSWERS, Source
from ...core.generation.engine.first_rows import FirstRows
from ...core.generation.language.endpoint import EndpointSettings
from ...core.generation.language.local import LocalSettings
from ...core.generation.language.models import LanguageModel
from ...core.generation.sources.opening import open_source
from ..options import finite_float, positive_int

POCKET_SIDE, SIDE = 128, 512
"""Pixels of the images of the built-in models, and of others."""

ModelSettings = EndpointSettings | LocalSettings
"""Both have ``open(answers)``, which gives a ``LanguageModel``."""


@dataclass(frozen=True)
class OpenedModel:
    """Opens a language model where a stage runs. Its ``repr`` does not depend on the build's folder."""

    settings: ModelSettings
    answers: str = field(repr=False)

    def __call__(self) -> LanguageModel:
        """Opens the model, with its answers kept in the build's folder."""
        return self.settings.open(Path(self.answers))


def add_shared_options(parser: argparse.ArgumentParser, source: bool = True) -> None:
    """Adds source, folder, workers, device and language models.

    Args:
        parser: gets the options.
        source: whether the build has a source of images.
    """
    if source:
        parser.add_argument(
            "--source",
            required=True,
            help="the images: a folder of images, parquet files, an InstructPix2Pix tree, COCO or V3Det "
            "annotations, or an imagefolder with metadata",
        )
        parser.add_argument("--rows", type=positive_int, help="only the first rows of the source")
    parser.add_argument("--out", required=True, help="folder of the build; the same command continues it")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--ray", action="store_true", help="use Ray Data: the cluster of RAY_ADDRESS, or this machine"
    )
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each Ray worker (default 0)")
    parser.add_argument(
        "--device",
        default="auto",
        help="of local models: auto (a GPU if there is one), cpu, cuda, cuda:1, mps, xpu (default auto)",
    )
    _add_model_options(parser)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    kinds = "address of an OpenAI-compatible endpoint (http://.../v1), a folder, or pocket"
    parser.add_argument("--llm", help=f"language model: {kinds}")
    parser.add_argument("--llm-model", metavar="NAME", help="name of the language model at its endpoint")
    parser.add_argument("--vlm", help=f"vision-language model: {kinds}")
    parser.add_argument("--vlm-model", metavar="NAME", help="name of the model at its endpoint")
    parser.add_argument(
        "--llm-key-env", metavar="VARIABLE", help="environment variable that holds the key of --llm"
    )
    parser.add_argument(
        "--vlm-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the key of --vlm (default that of --llm-key-env, unless --llm "
        "is at another host)",
    )
    add_price_option(parser)
    parser.add_argument(
        "--llm-requests", type=float, metavar="N", help="most requests a minute to each endpoint"
    )
    parser.add_argument(
        "--llm-timeout", type=float, default=120.0, metavar="SECONDS", help="of a reply (default 120)"
    )


def add_price_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--llm-prices``."""
    parser.add_argument(
        "--llm-prices",
        type=finite_float,
        nargs=2,
        default=(0.0, 0.0),
        metavar=("IN", "OUT"),
        help="price of a million tokens of language models, for the plan and the report (default 0 0)",
    )


def source_of(options: argparse.Namespace) -> Source:
    """Opens the rows of ``--source`` that ``--rows`` leaves.

    Raises:
        DataError: the source cannot be read.
        PairError: a list cannot be read.
        BuildError: the build's files would be rows of its own source.
    """
    place, out = Path(options.source), Path(options.out)
    source = open_source(place)
    within = out.resolve().is_relative_to(place.resolve())
    if within and source.reads_folders and not (out / "build.json").exists():
        raise BuildError(
            f"Build: --out '{out}' is inside of --source, so that its images would count as images of the "
            "source. Give a folder outside."
        )
    return source if options.rows is None else FirstRows(source, options.rows)


def language_model(options: argparse.Namespace) -> ModelSettings:
    """Returns the settings of ``--llm``.

    Raises:
        BuildError: it is missing, or cannot be used.
    """
    if options.llm is None:
        raise BuildError(
            "Build: no language model is named. Give --llm: the address of an endpoint, a folder, or pocket."
        )
    settings = _settings(options.llm, options.llm_model, "--llm-model", options)
    if isinstance(settings, EndpointSettings):
        return replace(settings, key_variable=options.llm_key_env)
    return settings


def model_title(options: argparse.Namespace) -> str:
    """What the report calls the model of ``--llm``."""
    return f"{options.llm} {options.llm_model or ''}".strip()


def vision_model(options: argparse.Namespace) -> ModelSettings | None:
    """Returns the settings of ``--vlm``, or None without it.

    Raises:
        BuildError: it cannot be used.
    """
    if options.vlm is None:
        return None
    settings = _settings(options.vlm, options.vlm_model, "--vlm-model", options)
    if not isinstance(settings, EndpointSettings):
        return settings
    key = options.vlm_key_env
    if key is None and not _is_elsewhere(settings, options.llm):
        key = options.llm_key_env
    return replace(settings, sees_images=True, key_variable=key)


def _is_elsewhere(settings: EndpointSettings, llm: str | None) -> bool:
    """Whether ``--llm`` is an endpoint at another host, whose key must not be sent to this one."""
    return llm is not None and _is_address(llm) and EndpointSettings(llm, "any").host != settings.host


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def answers_folder(options: argparse.Namespace) -> Path:
    """Returns the folder that keeps the answers of language models."""
    return Path(options.out) / ANSWERS


def _settings(place: str, name: str | None, option: str, options: argparse.Namespace) -> ModelSettings:
    if not _is_address(place):
        return LocalSettings(place, options.device)
    if name is None:
        # The address is not shown, because it may hold a key.
        raise BuildError(f"Build: a model is named by its address. Give its name there, too: {option}.")
    return EndpointSettings(
        place, name, timeout=options.llm_timeout, requests_per_minute=options.llm_requests
    )
