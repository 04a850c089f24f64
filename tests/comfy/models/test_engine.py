"""ComfyUI's engine on small models of every family."""

import pytest
import torch

from instructbrush.tests.support import seeded

SMALL = {"sample_size": 8, "in_channels": 8, "out_channels": 4}
FAMILIES = {
    "sd15": ({**seeded.SD15, "block_out_channels": [32, 32, 64, 64]}, "SD15_instructpix2pix", ()),
    "sd15-mask": (
        {**seeded.SD15, "block_out_channels": [32, 32, 64, 64], "in_channels": 12},
        "SD15Region",
        (),
    ),
    "sd21": (
        {**seeded.SD21, "block_out_channels": [64, 64, 64, 64], "attention_head_dim": [1, 1, 1, 1]},
        "SD21InstructPix2Pix",
        (),
    ),
    "sd21-v": (
        {**seeded.SD21, "block_out_channels": [64, 64, 64, 64], "attention_head_dim": [1, 1, 1, 1]},
        "SD21InstructPix2Pix",
        ("v_pred",),
    ),
    "sdxl": (
        {**seeded.SDXL, "block_out_channels": [64, 64, 64], "attention_head_dim": [1, 1, 1]},
        "SDXL_instructpix2pix",
        (),
    ),
    "cosxl": (
        {**seeded.SDXL, "block_out_channels": [64, 64, 64], "attention_head_dim": [1, 1, 1]},
        "SDXL_instructpix2pix",
        ("edm_vpred.sigma_max",),
    ),
}


def build(comfy, name):
    """Builds a MODEL of the family with few channels and random weights."""
    from comfy import model_detection, model_patcher, supported_models

    config, kind, extra = FAMILIES[name]
    native = seeded.native_unet(dict(seeded.weights(seeded.unet_shapes(config), 7)))
    states = {f"model.diffusion_model.{key}": value for key, value in native.items()}
    states.update({key: torch.tensor(80.0) for key in extra})
    found = model_detection.detect_unet_config(states, "model.diffusion_model.")
    classes = {entry.__name__: entry for entry in supported_models.models}
    model_config = classes[kind](found)
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model(states, "model.diffusion_model.")
    model.load_model_weights(states, "model.diffusion_model.")
    return model_patcher.ModelPatcher(model, load_device=comfy.device, offload_device=torch.device("cpu"))


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request, comfy):
    pooled = torch.randn(1, 1280, generator=torch.Generator().manual_seed(3))
    model = build(comfy, request.param)
    yield (
        request.param,
        comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model, pooled),
    )


def draw(engine, rows=3):
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(rows, 4, 8, 8, generator=generator)
    image = torch.randn(rows, engine.description.condition_channels, 8, 8, generator=generator)
    context = torch.randn(rows, 77, engine.description.family.context_width, generator=generator)
    timesteps = torch.tensor([3, 480, 990][:rows])
    return tuple(tensor.to(engine.device) for tensor in (noisy, timesteps, image, context))


def test_detects_the_family(engine):
    name, denoiser = engine
    family = denoiser.description.family
    assert family.name == name.removesuffix("-v").removesuffix("-mask")
    assert family.prediction == {"sd21-v": "v_prediction", "cosxl": "edm_v"}.get(name, "epsilon")
    assert len(denoiser.description.sites) == (70 if "xl" in name else 16)
    schedule = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert torch.allclose(denoiser.alphas_cumprod.cpu(), torch.cumprod(1 - schedule, 0).float(), atol=1e-5)


def test_predict_returns_noise_in_every_family(engine):
    name, denoiser = engine
    noisy, timesteps, image, context = draw(denoiser)
    with denoiser.loaded(), torch.no_grad():
        found = denoiser.predict(noisy, timesteps, image, context)
        abar = denoiser.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        sigma = ((1 - abar) / abar).sqrt()
        times = sigma.flatten().log() / 4 if name == "cosxl" else timesteps.float()
        condition = image * 0.13025 if name == "cosxl" else image
        extra = denoiser._sdxl_conditioning(noisy)
        raw = denoiser.unet(torch.cat([noisy, condition], 1), times, context=context, **extra)
        if denoiser.description.family.prediction == "epsilon":
            expected = raw
        else:
            expected = abar.sqrt() * raw + (1 - abar).sqrt() * noisy
        without_image = denoiser.predict(noisy, timesteps, torch.zeros_like(image), context)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=2e-4 * expected.abs().max().item())
    assert not torch.allclose(found, without_image, atol=1e-3)


def test_keys_and_values_of_the_words_act_like_the_words(comfy, engine):
    """The learned rows are the model's own projections of the words."""
    _, denoiser = engine
    noisy, timesteps, image, context = draw(denoiser)
    context = context[:1].expand(3, -1, -1)
    injections = comfy.pack("core.instruction.injection")
    parts = comfy.pack("core.instruction.injected_instruction")
    with denoiser.loaded():
        projected = denoiser.project(context[0])
        keys = {name: k[1:9].repeat(5, 1, 1).requires_grad_() for name, (k, _) in projected.items()}
        values = {name: v[1:9].repeat(5, 1, 1).requires_grad_() for name, (_, v) in projected.items()}
        injection = injections.Injection(
            (parts.InjectedInstruction.attention(context[0], 1, keys, values),),
            torch.ones(5, device=denoiser.device),
        )
        same = denoiser.predict(noisy, timesteps, image, context, injection)
        with torch.no_grad():
            words = denoiser.predict(noisy, timesteps, image, context)
        assert torch.allclose(same, words, atol=1e-4 * words.abs().max().item())
        same.square().sum().backward()
    assert set(keys) == {site.name for site in denoiser.description.sites}
    for name, tensor in keys.items():
        # Timesteps 3, 480 and 990 are in segments 0, 2 and 4, so only those get gradients.
        assert tensor.grad[[0, 2, 4]].abs().sum() > 0 and tensor.grad[[1, 3]].abs().sum() == 0, name
    assert not any(parameter.grad is not None for parameter in denoiser.unet.parameters())


def test_maps_edm_timesteps_to_positions_in_the_schedule(comfy):
    patch = comfy.pack("nodes.comfy.sampling.instruction_patch")
    from comfy.model_sampling import ModelSamplingDiscrete

    sigmas = ModelSamplingDiscrete().sigmas
    assert torch.equal(patch.train_timesteps(sigmas.log() / 4, edm=True), torch.arange(1000))
    assert patch.train_timesteps(torch.tensor([80.0, 0.002]).log() / 4, edm=True).tolist() == [999, 0]
    kept = torch.tensor([3.0, 999.0])
    assert patch.train_timesteps(kept, edm=False) is kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_are_finite_on_half_precision_weights(comfy, dtype):
    model = build(comfy, "sd15")
    model.model.diffusion_model.to(dtype)
    model.model.diffusion_model.dtype = dtype
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    noisy, timesteps, image, context = draw(denoiser, 2)
    trainers = comfy.pack("core.learning.trainer")
    objectives = comfy.pack("core.learning.objective")
    requests = comfy.pack("core.learning.request")
    settings = comfy.pack("core.learning.settings").LearningSettings(tokens=4, segments=2, steps=2)
    with denoiser.loaded():
        trainer = trainers.Trainer(
            requests.LearningRequest(
                denoiser,
                objectives.PairLatents([image[0]], [noisy[0]]),
                requests.InitText("", context[0]),
                context[1],
                settings,
            )
        )
        trainer.run()
    learned = trainer.instruction()
    assert len(learned.keys) == 16
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in learned.keys.values())


@pytest.mark.parametrize("enabled", [False, True])
def test_attention_has_the_precision_that_sampling_has(comfy, monkeypatch, enabled):
    """Where ComfyUI does not use torch's attention, it computes in the precision that a model asks for."""
    from comfy import model_management
    from comfy.ldm.modules.attention import attention_pytorch

    monkeypatch.setattr(model_management, "ENABLE_PYTORCH_ATTENTION", enabled)
    attention = comfy.pack("nodes.comfy.sampling.comfy_denoiser")._attention
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 64, 32, generator=generator).half() * 20 for _ in range(3))
    wide = attention_pytorch(q.float(), k.float(), v.float(), 4).half()
    expected = attention_pytorch(q, k, v, 4) if enabled else wide
    assert torch.equal(attention(None, q, k, v, 4, attn_precision=torch.float32), expected)
    assert not torch.equal(attention_pytorch(q, k, v, 4), wide)
