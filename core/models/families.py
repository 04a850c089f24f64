"""Detects what family a model belongs to, from the shapes of its tensors."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ModelError
from . import sd3
from .attention_sites import Shapes, Site, is_native, sites_of_unet


@dataclass(frozen=True)
class Family:
    """InstructPix2Pix models with one layout: an instruction learned on one also acts in the others."""

    name: str
    """``"pocket"``, ``"sd15"``, ``"sd21"``, ``"sdxl"``, ``"cosxl"`` or ``"sd3"``."""
    title: str
    context_width: int
    """Channels of the text states."""
    prediction: str
    """Prediction type: ``"epsilon"``, ``"v_prediction"``, ``"edm_v"`` or ``"flow"``."""
    scaling_factor: float
    """Factor on the VAE's latents."""
    heads: int | None = None
    """Attention heads of every site; None if ``head_width`` is constant instead."""
    head_width: int | None = None
    default_text_scale: float = 7.5
    """s_T of Eq. 3."""
    default_image_scale: float = 1.5
    """s_I of Eq. 3."""
    latent_channels: int = 4
    """Channels of an image's latent."""
    comfyui_only: bool = False
    """Whether the diffusers engine cannot run it."""
    site_count: int | None = None
    """Number of cross-attention layers; None accepts any number."""
    side: int = 512
    """Side of the training images, in pixels."""


POCKET = Family("pocket", "pocket editor", 128, "epsilon", 1.0, heads=4, default_text_scale=2.0, side=128)
SD15 = Family(
    "sd15", "InstructPix2Pix (Stable Diffusion 1.5)", 768, "epsilon", 0.18215, heads=8, site_count=16
)
SD21 = Family(
    "sd21",
    "InstructPix2Pix (Stable Diffusion 2.1)",
    1024,
    "epsilon",
    0.18215,
    head_width=64,
    site_count=16,
    side=768,
)
SDXL = Family(
    "sdxl",
    "InstructPix2Pix (SDXL)",
    2048,
    "epsilon",
    0.13025,
    head_width=64,
    comfyui_only=True,
    site_count=70,
    side=1024,
)
COSXL = replace(SDXL, name="cosxl", title="CosXL-Edit", prediction="edm_v")
# UltraEdit scales latents as Stable Diffusion 3 does, but does not shift them.
SD3 = Family(
    "sd3", "UltraEdit (Stable Diffusion 3)", 4096, "flow", 1.5305, latent_channels=16, comfyui_only=True
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (POCKET, SD15, SD21, SDXL, COSXL, SD3)}

ReadRows = Callable[[str, int], Tensor]
"""``read(key, count)`` -> the first rows of a 2-D tensor, in any floating dtype, on any device."""


@dataclass(frozen=True)
class ModelDescription:
    """Describes a model without running it.

    Models that read a mask and models that do not belong to the same family. Their sites are alike, so an
    instruction learned on one acts in the other.
    """

    family: Family
    sites: tuple[Site, ...]
    """Empty for Stable Diffusion 3, whose layers attend to text and image jointly."""
    in_channels: int
    """Channels of the noisy latent, the image's latent and, if the model reads a mask, the mask's latent."""
    fingerprint: str
    """See ``fingerprint_of``."""
    title: str

    @property
    def condition_channels(self) -> int:
        """Channels of the image condition, i.e. of all that follows the noisy latent."""
        return self.in_channels - self.family.latent_channels

    @property
    def reads_mask(self) -> bool:
        """Whether the model takes a mask (UltraEdit)."""
        return self.in_channels == 3 * self.family.latent_channels

    def require_mask(self) -> None:
        """Checks that the model reads a mask.

        Raises:
            ModelError: it does not.
        """
        if not self.reads_mask:
            raise ModelError(
                f"{self.title}: this model reads no mask ({self.in_channels} input channels, "
                f"{3 * self.family.latent_channels} in one that does). Remove the mask and limit the edit "
                "with Region Edit, or load a model that reads masks."
            )

    def require_sites(self) -> None:
        """Checks that instructions can act in the model.

        Raises:
            ModelError: it has no cross-attention layers.
        """
        if not self.sites:
            raise ModelError(
                f"{self.title}: {self.family.title} has no cross-attention layers, so instructions can "
                "neither be learned on it nor act in it. Edit with words, or use a model of the pocket, "
                "SD1.5, SD2.1 or SDXL family."
            )


def detect_family(
    shapes: Shapes, edm: bool = False, prediction: str | None = None, title: str = "UNet"
) -> Family:
    """Detects the family of a UNet, or of UltraEdit's transformer, by its shapes.

    Args:
        shapes: the model's tensors in either dialect, without a checkpoint's prefix.
        edm: the checkpoint has ``edm_vpred.sigma_max``, which CosXL has and SDXL has not.
        prediction: ``"epsilon"`` or ``"v_prediction"`` if known, e.g. from a scheduler's config. Shapes do
            not show it.
        title: the file's name, for messages.

    Raises:
        ModelError: it is not an editing model of a known family.
    """
    if sd3.is_transformer(shapes):
        _check_channels(sd3.in_channels(shapes), SD3, title)
        return SD3
    first = shapes.get("input_blocks.0.0.weight") or shapes.get("conv_in.weight")
    if first is None or len(first) != 4:
        raise ModelError(
            f"{title}: no Stable Diffusion UNet was found in it (neither conv_in.weight nor "
            "input_blocks.0.0.weight). Choose an InstructPix2Pix checkpoint or a diffusers folder with a "
            "unet inside."
        )
    _check_channels(first[1], SD15, title)
    sites = sites_of_unet(shapes)
    widths = {site.context_width for site in sites}
    by_width = {family.context_width: family for family in (POCKET, SD15, SD21, SDXL)}
    if len(widths) != 1 or next(iter(widths)) not in by_width:
        raise ModelError(
            f"{title}: its text states are {', '.join(str(width) for width in sorted(widths))} wide, which "
            "is not a known family (pocket 128, SD1.5 768, SD2.1 1024, SDXL 2048). Choose a model of one of "
            "these families."
        )
    family = by_width[next(iter(widths))]
    if family.site_count not in (None, len(sites)):
        raise ModelError(
            f"{title}: {len(sites)} cross-attention layers were found, a {family.title} model has "
            f"{family.site_count}. The file is incomplete or of another kind. Download it again."
        )
    if edm and family is SDXL:
        return COSXL
    if prediction not in (None, "epsilon", "v_prediction"):
        raise ModelError(
            f"{title}: prediction type '{prediction}' is not supported. Choose a model that predicts epsilon "
            "or v_prediction."
        )
    return replace(family, prediction=prediction) if prediction else family


def _check_channels(channels: int, family: Family, title: str) -> None:
    latent = family.latent_channels
    if channels in (2 * latent, 3 * latent):
        return
    needed = (
        f"{channels} input channels; {2 * latent} ({latent} noise + {latent} image) or "
        f"{3 * latent} (+ {latent} mask) are needed"
    )
    if channels == latent:
        example = "timbrooks/instruct-pix2pix" if family is not SD3 else "BleachNick/SD3_UltraEdit_w_mask"
        raise ModelError(
            f"{title}: this is not an InstructPix2Pix model: {needed}. It is a plain text-to-image model; "
            f"choose an InstructPix2Pix one such as {example}."
        )
    if channels == 2 * latent + 1:
        raise ModelError(
            f"{title}: this is an inpainting model, not an InstructPix2Pix model: {needed}. It fills holes "
            "and follows no instructions; use it with ComfyUI's own inpainting nodes, or choose an editing "
            "model."
        )
    raise ModelError(
        f"{title}: unknown kind of model: {needed}. Choose an InstructPix2Pix model such as "
        "timbrooks/instruct-pix2pix."
    )


def fingerprint_of(sites: tuple[Site, ...], read: ReadRows, native: bool) -> str:
    """Hashes a model's cross-attention: sha256, hex, over all site names, their shapes and a few weights.

    The weights are the first 4 rows of ``to_k`` and ``to_v`` of at most 8 sites spread over the model,
    rounded to fp16 and then to bf16. So the fingerprint does not depend on the key dialect, and is the same
    for fp32, for fp16, and for bf16 made from fp16. It may differ for bf16 made directly from fp32, and for
    fp8.

    Args:
        sites: the model's sites.
        read: reads the first rows of a tensor by its key in the model's own dialect; see ``ReadRows``.
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
    shapes: Shapes,
    read: ReadRows,
    edm: bool = False,
    prediction: str | None = None,
    title: str = "UNet",
    heads: int | None = None,
) -> ModelDescription:
    """Describes a model in either dialect, from a file or from a live model.

    Args:
        shapes, edm, prediction, title: as in ``detect_family``.
        read: see ``ReadRows``. For a live model it must read the original weights, without a merged LoRA.
        heads: number of attention heads if a config has it (pocket); otherwise the family's.

    Raises:
        ModelError: as ``detect_family``.
    """
    family = detect_family(shapes, edm, prediction, title)
    if family is SD3:
        return ModelDescription(family, (), sd3.in_channels(shapes), sd3.fingerprint_of(shapes, read), title)
    sites = sites_of_unet(shapes, family.head_width, heads or family.heads)
    in_channels = (shapes.get("input_blocks.0.0.weight") or shapes["conv_in.weight"])[1]
    return ModelDescription(family, sites, in_channels, fingerprint_of(sites, read, is_native(shapes)), title)
