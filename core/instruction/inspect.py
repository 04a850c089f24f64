"""Looks inside an instruction: how far it moved from its init text, and which words its rows are close to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..diffusion.schedule import segment_bounds
from ..errors import InstructionError, shown_text
from .instruction import Blend, Instruction, InstructionInfo, parts_of

Projection = Callable[[Tensor], Mapping[str, tuple[Tensor, Tensor]]]
"""``Denoiser.project``: text states [rows, D] -> site name -> the model's keys and values, each [rows,
width]."""

WordStates = Mapping[str, Tensor] | tuple[Sequence[str], Tensor]
"""Words and their text states: word -> [D], or the words and [n, D]."""

# Light and weather, colors, styles and materials, things, places in an image.
COMMON_WORDS: tuple[str, ...] = tuple(
    """
    night day morning sunset winter summer spring autumn snow rain fog cloud storm fire smoke water ice
    sand grass forest flower mountain sea sky sun moon star bright dark light shadow glow contrast flat
    deep pale vivid dull warm cold soft hard sharp blur smooth rough noise clean old new vintage retro
    modern red orange yellow green blue purple pink brown gold silver white black grey gray sepia teal
    cyan magenta color negative gradient painting oil watercolor sketch drawing pencil charcoal ink
    cartoon comic anime poster print photo film pixel mosaic sculpture clay paper wood metal glass stone
    fabric plastic hat glasses beard hair smile face eye crown scarf shirt dress man woman child robot
    dog cat bird horse car house city street frame border corner edge stripe dot pattern outline
    vignette background left right top bottom big small round square more less remove add make turn into
    """.split()
)
"""Words to compare with if the user gives none."""


@dataclass(frozen=True)
class Norms:
    """Norms of an instruction in every segment (low to high noise) and layer."""

    layers: tuple[str, ...]
    """Names of layers, or ``"text states"`` for an instruction in text space without a model."""
    keys: Tensor
    """[j, layers]; of the text states, or of an adapter, if ``values`` is None."""
    values: Tensor | None
    """[j, layers]"""
    relative: bool
    """Whether the norms are the learned change divided by the init text's norm. Otherwise they are those of
    an average learned row."""

    def segment_text(self, segment: int) -> str:
        """A segment's mean over the layers, for reports."""
        keys = self.format(self.keys[segment].mean())
        if self.values is None:
            return keys
        return f"K {keys}, V {self.format(self.values[segment].mean())}"

    def format(self, value: Tensor) -> str:
        """One norm, as a percentage if it is relative."""
        return f"{value.item():.0%}" if self.relative else f"{value.item():.3g}"


def measured(instruction: Instruction) -> str:
    """Says what norms are of that are not relative."""
    return "norm of a learned row" if instruction.info.tokens else "norm of a layer's adapter"


def norms(instruction: Instruction, project: Projection | None = None) -> Norms:
    """Computes norms of the learned rows for every segment and layer.

    With the learned rows ``gamma`` of a segment and the init text's ``gamma_0``, this is
    ``|gamma - gamma_0| / |gamma_0|`` (Frobenius norms over rows and channels). ``gamma_0`` of keys and values
    needs the model that the instruction was learned on. Without it, the result is the root mean square of the
    norms of the rows of ``gamma``. In text space ``gamma_0`` is known without a model; with one, the
    keys and values of the text states are measured. An adapter without learned rows has the norms of
    ``adapter_norms``, whatever the model.

    Args:
        instruction: a single one; see ``parts_of`` for blends.
        project: of a model that the instruction fits.
    """
    if not instruction.info.tokens:
        return adapter_norms(instruction)
    init = instruction.context[instruction.start : instruction.start + instruction.info.tokens]
    if project is None:
        if instruction.rows is not None:
            return Norms(("text states",), _relative_change(instruction.rows, init)[:, None], None, True)
        sites = tuple(instruction.keys)
        return Norms(sites, _row_norms(instruction.keys), _row_norms(instruction.values), False)
    init_pairs = project(init)
    learned = _keys_and_values(instruction, project)
    keys = [_relative_change(pair[0], init_pairs[site][0].cpu()) for site, pair in learned.items()]
    values = [_relative_change(pair[1], init_pairs[site][1].cpu()) for site, pair in learned.items()]
    return Norms(tuple(learned), torch.stack(keys, dim=1), torch.stack(values, dim=1), True)


def adapter_norms(instruction: Instruction) -> Norms:
    """Norms of an adapter in every segment and attention layer: the Frobenius norm of ``D^T U`` of all
    residuals and of the bypass.

    Args:
        instruction: a single one in adapter space.
    """
    squares: dict[str, Tensor] = {}
    for name, down in instruction.adapter.items():
        stem, _, side = name.rpartition(".")
        if side == "down":
            up = instruction.adapter[f"{stem}.up"]
            squares_here = [_product_square(*each) for each in zip(down, up, strict=True)]
            square = torch.stack(squares_here).expand(instruction.info.segments)
            layer = stem.rpartition(".")[0]
            squares[layer] = squares.get(layer, torch.zeros(())) + square
    layers = tuple(sorted(squares))
    return Norms(layers, torch.stack([squares[layer] for layer in layers], dim=1).sqrt(), None, False)


def nearest_words(
    instruction: Instruction, words: WordStates, project: Projection | None = None, count: int = 3
) -> list[list[tuple[str, float]]]:
    """Finds the words nearest to every learned row, by cosine.

    Learned text states are compared with the words' text states, averaged over segments. Learned keys and
    values are compared with the model's keys and values of the words, averaged over layers, keys and values,
    and segments.

    Args:
        instruction: a single one.
        words: with their text states, from the text encoder of a model that the instruction fits.
        project: of that model; needed in attention space.
        count: how many words for each row.

    Returns:
        For every learned row, (word, cosine) pairs, nearest first.

    Raises:
        InstructionError: no model, no words, or states of another width.
    """
    if isinstance(words, Mapping):
        names = list(words)
        states = torch.stack(list(words.values()))
    else:
        names = list(words[0])
        states = words[1]
    if states.shape != (len(names), instruction.context.shape[1]) or not names:
        raise InstructionError(
            f"Nearest words: {len(names)} words with states {tuple(states.shape)}, expected [words, "
            f"{instruction.context.shape[1]}]. Take the text encoder of a model that the instruction fits, "
            "and at least one word."
        )
    if not instruction.info.tokens:
        raise InstructionError(
            f"Nearest words: '{instruction.title}' is an adapter without learned rows, so there is nothing "
            "to compare with words."
        )
    if instruction.rows is not None:
        cosines = _cosines(instruction.rows, states.cpu().float())
    elif project is None:
        raise InstructionError(
            f"Nearest words: '{instruction.title}' holds keys and values; connect the model to compare them "
            "with those of words."
        )
    else:
        projected = project(states)
        cosines_at_sites = [
            _cosines(pair[place], projected[site][place].cpu())
            for site, pair in _keys_and_values(instruction, project).items()
            for place in (0, 1)
        ]
        cosines = torch.stack(cosines_at_sites).mean(dim=0)
    best = cosines.topk(min(count, len(names)), dim=1)
    return [
        [(names[index], value) for index, value in zip(row, values, strict=True)]
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def facts(info: InstructionInfo, weight: float = 1.0) -> dict[str, str]:
    """Returns the facts of a header, name -> text."""
    kind = "text states" if info.space == "text" else "keys and values"
    learned = [f"{info.segments} segments x {info.tokens} tokens of {kind}"] if info.tokens else []
    if info.space == "adapter":
        learned.append(_adapter_text(info))
    found = {
        "title": info.title,
        "weight": f"{weight:g}",
        "model": f"{info.model_title} ({info.family}, {info.fingerprint[:12]})",
        "init text": repr(info.init_text),
        "rows": ", and ".join(learned),
        "learned": f"{info.steps} steps from {info.pairs} pairs, {info.created}",
        "final loss": "unknown" if info.final_loss is None else f"{info.final_loss:.5f}",
        "settings": ", ".join(f"{name}={value}" for name, value in info.settings.items()),
        "guidance": _guidance(info),
    }
    if weight == 1:
        del found["weight"]
    return {name: shown_text(text) for name, text in found.items()}


def _adapter_text(info: InstructionInfo) -> str:
    ranks = [f"{name} {info.settings[name]}" for name in ("rank", "bypass") if info.settings.get(name)]
    return f"an adapter ({', '.join(ranks)})" if ranks else "an adapter"


def _guidance(info: InstructionInfo) -> str:
    if info.text_scale is None or info.image_scale is None:
        return "the model's default"
    return f"s_T {info.text_scale:g}, s_I {info.image_scale:g}"


def report(
    instruction: Instruction | Blend, project: Projection | None = None, words: WordStates | None = None
) -> str:
    """Writes header, norms and nearest words as plain text.

    Args:
        instruction: a single one, or a blend, whose parts follow each other.
        project: of a model that it fits: norms become relative to the init text, and keys and values can be
            compared with words.
        words: with their text states; None leaves them out.

    Raises:
        InstructionError: as ``nearest_words``.
    """
    return "\n\n".join(
        _part_report(part.instruction, part.weight, project, words) for part in parts_of(instruction)
    )


def short_layer_name(layer: str) -> str:
    """``down_blocks.0.attentions.1.transformer_blocks.0.attn2`` -> ``down 0.1.0``."""
    block, *rest = layer.split(".")
    if not block.endswith(("blocks", "block")):
        return layer
    numbers = ".".join(part for part in rest if part.isdigit())
    return f"{block.partition('_')[0]} {numbers}".strip()


def _keys_and_values(instruction: Instruction, project: Projection) -> dict[str, tuple[Tensor, Tensor]]:
    """Learned keys and values [j, m, width] at every site. Text states are projected."""
    if instruction.rows is None:
        return {site: (keys, instruction.values[site]) for site, keys in instruction.keys.items()}
    shape = instruction.rows.shape[:2]
    projected = project(instruction.rows.flatten(0, 1))
    return {
        site: (keys.cpu().unflatten(0, shape), values.cpu().unflatten(0, shape))
        for site, (keys, values) in projected.items()
    }


def _row_norms(tensors: Mapping[str, Tensor]) -> Tensor:
    """Root mean square of the rows' norms, [j, layers]."""
    return torch.stack([tensor.norm(dim=2).square().mean(dim=1).sqrt() for tensor in tensors.values()], dim=1)


def _product_square(down: Tensor, up: Tensor) -> Tensor:
    """``|D^T U|^2`` of one segment, from matrices that are no larger than D and U."""
    if down.shape[1] * up.shape[1] < down.shape[0] ** 2:
        return (down.mT @ up).square().sum()
    # The sum of the elementwise product of the Gram matrices.
    return ((down @ down.mT) * (up @ up.mT)).sum()


def _relative_change(gamma: Tensor, init: Tensor) -> Tensor:
    """``|gamma - init| / |init|`` for every segment, [j]."""
    return (gamma - init).flatten(1).norm(dim=1) / init.norm().clamp_min(1e-12)


def _cosines(gamma: Tensor, words: Tensor) -> Tensor:
    """[j, m, width] against [n, width] -> [m, n], the mean over segments."""
    return (normalize(gamma, dim=-1) @ normalize(words, dim=-1).T).mean(dim=0)


def _part_report(
    instruction: Instruction, weight: float, project: Projection | None, words: WordStates | None
) -> str:
    lines = [f"{name}: {text}" for name, text in facts(instruction.info, weight).items() if text]
    lines += _norm_lines(instruction, project)
    if instruction.adapter and instruction.info.tokens:
        lines += _adapter_lines(instruction)
    if (
        words is not None
        and instruction.info.tokens
        and (instruction.rows is not None or project is not None)
    ):
        lines.append("nearest words:")
        for row, nearest in enumerate(nearest_words(instruction, words, project), instruction.start):
            lines.append(f"  row {row}: {', '.join(f'{word} {cosine:.2f}' for word, cosine in nearest)}")
    return "\n".join(lines)


def _adapter_lines(instruction: Instruction) -> list[str]:
    """The layers where an adapter beside learned rows acts most."""
    found = adapter_norms(instruction)
    means = found.keys.mean(dim=0)
    most = means.topk(min(3, len(found.layers))).indices.tolist()
    kinds = {"attn1": "self", "attn2": "cross"}
    layers = []
    for index in most:
        layer = found.layers[index]
        kind = kinds[layer.rpartition(".")[2]]
        layers.append(f"{short_layer_name(layer)} {kind} ({found.format(means[index])})")
    return [
        f"norm of the adapter, mean of {len(found.layers)} attention layers: {found.format(means.mean())}",
        f"largest: {'; '.join(layers)}",
    ]


def _norm_lines(instruction: Instruction, project: Projection | None) -> list[str]:
    found = norms(instruction, project)
    if found.relative:
        title = "learned change, as a share of the init text's own norm"
    else:
        title = measured(instruction)
    lines = [f"{title}:" if found.values is None else f"{title}, mean of {len(found.layers)} layers:"]
    segments = instruction.info.segments
    for segment in range(segments):
        first, last = segment_bounds(segment, segments)
        lines.append(f"  t {first}-{last - 1}: {found.segment_text(segment)}")
    if found.values is None:
        return lines
    # Absolute norms follow the model's layers. Only changes show where the instruction acts.
    if found.relative:
        most = (found.keys + found.values).mean(dim=0).topk(min(3, len(found.layers))).indices.tolist()
        changed = [
            f"{short_layer_name(found.layers[i])} (K {found.format(found.keys[:, i].mean())}, "
            f"V {found.format(found.values[:, i].mean())})"
            for i in most
        ]
        lines.append(f"changed most: {'; '.join(changed)}")
    else:
        lines.append("connect the model to see the change against the init text, and the nearest words")
    return lines
