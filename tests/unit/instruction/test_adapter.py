"""Adapters: residuals and bypasses of attention layers, against peft and by hand."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from instructbrush.core.editing.diffusers_denoiser import DiffusersDenoiser
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction import file as file_module
from instructbrush.core.instruction.adapter import adapter_widths, residual
from instructbrush.core.instruction.algebra import blend, compose, with_segments
from instructbrush.core.instruction.file import load_instruction, save_instruction
from instructbrush.core.instruction.file_header import MAX_TENSORS
from instructbrush.core.instruction.injection import GroupedInjection, inject
from instructbrush.core.instruction.inspect import facts, nearest_words, norms, report
from instructbrush.core.instruction.instruction import Blend, Instruction, InstructionInfo
from instructbrush.tests.unit.instruction.toy_instructions import add

SEGMENTS = 5


def adapter_of(
    editor: DiffusersEditor, seed: int = 0, tokens: int = 0, own_segments: int = 1, bypass: bool = False
) -> Instruction:
    """A random adapter, with random keys and values if ``tokens`` is not 0."""
    draw = torch.Generator().manual_seed(seed)
    description = editor.description
    info = InstructionInfo(
        description.family.name, description.fingerprint, SEGMENTS, tokens, space="adapter", title=f"a{seed}"
    )
    adapter = {
        name: 0.05 * torch.randn(own_segments, 3 + seed, width, generator=draw)
        for name, width in adapter_widths(description.sites).items()
        if bypass or ".bypass." not in name
    }
    keys, values = (
        {site.name: torch.randn(SEGMENTS, tokens, site.width, generator=draw) for site in description.sites}
        if tokens
        else {}
        for _ in range(2)
    )
    context = editor.encode_text([f"make it {'warm' if seed else 'cold'}"])[0]
    return Instruction(keys, values, context, 1, info, adapter=adapter)


def inputs(editor: DiffusersEditor, batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    noisy, image = torch.randn(2, batch, 4, 8, 8, generator=draw)
    return noisy, torch.arange(batch) * 350 + 40, image, editor.encode_text(["make it night"] * batch)


@torch.no_grad()
def acting(editor: DiffusersEditor, instruction: Instruction | Blend, strength: float = 1.0) -> Tensor:
    return editor.denoiser.predict(*inputs(editor), inject(instruction, strength))


@torch.no_grad()
@pytest.mark.parametrize("strength", [1.0, 0.5, -2.0])
def test_equals_a_lora_of_peft(editor: DiffusersEditor, strength: float) -> None:
    """Without learned rows, in all rows of a call, an adapter is a LoRA of the attention layers."""
    from peft import LoraConfig

    learned = adapter_of(editor)
    unet = copy.deepcopy(editor.denoiser.unet)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=3, lora_alpha=3 * strength, target_modules=targets))
    weights = dict(unet.named_parameters())
    for name, tensor in learned.adapter.items():
        layer, place, side = name.rsplit(".", 2)
        module = f"{layer}.{'to_out.0' if place == 'out' else f'to_{place}'}"
        if side == "down":
            weights[f"{module}.lora_A.default.weight"].copy_(tensor[0])
        else:
            weights[f"{module}.lora_B.default.weight"].copy_(tensor[0].T)
    lora = DiffusersDenoiser(unet, editor.description, editor.denoiser.alphas_cumprod)
    noisy, times, image, _ = inputs(editor)
    # At any strength the instruction's words replace the conditioning's, so that the LoRA acts alone.
    context = learned.context.expand(3, -1, -1)
    expected = lora.predict(noisy, times, image, context)
    found = editor.denoiser.predict(noisy, times, image, context, inject(learned, strength))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    plain = editor.denoiser.predict(noisy, times, image, context)
    assert (found - plain).abs().max() > 0.01


def test_residuals_match_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 6, generator=draw)
    down, up = torch.randn(2, 3, 6, generator=draw), torch.randn(2, 3, 5, generator=draw)
    factor = torch.tensor([0.5, -2.0]).view(2, 1, 1)
    for row in range(2):
        reduced = x[row] @ down[row].T
        torch.testing.assert_close(
            residual("q", x, down, up, factor)[row], factor[row].item() * reduced @ up[row]
        )
        torch.testing.assert_close(
            residual("bypass", x, down, up, factor)[row], factor[row].item() * gelu(reduced) @ up[row]
        )
    shared = residual("q", x, down[:1], up[:1])
    torch.testing.assert_close(shared, x @ down[0].T @ up[0])
    half = residual("q", x.bfloat16(), down, up, factor)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), residual("q", x, down, up, factor), atol=0.2, rtol=0.05)


@pytest.mark.parametrize("tokens", [0, 2])
@pytest.mark.parametrize("own_segments", [1, SEGMENTS])
def test_segments_select_their_residuals(editor: DiffusersEditor, tokens: int, own_segments: int) -> None:
    """A row of a batch acts as it does alone, with the residuals of its own timestep."""
    learned = adapter_of(editor, tokens=tokens, own_segments=own_segments, bypass=True)
    noisy, times, image, context = inputs(editor)
    together = acting(editor, learned)
    for row in range(3):
        one = slice(row, row + 1)
        segment = int(times[row]) * SEGMENTS // 1000
        own = {name: t[segment : segment + 1] if len(t) > 1 else t for name, t in learned.adapter.items()}
        with torch.no_grad():
            alone = editor.denoiser.predict(
                noisy[one], times[one], image[one], context[one], inject(replace(learned, adapter=own))
            )
        torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(acting(editor, with_segments(learned, 2 * SEGMENTS)), together)


@torch.no_grad()
def test_changes_the_rows_that_carry_it_alone(editor: DiffusersEditor) -> None:
    learned = inject(adapter_of(editor, tokens=2, bypass=True))
    noisy, times, image, context = inputs(editor)
    plain = editor.denoiser.predict(noisy, times, image, context)
    grouped = editor.denoiser.predict(noisy, times, image, context, GroupedInjection([None, learned, None]))
    assert torch.equal(grouped[[0, 2]], plain[[0, 2]])
    assert (grouped[1] - plain[1]).abs().max() > 0.05


def test_strength_0_is_the_identity(editor: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(editor)
    with torch.no_grad():
        plain = editor.denoiser.predict(noisy, times, image, context)
    assert torch.equal(acting(editor, adapter_of(editor, tokens=2), 0.0), plain)


def test_algebra_adds_residuals(editor: DiffusersEditor) -> None:
    first, second = adapter_of(editor, bypass=True), adapter_of(editor, 1, own_segments=SEGMENTS)
    halves = blend([(0.5, first), (0.5, first)])
    torch.testing.assert_close(acting(editor, halves), acting(editor, first))
    # The context of a sum differs from that of a composition, so the same words are given to both.
    second = replace(second, context=first.context)
    composed = compose(first, second)
    assert next(iter(composed.adapter.values())).shape[:2] == (SEGMENTS, 7)
    conditioned = first.context.expand(3, -1, -1)
    noisy, times, image, _ = inputs(editor)
    with torch.no_grad():
        sums = [
            editor.denoiser.predict(noisy, times, image, conditioned, inject(each))
            for each in (composed, add(first, second))
        ]
    torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-4)
    with_rows = compose(first, adapter_of(editor, 1, tokens=2))
    assert with_rows.info.tokens == 2 and with_rows.keys
    assert torch.isfinite(acting(editor, with_rows)).all()


@pytest.mark.parametrize("tokens", [0, 2])
def test_files_keep_adapters(editor: DiffusersEditor, tmp_path: Path, tokens: int) -> None:
    learned = adapter_of(editor, tokens=tokens, bypass=True)
    whole = save_instruction(learned, tmp_path / "whole.safetensors")
    half = save_instruction(learned, tmp_path / "half.safetensors", half=True)
    loaded = load_instruction(whole)
    assert isinstance(loaded, Instruction)
    assert all(torch.equal(tensor, learned.learned()[name]) for name, tensor in loaded.learned().items())
    assert loaded.learned().keys() == learned.learned().keys() and loaded.info == learned.info
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    torch.testing.assert_close(
        acting(editor, load_instruction(half)), acting(editor, learned), atol=2e-3, rtol=2e-3
    )


def test_half_files_keep_what_half_precision_cannot_hold(editor: DiffusersEditor, tmp_path: Path) -> None:
    learned = adapter_of(editor)
    name = next(iter(learned.adapter))
    large = replace(learned, adapter={**learned.adapter, name: learned.adapter[name] + 1e6})
    loaded = load_instruction(save_instruction(large, tmp_path / "a.safetensors", half=True))
    assert torch.equal(loaded.learned()[f"adapter.{name}"], large.adapter[name])


def test_rejects_adapters_that_do_not_fit(editor: DiffusersEditor) -> None:
    learned = adapter_of(editor)
    name = next(iter(learned.adapter))
    alone = {key: tensor for key, tensor in learned.adapter.items() if key != name}
    with pytest.raises(InstructionError, match=r"holds .*\.up without .*\.down"):
        replace(learned, adapter=alone)
    with pytest.raises(InstructionError, match=r"expected \[1 or 5 segments, rank, width\]"):
        replace(learned, adapter={**learned.adapter, name: learned.adapter[name].repeat(2, 1, 1)})
    for odd in ("mid_block.conv.q", name.rpartition(".")[0] + "x"):
        both = {f"{odd}.{side}": torch.zeros(1, 2, 64) for side in ("down", "up")}
        with pytest.raises(InstructionError, match="which is no place of an attention layer"):
            replace(learned, adapter={**learned.adapter, **both})
    with pytest.raises(InstructionError, match="must hold an adapter"):
        replace(learned, adapter={})
    wide = {**learned.adapter, name: learned.adapter[name].repeat(1, 1, 2)}
    with pytest.raises(InstructionError, match="is 128 wide, the model has 64"):
        replace(learned, adapter=wide).check_fits(editor.description)


def test_reports_describe_adapters(editor: DiffusersEditor) -> None:
    learned = adapter_of(editor)
    found = norms(learned)
    layer = found.layers[0]
    expected = sum(
        (down[0].T @ learned.adapter[f"{name.removesuffix('.down')}.up"][0]).square().sum()
        for name, down in learned.adapter.items()
        if name.startswith(f"{layer}.") and name.endswith(".down")
    )
    torch.testing.assert_close(found.keys[0, 0], expected.sqrt())
    assert "norm of a layer's adapter" in report(learned)
    with pytest.raises(InstructionError, match="adapter without learned rows"):
        nearest_words(learned, {"warm": torch.zeros(128)})


def test_reports_show_the_adapter_beside_learned_rows(editor: DiffusersEditor) -> None:
    learned = adapter_of(editor, tokens=3)
    # One layer far above the others.
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.q.up"
    strong = {**learned.adapter, name: 1000 * learned.adapter[name]}
    info = replace(learned.info, settings={"rank": 2, "bypass": 4})
    text = report(replace(learned, adapter=strong, info=info))
    assert "5 segments x 3 tokens of keys and values, and an adapter (rank 2, bypass 4)" in text
    assert "norm of a learned row" in text and "norm of the adapter, mean of" in text
    assert "largest: mid 0.0 self (" in text
    assert facts(adapter_of(editor).info)["rows"] == "an adapter"


def test_a_composition_has_the_ranks_of_both(editor: DiffusersEditor) -> None:
    parts = [adapter_of(editor, tokens=2), adapter_of(editor, tokens=2)]
    parts = [replace(part, info=replace(part.info, settings={"rank": 2, "steps": 9})) for part in parts]
    settings = compose(*parts).info.settings
    assert (settings["rank"], settings["steps"]) == (4, 9)


@pytest.mark.parametrize("kind", ["values", "context"])
def test_widths_are_checked_before_an_instruction_acts(editor: DiffusersEditor, kind: str) -> None:
    learned = adapter_of(editor, tokens=2)
    if kind == "values":
        wide = {site: tensor.repeat(1, 1, 2) for site, tensor in learned.values.items()}
        learned = replace(learned, values=wide)
    else:
        learned = replace(learned, context=learned.context[:, :7])
    with pytest.raises(InstructionError, match="wide"):
        learned.check_fits(editor.description)


def test_half_precision_keeps_what_it_would_lose(editor: DiffusersEditor, tmp_path: Path) -> None:
    learned = adapter_of(editor)
    tiny, huge, *_ = learned.adapter
    adapter = {**learned.adapter, tiny: 1e-8 * learned.adapter[tiny], huge: 1e8 * learned.adapter[huge]}
    loaded = load_instruction(
        save_instruction(replace(learned, adapter=adapter), tmp_path / "a.safetensors", half=True)
    )
    assert isinstance(loaded, Instruction)
    for name, tensor in adapter.items():
        kept = torch.equal(loaded.adapter[name], tensor)
        assert kept == (name in (tiny, huge)), name
        assert (loaded.adapter[name] - tensor).norm() < 1e-3 * tensor.norm()


def test_a_file_holds_sixteen_adapters_and_says_what_is_too_large(
    editor: DiffusersEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = 16 * len(adapter_of(editor, tokens=2, bypass=True).learned())
    # SDXL has 70 layers, the pocket editor's parts are counted.
    assert tensors / 16 / len(editor.description.sites) * 70 * 16 < MAX_TENSORS
    learned = adapter_of(editor)
    monkeypatch.setattr(file_module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InstructionError, match=r"of 0 MB are too large for one file.*save in fp16"):
        save_instruction(learned, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
