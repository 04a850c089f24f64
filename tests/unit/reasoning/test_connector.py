"""The connector: architecture, padding, windows, its file, and rejected input."""

import dataclasses
import json
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from instructbrush.core.errors import ModelError
from instructbrush.core.models.families import POCKET, SD15, SD21
from instructbrush.core.reasoning.connector import (
    Connector,
    ConnectorConfig,
    config_for,
    load_connector,
    new_connector,
    read_connector_config,
    save_connector,
    text_fingerprint,
)

CONFIG = ConnectorConfig(
    "pocket",
    16,
    24,
    queries=6,
    layers=2,
    heads=4,
    feedforward=32,
    text_fingerprint="aa",
    mllm_name="reader",
    mllm_fingerprint="bb",
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trained():
    """A connector that changes the text states."""
    connector = new_connector(CONFIG).eval().requires_grad_(False)
    connector.project_out.weight.copy_(draw(16, 16, seed=9))
    connector.project_out.bias.copy_(draw(16, seed=8))
    return connector


def inputs(batch=2, length=6, positions=9):
    mask = torch.ones(batch, positions, dtype=torch.bool)
    mask[-1, positions - 3 :] = False
    return draw(batch, length, 16), draw(batch, positions, 24, seed=1) * 30, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [6, 12])
def test_untrained_connector_changes_no_bit(dtype, length):
    text, states, mask = inputs(length=length)
    text = text.to(dtype)
    connector = new_connector(CONFIG).eval()
    assert torch.equal(connector.encode(text, states, mask), text)
    assert torch.equal(connector(text, states, mask), text)


def test_untrained_connector_keeps_the_editor_s_text_states(editor):
    text = editor.encode_text(["make it night", "add snow"])
    config = config_for(POCKET, 24)
    assert (config.queries, config.layers, config.heads, config.feedforward) == (32, 3, 4, 512)
    _, states, mask = inputs()
    assert torch.equal(new_connector(config).eval().encode(text, states, mask), text)


def test_only_the_last_layer_of_an_untrained_connector_gets_gradients():
    text, states, mask = inputs()
    untrained = new_connector(CONFIG)
    untrained(text, states, mask).square().sum().backward()
    moved = {
        name
        for name, parameter in untrained.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert moved == {"project_out.weight", "project_out.bias"}


def test_all_layers_of_a_trained_connector_get_gradients(trained):
    text, states, mask = inputs()
    trained.requires_grad_(True)
    trained(text, states, mask).square().sum().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
    dead = {name for name, parameter in trained.named_parameters() if not parameter.grad.abs().max() > 1e-7}
    # A constant added to all keys does not change attention.
    assert all(name.endswith("to_k.bias") for name in dead)


def test_matches_torch_s_decoder_layers(trained):
    text, states, mask = inputs()
    weights = trained.state_dict()
    memory = functional.linear(
        functional.layer_norm(states, (24,), weights["norm_in.weight"], weights["norm_in.bias"]),
        *linear_of(weights, "project_in"),
    )
    rows = weights["queries.weight"].expand(2, -1, -1)
    for number in range(2):
        layer = torch.nn.TransformerDecoderLayer(
            16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).eval()
        own = {
            name.removeprefix(f"layers.{number}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"layers.{number}.")
        }
        for theirs, ours in (("self_attn", "self_attention"), ("multihead_attn", "cross_attention")):
            attention = getattr(layer, theirs)
            for kind in ("weight", "bias"):
                getattr(attention, f"in_proj_{kind}").data.copy_(
                    torch.cat([own[f"{ours}.to_{part}.{kind}"] for part in "qkv"])
                )
                getattr(attention.out_proj, kind).data.copy_(own[f"{ours}.to_out.{kind}"])
        for theirs, ours in (
            ("norm1", "norm_self"),
            ("norm2", "norm_cross"),
            ("norm3", "norm_feedforward"),
            ("linear1", "feedforward.0"),
            ("linear2", "feedforward.2"),
        ):
            for kind in ("weight", "bias"):
                getattr(getattr(layer, theirs), kind).data.copy_(own[f"{ours}.{kind}"])
        rows = layer(rows, memory, memory_key_padding_mask=~mask)
    change = functional.linear(
        functional.layer_norm(rows, (16,), weights["norm_out.weight"], weights["norm_out.bias"]),
        *linear_of(weights, "project_out"),
    )
    torch.testing.assert_close(trained.encode(text, states, mask), text + change, rtol=1e-4, atol=1e-5)


def linear_of(weights, name):
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def test_padding_and_order_of_the_batch_do_not_matter(trained):
    text, states, mask = inputs()
    together = trained.encode(text, states, mask)
    alone = trained.encode(text[1:], states[1:, :6], mask[1:, :6])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)
    spoilt = states.masked_fill(~mask[..., None], 1e4)
    torch.testing.assert_close(trained.encode(text, spoilt, mask), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        trained.encode(text.flip(0), states.flip(0), mask.flip(0)).flip(0), together, rtol=0, atol=1e-5
    )


def test_encodes_one_text_with_several_images_and_keeps_further_windows(trained):
    text, states, mask = inputs(length=12)
    encoded = trained.encode(text[:1], states, mask)
    assert encoded.shape == (2, 12, 16)
    assert torch.equal(encoded[:, 6:], text[:1, 6:].expand(2, -1, -1))
    assert (encoded[0, :6] - encoded[1, :6]).abs().max() > 0.01
    assert (encoded[0, :6] - text[0, :6]).abs().max() > 0.1


def test_a_file_keeps_weights_and_config(trained, tmp_path):
    path = save_connector(trained, tmp_path / "deep" / "c.safetensors")
    assert read_connector_config(path) == CONFIG
    read = load_connector(path)
    assert read.config == CONFIG
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in read.state_dict().items())
    half = load_connector(save_connector(trained, path, torch.float16))
    assert next(half.parameters()).dtype == torch.float32
    assert path.stat().st_size < 45_000
    torch.testing.assert_close(half.encode(*inputs()), trained.encode(*inputs()), rtol=0, atol=0.05)


def test_ignores_unknown_fields_of_the_header(trained, tmp_path):
    path = write_file(trained, tmp_path, {**dataclasses.asdict(CONFIG), "colour": "blue"})
    assert load_connector(path).config == CONFIG


def test_default_shapes():
    sd15 = config_for(SD15, 4096, mllm_name="llava")
    assert sd15 == ConnectorConfig("sd15", 768, 4096, 77, 6, 12, 3072, mllm_name="llava")
    sd21 = config_for(SD21, 4096)
    assert (sd21.text_width, sd21.heads, sd21.feedforward) == (1024, 16, 4096)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Connector(sd15).parameters()) == 60_516_608


def test_the_same_seed_makes_the_same_connector():
    before = torch.get_rng_state()
    first = new_connector(CONFIG, 0).state_dict()
    again = new_connector(CONFIG, 0).state_dict()
    other = new_connector(CONFIG, 1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["queries.weight"], other["queries.weight"])


def test_text_fingerprint_is_the_same_for_all_tensor_names(editor):
    states = editor.text_encoder.state_dict()
    own = text_fingerprint(states)
    wrapped = {
        f"clip_l.transformer.text_model.{name.removeprefix('text_model.')}": tensor.half()
        for name, tensor in states.items()
    }
    assert own
    assert text_fingerprint(wrapped) == own
    assert text_fingerprint({"encoder.weight": torch.ones(2)}) == ""
    changed = {
        name: tensor + 0.1 if "final_layer_norm.weight" in name else tensor for name, tensor in states.items()
    }
    assert text_fingerprint(changed) != own


def test_accepts_the_models_it_was_trained_with(trained):
    assert trained.check_fits(24, "reader", "bb", 16, "aa") == []


def test_warns_about_other_models_of_the_same_width(trained):
    assert trained.check_fits(24, "other", "cc", 16, "dd") == [
        "The connector was trained with another MLLM (reader) than the one that is connected; "
        "results may be worse.",
        "The connector was trained with another CLIP than the one that is connected; results may be worse.",
    ]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (
            (23, 16),
            "Encode Instruction: 'llava' has states 23 wide, the connector was trained with reader (24). "
            "Load that MLLM, or a connector for this one.",
        ),
        (
            (24, 768),
            "Encode Instruction: CLIP gives text states 768 wide, the connector was trained for 16 (pocket). "
            "Connect the CLIP of the model that",
        ),
    ],
)
def test_rejects_other_widths(trained, widths, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        trained.check_fits(widths[0], "llava", "bb", widths[1], "aa")


@pytest.mark.parametrize(
    ("text", "states", "mask", "message"),
    [
        (
            draw(1, 5, 16),
            draw(1, 3, 24),
            torch.ones(1, 3),
            "Connector: text states of shape [1, 5, 16] do not fit; [batch, 6 or more, 16] is needed.",
        ),
        (
            draw(1, 6, 8),
            draw(1, 3, 24),
            torch.ones(1, 3),
            "Connector: text states of shape [1, 6, 8] do not fit;",
        ),
        (
            draw(1, 6, 16),
            draw(1, 3, 20),
            torch.ones(1, 3),
            "Connector: MLLM states of shape [1, 3, 20] do not fit; [batch, positions, 24] is needed.",
        ),
        (
            draw(1, 6, 16),
            draw(1, 3, 24),
            torch.ones(1, 4),
            "Connector: a mask of shape [1, 4] does not fit [1, 3, 24]",
        ),
        (draw(1, 6, 16), draw(1, 3, 24), torch.zeros(1, 3), "or leaves nothing to read of an image."),
        (
            draw(2, 6, 16),
            draw(3, 3, 24),
            torch.ones(3, 3),
            "Connector: 2 texts and 3 images do not make pairs.",
        ),
    ],
)
def test_rejects_tensors_that_do_not_fit(trained, text, states, mask, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        trained.encode(text, states, mask.bool())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "Connector: 3 heads do not divide a width of 16. Choose another number of heads."),
        ({"layers": 0}, "Connector: layers is 0; a whole number from 1 to 64 is needed."),
        ({"queries": 10**9}, "Connector: queries is 1000000000; a whole number from 1 to 4096 is needed."),
        (
            {"mllm_width": "wide"},
            "Connector: mllm_width is 'wide'; a whole number from 1 to 65536 is needed.",
        ),
        ({"task": None}, "Connector: task is None; a text is needed."),
    ],
)
def test_rejects_invalid_configs(changes, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        dataclasses.replace(CONFIG, **changes)


def write_file(connector, folder, info, version="1", **tensors):
    """A connector file with another header."""
    path = folder / "c.safetensors"
    states = {**connector.state_dict(), **tensors}
    metadata = {
        "instructbrush.connector": version,
        "instructbrush.info": info if isinstance(info, str) else json.dumps(info),
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in states.items() if tensor is not None}, path, metadata
    )
    return path


@pytest.mark.parametrize(
    ("info", "version", "tensors", "message"),
    [
        ({}, "2", {}, "c.safetensors: its format is 2; this version reads up to 1. Update InstructBrush."),
        ("[", "1", {}, "c.safetensors: its header is damaged ("),
        ("[]", "1", {}, "c.safetensors: its header is damaged ("),
        ('{"family": "pocket"}', "1", {}, "c.safetensors: its header is damaged ("),
        ({"layers": 65}, "1", {}, "Connector: layers is 65; a whole number from 1 to 64 is needed."),
        ({"layers": 3}, "1", {}, "c.safetensors: unexpected or missing tensor 'layers.2."),
        (
            {},
            "1",
            {"extra": torch.ones(1)},
            "c.safetensors: unexpected or missing tensor 'extra'. The file was not written by "
            "InstructBrush. Choose another file.",
        ),
        (
            {"queries": 7},
            "1",
            {},
            "c.safetensors: tensor 'queries.weight' is [6, 16], its header says [7, 16]. "
            "The file is damaged.",
        ),
        (
            {},
            "1",
            {"norm_in.bias": torch.full((24,), float("inf"))},
            "c.safetensors: tensor 'norm_in.bias' holds values that are not finite numbers.",
        ),
        (
            {},
            "1",
            {"norm_in.bias": torch.ones(24, dtype=torch.int32)},
            "c.safetensors: tensor 'norm_in.bias' holds values that are not finite numbers.",
        ),
    ],
)
def test_rejects_damaged_connector_files(trained, tmp_path, info, version, tensors, message):
    """``info`` is the text of the header's info, or changes of its fields."""
    if not isinstance(info, str):
        info = {**dataclasses.asdict(CONFIG), **info}
    with pytest.raises(ModelError, match=re.escape(message)):
        load_connector(write_file(trained, tmp_path, info, version, **tensors))


def test_rejects_files_that_are_not_connectors(trained, tmp_path):
    with pytest.raises(ModelError, match="c.safetensors: no such file in "):
        load_connector(tmp_path / "c.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.ones(1)}, plain)
    message = (
        "plain.safetensors is a safetensors file but not a connector. "
        "Choose one that 'python -m instructbrush reason train' wrote."
    )
    with pytest.raises(ModelError, match=message):
        load_connector(plain)
    path = save_connector(trained, tmp_path / "c.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="c.safetensors: the file is cut short"):
        load_connector(path)
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(ModelError, match="c.safetensors: not a safetensors file"):
        load_connector(path)
    with pytest.raises(ModelError, match="c.pt: .pt files are not read"):
        load_connector(tmp_path / "c.pt")
    with pytest.raises(ModelError, match=r"Connector: 'c.bin' must end in .safetensors."):
        save_connector(trained, tmp_path / "c.bin")


def test_a_file_holds_exactly_the_weights(trained, tmp_path):
    path = save_connector(trained, tmp_path / "c.safetensors")
    assert load_file(path).keys() == trained.state_dict().keys()
