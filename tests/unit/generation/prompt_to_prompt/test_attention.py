"""Control agrees with prompt-to-prompt written out with whole attention maps, step by step."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbrush.core.errors import ModelError
from instructbrush.core.generation.prompt_to_prompt.attention import controlled
from instructbrush.core.generation.prompt_to_prompt.control import (
    IP2P_CONTROL,
    ULTRAEDIT_CONTROL,
    ControlSettings,
)
from instructbrush.core.generation.prompt_to_prompt.model import TextToImage
from instructbrush.core.generation.prompt_to_prompt.sampling import PairRequest, PairSettings, sample_pairs
from instructbrush.tests.support.text_to_image.tiny_models import SIDE

STEPS = 5
SOURCE, TARGET = "a cat sits on grass", "a labradoodle sits on deep snow"


class WrittenOut:
    """Prompt-to-prompt on rows [null source, null target, source, target], with whole attention maps.

    The matrices are written by hand for SOURCE and TARGET, from the number of tokens of 'labradoodle'.
    """

    def __init__(self, settings: ControlSettings, tokens: int) -> None:
        self.settings = settings
        self.step = 0
        # start a labradoodle... sits on deep snow end, against start a cat sits on grass end.
        mapper = torch.zeros(77, 77)
        alpha = torch.zeros(77)
        words = tokens - 1
        kept = {0: 0, 1: 1, 3: 3 + words, 4: 4 + words, 6: 7 + words}
        kept |= {place: place for place in range(8 + words, 77)}
        for before, after in kept.items():
            mapper[before, after] = alpha[after] = 1
        self.replaced = torch.zeros(77, dtype=torch.bool)
        if settings.replace:
            mapper[2, 2 : 3 + words] = 1 / tokens
            mapper[5, 5 + words : 7 + words] = 1 / 2
            for columns in (slice(2, 3 + words), slice(5 + words, 7 + words)):
                alpha[columns] = 1
                self.replaced[columns] = True
        self.mapper, self.alpha = mapper, alpha
        self.weights = torch.ones(77)
        self.weights[6 + words] = dict(settings.weights).get("snow", 1.0)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = attn.heads

        def split(states: Tensor) -> Tensor:
            return states.unflatten(-1, (heads, -1)).permute(0, 2, 1, 3)

        query, keys, values = (
            split(attn.to_q(hidden_states)),
            split(attn.to_k(context)),
            split(attn.to_v(context)),
        )
        maps = (query @ keys.mT / query.shape[-1] ** 0.5).softmax(-1)
        source, target = maps[-2].clone(), maps[-1].clone()
        if encoder_hidden_states is None:
            coarse = SIDE * SIDE / hidden_states.shape[1] >= self.settings.self_pixels**2
            if coarse and self.step < int(self.settings.self_attention * STEPS):
                maps[-1] = source
                if self.settings.null_branch:
                    maps[1] = maps[0]
        else:
            replaced = self.settings.cross if self.settings.replaced is None else self.settings.replaced
            alpha = self.alpha * (self.step < int(self.settings.cross * STEPS))
            alpha[self.replaced] = float(self.step < int(replaced * STEPS))
            edited = (source @ self.mapper) * alpha + target * (1 - alpha)
            maps[-1] = edited * self.weights
        mixed = (maps @ values).permute(0, 2, 1, 3).flatten(2)
        return attn.to_out[0](mixed)


def written_out_ddim(model: TextToImage, settings: ControlSettings, guidance: float, seed: int) -> Tensor:
    """Latents [2, 4, h, w] of source and target."""
    tokens = len(model.tokenizers[0].tokenize("labradoodle"))
    control: Any = WrittenOut(settings, tokens)
    unet = copy.deepcopy(model.unet)
    unet.set_attn_processor(control)
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    times = [1 + step * (1000 // STEPS) for step in reversed(range(STEPS))]
    ids = model.tokenizers[0](["", "", SOURCE, TARGET], padding="max_length", return_tensors="pt").input_ids
    context = model.text_encoders[0](ids).last_hidden_state
    latents = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed)).repeat(
        2, 1, 1, 1
    )
    for step, time in enumerate(times):
        control.step = step
        noise = unet(latents.repeat(2, 1, 1, 1), time, context).sample
        eps = noise[:2] + guidance * (noise[2:] - noise[:2])
        previous = abar[times[step + 1]] if step + 1 < STEPS else abar[0]
        clean = (latents - (1 - abar[time]).sqrt() * eps) / abar[time].sqrt()
        latents = previous.sqrt() * clean + (1 - previous).sqrt() * eps
    return latents


CASES = {
    "replacement": ControlSettings(),
    "replacement of all maps": ControlSettings(cross=1, self_attention=1, self_pixels=1),
    "other share for new words": ControlSettings(cross=0.8, replaced=0.2, self_attention=0),
    "refinement": ULTRAEDIT_CONTROL,
    "re-weighting": ControlSettings(weights=(("snow", 4.0),)),
    "re-weighting alone": ControlSettings(cross=0, self_attention=0, weights=(("snow", -2.0),)),
    "self-attention in both branches": IP2P_CONTROL,
    "nothing": ControlSettings(cross=0, self_attention=0),
}


@pytest.fixture(scope="module")
def plain(models: dict[str, TextToImage]) -> tuple[Tensor, Tensor]:
    request = PairRequest(SOURCE, TARGET, 11, CASES["nothing"], 3.0)
    return sample_pairs(models["sd15"], [request], PairSettings(STEPS, SIDE, SIDE))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_matches_maps_written_out(
    models: dict[str, TextToImage], plain: tuple[Tensor, Tensor], case: str
) -> None:
    model = models["sd15"]
    settings = PairSettings(STEPS, SIDE, SIDE)
    sources, targets = sample_pairs(model, [PairRequest(SOURCE, TARGET, 11, CASES[case], 3.0)], settings)
    expected = model.decode(written_out_ddim(model, CASES[case], 3.0, 11))
    torch.testing.assert_close(torch.cat([sources, targets]), expected, rtol=0, atol=1e-4)
    # The control changes the target by far more than the tolerance, and never the source.
    assert torch.equal(plain[0], sources)
    assert case == "nothing" or (plain[1] - targets).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_the_model_is_untouched_also_after_an_error(models: dict[str, TextToImage], kind: str) -> None:
    unet = models[kind].unet
    before = dict(unet.attn_processors)
    states = {name: weight.clone() for name, weight in unet.state_dict().items()}
    with controlled(unet):
        assert all(a is not b for a, b in zip(before.values(), unet.attn_processors.values(), strict=True))
    with pytest.raises(ZeroDivisionError), controlled(unet):
        raise ZeroDivisionError
    assert unet.attn_processors == before
    assert all(torch.equal(states[name], weight) for name, weight in unet.state_dict().items())


def test_rejects_other_kinds_of_attention(models: dict[str, TextToImage]) -> None:
    unet = models["sd15"].unet
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    layer.residual_connection = True
    try:
        with pytest.raises(ModelError, match=r"attn1 has 'residual_connection'"), controlled(unet):
            pass
    finally:
        layer.residual_connection = False


def test_stores_no_attention_maps(models: dict[str, TextToImage], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer computes fused attention, whose maps never exist as tensors."""
    sizes: list[int] = []
    plain: Callable[..., Tensor] = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda *args, **kw: sizes.append(1) or plain(*args, **kw))
    request = PairRequest(SOURCE, TARGET, 1, ControlSettings(cross=1, self_attention=1, self_pixels=1))
    sample_pairs(models["sd15"], [request], PairSettings(1, SIDE, SIDE))
    assert not sizes
