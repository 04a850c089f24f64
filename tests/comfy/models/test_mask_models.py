"""Models that read a mask, in ComfyUI."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.tests.comfy.graphs import (
    Parts,
    conditioned,
    custom_sampled,
    edit_guider,
    half,
    instruction,
    learning,
    make_image,
    predicted,
    sampled,
)
from instructbrush.tests.comfy.models.test_models import detect
from instructbrush.tests.support import seeded, seeded_sd3

ZERO_MASK_WEIGHTS = "diffusers/pocket-region"
RANDOM_MASK_WEIGHTS = "diffusers/pocket-random"


def pocket_unet(folder, mask_weights):
    """Writes the pocket editor's UNet with additional weights [64, 4, 3, 3] for the mask."""
    folder.mkdir(parents=True)
    config = json.loads((POCKET_FOLDER / "unet" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "in_channels": 12}))
    states = load_file(POCKET_FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
    first = states["conv_in.weight"]
    states["conv_in.weight"] = torch.cat([first, mask_weights.to(first)], 1)
    save_file(states, folder / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def folders(comfy):
    """Writes two pocket models with 12 channels. The weights of the mask are zero or random."""
    root = comfy.base / "models" / "diffusers"
    drawn = 0.2 * torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(8))
    for name, weights in ((ZERO_MASK_WEIGHTS, torch.zeros(64, 4, 3, 3)), (RANDOM_MASK_WEIGHTS, drawn)):
        folder = root / name.partition("/")[2]
        for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
            shutil.copytree(POCKET_FOLDER / part, folder / part)
        shutil.copy(POCKET_FOLDER / "model_index.json", folder)
        pocket_unet(folder / "unet", weights)
    yield root
    for name in (ZERO_MASK_WEIGHTS, RANDOM_MASK_WEIGHTS):
        shutil.rmtree(root / name.partition("/")[2])


def region_conditioning(comfy, graph, parts, words="make it night", image=None, **mask):
    conditioning = graph.node("CLIPTextEncode", clip=parts.clip, text=words).out(0)
    options = {
        name: comfy.give(graph, value)
        for name, value in {"image": make_image() if image is None else image, **mask}.items()
    }
    return graph.node(
        "InstructBrushRegionConditioning",
        model=parts.model,
        conditioning=conditioning,
        vae=parts.vae,
        **options,
    )


def edited(comfy, name, **changes):
    graph = comfy.graph()
    node = edit_guider(comfy, graph, Parts(graph, name), **changes)
    return custom_sampled(comfy, graph, node.out(0), node.out(1))


POCKET = json.loads((POCKET_FOLDER / "unet" / "config.json").read_text())


class TestDetection:
    @pytest.mark.parametrize(
        ("unet", "extra", "family", "kind"),
        [
            (POCKET, (), "pocket", "PocketRegion"),
            (seeded.SD15, (), "sd15", "SD15Region"),
            (seeded.SD21, (), "sd21", "SD21Region"),
            (seeded.SD21, ("v_pred",), "sd21", "SD21Region"),
            (seeded.SDXL, (), "sdxl", "SDXLRegion"),
        ],
        ids=["pocket", "sd15", "sd21", "sd21-v", "sdxl"],
    )
    def test_detects_twelve_channels_in_every_family(self, comfy, unet, extra, family, kind):
        key_names = comfy.pack("nodes.comfy.models.key_names")
        shapes = seeded.unet_shapes({**unet, "in_channels": 12})
        with torch.device("meta"):
            native = key_names.unet_keys({name: torch.empty(shape) for name, shape in shapes.items()})
        native = {name: tuple(tensor.shape) for name, tensor in native.items()}
        model = detect(native, extra)
        assert type(model.model_config).__name__ == kind and model.model_type.name == (
            "V_PREDICTION" if extra else "EPS"
        )
        assert comfy.pack("core.models.families").detect_family(native).name == family
        self.concatenates(comfy, model, 4)

    @pytest.mark.parametrize("channels", [32, 48])
    def test_detects_full_size_sd3_in_both_dialects(self, comfy, channels):
        from comfy import model_detection

        named = seeded_sd3.on_meta({**seeded_sd3.SD3, "in_channels": channels})
        native = seeded_sd3.native(named)
        model = detect(seeded_sd3.shapes_of(native))
        assert type(model.model_config).__name__ == (
            "UltraEditSD3Region" if channels == 48 else "UltraEditSD3"
        )
        assert model.model_type.name == "FLOW" and model.diffusion_model.out_channels == 16
        with torch.device("meta"):
            converted = model_detection.convert_diffusers_mmdit(dict(named), "")
        assert seeded_sd3.shapes_of(converted) == seeded_sd3.shapes_of(native)
        latent = torch.randn(1, 16, 4, 4)
        assert torch.equal(model.process_latent_in(latent), latent * 1.5305) and torch.equal(
            model.process_latent_out(latent), latent / 1.5305
        )
        if channels == 48:
            self.concatenates(comfy, model, 16)
        else:
            assert torch.equal(
                model.concat_cond(noise=latent, device="cpu", concat_latent_image=latent), latent
            )

    def concatenates(self, comfy, model, channels):
        key = comfy.pack("nodes.comfy.models.base_models").MASK_LATENT
        error = comfy.pack("core.errors").ModelError
        noise = torch.randn(2, channels, 8, 8)
        image = torch.randn(2, channels, 8, 8)
        mask = torch.randn(1, channels, 8, 8)
        options = {"noise": noise, "device": "cpu", "prompt_type": "positive"}
        concat = model.concat_cond(**options, concat_latent_image=image, **{key: mask})
        assert torch.equal(concat, torch.cat([image, mask.expand(2, -1, -1, -1)], 1))
        assert torch.equal(
            model.concat_cond(**{**options, "prompt_type": "negative"}), torch.zeros(2, 2 * channels, 8, 8)
        )
        with pytest.raises(
            error,
            match=(
                "^This model edits images, and the positive CONDITIONING carries no image. Put Region "
                "Conditioning"
            ),
        ):
            model.concat_cond(**options)
        with pytest.raises(
            error,
            match=(
                "^This model reads a mask, and the CONDITIONING carries an image without a mask. Use Region "
                "Conditioning"
            ),
        ):
            model.concat_cond(**options, concat_latent_image=image)


class TestTwelveChannels:
    def test_both_engines_agree(self, comfy):
        graph = comfy.graph()
        (model,) = comfy.values(graph, Parts(graph, RANDOM_MASK_WEIGHTS).model)
        editor = comfy.pack("core.editing.loading").load_editor(comfy.base / "models" / RANDOM_MASK_WEIGHTS)
        ours = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
        assert ours.description == editor.description and ours.description.reads_mask
        generator = torch.Generator().manual_seed(2)
        noisy = torch.randn(2, 4, 9, 12, generator=generator)
        condition = torch.randn(2, 8, 9, 12, generator=generator)
        context = editor.encode_text(["make it night", ""])
        timesteps = torch.tensor([10, 900])
        with ours.loaded(), torch.no_grad():
            found = ours.predict(
                *(each.to(comfy.device) for each in (noisy, timesteps, condition, context))
            ).cpu()
        assert torch.allclose(found, editor.denoiser.predict(noisy, timesteps, condition, context), atol=1e-4)

    @pytest.mark.parametrize("mask", [None, half(), half(128, 128)], ids=["free-form", "half", "scaled"])
    def test_edit_guider_matches_equation_3_in_diffusers(self, comfy, mask):
        """Compares one step with core's engine. The null branch has neither image nor mask."""
        graph = comfy.graph()
        inputs = {} if mask is None else {"mask": mask}
        (guider,) = comfy.values(
            graph, edit_guider(comfy, graph, Parts(graph, RANDOM_MASK_WEIGHTS), **inputs).out(0)
        )
        editor = comfy.pack("core.editing.loading").load_editor(comfy.base / "models" / RANDOM_MASK_WEIGHTS)
        timestep = torch.tensor([600])
        abar = editor.denoiser.alphas_cumprod[600]
        sigma = ((1 - abar) / abar).sqrt()
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * (1 + sigma)
        noisy = x * abar.sqrt()
        condition = editor.condition(make_image(), mask)
        words, empty = editor.encode_text(["make it night"]), editor.encode_text([""])
        with torch.no_grad():
            full = editor.denoiser.predict(noisy, timestep, condition, words)
            image = editor.denoiser.predict(noisy, timestep, condition, empty)
            none = editor.denoiser.predict(noisy, timestep, torch.zeros_like(condition), empty)
        by_hand = none + 1.4 * (image - none) + 3.0 * (full - image)
        found = (x - predicted(guider, x, float(sigma))) / sigma
        assert torch.allclose(found, by_hand, atol=1e-3 * by_hand.abs().max().item())

    def test_white_mask_equals_no_mask_and_others_differ(self, comfy):
        free = edited(comfy, RANDOM_MASK_WEIGHTS)
        white = edited(comfy, RANDOM_MASK_WEIGHTS, mask=torch.ones(1, 64, 64))
        masked = edited(comfy, RANDOM_MASK_WEIGHTS, mask=half())
        assert torch.equal(free, white)
        assert masked.isfinite().all() and not torch.allclose(free, masked, atol=1e-3)

    def test_stock_nodes_match_edit_guider(self, comfy):
        """Region Conditioning with ComfyUI's DualCFGGuider, as on the help page."""
        graph = comfy.graph()
        parts = Parts(graph, RANDOM_MASK_WEIGHTS)
        first = region_conditioning(comfy, graph, parts, "make it night", mask=half())
        second = region_conditioning(comfy, graph, parts, "", mask=half())
        plain = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        options = {
            "cond1": first.out(0),
            "cond2": second.out(0),
            "negative": plain,
            "cfg_conds": 3.0,
            "cfg_cond2_negative": 1.4,
            "style": "regular",
        }
        guider = graph.node("DualCFGGuider", model=parts.model, **options)
        assert torch.equal(
            custom_sampled(comfy, graph, guider.out(0), first.out(1)),
            edited(comfy, RANDOM_MASK_WEIGHTS, mask=half()),
        )

    def test_every_image_of_a_batch_has_its_mask(self, comfy):
        images, masks = make_image(3, count=2), torch.cat([half(), half().flip(2)])
        results = []
        for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
            graph = comfy.graph()
            parts = Parts(graph, RANDOM_MASK_WEIGHTS)
            node = region_conditioning(comfy, graph, parts, image=images[rows], mask=masks[rows])
            negative = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
            latent = comfy.values(graph, node.out(1))[0]
            # Noise is drawn for a whole batch. An image alone must get the same noise.
            latent = {**latent, "batch_index": list(range(2))[rows]}
            results.append(
                comfy.values(
                    graph, sampled(graph, parts.model, node.out(0), negative, comfy.give(graph, latent))
                )[0]["samples"]
            )
        both, *alone = results
        assert torch.allclose(both, torch.cat(alone), atol=1e-3)

    def test_stock_loaders_read_a_saved_checkpoint(self, comfy):
        graph = comfy.graph()
        parts = Parts(graph, RANDOM_MASK_WEIGHTS)
        graph.node(
            "CheckpointSave",
            model=parts.model,
            clip=parts.clip,
            vae=parts.vae,
            filename_prefix="region/saved",
        )
        comfy.run(graph)
        target = comfy.base / "models" / "checkpoints" / "region_saved.safetensors"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(next((comfy.base / "output" / "region").glob("saved*.safetensors")), target)
        try:
            graph = comfy.graph()
            stock = graph.node("CheckpointLoaderSimple", ckpt_name=target.name)
            parts = type("Stock", (), {"model": stock.out(0), "clip": stock.out(1), "vae": stock.out(2)})
            node = edit_guider(comfy, graph, parts, mask=half())
            expected = edited(comfy, RANDOM_MASK_WEIGHTS, mask=half())
            from_stock = custom_sampled(comfy, graph, node.out(0), node.out(1))
            from_ours = edited(comfy, f"checkpoints/{target.name}", mask=half())
            assert torch.allclose(from_stock, expected, atol=1e-3)
            assert torch.allclose(from_ours, expected, atol=1e-3)
        finally:
            target.unlink()

    def test_instruction_acts_as_in_the_pocket_editor(self, comfy):
        """The weights of its mask are zero, so both models must agree."""
        learned = instruction(comfy)
        pocket = edited(comfy, "pocket editor (built in)", instruction=learned)
        assert torch.allclose(
            edited(comfy, ZERO_MASK_WEIGHTS, instruction=learned, mask=half()), pocket, atol=1e-3
        )

    def test_learning_matches_the_pocket_editor(self, comfy):
        found = []
        for name in ("pocket editor (built in)", ZERO_MASK_WEIGHTS):
            graph = comfy.graph()
            found.append(
                comfy.values(
                    graph,
                    learning(graph, comfy, Parts(graph, name), objective="guided", preview_every=6).out(0),
                )[0]
            )
        pocket, region = found
        assert torch.allclose(torch.tensor(region.info.losses), torch.tensor(pocket.info.losses), rtol=1e-3)
        assert (region.info.family, region.info.fingerprint) == ("pocket", pocket.info.fingerprint)

    def test_offers_the_built_in_model_if_it_is_installed(self, comfy, monkeypatch, tmp_path):
        models = comfy.pack("nodes.comfy.models.loading")
        builtin = comfy.pack("core.models.builtin")
        folder = tmp_path / "pocket_region"
        for module in (models, builtin):
            monkeypatch.setattr(module, "POCKET_REGION_FOLDER", folder)
        monkeypatch.setitem(builtin.TITLES, folder, "pocket region editor")
        assert models.POCKET_REGION_NAME not in models.model_names()
        pocket_unet(folder / "unet", torch.zeros(64, 4, 3, 3))
        assert models.model_names()[:2] == [models.POCKET_NAME, models.POCKET_REGION_NAME]
        with torch.inference_mode():
            model, clip, vae = models.load_model(models.POCKET_REGION_NAME)
            described = comfy.pack("nodes.comfy.models.description").describe(model)
            assert described.title == "pocket region editor" and described.reads_mask
            states = clip.encode_from_tokens_scheduled(clip.tokenize("a hat"))[0][0]
            assert states.shape[2] == 128
            assert vae.encode(make_image()).shape == (1, 4, 8, 8)


class TestMistakes:
    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (
                torch.zeros(1, 64, 64),
                "Mask: it is black everywhere, so nothing would be edited. Paint white where the edit should "
                "act, or",
            ),
            (torch.ones(1, 64, 32), "Mask: it is 32 x 64, the image 64 x 64, which is another aspect ratio."),
            (torch.ones(3, 64, 64), "Mask: 3 masks do not fit 1 images."),
            (torch.full((1, 64, 64), 2.0), "Mask holds values from 2 to 2. Scale them"),
        ],
    )
    def test_rejects_masks_that_do_not_fit(self, comfy, mask, message):
        graph = comfy.graph()
        parts = Parts(graph, RANDOM_MASK_WEIGHTS)
        assert comfy.error(graph, region_conditioning(comfy, graph, parts, mask=mask).out(0)).startswith(
            message
        )
        graph = comfy.graph()
        assert comfy.error(
            graph, edit_guider(comfy, graph, Parts(graph, RANDOM_MASK_WEIGHTS), mask=mask).out(0)
        ).startswith(message)

    def test_rejects_a_mask_for_a_model_without_one(self, comfy):
        message = (
            "pocket editor: this model reads no mask (8 input channels, 12 in one that does). Remove the "
            "mask and limit the edit with Reg"
        )
        for make in (region_conditioning, edit_guider):
            graph = comfy.graph()
            assert comfy.error(graph, make(comfy, graph, Parts(graph), mask=half()).out(0)).startswith(
                message
            )

    def test_region_conditioning_works_without_a_mask(self, comfy):
        graph = comfy.graph()
        parts = Parts(graph)
        negative = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        node = region_conditioning(comfy, graph, parts)
        ours = comfy.values(graph, sampled(graph, parts.model, node.out(0), negative, node.out(1)))[0][
            "samples"
        ]
        graph = comfy.graph()
        parts = Parts(graph)
        positive, _, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        negative = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        assert torch.equal(
            ours, comfy.values(graph, sampled(graph, parts.model, positive, negative, latent))[0]["samples"]
        )

    def test_mask_model_rejects_a_missing_mask_or_image(self, comfy):
        graph = comfy.graph()
        parts = Parts(graph, RANDOM_MASK_WEIGHTS)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        assert comfy.error(graph, sampled(graph, parts.model, positive, negative, latent)).startswith(
            "This model reads a mask, and the CONDITIONING carries an image without a mask. Use Region "
            "Conditioning instead of InstructPixToPixConditioning;"
        )
        graph = comfy.graph()
        parts = Parts(graph, RANDOM_MASK_WEIGHTS)
        words = graph.node("CLIPTextEncode", clip=parts.clip, text="make it night").out(0)
        empty = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        latent = graph.node("EmptyLatentImage", width=64, height=64, batch_size=1).out(0)
        assert comfy.error(graph, sampled(graph, parts.model, words, empty, latent)).startswith(
            "This model edits images, and the positive CONDITIONING carries no image. Put Region "
            "Conditioning between the words and the sampler, or use"
        )
