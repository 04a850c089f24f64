"""Model files and folders that are rejected."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from instructbrush.core.editing.loading import describe, load_editor
from instructbrush.core.errors import ModelError
from instructbrush.tests.support import seeded


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
            r"^m.ckpt: .ckpt files are not read, only .safetensors. Pickled checkpoints can run code when "
            r"they are opened. Convert it",
        ),
        (
            "m.safetensors",
            b"PK\x03\x04" + bytes(99),
            r"^m.safetensors: this is a pickled checkpoint under another name. .* save it with Save "
            r"Checkpoint",
        ),
        (
            "m.safetensors",
            b"",
            r"^m.safetensors: the file is cut short \(0 bytes, its header alone needs 8\). Download or copy "
            r"it again.$",
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
def test_rejects_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (describe, load_editor):
        with pytest.raises(ModelError, match=message):
            read(tmp_path / name)


class TestBadFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return seeded.write_folder(tmp_path / "model", 0)

    def rejects(self, folder: Path, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_editor(folder)

    def test_rejects_a_missing_folder(self, tmp_path: Path) -> None:
        self.rejects(tmp_path / "nothing", "^nothing: there is no such file or folder")

    def test_rejects_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        self.rejects(
            tmp_path,
            "this folder is not a diffusers model: it has no folder 'unet' in it. Choose the model's top "
            "folder.$",
        )

    def test_rejects_pickled_weights(self, folder: Path) -> None:
        (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
            folder / "unet" / "diffusion_pytorch_model.bin"
        )
        self.rejects(folder, "^diffusion_pytorch_model.bin: .bin files are not read, only .safetensors.")

    def test_rejects_a_missing_part(self, folder: Path) -> None:
        (folder / "vae" / "config.json").unlink()
        self.rejects(folder, "^vae/config.json: missing in .* A diffusers folder needs it.$")

    def test_rejects_a_missing_shard(self, folder: Path) -> None:
        unet = folder / "unet"
        (unet / "diffusion_pytorch_model.safetensors").rename(
            unet / "diffusion_pytorch_model-00001-of-00002.safetensors"
        )
        self.rejects(
            folder, "^unet: 1 of 2 parts of diffusion_pytorch_model are there. Download the missing ones.$"
        )

    def test_rejects_a_config_that_contradicts_the_weights(self, folder: Path) -> None:
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(
            json.dumps({**config, "block_out_channels": [32, 32, 64, 96]})
        )
        self.rejects(
            folder,
            r"^model, UNet: the weight .* has shape .* is needed. The file is of another kind. "
            r"Choose another file.$",
        )

    def test_rejects_a_config_that_is_not_json(self, folder: Path) -> None:
        (folder / "unet" / "config.json").write_text("{")
        self.rejects(folder, r"^unet/config.json: not a JSON file")

    def test_rejects_a_vae_of_another_kind(self, folder: Path) -> None:
        (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderDC"}))
        self.rejects(
            folder,
            "^model: a VAE of the kind AutoencoderDC is not supported. Choose a model with AutoencoderKL "
            "or AutoencoderTiny.$",
        )

    def test_rejects_a_missing_text_weight(self, folder: Path) -> None:
        shapes = {
            name: shape
            for name, shape in seeded.text_shapes(seeded.SMALL_CLIP).items()
            if "final_layer_norm" not in name
        }
        save_file(dict(seeded.weights(shapes, 0)), folder / "text_encoder" / "model.safetensors")
        self.rejects(
            folder,
            r"^model, Text encoder: the weight .*final_layer_norm.* is missing. The file is incomplete or "
            r"of another kind. Download it again.$",
        )

    def test_rejects_a_missing_tokenizer(self, folder: Path) -> None:
        self.rejects(
            folder,
            r"^Tokenizer: neither vocab.json and merges.txt nor tokenizer.json are in .*tokenizer. Put the ",
        )

    def test_rejects_a_checkpoint_without_vae(self, tmp_path: Path) -> None:
        shapes = {
            f"model.diffusion_model.{name}": shape
            for name, shape in seeded.native_unet(seeded.unet_shapes(seeded.SD15)).items()
        }
        path = seeded.write_hollow(tmp_path / "unet.safetensors", shapes)
        self.rejects(
            path,
            r"^unet.safetensors: it holds no VAE \(no tensors under first_stage_model.\). Use a full "
            r"checkpoint or a diffusers folder",
        )
