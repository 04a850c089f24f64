"""Times learning and applying on a random UNet of Stable Diffusion 1.5's size.

Without a GPU the UNet is a smaller one of the same kind, so that only the ratios mean something.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from instructbrush.core.editing.denoiser import Denoiser
from instructbrush.core.editing.diffusers_denoiser import DiffusersDenoiser
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.instruction.injection import inject
from instructbrush.core.instruction.instruction import Instruction
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import PAPER, LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models.families import describe_unet
from instructbrush.tools.benchmarks.timed_edits import STEPS, pipeline_edit, time_edit_guider
from instructbrush.tools.benchmarks.timing import device, peak_gib, side_by_side

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SMALL = {**UNET, "block_out_channels": [64, 64, 128, 128]}
SCALES: dict[str, Any] = {"text_scale": 7.5, "image_scale": 1.5}
WINDOW = 77
PAIRS = 10
# 1000 samples of each of 5 segments, as in the paper.
SAMPLES = 5000


def measure(rounds: int) -> dict[str, Any]:
    """Prints a table of all figures and returns them."""
    bench = _Bench(rounds)
    bench.matrices()
    bench.learning()
    bench.learning_in_comfyui()
    bench.visii()
    bench.applying()
    bench.applying_in_comfyui()
    return bench.figures


class _Bench:
    def __init__(self, rounds: int) -> None:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.rounds = rounds
        self.gpu = device().type == "cuda"
        self.dtype = torch.float16 if self.gpu else torch.float32
        self.sides = (64, 96) if self.gpu else (16, 24)
        self.config = UNET if self.gpu else SMALL
        torch.manual_seed(0)
        with device():
            make: Any = UNet2DConditionModel
            unet = make(**self.config).to(self.dtype).requires_grad_(False).eval()
        self.states: dict[str, Tensor] = unet.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in self.states.items()}
        description = describe_unet(shapes, lambda key, rows: self.states[key][:rows], title="seeded")
        with torch.device("meta"):
            # Shares the weights, but keeps diffusers' attention processors, as diffusers' pipeline needs.
            self.stock = make(**self.config).eval()
        self.stock.load_state_dict(self.states, assign=True)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.denoiser = DiffusersDenoiser(unet, description, (1 - betas).cumprod(0))
        card = torch.cuda.get_device_name() if self.gpu else platform.machine()
        parameters = sum(tensor.numel() for tensor in self.states.values())
        self.figures: dict[str, Any] = {
            "device": card,
            "torch": torch.__version__,
            "dtype": str(self.dtype),
            "parameters": parameters,
        }
        self.context = self.draw(WINDOW, 768)
        self.null = self.draw(WINDOW, 768)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(device())

    def show(self, name: str, value: float | None, unit: str, key: str) -> None:
        print(f"{name:<58} {'not measured' if value is None else f'{value:10.2f} {unit}'}")
        self.figures[key] = None if value is None else round(value, 3)

    def matrices(self) -> None:
        """Measures the throughput of matrix products, to which steps are compared."""
        size = 8192 if self.gpu else 1024
        a = torch.randn(size, size, device=device(), dtype=self.dtype)
        b = torch.randn(size, size, device=device(), dtype=self.dtype)
        seconds = side_by_side(self.rounds, 3, product=lambda: [a @ b for _ in range(10)])["product"] / 10
        self.peak = 2 * size**3 / seconds / 1e12
        self.show(f"matrix product {size}^3", self.peak, "TFLOP/s", "matrix_tflops")

    def trainer(self, denoiser: Denoiser, side: int, settings: LearningSettings) -> Trainer:
        generator = torch.Generator().manual_seed(0)
        before = [torch.randn(4, side, side, generator=generator).to(device()) for _ in range(PAIRS)]
        after = [torch.randn(4, side, side, generator=generator).to(device()) for _ in range(PAIRS)]
        init_text = InitText("seeded", self.context)
        latents = PairLatents(before, after)
        return Trainer(LearningRequest(denoiser, latents, init_text, self.null, settings))

    def stepping(
        self, denoiser: Denoiser, side: int, recorded: bool = True, **changes: Any
    ) -> tuple[float, float | None]:
        """Returns median seconds of a step and peak GiB beside the weights. `recorded`: with CUDA graphs."""
        trainer = self.trainer(denoiser, side, replace(PAPER, tokens=10, steps=10**6, **changes))
        trainer.replay.enabled = recorded

        def steps(count: int) -> Callable[[], object]:
            return lambda: [trainer.step() for _ in range(count)]

        with torch.enable_grad():
            peak = peak_gib(steps(5))
            count = 10 if self.gpu else 1
            seconds = side_by_side(max(self.rounds // 3, 3), 0, steps=steps(count))["steps"] / count
        trainer.replay.forget()
        denoiser.checkpointing = False
        return seconds, peak

    def learning(self) -> None:
        """Times learning steps on the diffusers engine."""
        for side in self.sides:
            for batch in (1, 2, 4) if self.gpu and side == self.sides[0] else (1,):
                seconds, peak = self.stepping(self.denoiser, side, batch=batch)
                samples = 5 * batch
                name, key = f"learning step, {side * 8} px, {samples} samples", f"step_{side * 8}_{samples}"
                self.show(name, seconds * 1000, "ms", f"{key}_ms")
                self.show("  samples", samples / seconds, "/s", f"{key}_samples_per_second")
                self.show(f"  {SAMPLES} samples", SAMPLES / samples * seconds, "s", f"{key}_paper_seconds")
                self.show("  peak of memory beside the weights", peak, "GiB", f"{key}_peak_gib")
                flops = samples * self.flops(side)
                self.show("  computing", flops / seconds / 1e12, "TFLOP/s", f"{key}_tflops")
                self.show(
                    "  share of the matrix peak",
                    flops / seconds / 1e12 / self.peak * 100,
                    "%",
                    f"{key}_peak_percent",
                )
        side = self.sides[0]
        eager, _ = self.stepping(self.denoiser, side, recorded=False)
        self.show(
            f"learning step, {side * 8} px, 5 samples, not recorded", eager * 1000, "ms", "step_eager_ms"
        )
        guided, _ = self.stepping(self.denoiser, side, objective="guided")
        self.show(f"learning step, {side * 8} px, 5 samples, guided", guided * 1000, "ms", "step_guided_ms")

    def flops(self, side: int) -> float:
        """Returns the floating-point operations of forward and backward for one sample."""
        trainer = self.trainer(self.denoiser, side, replace(PAPER, tokens=10, segments=1))
        trainer.replay.enabled = False
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            trainer.step()
        return float(counter.get_total_flops())

    def comfy_model(self) -> Any:
        """Makes a MODEL of the same weights.

        Its class is named here, because ComfyUI detects it by the width, which the small UNet does not have.
        """
        import comfy.model_management as management
        from comfy import model_detection, model_patcher, supported_models

        from instructbrush.nodes.comfy.models.key_names import unet_keys

        with torch.inference_mode():
            states = unet_keys({name: tensor.cpu() for name, tensor in self.states.items()})
            config: Any = supported_models.SD15_instructpix2pix(
                model_detection.detect_unet_config(states, "")
            )
            config.set_inference_dtype(self.dtype, None)
            model = config.get_model(states, "")
            model.load_model_weights(states, "")
        return model_patcher.ModelPatcher(
            model, management.get_torch_device(), management.unet_offload_device()
        )

    def learning_in_comfyui(self) -> None:
        """Times learning steps on ComfyUI's MODEL, without and with gradient checkpointing."""
        from instructbrush.nodes.comfy.sampling.comfy_denoiser import ComfyDenoiser

        model = self.comfy_model()
        for side in self.sides:
            for checkpointing in (False, True):
                with (
                    torch.inference_mode(False),
                    ComfyDenoiser(model, checkpointing=checkpointing).loaded() as native,
                ):
                    seconds, peak = self.stepping(native, side)
                kind = "recomputing" if checkpointing else "plain"
                self.show(
                    f"learning step in ComfyUI, {side * 8} px, {kind}",
                    seconds * 1000,
                    "ms",
                    f"comfyui_step_{side * 8}_{kind}_ms",
                )
                self.show(
                    "  peak of memory beside the weights",
                    peak,
                    "GiB",
                    f"comfyui_step_{side * 8}_{kind}_peak_gib",
                )

    def visii(self) -> None:
        """Times a loop like Visii's: one sample a step, and gradients through all three branches."""
        side = self.sides[0]
        rows = self.context[1:11].clone().requires_grad_()
        optimizer = torch.optim.AdamW([rows], lr=1e-3)
        latents = [self.draw(1, 4, side, side) for _ in range(PAIRS)]
        null = self.null.to(self.dtype)

        def step() -> None:
            time = torch.randint(1000, (1,), device=device())
            states = torch.cat([self.context[:1], rows, self.context[11:]]).to(self.dtype)
            noise = torch.randn_like(latents[0])
            abar = self.denoiser.alphas_cumprod[time].view(-1, 1, 1, 1)
            noisy = (abar.sqrt() * latents[1] + (1 - abar).sqrt() * noise).repeat(3, 1, 1, 1)
            images = torch.cat([latents[0], latents[0], torch.zeros_like(noise)])
            sample = torch.cat([noisy, images], 1).to(self.dtype)
            contexts = torch.stack([states, null, null])
            predicted = self.stock(sample, time.expand(3), contexts, return_dict=False)[0]
            full, image, none = predicted.float().chunk(3)
            loss = (none + 1.5 * (image - none) + 7.5 * (full - image) - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        with torch.enable_grad():
            for tensor in self.stock.parameters():
                tensor.requires_grad_(False)
            seconds = side_by_side(self.rounds, 2, step=step)["step"]
        self.show("a loop of Visii's kind, a sample", seconds * 1000, "ms", "visii_sample_ms")
        ours = self.figures[f"step_{side * 8}_5_ms"] / 5
        self.show("  ours, a sample, of it", ours / (seconds * 1000), "", "sample_to_visii")

    def instruction(self) -> Instruction:
        trainer = self.trainer(self.denoiser, self.sides[0], replace(PAPER, tokens=10, steps=1))
        trainer.run()
        return trainer.instruction()

    def applying(self) -> None:
        """Times edits outside ComfyUI by words, by an instruction and by diffusers' pipeline."""
        pipeline = self.pipeline()
        image = self.draw(1, 4, self.sides[0], self.sides[0])
        injection = inject(self.instruction(), device=device())

        def ours(chosen: Any, images: Tensor = image) -> Tensor:
            return edit_latents(
                self.denoiser, images, self.context, self.null, chosen, SamplingSettings(STEPS, **SCALES)
            )

        def theirs() -> Tensor:
            return pipeline_edit(
                pipeline, self.context.to(self.dtype), self.null.to(self.dtype), image.to(self.dtype), SCALES
            )

        times = side_by_side(
            self.rounds,
            2,
            words=lambda: ours(None),
            instruction=lambda: ours(injection),
            pipeline=theirs,
            four=lambda: ours(injection, image.expand(4, -1, -1, -1)),
        )
        for name in times.seconds:
            self.show(
                f"{STEPS} steps, {name.replace('four', 'instruction, four images at once')}",
                times[name] * 1000,
                "ms",
                f"apply_{name}_ms",
            )
        self.show("  words, of the pipeline", times.ratio("words", "pipeline"), "", "core_words_to_pipeline")
        self.show(
            "  instruction, of words", times.ratio("instruction", "words"), "", "core_instruction_to_words"
        )

    def pipeline(self) -> Any:
        """Makes diffusers' InstructPix2Pix pipeline on the same weights."""
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
            StableDiffusionInstructPix2PixPipeline,
        )
        from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

        make: Any = StableDiffusionInstructPix2PixPipeline
        scheduler: Any = EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        vae: Any = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8)
        )
        pipeline = make(
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            unet=self.stock,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        ).to(device())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def applying_in_comfyui(self) -> None:
        """Times edits by Edit Guider with words, an instruction, and the instruction at half strength."""
        image = self.draw(1, 4, self.sides[0], self.sides[0]).cpu()
        words = [[self.context[None].cpu(), {}]]
        none = [[self.null[None].cpu(), {}]]
        times = time_edit_guider(
            self.comfy_model(), words, none, image, self.instruction(), SCALES, self.rounds
        )
        for name in times.seconds:
            self.show(
                f"{STEPS} steps in ComfyUI, {name.replace('_', ' ')}",
                times[name] * 1000,
                "ms",
                f"comfyui_{name}_ms",
            )
        self.show(
            "  instruction, of words", times.ratio("instruction", "words"), "", "comfyui_instruction_to_words"
        )
        self.show(
            "  half strength, of words",
            times.ratio("half_strength", "words"),
            "",
            "comfyui_half_strength_to_words",
        )
