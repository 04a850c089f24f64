"""What kind of model a UNet is, told from the shapes of its tensors."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ModelError
from .attention import Shapes, Site, is_native, sites_of_unet


@dataclass(frozen=True)
class Family:
    """A family of InstructPix2Pix models that share one layout, so that an instruction learned on one acts in the others."""

    name: str
    """``"pocket"``, ``"sd15"``, ``"sd21"``, ``"sdxl"`` or ``"cosxl"``."""
    title: str
    context_width: int
    """Channels of the text states."""
    prediction: str
    """What the UNet predicts: ``"epsilon"``, ``"v_prediction"`` or ``"edm_v"``."""
    scaling_factor: float
    """Factor of the target latent."""
    scaled_image_latent: bool = False
    """Whether the image condition is scaled too: InstructPix2Pix leaves it unscaled, CosXL-Edit scales it."""
    heads: int | None = None
    """Attention heads of every site, or ``None`` where ``head_width`` is what is constant."""
    head_width: int | None = None
    default_text_scale: float = 7.5
    """s_T of Eq. 3."""


POCKET = Family("pocket", "pocket editor", 128, "epsilon", 1.0, heads=4, default_text_scale=2.0)
SD15 = Family("sd15", "InstructPix2Pix (Stable Diffusion 1.5)", 768, "epsilon", 0.18215, heads=8)
SD21 = Family("sd21", "InstructPix2Pix (Stable Diffusion 2.1)", 1024, "epsilon", 0.18215, head_width=64)
SDXL = Family("sdxl", "InstructPix2Pix (SDXL)", 2048, "epsilon", 0.13025, head_width=64)
COSXL = Family("cosxl", "CosXL-Edit", 2048, "edm_v", 0.13025, scaled_image_latent=True, head_width=64)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (POCKET, SD15, SD21, SDXL, COSXL)}

IN_CHANNELS = 8
"""Noisy latent and image latent, four channels each."""

ReadRows = Callable[[str, int], Tensor]
"""``read(key, rows)`` -> the first rows of a 2-D tensor, in any floating dtype, on any device."""


@dataclass(frozen=True)
class ModelDescription:
    """What is known about a model without running it."""

    family: Family
    sites: tuple[Site, ...]
    in_channels: int
    fingerprint: str
    """See :func:`fingerprint_of`."""
    title: str


def detect_family(shapes: Shapes, edm: bool = False, prediction: str | None = None, title: str = "UNet") -> Family:
    """Tell the family from a UNet's shapes.

    Args:
        shapes: the UNet's tensors in either dialect, without a checkpoint's prefix.
        edm: the checkpoint carries ``edm_vpred.sigma_max``, which sets CosXL apart from an ordinary SDXL model.
        prediction: ``"epsilon"`` or ``"v_prediction"`` where that is known (a scheduler's config); shapes do not show it.
        title: the file's name, for messages.

    Raises:
        ModelError: it is no 8-channel InstructPix2Pix UNet of a known family.
    """
    first = shapes.get("input_blocks.0.0.weight") or shapes.get("conv_in.weight")
    if first is None or len(first) != 4:
        raise ModelError(
            f"{title}: no Stable Diffusion UNet was found in it (neither conv_in.weight nor input_blocks.0.0.weight). "
            "Choose an InstructPix2Pix checkpoint or a diffusers folder with a unet inside."
        )
    _check_channels(first[1], title)
    sites = sites_of_unet(shapes)
    widths = {site.context_width for site in sites}
    by_width = {family.context_width: family for family in (POCKET, SD15, SD21, SDXL)}
    if len(widths) != 1 or next(iter(widths)) not in by_width:
        raise ModelError(
            f"{title}: its text states are {', '.join(str(width) for width in sorted(widths))} wide, which is no known family "
            "(pocket 128, SD1.5 768, SD2.1 1024, SDXL 2048)."
        )
    family = by_width[next(iter(widths))]
    expected = {"sd15": 16, "sd21": 16, "sdxl": 70}.get(family.name, len(sites))
    if len(sites) != expected:
        raise ModelError(
            f"{title}: {len(sites)} cross-attention layers were found, a {family.title} model has {expected}. The file is incomplete or of another kind."
        )
    if edm and family is SDXL:
        return COSXL
    if prediction not in (None, "epsilon", "v_prediction"):
        raise ModelError(f"{title}: prediction type '{prediction}' is not supported; epsilon and v_prediction are.")
    return replace(family, prediction=prediction) if prediction else family


def _check_channels(channels: int, title: str) -> None:
    if channels == IN_CHANNELS:
        return
    needed = f"{channels} input channels, {IN_CHANNELS} needed (4 noise + 4 image)"
    if channels == 4:
        raise ModelError(
            f"{title}: this is not an InstructPix2Pix model: {needed}. It is a plain text-to-image model; "
            "choose an InstructPix2Pix one such as timbrooks/instruct-pix2pix."
        )
    if channels == 9:
        raise ModelError(f"{title}: this is an inpainting model, not an InstructPix2Pix model: {needed}.")
    if channels == 12:
        raise ModelError(
            f"{title}: this is a mask-conditioned editing model (12 input channels: 4 noise + 4 image + 4 mask), which this loader does not support yet. "
            f"Choose a model with {IN_CHANNELS} input channels."
        )
    raise ModelError(f"{title}: unknown kind of model: {needed}.")


def fingerprint_of(sites: tuple[Site, ...], read: ReadRows, native: bool) -> str:
    """A short identity of a model's cross-attention: sha256, hex, over all site names and shapes and a few weights.

    The weights are the first 4 rows of ``to_k`` and ``to_v`` of at most 8 sites spread over the model, rounded to fp16 and then to bf16. So the
    fingerprint is the same in either key dialect and for fp32 and fp16 storage, and for a bf16 copy made from an fp16 file. A bf16 copy made
    straight from fp32 weights, or fp8 storage, may give another one.

    Args:
        sites: the model's sites.
        read: gives the rows of a tensor by its key in the model's own dialect; see :data:`ReadRows`.
        native: whether that is the original (ComfyUI's) dialect.
    """
    digest = hashlib.sha256()
    for site in sites:
        digest.update(f"{site.name} {site.width} {site.context_width}\n".encode())
    count = min(8, len(sites))
    for index in range(count):
        site = sites[index * (len(sites) - 1) // max(1, count - 1)]
        for projection in ("to_k", "to_v"):
            rows = read(f"{site.native_name if native else site.name}.{projection}.weight", 4)
            rounded = rows.detach().to("cpu", torch.float16).to(torch.bfloat16).contiguous()
            digest.update(rounded.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def describe_unet(
    shapes: Shapes, read: ReadRows, edm: bool = False, prediction: str | None = None, title: str = "UNet", heads: int | None = None
) -> ModelDescription:
    """Describe a UNet in either dialect, from a file or from a live model.

    Args:
        shapes, edm, prediction, title: as in :func:`detect_family`.
        read: see :data:`ReadRows`. A live model must give its own weights, not ones that a LoRA has been merged into.
        heads: number of attention heads where a config tells it (pocket), otherwise the family's.

    Raises:
        ModelError: as :func:`detect_family`.
    """
    family = detect_family(shapes, edm, prediction, title)
    sites = sites_of_unet(shapes, family.head_width, heads or family.heads)
    in_channels = (shapes.get("input_blocks.0.0.weight") or shapes["conv_in.weight"])[1]
    return ModelDescription(family, sites, in_channels, fingerprint_of(sites, read, is_native(shapes)), title)
