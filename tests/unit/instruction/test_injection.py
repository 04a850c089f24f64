"""Injections without a model."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.injected_instruction import InjectedInstruction
from instructbrush.core.instruction.injection import (
    AnyInjection,
    GroupedInjection,
    inject,
)
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
)
from instructbrush.core.instruction.segment_strengths import common_segments

LENGTH = 12
WIDTH = 6
TOKENS = 3
SEGMENTS = 5
SITES = {"down.attn2": 8, "up.attn2": 16}


def make_instruction(start: int = 1) -> Instruction:
    torch.manual_seed(0)
    info = InstructionInfo(family="pocket", fingerprint="0" * 64, segments=SEGMENTS, tokens=TOKENS)
    keys = {site: torch.randn(SEGMENTS, TOKENS, width) for site, width in SITES.items()}
    values = {site: torch.randn(SEGMENTS, TOKENS, width) for site, width in SITES.items()}
    return Instruction(keys, values, torch.randn(LENGTH, WIDTH), start, info)


def project(context: Tensor, width: int) -> Tensor:
    return context @ torch.linspace(-1, 1, WIDTH * width).view(WIDTH, width)


@pytest.mark.parametrize("start", [0, 1])
def test_full_strength_replaces_only_the_learned_rows(start: int) -> None:
    instruction = make_instruction(start)
    injection = inject(instruction)
    times = torch.tensor([10, 999])
    call = injection.begin(torch.randn(2, LENGTH, WIDTH), times)
    unlearned = [row for row in range(LENGTH) if not start <= row < start + TOKENS]
    assert torch.equal(call.context[:, unlearned], instruction.context[unlearned].expand(2, -1, -1))
    frozen = project(call.context, 8)
    keys, values = call.keys_values("down.attn2", frozen.clone(), frozen.clone())
    for row, segment in enumerate((0, 4)):
        assert torch.equal(keys[row, start : start + TOKENS], instruction.keys["down.attn2"][segment])
        assert torch.equal(values[row, start : start + TOKENS], instruction.values["down.attn2"][segment])
    assert torch.equal(keys[:, :start], frozen[:, :start]) and torch.equal(
        keys[:, start + TOKENS :], frozen[:, start + TOKENS :]
    )


def keys_of(injection: AnyInjection, cond: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Returns K' and V' at the first site. The projected values are twice the keys."""
    call = injection.begin(cond, times)
    frozen = project(call.context, 8)
    return call.keys_values("down.attn2", frozen, 2 * frozen)


def mixed(cond: Tensor, times: Tensor, **how: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns K' with the settings, K_cond, and K' at full strength, at the first site."""
    instruction = make_instruction()
    asked = keys_of(inject(instruction, **how), cond, times)[0]
    full = keys_of(inject(instruction), cond, times)[0]
    return asked, project(cond, 8), full


def test_strength_interpolates_between_conditioning_and_instruction() -> None:
    times = torch.tensor([0, 500])
    got, own, learned = mixed(torch.randn(2, LENGTH, WIDTH), times, strength=0.25)
    assert torch.allclose(got, own + 0.25 * (learned - own), atol=1e-5)


def test_keeps_the_conditioning_outside_the_timestep_range() -> None:
    """Fig. 3: learned for t >= T, the conditioning's own below; also inside one segment."""
    times = torch.tensor([799, 800, 801, 999])
    got, own, learned = mixed(torch.randn(4, LENGTH, WIDTH), times, end_timestep=800)
    assert torch.equal(got[0], own[0])
    assert torch.equal(got[1:], learned[1:])


def test_segment_strength_acts_only_in_its_segment() -> None:
    times = torch.tensor([100, 300, 500, 700, 900])
    got, own, learned = mixed(torch.randn(5, LENGTH, WIDTH), times, segment_strengths=[0, 0, 1, 0, 0.5])
    assert torch.equal(got[[0, 1, 3]], own[[0, 1, 3]])
    assert torch.equal(got[2], learned[2])
    assert torch.allclose(got[4], (own[4] + learned[4]) / 2, atol=1e-5)


def test_attention_is_the_same_for_a_conditioning_of_another_length() -> None:
    """Both are repeated to a common length."""
    cond, times = torch.randn(1, 8, WIDTH), torch.tensor([100])
    got, own, learned = mixed(cond, times, segment_strengths=[0, 1, 1, 1, 1])
    assert got.shape[1] == 24
    query = torch.randn(1, 5, 8)
    assert torch.allclose(
        scaled_dot_product_attention(query, got, got),
        scaled_dot_product_attention(query, own, own),
        atol=1e-5,
    )
    got, _, _ = mixed(cond, torch.tensor([900]), segment_strengths=[0, 1, 1, 1, 1])
    learned = inject(make_instruction())
    reference, _ = keys_of(learned, cond, torch.tensor([900]))
    assert torch.allclose(
        scaled_dot_product_attention(query, got, got),
        scaled_dot_product_attention(query, reference, reference),
        atol=1e-5,
    )


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("length", [LENGTH, 8])
def test_grouped_injection_matches_separate_calls(length: int, strength: float) -> None:
    """One batch holds plain rows, rows at full strength, and rows at another strength."""
    instruction = make_instruction()
    parts = [None, inject(instruction), inject(instruction, strength)]
    context = torch.randn(6, length, WIDTH)
    times = torch.tensor([10, 900] * 3)
    query = torch.randn(2, 5, 8)
    keys, values = keys_of(GroupedInjection(parts), context, times)
    for index, part in enumerate(parts):
        rows = slice(2 * index, 2 * index + 2)
        plain = project(context[rows], 8)
        if part is None:
            k, v = plain, 2 * plain
        else:
            k, v = keys_of(part, context[rows], times[rows])
        if length == LENGTH:
            assert torch.equal(keys[rows], k) and torch.equal(values[rows], v)
        torch.testing.assert_close(
            scaled_dot_product_attention(query, keys[rows], values[rows]),
            scaled_dot_product_attention(query, k, v),
            rtol=1e-4,
            atol=1e-4,
        )


def test_detects_injections_without_effect() -> None:
    instruction = make_instruction()
    assert inject(instruction, 0.0).is_identity
    assert inject(instruction, end_timestep=1000).is_identity
    assert inject(instruction, 1.0, [0, 0, 0, 0, 0]).is_identity
    assert not inject(instruction, 0.1).is_identity
    assert inject(instruction).replaces_conditioning and not inject(instruction, 0.5).replaces_conditioning


def test_keeps_the_models_dtype() -> None:
    injection = inject(make_instruction())
    call = injection.begin(torch.randn(1, LENGTH, WIDTH), torch.tensor([5]))
    frozen = project(call.context, 8).to(torch.bfloat16)
    keys, values = call.keys_values("down.attn2", frozen, frozen.clone())
    assert keys.dtype == values.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"segment_strengths": [1, 1]},
            r"2 values were given, but the instruction has 5 segments\. Give 5 values",
        ),
        ({"strength": float("nan")}, r"nan with segment strengths .* is not finite"),
        ({"end_timestep": 1001}, r"1000 to 1001 leaves 0\.\.1000"),
        ({"start_timestep": -1}, r"-1 to 0 leaves 0\.\.1000"),
    ],
)
def test_rejects_invalid_settings(how: dict, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        inject(make_instruction(), **how)


def make_text(segments: int = 1, length: int = LENGTH) -> Instruction:
    generator = torch.Generator().manual_seed(5)
    info = InstructionInfo("pocket", "0" * 64, segments, TOKENS, space="text")
    return Instruction(
        {},
        {},
        torch.randn(length, WIDTH, generator=generator),
        1,
        info,
        torch.randn(segments, TOKENS, WIDTH, generator=generator),
    )


def states_of(text: Instruction, segment: int = 0) -> Tensor:
    return torch.cat([text.context[:1], text.rows[segment], text.context[1 + TOKENS :]])


def test_replaces_text_states_before_the_projection() -> None:
    text = make_text(2)
    cond = torch.randn(2, LENGTH, WIDTH)
    times = torch.tensor([100, 900])
    expected = torch.stack([states_of(text, 0), states_of(text, 1)])
    whole = inject(text).begin(cond, times)
    assert torch.equal(whole.context, expected)
    keys = torch.randn(2, LENGTH, 8)
    assert whole.keys_values("down.attn2", keys, keys)[0] is keys
    half = inject(text, 0.25).begin(cond, times)
    assert torch.allclose(half.context, cond + 0.25 * (expected - cond), atol=1e-6)


def test_blend_matches_the_formula() -> None:
    """The blend has both spaces and different segments."""
    attention, text = make_instruction(), make_text(2)
    cond, times = torch.randn(3, LENGTH, WIDTH), torch.tensor([0, 450, 999])
    blend = Blend((WeightedInstruction(0.75, attention), WeightedInstruction(-0.5, text)))
    keys, values = keys_of(inject(blend, 0.5), cond, times)
    own = project(cond, 8)
    learned = keys_of(inject(attention), cond, times)[0]
    projected = torch.stack([project(states_of(text, segment), 8) for segment in (0, 0, 1)])
    expected = own + 0.5 * (0.75 * (learned - own) - 0.5 * (projected - own))
    torch.testing.assert_close(keys, expected, rtol=1e-5, atol=1e-5)
    assert values.shape == keys.shape


def test_ignores_parts_of_weight_0() -> None:
    instruction = make_instruction()
    cond = torch.randn(2, LENGTH, WIDTH)
    times = torch.tensor([10, 700])
    one = inject(Blend((WeightedInstruction(1.0, instruction), WeightedInstruction(0.0, make_text()))))
    assert one.replaces_conditioning and torch.equal(
        keys_of(one, cond, times)[0], keys_of(inject(instruction), cond, times)[0]
    )
    half = inject(Blend((WeightedInstruction(0.5, instruction),)))
    assert torch.equal(keys_of(half, cond, times)[0], keys_of(inject(instruction, 0.5), cond, times)[0])
    assert inject(Blend((WeightedInstruction(0.0, instruction),))).is_identity


def test_blends_contexts_of_different_lengths() -> None:
    cond = torch.randn(1, 8, WIDTH)
    times = torch.tensor([10])
    query = torch.randn(1, 5, 8)
    blend = Blend(
        (WeightedInstruction(1.0, make_instruction()), WeightedInstruction(1.0, make_text(length=6)))
    )
    keys, values = keys_of(inject(blend), cond, times)
    assert keys.shape[1] == 24 and torch.isfinite(scaled_dot_product_attention(query, keys, values)).all()


def test_rejects_segment_strengths_for_parts_with_different_segments() -> None:
    blend = Blend((WeightedInstruction(1.0, make_instruction()), WeightedInstruction(1.0, make_text(2))))
    with pytest.raises(
        InstructionError,
        match=(
            r"the blended instructions have \[2, 5\] segments, so their segments are not the same\. Give one "
            r"value"
        ),
    ):
        inject(blend, 1.0, [1, 1, 1, 1, 0])
    assert inject(blend, 1.0, [0.5]).strengths.tolist() == [0.5]


def test_a_blend_without_weight_takes_segment_strengths() -> None:
    nothing = Blend((WeightedInstruction(0.0, make_instruction()),))
    assert inject(nothing, 1.0, [1, 1, 1, 0.5, 0]).is_identity
    assert common_segments(nothing) == SEGMENTS


def test_gradients_are_deterministic() -> None:
    """A resumed run must repeat the same steps, although threads share the work."""
    keys = torch.zeros(1, TOKENS, 8000, requires_grad=True)
    part = InjectedInstruction.attention(torch.zeros(LENGTH, WIDTH), 1, {"down.attn2": keys}, {})
    draw, first = torch.randn(16, TOKENS, 8000), None
    for _ in range(20):
        keys.grad = None
        part.rows.at(torch.zeros(16, dtype=torch.long)).backward(draw)
        first = keys.grad if first is None else first
        assert torch.equal(keys.grad, first)
