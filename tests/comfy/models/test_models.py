"""Load InstructPix2Pix: all layouts, the pocket editor in stock nodes, and errors."""

import gc
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.tests.comfy.graphs import MODEL_NAME, Parts, conditioned, make_image, sampled
from instructbrush.tests.support import seeded


@pytest.fixture(autouse=True)
def folders(comfy):
    for name in ("checkpoints", "diffusers"):
        (comfy.base / "models" / name).mkdir(parents=True, exist_ok=True)


def load(comfy, name):
    """Returns MODEL, CLIP, VAE, size and megapixels."""
    graph = comfy.graph()
    node = graph.node("InstructBrushLoadModel", model_name=name)
    return comfy.values(graph, *(node.out(place) for place in range(5)))


def detect(shapes, extra=()):
    """Builds the model that ComfyUI detects for a UNet of these shapes, on the meta device."""
    from comfy import model_detection

    with torch.device("meta"):
        states = {f"model.diffusion_model.{name}": torch.empty(shape) for name, shape in shapes.items()}
    states.update({name: torch.tensor(80.0) for name in extra})
    config = model_detection.model_config_from_unet(states, "model.diffusion_model.")
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(states, "model.diffusion_model.", device=torch.device("meta"))
    missing, unexpected = model.diffusion_model.load_state_dict(
        {
            name.removeprefix("model.diffusion_model."): value
            for name, value in states.items()
            if name.startswith("model.")
        },
        strict=False,
        assign=True,
    )
    assert not missing and not unexpected
    return model


@pytest.mark.parametrize(
    ("unet", "extra", "family", "sites"),
    [
        (seeded.SD15, (), "sd15", 16),
        (seeded.SD21, (), "sd21", 16),
        (seeded.SD21, ("v_pred",), "sd21", 16),
        (seeded.SDXL, (), "sdxl", 70),
        (seeded.SDXL, ("edm_vpred.sigma_max",), "cosxl", 70),
    ],
    ids=["sd15", "sd21", "sd21-v", "sdxl", "cosxl"],
)
def test_comfyui_detects_every_family(comfy, unet, extra, family, sites):
    shapes = seeded.unet_shapes(unet)
    key_names = comfy.pack("nodes.comfy.models.key_names")
    with torch.device("meta"):
        tensors = key_names.unet_keys({name: torch.empty(shape) for name, shape in shapes.items()})
    native = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert native == seeded.native_unet(shapes)
    model = detect(native, extra)
    latent = torch.randn(1, 4, 8, 8)
    concat = model.concat_cond(noise=torch.zeros(1, 4, 8, 8), device="cpu", concat_latent_image=latent)
    assert torch.equal(concat, latent * 0.13025 if family == "cosxl" else latent)
    assert torch.equal(model.concat_cond(noise=latent, device="cpu"), torch.zeros(1, 4, 8, 8))
    described = comfy.pack("core.models.families").detect_family(native, "edm_vpred.sigma_max" in extra)
    assert described.name == family
    assert len(comfy.pack("core.models.attention_sites").sites_of_unet(native)) == sites
    assert model.model_type.name == {
        "sd21": "V_PREDICTION" if extra else "EPS",
        "cosxl": "V_PREDICTION_EDM",
    }.get(family, "EPS")


@pytest.mark.slow
def test_sd15_is_the_same_as_file_and_folder(comfy):
    """One model at a time. ComfyUI only detects SD1.5 with 320 channels and full-size VAE and CLIP."""
    models, diffusers = comfy.base / "models", comfy.base / "models" / "diffusers" / "seeded-ip2p"
    results = []
    try:
        unet = {**seeded.SD15, "block_out_channels": [320] * 4}
        save_file(seeded.checkpoint(3, unet), models / "checkpoints" / "seeded_ip2p.safetensors")
        seeded.write_folder(diffusers, 3, unet, seeded.VAE, seeded.CLIP_L, torch.float16)
        (diffusers / "model_index.json").write_text(
            json.dumps({"_class_name": "StableDiffusionInstructPix2PixPipeline"})
        )
        for name in ("checkpoints/seeded_ip2p.safetensors", "diffusers/seeded-ip2p"):
            model, clip, vae, *size = load(comfy, name)
            assert size == [512, 0.25]
            with torch.inference_mode():
                states = clip.encode_from_tokens_scheduled(clip.tokenize("turn the hat teal"))[0][0]
                image = make_image(1, height=32, width=32)
                latent = vae.encode(image)
                described = comfy.pack("nodes.comfy.models.description").describe(model)
                from comfy import model_management

                model_management.load_models_gpu([model])
                options = {"c_concat": latent.to(comfy.device), "c_crossattn": states.to(comfy.device)}
                noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(comfy.device)
                sigma = torch.tensor([2.0], device=comfy.device)
                prediction = model.model.apply_model(noise, sigma, **options).cpu()
                results.append((described, states, latent, prediction))
            del model, clip, vae
            comfy.forget()
            model_management.unload_all_models()
            gc.collect()
    finally:
        shutil.rmtree(diffusers, ignore_errors=True)
        (models / "checkpoints" / "seeded_ip2p.safetensors").unlink(missing_ok=True)
    (file, *outputs), (folder, *others) = results
    assert len(file.sites) == 16 and file.family.name == "sd15" and file.in_channels == 8
    assert file.sites == folder.sites and file.fingerprint == folder.fingerprint
    assert file.title == "seeded_ip2p" and folder.title == "seeded-ip2p"
    for ours, theirs in zip(outputs, others, strict=True):
        assert ours.isfinite().all() and torch.allclose(
            ours.float(), theirs.float(), atol=1e-4 * ours.abs().max().item()
        )


def test_an_image_is_scaled_to_the_size_of_its_model(comfy):
    graph = comfy.graph()
    loader = graph.node("InstructBrushLoadModel", model_name="pocket editor (built in)")
    photo = comfy.give(graph, make_image(0, height=300, width=1200))
    scaled = graph.node(
        "ImageScaleToTotalPixels",
        image=photo,
        megapixels=loader.out(4),
        upscale_method="area",
        resolution_steps=1,
    )
    size, image = comfy.values(graph, loader.out(3), scaled.out(0))
    assert size == 128 and image.shape == (1, 64, 256, 3)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 96), (72, 136), (130, 65)])
def test_pocket_editor_accepts_any_size_in_stock_nodes(comfy, height, width):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(
        graph, parts, comfy.give(graph, make_image(0, height=height, width=width))
    )
    image = graph.node(
        "VAEDecode", samples=sampled(graph, parts.model, positive, negative, latent, steps=1), vae=parts.vae
    )
    (result,) = comfy.values(graph, image.out(0))
    assert result.shape == (1, height // 8 * 8, width // 8 * 8, 3) and result.isfinite().all()


def test_clip_and_vae_can_be_copied_to_another_device(comfy):
    """As Select CLIP Device does, and Set CLIP Hooks with dynamic VRAM: they call the loader again."""
    graph = comfy.graph()
    parts = Parts(graph)
    clip, vae = comfy.values(graph, parts.clip, parts.vae)
    image = torch.rand(1, 32, 32, 3)
    with torch.inference_mode():
        expected = vae.encode(image), clip.encode_from_tokens(clip.tokenize("make it night"))
        for each in (clip, vae):
            own = each.patcher
            each.patcher = own.deepclone_multigpu(own.load_device)
            assert each.patcher.model is not own.model
            states = dict(own.model.state_dict())
            for name, tensor in each.patcher.model.state_dict().items():
                assert torch.equal(tensor.cpu(), states[name].cpu()), name
            each.patcher = own
        found = vae.encode(image), clip.encode_from_tokens(clip.tokenize("make it night"))
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))
    for patcher in (clip.patcher, vae.patcher):
        load, inputs = patcher.cached_patcher_init
        assert not load(*inputs, disable_dynamic=True).is_dynamic()


def test_stock_loaders_read_a_saved_pocket_editor(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    graph.node(
        "CheckpointSave", model=parts.model, clip=parts.clip, vae=parts.vae, filename_prefix="pocket/saved"
    )
    comfy.run(graph)
    saved = next((comfy.base / "output" / "pocket").glob("saved*.safetensors"))
    shutil.copy(saved, comfy.base / "models" / "checkpoints" / "pocket_saved.safetensors")

    def outcome(model, clip, vae, graph):
        stock = type("Stock", (), {"model": model, "clip": clip, "vae": vae})
        positive, negative, latent = conditioned(graph, stock, comfy.give(graph, make_image()))
        return comfy.values(graph, sampled(graph, model, positive, negative, latent))[0]["samples"]

    graph = comfy.graph()
    parts = Parts(graph)
    ours = outcome(parts.model, parts.clip, parts.vae, graph)
    for class_type, name in (
        ("CheckpointLoaderSimple", {"ckpt_name": "pocket_saved.safetensors"}),
        ("InstructBrushLoadModel", {"model_name": "checkpoints/pocket_saved.safetensors"}),
    ):
        graph = comfy.graph()
        node = graph.node(class_type, **name)
        found = outcome(node.out(0), node.out(1), node.out(2), graph)
        assert torch.allclose(found, ours, atol=1e-3), class_type


def unloadable(comfy, name):
    graph = comfy.graph()
    return comfy.error(graph, graph.node("InstructBrushLoadModel", model_name=name).out(0))


def test_rejects_what_cannot_be_loaded(comfy):
    checkpoints = comfy.base / "models" / "checkpoints"
    diffusers = comfy.base / "models" / "diffusers"
    for name, channels in (("plain", 4), ("inpainting", 9)):
        shapes = seeded.native_unet(seeded.unet_shapes({**seeded.SD15, "in_channels": channels}))
        seeded.write_hollow(
            checkpoints / f"{name}.safetensors",
            {f"model.diffusion_model.{key}": shape for key, shape in shapes.items()},
        )
    (checkpoints / "broken.safetensors").write_bytes(b"no safetensors")
    save_file({"a": torch.zeros(1)}, checkpoints / "other.safetensors")
    (diffusers / "empty" / "unet").mkdir(parents=True)
    (diffusers / "empty" / "model_index.json").write_text("{}")
    assert unloadable(comfy, "checkpoints/plain.safetensors") == (
        "plain.safetensors: this is not an InstructPix2Pix model: 4 input channels; 8 (4 noise + 4 image) or "
        "12 (+ 4 mask) are needed. It is a plain text-to-image model; choose an InstructPix2Pix one such as "
        "timbrooks/instruct-pix2pix."
    )
    assert unloadable(comfy, "checkpoints/inpainting.safetensors") == (
        "inpainting.safetensors: this is an inpainting model, not an InstructPix2Pix model: 9 input "
        "channels; 8 (4 noise + 4 image) or 12 (+ 4 mask) are needed. It fills holes and follows no "
        "instructions; use it with ComfyUI's own inpainting nodes, or choose an editing model."
    )
    assert unloadable(comfy, "checkpoints/broken.safetensors").startswith("broken.safetensors: ")
    assert unloadable(comfy, "checkpoints/other.safetensors") == (
        "other.safetensors: no Stable Diffusion UNet was found in it (neither conv_in.weight nor "
        "input_blocks.0.0.weight). Choose an InstructPix2Pix checkpoint or a diffusers folder with a unet "
        "inside."
    )
    assert unloadable(comfy, "diffusers/empty") == (
        "empty: no weights (.safetensors) were found in its folder unet. Download the whole model, with its "
        "safetensors files."
    )
    assert (
        "Model 'checkpoints/none.safetensors' was not found. Refresh the list (key R) and choose from it."
        in unloadable(comfy, "checkpoints/none.safetensors")
    )
    for name in ("checkpoints/../secret.safetensors", "diffusers/..", "diffusers//etc", "checkpoints/a\0b"):
        assert re.search(
            r"Name '.*' cannot be used: it .*\. Use a plain name such as 'snow' or 'weather/snow'\.",
            unloadable(comfy, name),
        ), name


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_checks_the_weights_of_every_part(comfy, part):
    folder = comfy.base / "models" / "diffusers" / f"pickled-{part}"
    shutil.copytree(comfy.pack("core.models.builtin").POCKET_FOLDER, folder)
    file = next((folder / part).glob("*.safetensors"))
    try:
        file.write_bytes(b"PK\x03\x04" + bytes(99))
        assert unloadable(comfy, f"diffusers/pickled-{part}").startswith(
            f"{file.name}: this is a pickled checkpoint under another name. "
        )
    finally:
        shutil.rmtree(folder)


def test_rejects_parts_of_different_models(comfy):
    """A foreign CLIP in Learn Instruction, and an instruction of another family in Apply Instruction."""
    from instructbrush.tests.comfy.graphs import instruction, learning

    graph = comfy.graph()
    parts = Parts(graph)
    (clip,) = comfy.values(graph, parts.clip)

    class Wide:
        def __getattr__(self, name):
            return getattr(clip, name)

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.zeros(1, 77, 768), {}]]

    graph = comfy.graph()
    parts = Parts(graph)
    parts.clip = comfy.give(graph, Wide())
    assert comfy.error(graph, learning(graph, comfy, parts).out(0)) == (
        "Learn Instruction: CLIP gives text states 768 wide, the pocket editor needs 128. Connect MODEL, "
        "CLIP and VAE of the same Load InstructPix2Pix."
    )
    other = instruction(comfy)
    info = type(other.info)(**{**vars(other.info), "family": "sd15", "model_title": "instruct-pix2pix"})
    foreign = type(other)(other.keys, other.values, other.context, other.start, info)
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    node = graph.node(
        "InstructBrushApply",
        model=parts.model,
        conditioning=positive,
        instruction=comfy.give(graph, foreign),
        strength=1.0,
        end_timestep=0,
    )
    assert comfy.error(graph, node.out(0)) == (
        "Instruction 'seeded' was learned on a sd15 model (instruct-pix2pix) and cannot act in a pocket "
        "model (pocket editor). Load a sd15 model, or learn the instruction again on this one."
    )


def test_names_the_built_in_editor(comfy):
    """Workflows of users hold this name."""
    assert comfy.pack("nodes.comfy.models.loading").POCKET_NAME == MODEL_NAME
