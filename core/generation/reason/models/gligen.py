"""Replaces objects with GLIGEN, as the paper does: inpainting inside boxes that phrases describe."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import ModelError, first_line
from ....evaluation.metrics import quantized
from ....models.hub_folders import model_folder, model_title
from ....models.pretrained import refuse_adapter
from ....models.weights import folder_weights, read_config, read_json
from ....regions.boxes import Box
from ....storage.image_sizes import scaled
from ....storage.image_tensors import to_image
from ..objects import with_article
from ..replacing import ObjectReplacer, ReplacementRequest, crop_around, inside_box

_PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_FILES = "unet, vae, text_encoder (each with config.json and .safetensors weights), tokenizer and scheduler"
# Where the classes of the parts may come from, according to model_index.json.
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
# Latents, the masked image's latents, and the mask.
_INPAINTING_CHANNELS = 9


@dataclass(frozen=True)
class GligenSpec:
    """Which GLIGEN replaces objects, and how. Calling it raises ``ModelError`` if it cannot be loaded."""

    folder: str
    """A diffusers folder of an inpainting model, such as gligen-1-4-inpainting-text-box."""
    device: str = field(default="cpu", repr=False)
    half: bool = False
    """Whether weights are loaded in fp16."""
    steps: int = 50
    guidance: float = 7.5
    grounded: float = 0.3
    """Share of the steps, the first ones, in which boxes act."""

    def __call__(self) -> ObjectReplacer:
        """Loads the pipeline."""
        return GligenReplacer(self)


class GligenReplacer:
    """An ``ObjectReplacer``. GLIGEN works on squares of one size: the square around the box is cut out and
    scaled, and its pixels inside the box are put back.

    Args:
        spec: the model.

    Raises:
        ModelError: the folder lacks a part, has pickled or damaged weights, or is no GLIGEN for inpainting.
    """

    def __init__(self, spec: GligenSpec) -> None:
        import diffusers

        self._spec = spec
        folder = model_folder(spec.folder)
        _check_folder(folder)
        pipeline: Any = getattr(diffusers, "StableDiffusionGLIGENPipeline", None)
        if pipeline is None:
            raise ModelError(
                f"GLIGEN '{model_title(folder)}': diffusers {diffusers.__version__} no longer has its "
                "pipeline. Install an older one, or replace objects with the region editor."
            )
        try:
            self._pipeline = pipeline.from_pretrained(
                str(folder),
                torch_dtype=torch.float16 if spec.half else torch.float32,
                use_safetensors=True,
                local_files_only=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            ).to(spec.device)
        except Exception as error:  # unknown configurations make diffusers fail in any way
            raise ModelError(
                f"GLIGEN '{model_title(folder)}': diffusers cannot load {folder} ({first_line(error)}). It "
                f"needs {_FILES}."
            ) from error
        self._pipeline.set_progress_bar_config(disable=True)
        self._side = int(self._pipeline.vae.config.sample_size)

    @torch.no_grad()
    def replace(self, image: Tensor, request: ReplacementRequest) -> Tensor:
        """See ``ObjectReplacer.replace``."""
        height, width = image.shape[:2]
        box = request.box
        top, left, side = crop_around(box, height, width)
        if max(box.right - box.left, box.bottom - box.top) > side:
            top, left, size = 0, 0, (height, width)  # the box is in no square, so the whole image is squeezed
        else:
            size = (side, side)
        cut = image[top : top + size[0], left : left + size[1]]
        place = self._place(Box(box.left - left, box.top - top, box.right - left, box.bottom - top), size)
        made = self._generate(scaled(cut, (self._side, self._side)), place, request)
        edited = image.clone()
        edited[top : top + size[0], left : left + size[1]] = scaled(made, size)
        return inside_box(edited, image, box)

    def _place(self, box: Box, size: tuple[int, int]) -> list[float]:
        """Returns a box in 0..1, widened to whole latent pixels, which the pipeline would round down."""
        height, width = size
        cells = self._side // int(self._pipeline.vae_scale_factor)
        low = [max(math.floor(share * cells), 0) / cells for share in (box.left / width, box.top / height)]
        high = [
            min(math.ceil(share * cells), cells) / cells for share in (box.right / width, box.bottom / height)
        ]
        return [*low, *high]

    def _generate(self, square: Tensor, place: list[float], request: ReplacementRequest) -> Tensor:
        device = torch.device(self._spec.device)
        devices = [device] if device.type == "cuda" else []
        # The pipeline takes noise from the global generators too.
        with torch.random.fork_rng(devices):
            torch.manual_seed(request.seed)
            images = self._pipeline(
                prompt=request.caption,
                gligen_phrases=[with_article(request.target)],
                gligen_boxes=[place],
                gligen_inpaint_image=to_image(square),
                gligen_scheduled_sampling_beta=self._spec.grounded,
                num_inference_steps=self._spec.steps,
                guidance_scale=self._spec.guidance,
                height=self._side,
                width=self._side,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                output_type="np",
            ).images
        # As a PIL image, values that are not finite would become black.
        return quantized(torch.from_numpy(images[0]))


def _check_folder(folder: Path) -> None:
    here = f"GLIGEN '{model_title(folder)}'"
    if not folder.is_dir():
        raise ModelError(f"{here}: there is no folder {folder}. It needs {_FILES}. Nothing is downloaded.")
    for part, stem in _PARTS.items():
        if not (folder / part / "config.json").is_file():
            raise ModelError(f"{here}: {part}/config.json is missing in {folder}. It needs {_FILES}.")
        read_config(folder / part / "config.json")  # raises for settings that lead elsewhere
        refuse_adapter(folder / part, here)
        folder_weights(folder / part, (stem,))  # raises for weights that are missing, pickled or damaged
    _check_index(folder, here)
    config = read_config(folder / "unet" / "config.json")
    if config.get("in_channels") != _INPAINTING_CHANNELS or config.get("attention_type") not in (
        "gated",
        "gated-text-image",
    ):
        raise ModelError(
            f"{here}: its UNet has {config.get('in_channels')} input channels and the attention type "
            f"'{config.get('attention_type')}', so it is no GLIGEN for inpainting ({_INPAINTING_CHANNELS} "
            "and 'gated')."
        )


def _check_index(folder: Path, here: str) -> None:
    """Checks that the parts are classes of libraries: some versions of diffusers run code in the folder."""
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{here}: model_index.json is missing in {folder}. Download the whole model.")
    parts = [value for value in read_json(folder / "model_index.json").values() if isinstance(value, list)]
    known = all(value[:1] in [[library] for library in _LIBRARIES] for value in parts)
    if not known or any(folder.glob("*.py")) or any(folder.glob("*/*.py")):
        raise ModelError(
            f"{here}: a part of it is code in {folder}, or of a library other than diffusers and "
            "transformers, and is not run. Choose another model."
        )
