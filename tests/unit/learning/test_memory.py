"""Memory plans, and what happens when a plan does not fit."""

from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from instructbrush.core.devices import is_out_of_memory
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import LearningError
from instructbrush.core.learning import memory
from instructbrush.core.learning.memory import (
    ACTIVATION_BYTES,
    MemoryPlan,
    bytes_needed,
    largest_side,
    plan_memory,
)
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.tests.support import seeded

GIB = 2**30
SIDE_512 = 64 * 64


class _FusedAttention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, keys, values, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_activation_bytes_match_what_autograd_keeps(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts on tensors without memory, for a latent of 512 pixels."""
    config = getattr(seeded, family.upper())
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, keys, values, **_: _FusedAttention.apply(query, keys, values),
    )
    with torch.device("meta"):
        unet: torch.nn.Module = UNet2DConditionModel(**config).requires_grad_(False).eval()
        unet.to(torch.float16)
        sample = torch.empty(1, config["in_channels"], 64, 64, dtype=torch.float16)
        time = torch.empty(1, dtype=torch.float16)
        context = torch.empty(1, 77, config["cross_attention_dim"], dtype=torch.float16)
        added = {
            "text_embeds": torch.empty(1, 1280, dtype=torch.float16),
            "time_ids": torch.empty(1, 6, dtype=torch.float16),
        }
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in weights:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(sample, time, context.requires_grad_(), added_cond_kwargs=added if family == "sdxl" else None)
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / SIDE_512
    assert ACTIVATION_BYTES[family] == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    ("side", "plain", "recomputed"),
    [(512, 6.67, 1.09), (768, 14.17, 1.94), (1024, 24.86, 3.14)],
)
def test_sdxl_needs_what_an_h200_showed(side: int, plain: float, recomputed: float) -> None:
    """GiB beside the weights, for five samples in half precision."""
    for checkpointing, measured in ((False, plain), (True, recomputed)):
        needed = bytes_needed("sdxl", (side // 8) ** 2, MemoryPlan(5, checkpointing), 2) / GIB
        assert measured <= needed < 1.06 * measured


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (None, MemoryPlan(5)),
        (20 * GIB, MemoryPlan(5)),
        (3 * GIB, MemoryPlan(5, True)),
        (1.2 * GIB, MemoryPlan(3, True)),
        (0.5 * GIB, MemoryPlan(1, True)),
    ],
)
def test_takes_the_fastest_plan_that_fits(free: float | None, expected: MemoryPlan) -> None:
    assert plan_memory("sd15", SIDE_512, 5, 2, None if free is None else int(free)) == expected


def test_recomputes_activations_on_request() -> None:
    assert plan_memory("sd15", SIDE_512, 5, 2, None, checkpointing=True) == MemoryPlan(5, True)


def test_needs_twice_the_memory_in_single_precision() -> None:
    assert (
        plan_memory("sd15", SIDE_512, 5, 4, 5 * GIB)
        == MemoryPlan(5, True)
        != plan_memory("sd15", SIDE_512, 5, 2, 5 * GIB)
    )


@pytest.mark.parametrize("free", [GIB, 4 * GIB])
def test_largest_side_fits_and_the_next_does_not(free: int) -> None:
    side = largest_side("sd15", 2, free)
    needed = [bytes_needed("sd15", (each // 8) ** 2, MemoryPlan(1, True), 2) for each in (side, side + 64)]
    assert side % 64 == 0 and needed[0] <= free < needed[1]


class Limited:
    """A denoiser with room for ``plain`` samples, or ``recomputed`` samples with recomputed activations."""

    def __init__(self, denoiser: Any, plain: int, recomputed: int) -> None:
        self._denoiser, self._limits = denoiser, {False: plain, True: recomputed}
        self.checkpointing = False
        self.calls: list[tuple[int, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def predict(self, noisy: Tensor, *rest: Any) -> Tensor:
        self.calls.append((len(noisy), self.checkpointing))
        if len(noisy) > self._limits[self.checkpointing]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self._denoiser.checkpointing = self.checkpointing
        return self._denoiser.predict(noisy, *rest)


def trained(editor: DiffusersEditor, denoiser: Any) -> Trainer:
    generator = torch.Generator().manual_seed(3)
    before = list(torch.randn(2, 4, 8, 8, generator=generator))
    after = list(torch.randn(2, 4, 8, 8, generator=generator))
    context, null_context = editor.encode_text(["make it snow", ""])
    trainer = Trainer(
        LearningRequest(
            denoiser,
            PairLatents(before, after),
            InitText("make it snow", context),
            null_context,
            LearningSettings(steps=3, tokens=4),
        )
    )
    try:
        trainer.run()
    finally:
        editor.denoiser.checkpointing = False
    return trainer


@pytest.mark.parametrize(
    ("plain", "recomputed", "plans"),
    [
        (5, 5, [(5, False)]),
        (4, 5, [(5, False), (5, True)]),
        (0, 2, [(5, False), (5, True), (3, True), (2, True)]),
    ],
)
def test_runs_a_step_that_does_not_fit_in_smaller_chunks(
    editor: DiffusersEditor, plain: int, recomputed: int, plans: list[tuple[int, bool]]
) -> None:
    limited = Limited(editor.denoiser, plain, recomputed)
    small, whole = trained(editor, limited), trained(editor, editor.denoiser)
    assert list(dict.fromkeys(limited.calls))[: len(plans)] == plans
    assert small.losses == pytest.approx(whole.losses, rel=1e-4)
    for name, tensor in whole.parameters.items():
        # Adam divides by the gradient's size, which amplifies the rounding of the smallest gradients.
        assert (small.parameters[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


@pytest.mark.parametrize(
    ("free", "advice"),
    [
        (GIB, r" \(1\.0 GiB free\)\. Use images of at most 2176 x 2176 pixels"),
        (None, r"\. Use smaller images, or close other programs"),
    ],
)
def test_rejects_images_that_never_fit_and_names_the_size_that_does(
    editor: DiffusersEditor, monkeypatch: pytest.MonkeyPatch, free: int | None, advice: str
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    with pytest.raises(LearningError, match=f"too large for the device's memory{advice}"):
        trained(editor, Limited(editor.denoiser, 0, 0))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Invalid buffer size: 19.38 GiB",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    ],
)
def test_knows_what_devices_say_when_memory_runs_out(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text)) and not is_out_of_memory(ValueError(text))


def test_passes_other_errors_on(editor: DiffusersEditor) -> None:
    class Broken(Limited):
        def predict(self, noisy: Tensor, *rest: Any) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trained(editor, Broken(editor.denoiser, 0, 0))
