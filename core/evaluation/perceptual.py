"""LPIPS, the perceptual distance of two images (Zhang et al. 2018)."""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import EvaluationError, first_line

HINT = (
    "Give the ImageNet weights of AlexNet as .safetensors with the tensors features.0.weight ...: "
    "python -m instructbrush.tools.get_backbone writes such a file."
)
_CHUNK = 8


class Perceptual:
    """LPIPS version 0.1 on AlexNet: the linear layers of the lpips package on a backbone from a local file.

    Downloads nothing.

    Args:
        backbone: .safetensors file of AlexNet's weights under torchvision's names,
            ``features.{0,3,6,8,10}.{weight,bias}``. Other tensors are ignored.
        device: where to compute.

    Raises:
        EvaluationError: the lpips package is missing, or the file is missing, unreadable or not AlexNet.
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
            # lpips passes torchvision a deprecated argument, and builds a random backbone first, which must
            # not change the caller's random state.
            warnings.simplefilter("ignore")
            network: Any = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        # lpips cuts torchvision's features into slices but keeps their numbers: slice3.6.weight is
        # features.6.weight.
        state = {}
        for name, tensor in network.net.state_dict().items():
            source_name = f"features.{name.split('.', 1)[1]}"
            weight = weights.get(source_name)
            if weight is None:
                fault = "is missing"
            elif weight.shape != tensor.shape:
                fault = f"has shape {tuple(weight.shape)}, not {tuple(tensor.shape)}"
            else:
                state[name] = weight
                continue
            raise EvaluationError(
                f"LPIPS backbone '{Path(backbone).name}' is not AlexNet: {source_name} {fault}. {HINT}"
            )
        network.net.load_state_dict(state)
        self.device = torch.device(device)
        self._network = network.requires_grad_(False).eval().to(self.device)

    @torch.no_grad()
    def distance(self, images: Tensor, truth: Tensor) -> Tensor:
        """Returns LPIPS-Alex of each image, fp32 [N] on the CPU; 0 for equal images, lower is better.

        Args:
            images, truth: [N, H, W, 3] in 0..1, sides of at least 32 pixels.

        Raises:
            EvaluationError: the shapes differ, or a side is too small.
        """
        if images.shape != truth.shape or min(images.shape[1:3]) < 32:
            raise EvaluationError(
                f"LPIPS: images {tuple(images.shape)} and {tuple(truth.shape)} must have one size, "
                "each side at least 32 pixels."
            )
        distances = []
        for start in range(0, len(images), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            distance = self._network(self._planes(images[chunk]), self._planes(truth[chunk]))
            distances.append(distance.flatten().cpu())
        return torch.cat(distances)

    def _planes(self, images: Tensor) -> Tensor:
        """Images [N, H, W, 3] in 0..1 as [N, 3, H, W] in -1..1 on the device."""
        return images.movedim(-1, 1).float().to(self.device) * 2 - 1


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise EvaluationError(f"LPIPS backbone '{path}' does not exist. {HINT}")
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise EvaluationError(
            f"LPIPS backbone '{path.name}' cannot be read ({first_line(error)}). {HINT}"
        ) from error
