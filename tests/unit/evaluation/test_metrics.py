"""Compares metrics with reference packages and worked examples."""

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_instruction.items import resize_like
from instructbrush.core.evaluation.metrics import (
    caption_similarity,
    direction_distance,
    direction_similarity,
    image_similarity,
    l1_distance,
    l2_distance,
    psnr,
    quantized,
    ssim,
    visual_similarity,
)
from instructbrush.core.evaluation.perceptual import Perceptual

SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}


def two_batches(count: int = 3, height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    truth = torch.rand(count, height, width, 3, generator=generator)
    return (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth


def test_psnr_matches_scikit_image_and_formula() -> None:
    made, truth = two_batches()
    expected = [
        peak_signal_noise_ratio(t.numpy(), m.numpy(), data_range=1.0)
        for m, t in zip(made, truth, strict=True)
    ]
    assert psnr(made, truth).tolist() == pytest.approx(expected, abs=1e-5)
    black = torch.zeros(1, 16, 16, 3)
    assert psnr(black + 0.1, black).item() == pytest.approx(20.0, abs=1e-5)
    assert math.isinf(psnr(black, black).item())


def test_ssim_matches_scikit_image() -> None:
    made, truth = two_batches()
    expected = [
        structural_similarity(
            t.numpy(),
            m.numpy(),
            data_range=1.0,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for m, t in zip(made, truth, strict=True)
    ]
    assert ssim(made, truth).tolist() == pytest.approx(expected, abs=1e-5)
    assert ssim(truth, truth).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert ssim(made[:1], truth[:1]).shape == (1,)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 32, 32, 3), (3, 32, 32, 3)), "cannot be compared with the truth"),
        (((1, 32, 32, 3), (1, 32, 40, 3)), "Give two batches of equal length and size"),
        (((1, 3, 32, 32), (1, 3, 32, 32)), "cannot be compared"),
        (((0, 32, 32, 3), (0, 32, 32, 3)), "cannot be compared"),
        (
            ((1, 8, 32, 3), (1, 8, 32, 3)),
            "images of 32 x 8 pixels are too small, each side needs at least 16",
        ),
    ],
)
def test_rejects_images_that_cannot_be_compared(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], message: str
) -> None:
    first = torch.zeros(shapes[0])
    second = torch.zeros(shapes[1])
    for metric in (psnr, ssim, l1_distance, l2_distance):
        with pytest.raises(EvaluationError, match=message):
            metric(first, second)


def test_missing_torchmetrics_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(EvaluationError, match="not installed. Run: pip install torchmetrics"):
        psnr(torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 3))


def test_direction_matches_worked_example() -> None:
    # Tests move by (3, 0) and (1, 4), mean (2, 2). Training pairs move by (0, 2) and (0, 4), mean (0, 3).
    # The angle between the means is 45 degrees.
    edits, examples = torch.tensor([[3.0, 0.0], [1.0, 4.0]]), torch.tensor([[0.0, 2.0], [0.0, 4.0]])
    assert direction_distance(edits, examples) == pytest.approx(1 - math.sqrt(0.5), abs=1e-6)
    assert direction_distance(-examples, examples) == pytest.approx(2.0, abs=1e-6)
    assert direction_distance(examples * 7, examples) == pytest.approx(0.0, abs=1e-6)
    assert direction_distance(torch.zeros(2, 2), examples) == 1.0
    # The mean comes before the cosine, so opposite edits have no direction.
    assert direction_distance(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), examples) == 1.0


def test_visual_similarity_matches_worked_example() -> None:
    # Example pairs move by (0, 2) and (8, 4), mean (4, 3) of length 5. Tests move along it, by (3, 4) of
    # length 5 with the dot product 24, against it, across it, and not at all.
    examples = torch.tensor([[0.0, 2.0], [8.0, 4.0]])
    edits = torch.tensor([[8.0, 6.0], [3.0, 4.0], [-4.0, -3.0], [-3.0, 4.0], [0.0, 0.0]])
    expected = [1.0, 24 / 25, -1.0, 0.0, 0.0]
    assert visual_similarity(edits, examples).tolist() == pytest.approx(expected, abs=1e-6)
    # With one pair it is the paper's cosine of the two directions.
    alone = visual_similarity(edits[:2], examples[:1]).tolist()
    assert alone == pytest.approx([6 / 10, 4 / 5], abs=1e-6)


def test_instructpix2pix_metrics_match_worked_example() -> None:
    inputs, outputs = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    assert image_similarity(inputs, outputs).tolist() == pytest.approx([0.6, 1.0])
    before, after = torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[0.0, 2.0]] * 2)
    # (-0.4, 0.8) against (0, 1): cos = 0.8 / sqrt(0.8)
    assert direction_similarity(inputs, outputs, before, after).tolist() == pytest.approx(
        [0.8 / math.sqrt(0.8), 0.0], abs=1e-6
    )


def test_magicbrush_distances_match_worked_example() -> None:
    truth = torch.zeros(2, 16, 16, 3)
    made = truth.clone()
    made[0, :8] = 0.5  # half of the pixels by a half
    made[1, ..., 2] = 0.3  # one channel of three
    assert l1_distance(made, truth).tolist() == pytest.approx([0.25, 0.1], abs=1e-6)
    assert l2_distance(made, truth).tolist() == pytest.approx([0.125, 0.03], abs=1e-6), (
        "squares without a root"
    )
    made, truth = two_batches()
    criteria = (torch.nn.L1Loss(), l1_distance), (torch.nn.MSELoss(), l2_distance)
    for criterion, metric in criteria:
        expected = [float(criterion(m, t)) for m, t in zip(made, truth, strict=True)]
        assert metric(made, truth).tolist() == pytest.approx(expected, abs=1e-6)


def test_resize_like_matches_pil() -> None:
    made = quantized(two_batches(1)[0])[0]
    with_pil = Image.fromarray((made * 255).round().to(torch.uint8).numpy()).resize((80, 50))
    found = resize_like(made, torch.zeros(50, 80, 3))
    assert torch.equal((found * 255).round().to(torch.uint8), torch.from_numpy(np.array(with_pil)))
    assert resize_like(made, torch.zeros_like(made)) is made


def test_caption_similarity_is_a_cosine() -> None:
    captions, outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0], [0.0, -5.0]])
    assert caption_similarity(captions, outputs).tolist() == pytest.approx([0.6, -1.0], abs=1e-6)


def test_quantized_matches_saved_file() -> None:
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1
    kept = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(quantized(image), kept.float() / 255)


@pytest.fixture(scope="module")
def alexnet() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    weights = {}
    for layer, shape in SHAPES.items():
        weights[f"features.{layer}.weight"] = torch.randn(shape, generator=generator) / math.sqrt(
            math.prod(shape[1:])
        )
        weights[f"features.{layer}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return weights


@pytest.fixture
def backbone(alexnet: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(alexnet, tmp_path / "alexnet.safetensors")
    return tmp_path / "alexnet.safetensors"


def test_lpips_matches_the_package_on_the_same_backbone(alexnet: dict[str, Tensor], backbone: Path) -> None:
    import lpips
    import torchvision

    whole = torchvision.models.alexnet()
    whole.load_state_dict(alexnet, strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    # The package cuts torchvision's layers into five slices and keeps their modules.
    for number, (first, last) in enumerate(((0, 2), (2, 5), (5, 8), (8, 10), (10, 12)), start=1):
        for layer in range(first, last):
            setattr(getattr(reference.net, f"slice{number}"), str(layer), whole.features[layer])
    made, truth = two_batches(9, 40, 64)
    with torch.no_grad():
        expected = reference(made.movedim(-1, 1), truth.movedim(-1, 1), normalize=True).flatten()
    found = Perceptual(backbone).distance(made, truth)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.min() > 0 and Perceptual(backbone).distance(truth, truth).abs().max() == 0


def test_lpips_ignores_other_layers_and_keeps_the_random_state(
    alexnet: dict[str, Tensor], backbone: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({**alexnet, "classifier.1.weight": torch.zeros(2, 2)}, whole)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    made, truth = two_batches(1)
    first = Perceptual(whole).distance(made, truth)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, Perceptual(backbone).distance(made, truth))


def test_rejects_invalid_backbones(alexnet: dict[str, Tensor], backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not exist. Give the ImageNet weights of AlexNet"):
        Perceptual(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(EvaluationError, match="'broken.safetensors' cannot be read"):
        Perceptual(tmp_path / "broken.safetensors")
    torch.save(alexnet, tmp_path / "alexnet.pth")  # a pickle, which is never opened
    with pytest.raises(EvaluationError, match="'alexnet.pth' cannot be read"):
        Perceptual(tmp_path / "alexnet.pth")
    save_file(
        {name: tensor for name, tensor in alexnet.items() if name != "features.6.bias"},
        tmp_path / "half.safetensors",
    )
    with pytest.raises(
        EvaluationError, match="'half.safetensors' is not AlexNet: features.6.bias is missing"
    ):
        Perceptual(tmp_path / "half.safetensors")
    with pytest.raises(EvaluationError, match="each side at least 32 pixels"):
        Perceptual(backbone).distance(torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 3))


def test_downloaded_backbone_distinguishes_noise_from_a_plain_image(repository: Path) -> None:
    """Checks the weights that `make bench` downloads: those of a trained AlexNet."""
    file = repository / ".comfyui" / "lpips" / "alexnet.safetensors"
    if not file.is_file():
        pytest.skip("AlexNet's weights were not brought yet (make bench does)")
    made, truth = two_batches(2, 64, 64)
    noisy, flat = (
        Perceptual(file).distance(made, truth),
        Perceptual(file).distance(torch.full_like(truth, 0.5), truth),
    )
    assert (noisy < flat).all() and np.isfinite(noisy.numpy()).all()
