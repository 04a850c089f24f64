"""Random instructions, and the keys and values that they put into a model's layers."""

from functools import cache

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.instruction.algebra import blend, scale
from instructbrush.core.instruction.injection import inject
from instructbrush.core.instruction.instruction import Blend, Instruction, InstructionInfo

LENGTH = 16
WIDTH = 6
SITES = {"down.attn2": 8, "up.attn2": 4}
SPACES = ("attention", "text")
TIMES = torch.tensor([0, 150, 199, 200, 333, 334, 400, 500, 650, 667, 800, 999])
CONDITIONING = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(99))

LAW = settings(deadline=None, max_examples=25, derandomize=True)
WEIGHTS = st.floats(-3, 3, allow_nan=False).map(lambda value: round(value, 3))


@cache
def make(
    seed: int,
    space: str = "attention",
    segments: int = 5,
    tokens: int = 3,
    start: int = 1,
    family: str = "pocket",
) -> Instruction:
    draw = torch.Generator().manual_seed(seed)
    info = InstructionInfo(
        family,
        "0" * 64,
        segments,
        tokens,
        space,
        title=f"{space[0]}{seed}",
        settings={"include_bos": start == 0},
    )
    context = torch.randn(LENGTH, WIDTH, generator=draw)
    if space == "text":
        return Instruction({}, {}, context, start, info, torch.randn(segments, tokens, WIDTH, generator=draw))
    keys = {site: torch.randn(segments, tokens, width, generator=draw) for site, width in SITES.items()}
    values = {site: torch.randn(segments, tokens, width, generator=draw) for site, width in SITES.items()}
    return Instruction(keys, values, context, start, info)


def instructions(spaces: tuple[str, ...] = SPACES) -> st.SearchStrategy[Instruction]:
    return st.builds(
        make,
        st.integers(0, 5),
        st.sampled_from(spaces),
        st.sampled_from([1, 2, 3, 5]),
        st.integers(1, 4),
        st.integers(0, 1),
    )


TERMS = st.lists(st.tuples(WEIGHTS, instructions()), min_size=1, max_size=4)


def project(states: Tensor, site: str) -> tuple[Tensor, Tensor]:
    """Returns K and V of a site: fixed linear maps of the states."""
    draw = torch.Generator().manual_seed(SITES[site])
    to_k = torch.randn(WIDTH, SITES[site], generator=draw)
    to_v = torch.randn(WIDTH, SITES[site], generator=draw)
    return states @ to_k, states @ to_v


def acting(instruction: Instruction | Blend) -> dict[str, Tensor]:
    """Returns K' and V' at every site and timestep; K_cond and V_cond if the injection is the identity."""
    injection = inject(instruction)
    context = CONDITIONING.expand(len(TIMES), -1, -1)
    call = None if injection.is_identity else injection.begin(context, TIMES)
    found = {}
    for site in SITES:
        keys, values = project(context if call is None else call.context, site)
        if call is not None:
            keys, values = call.keys_values(site, keys, values)
        found[f"k {site}"] = keys
        found[f"v {site}"] = values
    return found


def assert_acts_alike(first: Instruction | Blend, second: Instruction | Blend) -> None:
    expected = acting(second)
    for name, tensor in acting(first).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-4)


def negate(instruction: Instruction | Blend) -> Instruction | Blend:
    return scale(instruction, -1.0)


def add(first: Instruction | Blend, second: Instruction | Blend) -> Instruction | Blend:
    return blend([(1.0, first), (1.0, second)])


def interpolate(first: Instruction | Blend, second: Instruction | Blend, t: float) -> Instruction | Blend:
    return blend([(1 - t, first), (t, second)])
