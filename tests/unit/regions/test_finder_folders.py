"""Folders of models that find regions: layouts, errors, and the weight names of the published models."""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructbrush.core.errors import ModelError
from instructbrush.core.regions.clipseg import ClipSegFinder
from instructbrush.core.regions.finder_folders import (
    CLIPSEG,
    GROUNDING_DINO,
    SAM,
    check_folder,
    load_folder,
)
from instructbrush.core.regions.grounded_sam import GroundedSam
from instructbrush.tests.support import tiny_finders


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models by name."""
    root = tmp_path_factory.mktemp("finders")
    made = {"dino": tiny_finders.grounding_dino, "sam": tiny_finders.sam, "clipseg": tiny_finders.clipseg}
    for name in made:
        (root / name).mkdir()
    return {name: make(root / name) for name, make in made.items()}


@pytest.fixture
def own(models, tmp_path):
    """Copies a tiny model's folder for a test that damages it."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / name))


ADVICE = {
    "dino": "Put IDEA-Research/grounding-dino-tiny, or another model of its kind, into ",
    "sam": "Put facebook/sam-vit-base, or another model of its kind, into ",
    "clipseg": "Put CIDAS/clipseg-rd64-refined, or another model of its kind, into ",
}
KINDS = {"dino": GROUNDING_DINO, "sam": SAM, "clipseg": CLIPSEG}


@pytest.mark.parametrize("name", KINDS)
def test_missing_folder_error_tells_what_belongs_there(tmp_path, name):
    folder = tmp_path / "nowhere"
    with pytest.raises(ModelError) as caught:
        load_folder(folder, KINDS[name])
    message = str(caught.value)
    assert message.startswith(
        f"{KINDS[name].title} 'nowhere': there is no folder {folder}. {ADVICE[name]}{folder}: config.json, "
        "model.safetensors, "
    )
    assert message.endswith("Nothing is downloaded automatically.") and "http" not in message


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("dino", ["config.json"], "config.json is missing."),
        (
            "dino",
            ["preprocessor_config.json"],
            "preprocessor_config.json or processor_config.json is missing.",
        ),
        ("dino", ["tokenizer.json", "vocab.txt"], "tokenizer.json or vocab.txt is missing."),
        ("clipseg", ["tokenizer.json"], "tokenizer.json or vocab.json and merges.txt is missing."),
        (
            "sam",
            ["preprocessor_config.json"],
            "preprocessor_config.json or processor_config.json is missing.",
        ),
        ("sam", ["model.safetensors"], "there is no model.safetensors in"),
    ],
)
def test_missing_file_error_names_the_file(own, name, files, message):
    folder = own(name)
    for file in files:
        (folder / file).unlink()
    with pytest.raises(ModelError, match=re.escape(message)):
        check_folder(folder, KINDS[name])


def test_rejects_a_folder_of_another_kind(models):
    with pytest.raises(
        ModelError,
        match=r"Grounding DINO 'sam': its config.json says 'sam', which is not a Grounding DINO "
        r"\(grounding-dino, mm-grounding-dino\)",
    ):
        GroundedSam(models["sam"], models["sam"])
    with pytest.raises(
        ModelError, match="SAM 'dino': its config.json says 'grounding-dino', which is not a SAM"
    ):
        GroundedSam(models["dino"], models["dino"])
    with pytest.raises(
        ModelError, match="CLIPSeg 'dino': its config.json says 'grounding-dino', which is not a CLIPSeg"
    ):
        ClipSegFinder(models["dino"])


def test_rejects_pickled_weights(own):
    folder = own("sam")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model.bin: .bin files are not read, only .safetensors"):
        load_folder(folder, SAM)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(
        ModelError, match="model.safetensors: this is a pickled checkpoint under another name"
    ):
        load_folder(folder, SAM)


def test_rejects_damaged_weights(own):
    folder = own("dino")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="model.safetensors: the file is cut short"):
        load_folder(folder, GROUNDING_DINO)
    file.write_bytes(whole)
    states = load_file(file)
    del states["model.level_embed"]
    save_file(states, file, {"format": "pt"})
    with pytest.raises(
        ModelError,
        match=r"Grounding DINO 'dino': 1 weights such as model.level_embed are missing in .*\. The file is "
        r"incomplete",
    ):
        load_folder(folder, GROUNDING_DINO)
    states["model.level_embed"] = torch.zeros(4, 7)
    save_file(states, file, {"format": "pt"})
    with pytest.raises(ModelError, match="Grounding DINO 'dino': transformers cannot load"):
        load_folder(folder, GROUNDING_DINO)


def test_rejects_external_backbones_and_runs_no_code(own):
    folder = own("dino")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "backbone": "resnet50", "use_timm_backbone": True}))
    with pytest.raises(
        ModelError, match="dino/config.json: with backbone = resnet50, something else than the"
    ):
        load_folder(folder, GROUNDING_DINO)
    file.write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    assert type(load_folder(folder, GROUNDING_DINO)[0]).__name__ == "GroundingDinoForObjectDetection"
    file.write_text("[]")
    with pytest.raises(ModelError, match="not a table of settings"):
        load_folder(folder, GROUNDING_DINO)
    file.write_text(json.dumps({**config, "d_model": "wide"}))
    with pytest.raises(ModelError, match="transformers cannot load"):
        load_folder(folder, GROUNDING_DINO)


def test_reads_sharded_weights_and_the_newer_layout(own, models):
    from transformers import SamModel, SamProcessor

    folder = own("sam")
    for path in folder.iterdir():
        path.unlink()
    SamModel.from_pretrained(models["sam"]).save_pretrained(folder, max_shard_size="20KB")
    SamProcessor.from_pretrained(models["sam"]).save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1 and (folder / "processor_config.json").is_file()
    states = load_folder(folder, SAM)[0].state_dict()
    expected = load_folder(models["sam"], SAM)[0].state_dict()
    assert states.keys() == expected.keys() and all(
        torch.equal(states[name], expected[name]) for name in states
    )


def test_runs_half_precision_weights_in_fp32(own):
    folder = own("clipseg")
    file = folder / "model.safetensors"
    save_file(
        {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(file).items()
        },
        file,
        {"format": "pt"},
    )
    finder = ClipSegFinder(folder)
    assert next(finder.module.parameters()).dtype == torch.float32
    assert finder.probabilities(torch.rand(48, 80, 3), ["hat"]).isfinite().all()


# Names of Swin's weights in transformers 5, and in the published file.
_PUBLISHED = (
    (".model.swin.", ".model."),
    (".attention.relative_position_bias.", ".attention.self."),
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


@pytest.mark.parametrize(
    ("kind", "name", "config", "weights", "samples"),
    [
        (
            GROUNDING_DINO,
            "dino",
            "GroundingDinoConfig",
            172_249_090,
            {
                "model.backbone.conv_encoder.model.encoder.layers.2.blocks.5.attention.self.query.weight": (
                    384,
                    384,
                ),
                "model.text_backbone.embeddings.word_embeddings.weight": (30522, 768),
                "model.encoder.layers.5.fusion_layer.vision_param": (256,),
                "model.query_position_embeddings.weight": (900, 256),
                "bbox_embed.0.layers.2.weight": (4, 256),
            },
        ),
        (
            SAM,
            "sam",
            "SamConfig",
            93_735_728,
            {
                "shared_image_embedding.positional_embedding": (2, 128),
                "vision_encoder.layers.11.attn.rel_pos_h": (127, 64),
                "mask_decoder.output_hypernetworks_mlps.3.proj_out.weight": (32, 256),
            },
        ),
    ],
)
def test_full_size_models_match_the_published_weight_names(own, kind, name, config, weights, samples):
    """Uses the published file's header with a sparse file, so that no weights are allocated."""
    import transformers

    folder = own(name)
    settings = getattr(transformers, config)()
    settings.save_pretrained(folder)
    network = getattr(transformers, kind.classes[settings.model_type][0])
    with torch.device("meta"):
        model = network(settings)
    # The published file holds shared weights once, under one of their names, and has no norm after Swin.
    later = (".bbox_embed.", "prompt_encoder.shared")
    named = sorted(
        model.named_parameters(remove_duplicate=False),
        key=lambda each: (any(part in each[0] for part in later), each[0]),
        reverse=True,
    )
    distinct = {id(tensor): key for key, tensor in named if ".swin.layernorm." not in key}
    shapes = {}
    for key in distinct.values():
        published = key
        if "conv_encoder" in key:
            for ours, theirs in _PUBLISHED:
                published = published.replace(ours, theirs)
        shapes[published] = tuple(model.get_parameter(key).shape)
    assert {key: shapes[key] for key in samples} == samples
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for key, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    assert check_folder(folder, kind) == settings.model_type
    _, report = network.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, device_map="meta"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert end // 4 == weights
