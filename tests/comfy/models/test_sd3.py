"""UltraEdit's Stable Diffusion 3, on transformers of its layout with two layers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    edit_guider,
    half,
    instruction,
    learning,
    predicted,
)
from instructbrush.tests.support import seeded, seeded_sd3

STATES = torch.randn(1, 20, 4096, generator=torch.Generator().manual_seed(11))
POOLED = torch.randn(1, 2048, generator=torch.Generator().manual_seed(12))


@pytest.fixture(params=[32, 48])
def sd3(request, comfy, tmp_path):
    """Returns a MODEL of SD3's layout with two layers, and the same transformer in diffusers."""
    from diffusers import SD3Transformer2DModel

    config = {**seeded_sd3.SMALL_SD3, "in_channels": request.param}
    folder = tmp_path / "UltraEdit"
    (folder / "transformer").mkdir(parents=True)
    save_file(seeded_sd3.tensors(config, 6), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    reference = SD3Transformer2DModel.from_config(config).eval().requires_grad_(False)
    reference.load_state_dict(seeded_sd3.tensors(config, 6))
    with torch.inference_mode():
        comfy.pack("nodes.comfy.models.model_detection").register()
        yield comfy.pack("nodes.comfy.models.loading").load_folder_unet(str(folder)), reference


class TestSD3:
    def guider(self, comfy, model, image, mask):
        module = comfy.pack("nodes.comfy.sampling.guider")
        guider = module.EditGuider(model, 3.0, 1.4)
        conditioning = [[STATES, {"pooled_output": POOLED}]]
        nothing = [[torch.zeros_like(STATES), {"pooled_output": torch.zeros_like(POOLED)}]]
        guider.set_branches(
            module.with_image(conditioning, image, mask), module.with_image(nothing, image, mask), nothing
        )
        return guider

    def latents(self, comfy, model):
        generator = torch.Generator().manual_seed(4)
        x = torch.randn(1, 16, 8, 8, generator=generator)
        image = torch.randn(1, 16, 8, 8, generator=generator)
        mask = torch.randn(1, 16, 8, 8, generator=generator)
        reads_mask = comfy.pack("nodes.comfy.models.description").describe(model).reads_mask
        return x, image, mask if reads_mask else None

    def test_one_step_matches_equation_3_in_diffusers(self, comfy, sd3):
        model, reference = sd3
        described = comfy.pack("nodes.comfy.models.description").describe(model)
        assert described.family.name == "sd3" and described.sites == () and described.title == "UltraEdit"
        x, image, mask = self.latents(comfy, model)
        sigma = 0.6
        found = predicted(self.guider(comfy, model, image, mask), x, sigma)
        condition = image if mask is None else torch.cat([image, mask], 1)
        timestep = torch.tensor([1000 * sigma])
        with_image = torch.cat([x, condition], 1)
        without_image = torch.cat([x, 0 * condition], 1)
        full = reference(with_image, STATES, POOLED, timestep).sample
        image_alone = reference(with_image, 0 * STATES, 0 * POOLED, timestep).sample
        none = reference(without_image, 0 * STATES, 0 * POOLED, timestep).sample
        by_hand = x - sigma * (none + 1.4 * (image_alone - none) + 3.0 * (full - image_alone))
        assert torch.allclose(found, by_hand, atol=1e-3 * by_hand.abs().max().item())

    def test_samples_finite_latents(self, comfy, sd3):
        from comfy import samplers

        model, _ = sd3
        x, image, mask = self.latents(comfy, model)
        sigmas = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
        result = self.guider(comfy, model, image, mask).sample(
            x, torch.zeros_like(x), samplers.sampler_object("euler"), sigmas, seed=0
        )
        assert result.shape == (1, 16, 8, 8) and result.isfinite().all() and result.std() > 0.01

    def test_single_file_matches_the_folder(self, comfy, sd3, tmp_path):
        from comfy import sd

        model, _ = sd3
        config = {**seeded_sd3.SMALL_SD3, "in_channels": model.model.diffusion_model.in_channels}
        native = seeded_sd3.native(seeded_sd3.tensors(config, 6))
        path = tmp_path / "single.safetensors"
        save_file(
            {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in native.items()}, path
        )
        other = sd.load_diffusion_model(str(path))
        describe = comfy.pack("nodes.comfy.models.description").describe
        assert describe(other).fingerprint == describe(model).fingerprint
        x, image, mask = self.latents(comfy, model)
        results = [predicted(self.guider(comfy, each, image, mask), x, 0.6) for each in (model, other)]
        assert torch.allclose(*results, atol=1e-4)

    def test_rejects_learning_and_applying(self, comfy, sd3):
        model, _ = sd3
        message = (
            "UltraEdit: UltraEdit (Stable Diffusion 3) has no cross-attention layers, so instructions can "
            "neither be learned on it nor act in it."
        )
        graph = comfy.graph()
        parts = Parts(graph)
        parts.model = comfy.give(graph, model)
        assert comfy.error(graph, learning(graph, comfy, parts).out(0)).startswith(message)
        graph = comfy.graph()
        _, marked = applied(
            graph, comfy, comfy.give(graph, model), comfy.give(graph, [[STATES, {}]]), instruction(comfy)
        )
        assert comfy.error(graph, marked).startswith(message)


def write_sd3_folder(folder):
    """Writes a folder whose transformer is in two shards."""
    transformer = list(seeded_sd3.tensors(seeded_sd3.SMALL_SD3, 6).items())
    vae = {
        **seeded.VAE,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
    }
    files = {
        "transformer/diffusion_pytorch_model-00001-of-00002": dict(transformer[::2]),
        "transformer/diffusion_pytorch_model-00002-of-00002": dict(transformer[1::2]),
        "vae/diffusion_pytorch_model": dict(seeded.weights(seeded.vae_shapes(vae), 7, torch.float16)),
        "text_encoder/model": dict(seeded.weights(seeded.text_shapes(seeded.CLIP_L), 8, torch.float16)),
    }
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    index = {"_class_name": "StableDiffusion3InstructPix2PixPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.slow
def test_nodes_edit_with_an_sd3_folder(comfy):
    """CLIP-L and VAE are full-size, because ComfyUI only detects those. There is no T5."""
    folder = comfy.base / "models" / "diffusers" / "seeded-sd3"
    try:
        write_sd3_folder(folder)
        results = []
        for mask in ({}, {"mask": half()}):
            graph = comfy.graph()
            node = edit_guider(comfy, graph, Parts(graph, "diffusers/seeded-sd3"), **mask)
            noise = graph.node("RandomNoise", noise_seed=3).out(0)
            sampler = graph.node("KSamplerSelect", sampler_name="euler").out(0)
            sigmas = comfy.give(graph, torch.tensor([1.0, 0.6, 0.0]))
            samples = graph.node(
                "SamplerCustomAdvanced",
                noise=noise,
                guider=node.out(0),
                sampler=sampler,
                sigmas=sigmas,
                latent_image=node.out(1),
            )
            results.append(comfy.values(graph, samples.out(0))[0]["samples"])
        free, masked = results
        assert free.shape == (1, 16, 8, 8) and free.isfinite().all()
        assert not torch.allclose(free, masked, atol=1e-3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        comfy.forget()
