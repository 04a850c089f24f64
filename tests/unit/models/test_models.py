"""What a model is: sites, family, fingerprint, and files that are refused."""

import json
from collections.abc import Callable
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
def test_sites_of_sd1_and_sd2_are_where_comfyui_has_them(config: dict) -> None:
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


def test_sdxl_has_70_sites_named_alike_in_both_dialects() -> None:
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


def test_pocket_sites_are_the_unets_cross_attention(editor: object) -> None:
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
def test_heads(config: dict, heads: set[int]) -> None:
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
def test_checkpoints_are_described_from_their_header(
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


def test_v_prediction_is_told_by_the_scheduler_or_a_marker(tmp_path: Path) -> None:
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
        ModelError, match="^folder: prediction type 'sample' is not supported; epsilon and v_prediction are.$"
    ):
        describe(folder)


@pytest.mark.parametrize("name", ["sdxl", "cosxl"])
def test_sdxl_says_that_it_runs_in_comfyui_only(tmp_path: Path, name: str) -> None:
    extra = {"edm_vpred.sigma_max": ()} if name == "cosxl" else {}
    path = seeded.write_hollow(
        tmp_path / "xl.safetensors", {**as_checkpoint(seeded.unet_shapes(seeded.SDXL)), **extra}
    )
    with pytest.raises(
        ModelError,
        match=r"^xl.safetensors: .* runs in ComfyUI only: use the nodes Load InstructPix2Pix, Learn Instruction and Apply",
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

    def test_is_read_from_files_alike(self, tmp_path: Path) -> None:
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
            r"^it: this is not an InstructPix2Pix model: 4 input channels; 8 \(4 noise \+ 4 image\) or 12 \(\+ 4 mask\) are needed. It is a plain text-to",
        ),
        (
            9,
            r"^it: this is an inpainting model, not an InstructPix2Pix model: 9 input channels; 8 \(.* are needed. It fills holes and follows no instr",
        ),
        (
            16,
            r"^it: unknown kind of model: 16 input channels; 8 \(4 noise \+ 4 image\) or 12 \(\+ 4 mask\) are needed.$",
        ),
        (7, r"^it: unknown kind of model: 7 input channels; 8 "),
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_other_kinds_of_unet_are_named(channels: int, message: str, native: bool) -> None:
    shapes = seeded.unet_shapes({**seeded.SMALL_SD15, "in_channels": channels})
    with pytest.raises(ModelError, match=message):
        detect_family(seeded.native_unet(shapes) if native else shapes, title="it")


def test_unknown_text_width_and_missing_layers_are_named() -> None:
    shapes = seeded.unet_shapes({**seeded.SMALL_SD15, "cross_attention_dim": 512})
    with pytest.raises(
        ModelError,
        match=r"^it: its text states are 512 wide, which is no known family \(pocket 128, SD1.5 768, SD2.1 1024, SDXL 2048\).$",
    ):
        detect_family(shapes, title="it")
    shapes = {
        name: shape
        for name, shape in seeded.unet_shapes(seeded.SMALL_SD15).items()
        if "mid_block" not in name
    }
    with pytest.raises(
        ModelError,
        match="^it: 15 cross-attention layers were found, a .* model has 16. The file is incomplete or of another kind.$",
    ):
        detect_family(shapes, title="it")
    with pytest.raises(ModelError, match="^UNet: it has no cross-attention layers"):
        sites_of_unet({"conv_in.weight": (8, 8, 3, 3)})
    with pytest.raises(ModelError, match="^it: no Stable Diffusion UNet was found in it"):
        detect_family({"transformer.weight": (8, 8)}, title="it")


def damaged(change: Callable[[dict], None]) -> bytes:
    header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    change(header)
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(16)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "m.ckpt",
            b"PK\x03\x04",
            r"^m.ckpt: .ckpt files are not read, only .safetensors. Pickled checkpoints can run code when they are opened. Convert it",
        ),
        (
            "m.safetensors",
            b"PK\x03\x04" + bytes(99),
            r"^m.safetensors: this is a pickled checkpoint under another name. .* save it with Save Checkpoint",
        ),
        (
            "m.safetensors",
            b"",
            r"^m.safetensors: the file is cut short \(0 bytes, its header alone needs 8\). Download or copy it again.$",
        ),
        (
            "m.safetensors",
            (500).to_bytes(8, "little") + b"{}",
            r"^m.safetensors: the file is cut short \(10 bytes, its header alone needs 508\)",
        ),
        (
            "m.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            r"^m.safetensors: it is a Git LFS pointer, a placeholder for the real file\.",
        ),
        (
            "m.safetensors",
            (1 << 40).to_bytes(8, "little"),
            r"^m.safetensors: not a safetensors file \(its header would be 1099511627776 bytes",
        ),
        (
            "m.safetensors",
            (4).to_bytes(8, "little") + b"abcd",
            r"^m.safetensors: not a safetensors file \(its header is not JSON: Expecting value",
        ),
        (
            "m.safetensors",
            (2).to_bytes(8, "little") + b"[]",
            r"^m.safetensors: not a safetensors file \(its header is not a table of tensors\).$",
        ),
        (
            "m.safetensors",
            damaged(lambda h: h["w"].update(data_offsets=[16, 32])),
            r"^m.safetensors: the file is cut short: tensor 'w' ends at byte 32",
        ),
        (
            "m.safetensors",
            damaged(lambda h: h["w"].update(shape=[2, 3])),
            r"^m.safetensors: its header describes tensor 'w' wrongly, so it is damaged.",
        ),
        (
            "m.safetensors",
            damaged(lambda h: h["w"].update(dtype="X9")),
            r"^m.safetensors: its header describes tensor 'w' wrongly",
        ),
        (
            "m.safetensors",
            damaged(lambda h: h["w"].pop("shape")),
            r"^m.safetensors: its header describes tensor 'w' wrongly",
        ),
        (
            "m.safetensors",
            damaged(lambda h: None),
            r"^m.safetensors: no Stable Diffusion UNet was found in it",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (describe, load_editor):
        with pytest.raises(ModelError, match=message):
            read(tmp_path / name)


class TestBadFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return seeded.write_folder(tmp_path / "model", 0)

    def refused(self, folder: Path, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_editor(folder)

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nothing", "^nothing: there is no such file or folder")

    def test_not_a_model(self, tmp_path: Path) -> None:
        self.refused(
            tmp_path,
            "this folder is not a diffusers model: it has no folder 'unet' in it. Choose the model's top folder.$",
        )

    def test_pickled_weights(self, folder: Path) -> None:
        (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
            folder / "unet" / "diffusion_pytorch_model.bin"
        )
        self.refused(folder, "^diffusion_pytorch_model.bin: .bin files are not read, only .safetensors.")

    def test_part_missing(self, folder: Path) -> None:
        (folder / "vae" / "config.json").unlink()
        self.refused(folder, "^vae/config.json: missing in .* A diffusers folder needs it.$")

    def test_shard_missing(self, folder: Path) -> None:
        unet = folder / "unet"
        (unet / "diffusion_pytorch_model.safetensors").rename(
            unet / "diffusion_pytorch_model-00001-of-00002.safetensors"
        )
        self.refused(
            folder, "^unet: 1 of 2 parts of diffusion_pytorch_model are there. Download the missing ones.$"
        )

    def test_config_that_contradicts_the_weights(self, folder: Path) -> None:
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(
            json.dumps({**config, "block_out_channels": [32, 32, 64, 96]})
        )
        self.refused(
            folder, r"^model, UNet: the weight .* has shape .* is needed. The file is of another kind.$"
        )

    def test_config_that_is_no_json(self, folder: Path) -> None:
        (folder / "unet" / "config.json").write_text("{")
        self.refused(folder, r"^unet/config.json: not a JSON file")

    def test_vae_of_another_kind(self, folder: Path) -> None:
        (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderDC"}))
        self.refused(
            folder,
            "^model: a VAE of the kind AutoencoderDC is not supported; AutoencoderKL and AutoencoderTiny are.$",
        )

    def test_text_weight_missing(self, folder: Path) -> None:
        shapes = {
            name: shape
            for name, shape in seeded.text_shapes(seeded.SMALL_CLIP).items()
            if "final_layer_norm" not in name
        }
        save_file(dict(seeded.weights(shapes, 0)), folder / "text_encoder" / "model.safetensors")
        self.refused(
            folder,
            r"^model, Text encoder: the weight .*final_layer_norm.* is missing. The file is incomplete or of another kind.$",
        )

    def test_tokenizer_missing(self, folder: Path) -> None:
        self.refused(
            folder, r"^Tokenizer: neither vocab.json and merges.txt nor tokenizer.json are in .*tokenizer.$"
        )

    def test_checkpoint_without_vae(self, tmp_path: Path) -> None:
        path = seeded.write_hollow(
            tmp_path / "unet.safetensors", as_checkpoint(seeded.unet_shapes(seeded.SD15))
        )
        self.refused(
            path,
            r"^unet.safetensors: it holds no VAE \(no tensors under first_stage_model.\). Use a full checkpoint or a diffusers folder",
        )
