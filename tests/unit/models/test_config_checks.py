"""Settings that make a library load something else than the model's own files, or build for hours."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from instructbrush.core.errors import ModelError
from instructbrush.core.models import config_checks
from instructbrush.core.models.builtin import POCKET_FINDER_FOLDER, POCKET_FOLDER, POCKET_READER_FOLDER
from instructbrush.core.models.config_checks import check_sources
from instructbrush.core.models.weights import read_config


def read(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return read_config(path)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs or removes the package kernels, with which transformers loads kernels from the hub."""

    def pretend(installed: bool) -> None:
        spec = importlib.util.find_spec("json") if installed else None
        monkeypatch.setattr(config_checks, "find_spec", lambda _: spec)

    pretend(False)
    return pretend


TIMM = {"model_type": "timm_backbone"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"backbone_config": {**TIMM, "backbone": "hf-hub:owner/name"}}, "backbone"),
        ({"backbone_config": {**TIMM, "backbone": "owner/name"}}, "backbone"),
        ({"backbone_config": {**TIMM, "use_pretrained_backbone": True}}, "use_pretrained_backbone"),
        ({"vision_config": {"model_type": "dpt", "backbone": "owner/name"}}, "backbone"),
        ({"vision_config": {"architecture": "hf-hub:owner/name"}}, "architecture"),
        ({"vision_config": {"architecture": " HF_Hub:owner/name"}}, "architecture"),
        ({"vision_config": {"architecture": "hf-\thub:owner/name"}}, "architecture"),
        ({"parts": [[{"architecture": "local-dir:/elsewhere"}]]}, "architecture"),
        ({"vision_config": {"names": ["resnet50", ["hf_hub:owner/name"]]}}, "names"),
        ({"vision_config": {"model_args": {"checkpoint_path": "evil.bin"}}}, "checkpoint_path"),
        ({"attn_implementation": "owner/kernel"}, "attn_implementation"),
        ({"text_config": {"_attn_implementation": "owner/kernel@v1:run"}}, "_attn_implementation"),
        ({"_attn_implementation": {"": "sdpa", "vision_config": "owner/k"}}, "_attn_implementation"),
        ({"text_config": {"experts_implementation": "owner/kernel"}}, "experts_implementation"),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights"),
        ({"processor_class": "MgpstrProcessor"}, "processor_class"),
    ],
)
def test_rejects_settings_that_lead_elsewhere(
    tmp_path: Path, kernels: Any, settings: dict[str, Any], name: str
) -> None:
    message = (
        rf"{tmp_path.name}/config.json: with {name} = .*, something else than the model's own files would"
    )
    with pytest.raises(ModelError, match=message):
        read(tmp_path, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False},
        {"backbone_config": {"model_type": "swin", "depths": [2, 2, 6, 2], "out_features": ["stage2"]}},
        {"backbone_config": {**TIMM, "backbone": "resnet50.a1_in1k", "use_timm_backbone": True}},
        {"vision_config": {"model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336"}},
        {"_name_or_path": "owner/name", "auto_map": {"AutoModel": "owner/name--code.Model"}},
        {"_attn_implementation": "sdpa", "attn_implementation": None, "experts_implementation": "grouped_mm"},
        {"_attn_implementation": "flash_attention_2", "_attn_implementation_autoset": True},
        {"text_config": {"bos_token": "hub", "template": "See hf-hub:owner/name"}},
    ],
)
def test_accepts_models_that_are_wholly_local(tmp_path: Path, kernels: Any, settings: dict[str, Any]) -> None:
    assert read(tmp_path, settings) == settings


@pytest.mark.parametrize("folder", [POCKET_FINDER_FOLDER, POCKET_READER_FOLDER, POCKET_FOLDER / "unet"])
def test_accepts_the_built_in_models(folder: Path) -> None:
    assert read_config(folder / "config.json")


@pytest.mark.parametrize("name", ["flash_attention_2", "paged|flash_attention_3", "sonicmoe"])
def test_rejects_kernels_that_the_package_kernels_would_load(tmp_path: Path, kernels: Any, name: str) -> None:
    key = "_experts_implementation" if name == "sonicmoe" else "_attn_implementation"
    assert read(tmp_path, {key: name})
    kernels(True)
    with pytest.raises(ModelError, match=re.escape(f"with {key} = {name}, something else")):
        read(tmp_path, {key: name})
    assert read(tmp_path, {"_attn_implementation": "paged|sdpa", "experts_implementation": "batched_mm"})


def test_accepts_any_settings_that_are_no_table() -> None:
    check_sources([1, "text", None, [{"a": [[]]}]], "x.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is above 10000"),
        ({"layers_per_block": [10**9, 2]}, "layers_per_block is above 10000"),
        ({"transformer_layers_per_block": [[1, 2], [3, [10**9]]]}, "transformer_layers_per_block is above"),
        ({"n_layer": 10**9}, "n_layer is above"),
        ({"num_blocks": 10**9}, "num_blocks is above"),
        ({"num_stages": 10**9}, "num_stages is above"),
        ({"block_sizes": [4, 10**9]}, "block_sizes is above"),
        ({"num_attention_heads": 10**9}, "num_attention_heads is above"),
        ({"vision_config": {"model_args": {"depths": [2, 10**9]}}}, "depths is above"),
        ({"depth_coefficient": 1e9}, "depth_coefficient is above"),
        ({"depths": [1] * 10_001}, "depths lists more than 10000 values"),
        ({"block_out_channels": [32] * 10_001}, "block_out_channels lists more than 10000 values"),
        ({"other": [{"num_layers": 10**9}] * 10_001}, "num_layers is above"),
    ],
)
def test_rejects_absurd_numbers_of_layers(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(
        ModelError, match=rf"{tmp_path.name}/config.json: {message}.*damaged; download it again"
    ):
        read(tmp_path, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"block_size": 1_000_000, "max_position_embeddings": 1_048_576, "vocab_size": 262_144},
        {"vocab_size_per_layer_input": 262_144, "head_out_channels": 18_714, "head_dim": 20_000},
        {"layer_rope_theta": [10_000_000, 10_000], "id2label": {"0": "x"}, "head_token_id": 151_643},
        {"layers_per_block": 2, "transformer_layers_per_block": [[0, 1], 10], "layer_types": ["full"] * 96},
        {"block_configs": [{"intermediate_size": 50_000, "n_heads_in_group": 8}]},
        {"suppressed": list(range(20_000))},
    ],
)
def test_accepts_large_sizes(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert read(tmp_path, settings) == settings
