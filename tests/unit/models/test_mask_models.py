"""Models that read a mask, and UltraEdit's SD3."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import describe, load_editor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import ModelError, RegionError
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.models import builtin
from instructbrush.core.models.families import FAMILIES, describe_unet, detect_family
from instructbrush.core.pairs.pairs import make_pairs
from instructbrush.core.regions.mask_images import mask_image
from instructbrush.tests.support import seeded, seeded_sd3

pytestmark = pytest.mark.slow  # edits and learns

PREFIX = "model.diffusion_model."
REGION = {**seeded.SMALL_SD15, "in_channels": 12}


def described(tensors: dict[str, Tensor]) -> object:
    return describe_unet(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        lambda name, rows: tensors[name][:rows],
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DiffusersEditor:
    """SD1.5's layout with 12 input channels and few hidden channels."""
    folder = seeded.write_folder(
        tmp_path_factory.mktemp("mask") / "ultra", 3, REGION, text={**seeded.SMALL_CLIP, "vocab_size": 49408}
    )
    seeded.write_tokenizer(folder / "tokenizer")
    return load_editor(folder)


@pytest.fixture(scope="module")
def pocket_region(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEditor:
    """The pocket editor with zeros as weights of the mask, as training of the pocket region editor starts."""
    folder = tmp_path_factory.mktemp("built") / "pocket_region"
    (folder / "unet").mkdir(parents=True)
    config = json.loads((pocket / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 12}))
    states = load_file(pocket / "unet" / "diffusion_pytorch_model.safetensors")
    first = states["conv_in.weight"]
    save_file(
        {**states, "conv_in.weight": torch.cat([first, torch.zeros_like(first[:, :4])], 1)},
        folder / "unet" / "diffusion_pytorch_model.safetensors",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "POCKET_REGION_FOLDER", folder)
        patch.setitem(builtin.TITLES, folder, "pocket region editor")
        return load_editor(folder)


class TestDescription:
    @pytest.mark.parametrize(
        ("config", "family"), [(seeded.SD15, "sd15"), (seeded.SD21, "sd21"), (seeded.SDXL, "sdxl")]
    )
    def test_twelve_channels_belong_to_the_family_of_eight(
        self, tmp_path: Path, config: dict, family: str
    ) -> None:
        kinds = []
        for channels in (8, 12):
            shapes = seeded.native_unet(seeded.unet_shapes({**config, "in_channels": channels}))
            kinds.append(
                describe(
                    seeded.write_hollow(
                        tmp_path / f"{channels}.safetensors",
                        {PREFIX + name: shape for name, shape in shapes.items()},
                    )
                )
            )
        free, region = kinds
        assert region.family == free.family == FAMILIES[family] and region.sites == free.sites
        assert (free.in_channels, free.condition_channels, free.reads_mask) == (8, 4, False)
        assert (region.in_channels, region.condition_channels, region.reads_mask) == (12, 8, True)

    def test_fingerprint_does_not_depend_on_the_input_channels(self, tmp_path: Path) -> None:
        free = dict(seeded.weights(seeded.unet_shapes(seeded.SMALL_SD15), 5))
        region = dict(seeded.weights(seeded.unet_shapes(REGION), 5))
        region |= {name: tensor for name, tensor in free.items() if name != "conv_in.weight"}
        assert described(free).fingerprint == described(region).fingerprint
        save_file(
            {PREFIX + name: tensor.half() for name, tensor in seeded.native_unet(region).items()},
            tmp_path / "single.safetensors",
        )
        single = describe(tmp_path / "single.safetensors")
        folder = describe(seeded.write_folder(tmp_path / "folder", 5, REGION))
        assert single.in_channels == folder.in_channels == 12
        assert single.fingerprint == folder.fingerprint == described(free).fingerprint

    def test_rejects_a_mask_for_a_model_without_one(self, editor: DiffusersEditor) -> None:
        message = (
            r"^pocket editor: this model reads no mask \(8 input channels, 12 in one that does\). "
            r"Remove the mask and limit the edit .* Region Edit"
        )
        with pytest.raises(ModelError, match=message):
            editor.condition(torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64))

    def test_single_file_shapes_match_the_local_configuration(self) -> None:
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        from instructbrush.core.models.module_builder import UNET_CONFIG

        config = {**UNET_CONFIG["sd15"], "in_channels": 12}
        native = {
            PREFIX + name: torch.empty(shape, device="meta")
            for name, shape in seeded.native_unet(seeded.unet_shapes(config)).items()
        }
        converted = convert_ldm_unet_checkpoint(native, config)
        assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == seeded.unet_shapes(config)

    def test_rejects_single_files_that_only_comfyui_reads(self, tmp_path: Path, pocket: Path) -> None:
        config = json.loads((pocket / "unet" / "config.json").read_text())
        shapes = {
            name: (1, *shape[1:]) if name == "conv_in.weight" else shape
            for name, shape in seeded.unet_shapes(config).items()
        }
        path = seeded.write_hollow(tmp_path / "saved.safetensors", shapes)
        with pytest.raises(
            ModelError,
            match=(
                "^saved.safetensors: single files of the pocket family are read in ComfyUI only. Give the "
                "model as a diffusers"
            ),
        ):
            load_editor(path)


class TestSD3:
    @pytest.mark.parametrize("channels", [32, 48])
    def test_describes_full_size_files_from_their_header(self, tmp_path: Path, channels: int) -> None:
        named = seeded_sd3.on_meta({**seeded_sd3.SD3, "in_channels": channels})
        native = {
            PREFIX + name: shape for name, shape in seeded_sd3.shapes_of(seeded_sd3.native(named)).items()
        }
        single = describe(seeded.write_hollow(tmp_path / "sd3.safetensors", native))
        folder = tmp_path / "UltraEdit" / "transformer"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"_class_name": "SD3Transformer2DModel"}))
        seeded.write_hollow(folder / "diffusion_pytorch_model.safetensors", seeded_sd3.shapes_of(named))
        other = describe(folder.parent)
        assert single.title == "sd3.safetensors" and other.title == "UltraEdit"
        for description in (single, other):
            assert description.family == FAMILIES["sd3"] and description.sites == ()
            assert (description.in_channels, description.reads_mask, description.condition_channels) == (
                channels,
                channels == 48,
                channels - 16,
            )
        assert single.fingerprint == other.fingerprint

    def test_fingerprint_differs_between_models_but_not_dialects(self) -> None:
        first = seeded_sd3.tensors(seeded_sd3.SMALL_SD3, 0)
        second = seeded_sd3.tensors(seeded_sd3.SMALL_SD3, 1)
        halved = {name: tensor.half() for name, tensor in seeded_sd3.native(first).items()}
        assert described(halved).fingerprint == described(first).fingerprint
        assert described(first).fingerprint != described(second).fingerprint

    def test_diffusers_engine_rejects_sd3(self, tmp_path: Path) -> None:
        save_file(seeded_sd3.native(seeded_sd3.tensors(seeded_sd3.SMALL_SD3, 0)), tmp_path / "it.safetensors")
        with pytest.raises(
            ModelError,
            match=(
                r"^it.safetensors: UltraEdit \(Stable Diffusion 3\) runs in ComfyUI only: use the nodes Load "
                r".* and Edit Guider"
            ),
        ):
            load_editor(tmp_path / "it.safetensors")

    def test_rejects_instructions(self, editor: DiffusersEditor) -> None:
        description = described(seeded_sd3.tensors(seeded_sd3.SMALL_SD3, 0))
        message = (
            r"^UNet: UltraEdit \(Stable Diffusion 3\) has no cross-attention layers, so instructions can "
            "neither be learned on it nor act in it. Edit with"
        )
        with pytest.raises(ModelError, match=message):
            description.require_sites()
        with pytest.raises(ModelError, match=message):
            learned(editor).check_fits(description)

    @pytest.mark.parametrize(
        ("channels", "message"),
        [
            (
                16,
                r"^it: this is not an InstructPix2Pix model: 16 input channels; 32 \(16 noise \+ 16 image\) "
                r"or 48 \(\+ 16 mask\) are needed. It is a plain",
            ),
            (33, r"^it: this is an inpainting model, not an InstructPix2Pix model: 33 input channels; 32 "),
            (64, r"^it: unknown kind of model: 64 input channels; 32 "),
        ],
    )
    def test_rejects_other_kinds_of_transformer(self, channels: int, message: str) -> None:
        named = seeded_sd3.on_meta({**seeded_sd3.SMALL_SD3, "in_channels": channels})
        for tensors in (named, seeded_sd3.native(named)):
            with pytest.raises(ModelError, match=message):
                detect_family(seeded_sd3.shapes_of(tensors), title="it")


class TestMaskImage:
    def test_turns_masks_into_images(self) -> None:
        images = torch.rand(2, 8, 12, 3)
        assert torch.equal(mask_image(None, images), torch.ones(1, 8, 12, 3))
        mask = torch.rand(2, 8, 12)
        assert torch.equal(mask_image(mask, images), mask[..., None].repeat(1, 1, 1, 3))
        assert mask_image(mask[:1], images).shape == mask_image(mask[0], images).shape == (1, 8, 12, 3)

    def test_scales_masks_of_the_same_aspect_ratio(self) -> None:
        half = torch.zeros(1, 8, 8)
        half[:, :, 4:] = 1
        image = mask_image(half, torch.zeros(1, 64, 64, 3))[0, ..., 0]
        assert image.shape == (64, 64) and image[:, :24].max() == 0 and image[:, 40:].min() == 1

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (
                torch.zeros(1, 8, 12),
                r"^Mask: it is black everywhere, so nothing would be edited. Paint white .* invert the mask.*"
                r" connect no mask.$",
            ),
            (
                torch.stack([torch.ones(8, 12), torch.zeros(8, 12)]),
                "^Mask: number 2 of 2 is black everywhere",
            ),
            (torch.ones(1, 8, 8), "^Mask: it is 8 x 8, the image 12 x 8, which is another aspect ratio."),
            (torch.ones(3, 8, 12), "^Mask: 3 masks do not fit 2 images."),
            (torch.full((1, 8, 12), float("nan")), "^Mask holds values that are not finite."),
        ],
    )
    def test_rejects_masks_that_do_not_fit(self, mask: Tensor, message: str) -> None:
        with pytest.raises(RegionError, match=message):
            mask_image(mask, torch.zeros(2, 8, 12, 3))


class TestEngine:
    @torch.no_grad()
    def test_prediction_is_that_of_the_unet_on_noise_image_and_mask(self, small: DiffusersEditor) -> None:
        images = torch.rand(2, 64, 64, 3)
        mask = torch.zeros(1, 64, 64)
        mask[:, :32] = 1
        condition = small.condition(images, mask)
        image, drawn = small.encode_images(images), small.encode_images(mask[..., None].repeat(2, 1, 1, 3))
        # In flat images the random VAE's norms mostly scale up rounding errors.
        torch.testing.assert_close(condition, torch.cat([image, drawn], 1), rtol=0, atol=5e-3)
        drawn = condition[:, 4:]
        noisy = torch.randn(2, 4, 8, 8)
        times = torch.tensor([30, 900])
        context = small.encode_text(["a hat"] * 2)
        expected = small.denoiser.unet(torch.cat([noisy, image, drawn], 1), times, context).sample
        torch.testing.assert_close(small.denoiser.predict(noisy, times, condition, context), expected)
        assert not torch.allclose(
            small.denoiser.predict(noisy, times, small.condition(images), context), expected, atol=1e-3
        )

    def test_white_mask_equals_no_mask(self, small: DiffusersEditor) -> None:
        images = torch.rand(2, 48, 64, 3)
        assert torch.equal(small.condition(images), small.condition(images, torch.ones(1, 48, 64)))

    def test_rejects_a_condition_of_the_wrong_kind(
        self, small: DiffusersEditor, editor: DiffusersEditor
    ) -> None:
        noisy, times = torch.randn(1, 4, 8, 8), torch.tensor([3])
        message = (
            "^ultra: its image condition has 8 channels, 4 were given. It reads a mask as well: give it the "
            "latents of image and mask, as DiffusersE"
        )
        with pytest.raises(ModelError, match=message):
            small.denoiser.predict(noisy, times, noisy, small.encode_text([""]))
        with pytest.raises(
            ModelError,
            match=(
                "^pocket editor: its image condition has 4 channels, 8 were given. It reads no mask: give it "
                "the image's latent"
            ),
        ):
            editor.denoiser.predict(noisy, times, noisy.repeat(1, 2, 1, 1), editor.encode_text([""]))

    def test_sampler_rejects_a_condition_without_a_mask(self, small: DiffusersEditor) -> None:
        states = small.encode_text([""])[0]
        with pytest.raises(ModelError, match="^ultra: its image condition has 8 channels, 4 were given."):
            edit_latents(
                small.denoiser, torch.randn(1, 4, 8, 8), states, states, settings=SamplingSettings(1)
            )

    @torch.no_grad()
    def test_null_branch_drops_image_and_mask(self, small: DiffusersEditor) -> None:
        """Compares with one step of Eq. 3, whose null branch has neither image nor mask."""
        images = torch.rand(1, 64, 64, 3)
        frame = small.encode_images(images)
        mask = small.encode_images(mask_image(torch.eye(64), images))
        words, null = small.encode_text(["a hat", ""])
        result = edit_latents(
            small.denoiser,
            torch.cat([frame, mask], 1),
            words,
            null,
            settings=SamplingSettings(1, text_scale=3.0, image_scale=1.5, seed=5),
        )
        noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))[None]
        abar = small.denoiser.alphas_cumprod[0]  # diffusers starts a single step at timestep 0
        sigma = ((1 - abar) / abar).sqrt()
        start, noise = noise * sigma, noise * sigma / (sigma**2 + 1).sqrt()
        times = torch.tensor([0])
        both = torch.cat([noise, frame, mask], 1)
        neither = torch.cat([noise, torch.zeros(1, 8, 8, 8)], 1)
        full = small.denoiser.unet(both, times, words[None]).sample
        image = small.denoiser.unet(both, times, null[None]).sample
        none = small.denoiser.unet(neither, times, null[None]).sample
        predicted = none + 1.5 * (image - none) + 3.0 * (full - image)
        torch.testing.assert_close(result, start - sigma * predicted, rtol=1e-3, atol=1e-3)


class TestPocketRegion:
    def test_shares_all_parts_but_the_unet(
        self, pocket_region: DiffusersEditor, editor: DiffusersEditor
    ) -> None:
        assert (
            pocket_region.description.title == "pocket region editor"
            and pocket_region.description.in_channels == 12
        )
        assert (
            pocket_region.description.family == editor.description.family
            and pocket_region.description.fingerprint == editor.description.fingerprint
        )
        assert torch.equal(pocket_region.encode_text(["a hat"]), editor.encode_text(["a hat"]))
        assert torch.equal(pocket_region.denoiser.alphas_cumprod, editor.denoiser.alphas_cumprod)

    def test_matches_the_pocket_editor_while_its_mask_weights_are_zero(
        self, pocket_region: DiffusersEditor, editor: DiffusersEditor
    ) -> None:
        image = torch.rand(1, 64, 64, 3)
        words, null = editor.encode_text(["make it night", ""])
        settings = SamplingSettings(2)
        ours = edit_latents(
            pocket_region.denoiser,
            pocket_region.condition(image, torch.eye(64)),
            words,
            null,
            settings=settings,
        )
        torch.testing.assert_close(
            ours,
            edit_latents(editor.denoiser, editor.condition(image), words, null, settings=settings),
            rtol=1e-4,
            atol=1e-4,
        )

    def test_instructions_fit_both_ways(
        self, pocket_region: DiffusersEditor, editor: DiffusersEditor
    ) -> None:
        assert (
            learned(pocket_region).check_fits(editor.description)
            == []
            == learned(editor).check_fits(pocket_region.description)
        )

    def test_rejects_a_copy_without_the_shared_parts(self, tmp_path: Path, pocket: Path) -> None:
        """Only the built-in model shares parts with the pocket editor; a copy of it lacks them."""
        shutil.copytree(pocket / "unet", tmp_path / "copy" / "unet")
        with pytest.raises(
            ModelError, match=r"^vae/config.json: missing in .*copy. A diffusers folder needs it.$"
        ):
            load_editor(tmp_path / "copy")


def learned(editor: DiffusersEditor) -> object:
    """Learns an instruction in two steps."""
    before = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    latents = PairLatents.encode(
        make_pairs(before, 1 - before), editor.encode_images, editor.scale, editor.condition
    )
    assert (
        latents.before[0].shape[0] == editor.description.condition_channels and latents.after[0].shape[0] == 4
    )
    context, null = editor.encode_text(["invert it", ""])
    settings = LearningSettings(tokens=4, segments=2, steps=2, learning_rate=0.03, objective="guided")
    init_text = InitText("invert it", context)
    trainer = Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings))
    trainer.run()
    return trainer.instruction()
