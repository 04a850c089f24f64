"""Detection of models: sites, family, fingerprint."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.core.editing.loading import describe, load_editor
from instructbrush.core.errors import ModelError
from instructbrush.core.models.attention_sites import sites_of_unet
from instructbrush.core.models.families import FAMILIES, describe_unet, detect_family
from instructbrush.tests.support import seeded

PREFIX = "model.diffusion_model."


def as_checkpoint(shapes: seeded.Shapes) -> seeded.Shapes:
    return {PREFIX + name: shape for name, shape in seeded.native_unet(shapes).items()}


@pytest.mark.parametrize("config", [seeded.SD15, seeded.SD21])
def test_finds_the_sites_of_sd1_and_sd2(config: dict) -> None:
    shapes = seeded.unet_shapes(config)
    sites = sites_of_unet(seeded.native_unet(shapes))
    assert [site.block for site in sites] == [
        *(("input", number, 0) for number in (1, 2, 4, 5, 7, 8)),
        ("middle", 0, 0),
        *(("output", number, 0) for number in (3, 4, 5, 6, 7, 8, 9, 10, 11)),
    ]
    down = [f"down_blocks.{level}.attentions.{layer}" for level in range(3) for layer in range(2)]
    up = [f"up_blocks.{level}.attentions.{layer}" for level in range(1, 4) for layer in range(3)]
    assert [site.name for site in sites] == [
        f"{block}.transformer_blocks.0.attn2" for block in (*down, "mid_block.attentions.0", *up)
    ]
    widths = [320, 320, 640, 640, 1280, 1280, 1280, *[1280] * 3, *[640] * 3, *[320] * 3]
    assert [site.width for site in sites] == widths
    assert sites_of_unet(shapes) == sites


def test_finds_the_70_sites_of_sdxl_in_both_dialects() -> None:
    shapes = seeded.unet_shapes(seeded.SDXL)
    native = seeded.native_unet(shapes)
    sites = sites_of_unet(native)
    assert sites == sites_of_unet(shapes)
    depths = {**{("input", n): 2 for n in (4, 5)}, **{("input", n): 10 for n in (7, 8)}, ("middle", 0): 10}
    depths |= {**{("output", n): 10 for n in (0, 1, 2)}, **{("output", n): 2 for n in (3, 4, 5)}}
    assert [site.block for site in sites] == [
        (kind, number, depth) for (kind, number), count in depths.items() for depth in range(count)
    ]
    assert len(sites) == 70
    for site in sites:
        assert f"{site.name}.to_k.weight" in shapes
        assert f"{site.native_name}.to_k.weight" in native
        assert native[f"{site.native_name}.to_v.weight"] == (site.width, site.context_width)


def test_finds_the_sites_of_the_pocket_editor(editor: object) -> None:
    description = describe()
    modules = {name for name, _ in editor.denoiser.unet.named_modules() if name.endswith(".attn2")}
    assert {site.name for site in description.sites} == modules
    assert description.family == FAMILIES["pocket"]
    assert [site.block[0] for site in description.sites] == sorted(
        (site.block[0] for site in description.sites), key=["input", "middle", "output"].index
    )
    for site in description.sites:
        assert site.heads == editor.denoiser.unet.get_submodule(site.name).heads


@pytest.mark.parametrize(
    ("config", "heads"), [(seeded.SD15, {8}), (seeded.SD21, {5, 10, 20}), (seeded.SDXL, {10, 20})]
)
def test_detects_attention_heads(config: dict, heads: set[int]) -> None:
    shapes = seeded.unet_shapes(config)
    description = describe_unet(shapes, lambda name, rows: torch.zeros(rows, shapes[name][1]))
    assert {site.heads for site in description.sites} == heads


@pytest.mark.parametrize(
    ("config", "extra", "family"),
    [
        (seeded.SD15, {}, "sd15"),
        (seeded.SD21, {}, "sd21"),
        (seeded.SDXL, {}, "sdxl"),
        (seeded.SDXL, {"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()}, "cosxl"),
    ],
)
def test_describes_checkpoints_from_their_header(
    tmp_path: Path, config: dict, extra: dict, family: str
) -> None:
    path = seeded.write_hollow(
        tmp_path / "model.safetensors", {**as_checkpoint(seeded.unet_shapes(config)), **extra}
    )
    description = describe(path)
    assert (description.family, description.in_channels, description.title) == (
        FAMILIES[family],
        8,
        "model.safetensors",
    )
    assert len(description.sites) == (70 if "xl" in family else 16)


def test_reads_v_prediction_from_scheduler_or_marker(tmp_path: Path) -> None:
    shapes = as_checkpoint(seeded.unet_shapes(seeded.SD21))
    assert describe(seeded.write_hollow(tmp_path / "e.safetensors", shapes)).family.prediction == "epsilon"
    assert (
        describe(seeded.write_hollow(tmp_path / "v.safetensors", {**shapes, "v_pred": ()})).family.prediction
        == "v_prediction"
    )
    folder = seeded.write_folder(
        tmp_path / "folder", 0, scheduler={**seeded.SCHEDULER, "prediction_type": "v_prediction"}
    )
    assert describe(folder).family.prediction == "v_prediction"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "sample"}))
    with pytest.raises(
        ModelError,
        match="^folder: prediction type 'sample' is not supported. Choose a model that predicts "
        "epsilon or v_prediction.$",
    ):
        describe(folder)


@pytest.mark.parametrize("name", ["sdxl", "cosxl"])
def test_diffusers_engine_rejects_sdxl(tmp_path: Path, name: str) -> None:
    extra = {"edm_vpred.sigma_max": ()} if name == "cosxl" else {}
    path = seeded.write_hollow(
        tmp_path / "xl.safetensors", {**as_checkpoint(seeded.unet_shapes(seeded.SDXL)), **extra}
    )
    with pytest.raises(
        ModelError,
        match=(
            r"^xl.safetensors: .* runs in ComfyUI only: use the nodes Load InstructPix2Pix, Learn "
            r"Instruction and Apply"
        ),
    ):
        load_editor(path)


class TestFingerprint:
    def make(self, seed: int = 0, dtype: torch.dtype = torch.float32, native: bool = False) -> str:
        tensors = {
            name: tensor.to(dtype)
            for name, tensor in seeded.weights(seeded.unet_shapes(seeded.SMALL_SD15), seed)
        }
        tensors = seeded.native_unet(tensors) if native else tensors
        return describe_unet(
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            lambda name, rows: tensors[name][:rows],
        ).fingerprint

    def test_is_the_same_in_both_dialects_and_from_fp32_and_fp16(self) -> None:
        assert (
            len(
                {
                    self.make(dtype=dtype, native=native)
                    for dtype in (torch.float32, torch.float16)
                    for native in (False, True)
                }
            )
            == 1
        )

    def test_is_the_same_for_a_bf16_copy_of_an_fp16_file(self) -> None:
        tensors = {
            name: tensor.half() for name, tensor in seeded.weights(seeded.unet_shapes(seeded.SMALL_SD15), 0)
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        assert (
            describe_unet(shapes, lambda name, rows: tensors[name][:rows].bfloat16()).fingerprint
            == self.make()
        )

    def test_differs_between_models(self) -> None:
        assert self.make(0) != self.make(1)

    def test_is_the_same_for_file_and_folder(self, tmp_path: Path) -> None:
        tensors = dict(seeded.weights(seeded.unet_shapes(seeded.SMALL_SD15), 5))
        save_file(
            {PREFIX + name: tensor.half() for name, tensor in seeded.native_unet(tensors).items()},
            tmp_path / "single.safetensors",
        )
        assert (
            describe(tmp_path / "single.safetensors").fingerprint
            == describe(seeded.write_folder(tmp_path / "folder", 5)).fingerprint
            == self.make(5)
        )


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (
            4,
            r"^it: this is not an InstructPix2Pix model: 4 input channels; 8 \(4 noise \+ 4 image\) or 12 "
            r"\(\+ 4 mask\) are needed. It is a plain text-to",
        ),
        (
            9,
            r"^it: this is an inpainting model, not an InstructPix2Pix model: 9 input channels; 8 \(.* are "
            r"needed. It fills holes and follows no instr",
        ),
        (
            16,
            r"^it: unknown kind of model: 16 input channels; 8 \(4 noise \+ 4 image\) or 12 \(\+ 4 mask\) "
            r"are needed\. Choose an InstructPix2Pix model such as timbrooks/instruct-pix2pix\.$",
        ),
        (7, r"^it: unknown kind of model: 7 input channels; 8 "),
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_rejects_other_kinds_of_unet(channels: int, message: str, native: bool) -> None:
    shapes = seeded.unet_shapes({**seeded.SMALL_SD15, "in_channels": channels})
    with pytest.raises(ModelError, match=message):
        detect_family(seeded.native_unet(shapes) if native else shapes, title="it")


def test_rejects_unknown_text_widths_and_missing_layers() -> None:
    shapes = seeded.unet_shapes({**seeded.SMALL_SD15, "cross_attention_dim": 512})
    with pytest.raises(
        ModelError,
        match=(
            r"^it: its text states are 512 wide, which is not a known family \(pocket 128, SD1.5 768, SD2.1 "
            r"1024, SDXL 2048\)\. Choose a model of one of these families\.$"
        ),
    ):
        detect_family(shapes, title="it")
    shapes = {
        name: shape
        for name, shape in seeded.unet_shapes(seeded.SMALL_SD15).items()
        if "mid_block" not in name
    }
    with pytest.raises(
        ModelError,
        match=(
            "^it: 15 cross-attention layers were found, a .* model has 16. The file is incomplete or of "
            "another kind. Download it again.$"
        ),
    ):
        detect_family(shapes, title="it")
    with pytest.raises(ModelError, match="^UNet: it has no cross-attention layers"):
        sites_of_unet({"conv_in.weight": (8, 8, 3, 3)})
    with pytest.raises(ModelError, match="^it: no Stable Diffusion UNet was found in it"):
        detect_family({"transformer.weight": (8, 8)}, title="it")
