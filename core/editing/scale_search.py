"""Finds the guidance scales that suit a learned edit, by editing images whose result is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..devices import is_out_of_memory
from ..diffusion.guidance import needed_branches
from ..diffusion.schedule import SEEDS
from ..instruction.injection import Injection
from ..models.families import Family
from .denoiser import Denoiser
from .sampler import edit_latents
from .settings import SamplingSettings

CANDIDATES = ((1.0, 1.0), (1.5, 1.0), (1.5, 1.5), (2.0, 1.5))
"""Scales (s_T, s_I) that are tried, cheapest first; the default of the model's family comes last."""

# Fewer steps than edits take: enough to tell the candidates apart.
_STEPS = 10
_MOST_EDITS = 4
# A candidate must be better by this share of the error than a cheaper one: .04 dB.
_LEAST_GAIN = 0.01
# Far away from the noise of edits and previews, whose seeds count up from small numbers.
_SEED_OFFSET = 2**48


class FoundScales(NamedTuple):
    """The result of a search."""

    text_scale: float
    """s_T of the best candidate."""
    image_scale: float
    """s_I of the best candidate."""
    errors: Mapping[tuple[float, float], float]
    """(s_T, s_I) of every candidate -> mean squared error of its edits, in the latent space."""


@dataclass(frozen=True)
class ScaleSearch:
    """How scales are searched: every candidate makes the same edits from the same noise."""

    seed: int = 0
    edits: int = _MOST_EDITS
    """Edits of each candidate. With fewer pairs than edits, pairs are edited again from other noise."""
    steps: int = _STEPS
    """Sampling steps of an edit."""

    @classmethod
    def within(cls, rows: float, family: Family, seed: int) -> "ScaleSearch | None":
        """The largest search whose model calls have at most ``rows`` rows; None if none is small enough."""
        edits = int(rows / cls(edits=1).rows(family))
        return cls(seed, min(edits, _MOST_EDITS)) if edits else None

    def rows(self, family: Family) -> int:
        """Rows of all model calls of the search."""
        return self.edits * self.steps * sum(map(_branches, candidates_of(family)))

    def seed_of(self, edit: int) -> int:
        """Seed of an edit's noise."""
        return (self.seed + _SEED_OFFSET + edit) % SEEDS


def candidates_of(family: Family) -> tuple[tuple[float, float], ...]:
    """The scales that are tried on a model of this family."""
    default = (family.default_text_scale, family.default_image_scale)
    return tuple(dict.fromkeys((*CANDIDATES, default)))


def find_scales(
    denoiser: Denoiser,
    pairs: Sequence[tuple[Tensor, Tensor]],
    contexts: tuple[Tensor, Tensor],
    injection: Injection | None,
    search: ScaleSearch,
    after_candidate: Callable[[int, int], None] | None = None,
    weights: Sequence[Tensor] = (),
) -> FoundScales:
    """Edits the pairs' images with every candidate, and returns the scales whose edits are closest.

    Args:
        denoiser: the model. It may itself hold what was learned, for example a LoRA.
        pairs: image conditions [C, h, w] and the scaled latents [c, h, w] that their edits should have. Pairs
            that were not learned from tell most; else the noise is new at least.
        contexts: text states of the instruction's words and of "", [L, D].
        injection: learned keys and values, or None.
        search: number of edits and steps.
        after_candidate: called with (candidates done, all). May raise to stop the search.
        weights: what every latent pixel of a pair counts, [h, w] with mean 1; empty if all count alike.
    """
    candidates = candidates_of(denoiser.description.family)
    groups = _groups(pairs, weights, search)
    errors: dict[tuple[float, float], float] = {}
    for done, (text_scale, image_scale) in enumerate(candidates, 1):
        settings = SamplingSettings(search.steps, text_scale, image_scale)
        sums = [_squared_error(denoiser, group, contexts, injection, settings) for group in groups]
        errors[text_scale, image_scale] = torch.stack(sums).sum().item() / search.edits
        if after_candidate is not None:
            after_candidate(done, len(candidates))
    best = candidates[0]
    for candidate in candidates[1:]:
        # An error that is not finite never wins.
        if errors[candidate] < (1 - _LEAST_GAIN) * errors[best] or not errors[best] < float("inf"):
            best = candidate
    return FoundScales(*best, errors)


def _branches(scales: tuple[float, float]) -> int:
    return sum(needed_branches(scales[1], scales[0]))


class _Group(NamedTuple):
    """Edits of one size."""

    before: Tensor
    after: Tensor
    weights: Tensor
    """[n, h, w]; [n, 1, 1] ones if all pixels count alike."""
    seeds: tuple[int, ...]

    def part(self, places: slice) -> "_Group":
        tensors = self.before[places], self.after[places], self.weights[places]
        return _Group(*tensors, self.seeds[places])


def _groups(
    pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[Tensor], search: ScaleSearch
) -> list[_Group]:
    """The pairs to edit, spread evenly over all, in batches of one size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    # With fewer pairs than edits, every pair serves several times.
    chosen = [
        edit * max(len(pairs), search.edits) // search.edits % len(pairs) for edit in range(search.edits)
    ]
    for edit, pair in enumerate(chosen):
        by_size.setdefault(tuple(pairs[pair][1].shape), []).append(edit)
    return [
        _Group(
            torch.stack([pairs[chosen[edit]][0] for edit in edits]),
            torch.stack([pairs[chosen[edit]][1] for edit in edits]),
            torch.stack([weights[chosen[edit]] if weights else torch.ones(1, 1) for edit in edits]),
            tuple(search.seed_of(edit) for edit in edits),
        )
        for edits in by_size.values()
    ]


def _squared_error(
    denoiser: Denoiser,
    group: _Group,
    contexts: tuple[Tensor, Tensor],
    injection: Injection | None,
    settings: SamplingSettings,
) -> Tensor:
    """Sum of the edits' mean squared errors. A batch that does not fit into memory is split."""
    sampling = SamplingSettings(settings.steps, settings.text_scale, settings.image_scale, group.seeds)
    try:
        latents = edit_latents(denoiser, group.before, *contexts, injection, sampling)
        error = (latents - group.after.to(latents)).square() * group.weights[:, None].to(latents)
        return error.mean(dim=(1, 2, 3)).sum()
    except RuntimeError as error:
        if len(group.seeds) == 1 or not is_out_of_memory(error):
            raise
    half = len(group.seeds) // 2
    sums = [
        _squared_error(denoiser, group.part(places), contexts, injection, settings)
        for places in (slice(half), slice(half, None))
    ]
    return sums[0] + sums[1]
