"""LPIPS: how different two images look to a network that was calibrated on people's judgements (Zhang et al. 2018)."""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import EvaluationError

HINT = "Give the ImageNet weights of AlexNet as .safetensors with the tensors features.0.weight ...: python tools/get_backbone.py writes such a file."
_CHUNK = 8


class Perceptual:
    """LPIPS version 0.1 on AlexNet: the lpips package with its own linear layers, on a backbone from a local file. Nothing is ever downloaded.

    Args:
        backbone: AlexNet's weights as torchvision names them, ``features.{0,3,6,8,10}.{weight,bias}`` (others are ignored), as
            safetensors.
        device: where to compute.

    Raises:
        EvaluationError: the lpips package is missing, or the file is missing, unreadable or no AlexNet.
    """

    def __init__(self, backbone: str | Path, device: str | torch.device = "cpu") -> None:
        try:
            import lpips
        except ImportError as error:
            raise EvaluationError(
                "Evaluation: LPIPS needs the lpips package, which is not installed. Run: pip install lpips"
            ) from error
        weights = _read(Path(backbone))
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # torchvision warns of an argument that lpips still uses; the random backbone that is built first must not disturb anyone's seed.
            warnings.simplefilter("ignore")
            network: Any = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        # lpips cuts torchvision's features into slices but keeps their numbers: slice3.6.weight is features.6.weight.
        renamed = {
            name: weights.get(f"features.{name.split('.', 1)[1]}") for name in network.net.state_dict()
        }
        for name, tensor in network.net.state_dict().items():
            given = renamed[name]
            if given is None or given.shape != tensor.shape:
                what = (
                    "is missing"
                    if given is None
                    else f"has shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
                )
                raise EvaluationError(
                    f"LPIPS backbone '{Path(backbone).name}' is no AlexNet: features.{name.split('.', 1)[1]} {what}. {HINT}"
                )
        network.net.load_state_dict(renamed)
        self.device = torch.device(device)
        self._network = network.requires_grad_(False).eval().to(self.device)

    @torch.no_grad()
    def distance(self, images: Tensor, truth: Tensor) -> Tensor:
        """LPIPS-Alex of each image, 0 when equal, lower is better.

        Args:
            images, truth: [N, H, W, 3] in 0..1, sides of at least 32 pixels.

        Returns:
            fp32 [N] on the CPU.
        """
        if images.shape != truth.shape or min(images.shape[1:3]) < 32:
            raise EvaluationError(
                f"LPIPS: images {tuple(images.shape)} and {tuple(truth.shape)} must be of one size, each side at least 32 pixels."
            )
        parts = []
        for start in range(0, len(images), _CHUNK):
            first, second = (
                side[start : start + _CHUNK].movedim(-1, 1).float().to(self.device) * 2 - 1
                for side in (images, truth)
            )
            parts.append(self._network(first, second).flatten().cpu())
        return torch.cat(parts)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise EvaluationError(f"LPIPS backbone '{path}' does not exist. {HINT}")
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise EvaluationError(
            f"LPIPS backbone '{path.name}' cannot be read ({str(error).splitlines()[0]}). {HINT}"
        ) from error
