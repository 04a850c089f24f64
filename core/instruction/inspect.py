"""What is inside an instruction: how far it went from its beginning in every segment and layer, and which words it is close to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import normalize

from ..diffusion.schedule import segment_bounds
from ..errors import InstructionError
from .instruction import Blend, Instruction, InstructionInfo, parts_of

Projection = Callable[[Tensor], Mapping[str, tuple[Tensor, Tensor]]]
"""``Denoiser.project``: text states [rows, D] -> site name -> the model's own keys and values of them, each [rows, width]."""

WordStates = Mapping[str, Tensor] | tuple[Sequence[str], Tensor]
"""Words and their text states: word -> [D], or the words and [n, D]."""

COMMON_WORDS: tuple[str, ...] = tuple(
    """
    night day morning sunset winter summer spring autumn snow rain fog cloud storm fire smoke water ice sand grass forest flower mountain sea sky sun moon star
    bright dark light shadow glow contrast flat deep pale vivid dull warm cold soft hard sharp blur smooth rough noise clean old new vintage retro modern
    red orange yellow green blue purple pink brown gold silver white black grey gray sepia teal cyan magenta color negative gradient
    painting oil watercolor sketch drawing pencil charcoal ink cartoon comic anime poster print photo film pixel mosaic sculpture clay paper wood metal glass
    stone fabric plastic hat glasses beard hair smile face eye crown scarf shirt dress man woman child robot dog cat bird horse car house city street
    frame border corner edge stripe dot pattern outline vignette background left right top bottom big small round square more less remove add make turn into
    """.split()
)
"""Words to compare with where the user gives none: light and weather, colours, styles and materials, things, places in an image."""

_BACKGROUND, _INK, _FAINT, _KEYS, _VALUES = "#1e1e22", "#dddddd", "#4a4a52", "#5b9bf3", "#f0a050"
_WIDTH, _PANEL, _MARGIN, _SCALE_WIDTH = 640, 66, 18, 92


@dataclass(frozen=True)
class Norms:
    """How large an instruction is in every segment (low to high noise) and layer."""

    layers: tuple[str, ...]
    """Site names, or ``"text states"`` where a text instruction is looked at without a model."""
    keys: Tensor
    """[j, layers]"""
    values: Tensor | None
    """[j, layers]; None for text states."""
    relative: bool
    """The learned change as a share of the init phrase's own norm; otherwise the norm of an average learned row."""

    def of(self, segment: int) -> str:
        """A segment's mean over the layers, in words."""
        pairs = [
            (name, tensor) for name, tensor in (("K", self.keys), ("V", self.values)) if tensor is not None
        ]
        if self.values is None:
            return self.text(self.keys[segment].mean())
        return ", ".join(f"{name} {self.text(tensor[segment].mean())}" for name, tensor in pairs)

    def text(self, value: Tensor) -> str:
        """One number in words."""
        return f"{value.item():.0%}" if self.relative else f"{value.item():.3g}"


def norms(instruction: Instruction, project: Projection | None = None) -> Norms:
    """Norms of what was learned, for every segment and layer.

    With the learned rows ``gamma`` of a segment and the init phrase's own ``gamma_0``, this is ``|gamma - gamma_0| / |gamma_0|`` (Frobenius norms
    over rows and channels). ``gamma_0`` of keys and values takes the model that the instruction was learned on; without it the root mean square
    of the norms of the rows of ``gamma`` is given. Text states know their own beginning; with a model, their keys and values are looked at.

    Args:
        instruction: a single one; see ``artefact.parts_of``.
        project: of a model that it fits.
    """
    begin = instruction.context[instruction.start : instruction.start + instruction.info.tokens]
    if project is None:
        if instruction.rows is not None:
            return Norms(("text states",), _relative(instruction.rows, begin)[:, None], None, True)
        keys, values = (
            torch.stack(
                [tensor.norm(dim=2).square().mean(dim=1).sqrt() for tensor in tensors.values()], dim=1
            )
            for tensors in (instruction.keys, instruction.values)
        )
        return Norms(tuple(instruction.keys), keys, values, False)
    own, learned = project(begin), _at_sites(instruction, project)
    columns = [
        [_relative(tensors[place], own[site][place].cpu()) for site, tensors in learned.items()]
        for place in (0, 1)
    ]
    return Norms(tuple(learned), torch.stack(columns[0], dim=1), torch.stack(columns[1], dim=1), True)


def nearest_words(
    instruction: Instruction, words: WordStates, project: Projection | None = None, count: int = 3
) -> list[list[tuple[str, float]]]:
    """The words nearest to every learned row.

    Text states are compared with the words' by their cosine. Learned keys and values are compared with the model's keys and values of the words, layer
    by layer; the cosines are averaged over layers, over keys and values, and over segments.

    Args:
        instruction: a single one.
        words: with their text states, from the text encoder of a model that the instruction fits.
        project: of that model; needed in the space of attention.
        count: how many for each row.

    Returns:
        For every learned row, (word, cosine) pairs, nearest first.

    Raises:
        InstructionError: no model, no words, or states of another width.
    """
    names, states = (
        (list(words), torch.stack(list(words.values())))
        if isinstance(words, Mapping)
        else (list(words[0]), words[1])
    )
    if states.shape != (len(names), instruction.context.shape[1]) or not names:
        raise InstructionError(
            f"Nearest words: {len(names)} words with states {tuple(states.shape)}, expected [words, {instruction.context.shape[1]}]. "
            "Take the text encoder of a model that the instruction fits, and at least one word."
        )
    if instruction.rows is not None:
        cosines = _cosines(instruction.rows, states.cpu().float())
    elif project is None:
        raise InstructionError(
            f"Nearest words: '{instruction.title}' holds keys and values; connect the model to compare them with those of words."
        )
    else:
        projected = project(states)
        learned = _at_sites(instruction, project)
        each = [
            _cosines(tensors[place], projected[site][place].cpu())
            for site, tensors in learned.items()
            for place in (0, 1)
        ]
        cosines = torch.stack(each).mean(dim=0)
    best = cosines.topk(min(count, len(names)), dim=1)
    return [
        [(names[place], value) for place, value in zip(row, values, strict=True)]
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def facts(info: InstructionInfo, weight: float = 1.0) -> dict[str, str]:
    """What a header says, as names and texts."""
    found = {
        "title": info.title,
        "weight": f"{weight:g}",
        "model": f"{info.model_title} ({info.family}, {info.fingerprint[:12]})",
        "init text": repr(info.init_text),
        "rows": f"{info.segments} segments x {info.tokens} tokens of {'text states' if info.space == 'text' else 'keys and values'}",
        "learned": f"{info.steps} steps from {info.pairs} pairs, {info.created}",
        "final loss": "unknown" if info.final_loss is None else f"{info.final_loss:.5f}",
        "settings": ", ".join(f"{name}={value}" for name, value in info.settings.items()),
    }
    if weight == 1:
        del found["weight"]
    return found


def report(
    instruction: Instruction | Blend, project: Projection | None = None, words: WordStates | None = None
) -> str:
    """Header, norms and nearest words in plain text.

    Args:
        instruction: a single one, or a blend, whose parts follow each other.
        project: of a model that it fits: norms become relative to the init phrase, and keys and values can be compared with words.
        words: with their text states; None leaves them out.

    Raises:
        InstructionError: as :func:`nearest_words`.
    """
    return "\n\n".join(
        _report(part.instruction, part.weight, project, words) for part in parts_of(instruction)
    )


def draw_norms(instruction: Instruction | Blend, project: Projection | None = None) -> Image.Image:
    """The norms as bars: a panel for every segment, a pair of bars (keys blue, values orange) for every layer, parts below each other."""
    drawn = [
        _draw(part.instruction.title, part.weight, norms(part.instruction, project))
        for part in parts_of(instruction)
    ]
    whole = Image.new("RGB", (_WIDTH, sum(image.height for image in drawn)), _BACKGROUND)
    top = 0
    for image in drawn:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def _at_sites(instruction: Instruction, project: Projection) -> dict[str, tuple[Tensor, Tensor]]:
    """Learned keys and values [j, m, width] at every site; those of text states by projection."""
    if instruction.rows is None:
        return {site: (keys, instruction.values[site]) for site, keys in instruction.keys.items()}
    shape = instruction.rows.shape[:2]
    projected = project(instruction.rows.flatten(0, 1))
    return {
        site: (keys.cpu().unflatten(0, shape), values.cpu().unflatten(0, shape))
        for site, (keys, values) in projected.items()
    }


def _relative(gamma: Tensor, begin: Tensor) -> Tensor:
    """``|gamma - begin| / |begin|`` for every segment, [j]."""
    return (gamma - begin).flatten(1).norm(dim=1) / begin.norm().clamp_min(1e-12)


def _cosines(gamma: Tensor, words: Tensor) -> Tensor:
    """[j, m, width] against [n, width] -> [m, n], the mean over segments."""
    return (normalize(gamma, dim=-1) @ normalize(words, dim=-1).T).mean(dim=0)


def _report(instruction: Instruction, weight: float, project: Projection | None, words: WordStates | None) -> str:
    lines = [f"{name}: {text}" for name, text in facts(instruction.info, weight).items() if text]
    found, segments = norms(instruction, project), instruction.info.segments
    what = (
        "learned change, as a share of the init phrase's own norm"
        if found.relative
        else "norm of a learned row"
    )
    lines.append(f"{what}, mean of {len(found.layers)} layers:" if found.values is not None else f"{what}:")
    for segment in range(segments):
        first, last = segment_bounds(segment, segments)
        lines.append(f"  t {first}-{last - 1}: {found.of(segment)}")
    if found.values is not None:
        # Norms of the tensors themselves follow the model's layers; only changes tell where the instruction acts.
        if found.relative:
            most = (found.keys + found.values).mean(dim=0).topk(min(3, len(found.layers))).indices.tolist()
            changed = (
                f"{_short(found.layers[i])} (K {found.text(found.keys[:, i].mean())}, V {found.text(found.values[:, i].mean())})"
                for i in most
            )
            lines.append(f"changed most: {'; '.join(changed)}")
        elif project is None:
            lines.append("connect the model to see the change against the init phrase, and the nearest words")
    if words is not None and (instruction.rows is not None or project is not None):
        lines.append("nearest words:")
        for row, near in enumerate(nearest_words(instruction, words, project)):
            lines.append(
                f"  row {instruction.start + row}: {', '.join(f'{word} {cosine:.2f}' for word, cosine in near)}"
            )
    return "\n".join(lines)


def _short(layer: str) -> str:
    """``down_blocks.0.attentions.1.transformer_blocks.0.attn2`` -> ``down 0.1.0``."""
    block, *rest = layer.split(".")
    numbers = ".".join(part for part in rest if part.isdigit())
    return f"{block.partition('_')[0]} {numbers}".strip() if block.endswith(("blocks", "block")) else layer


def _draw(title: str, weight: float, found: Norms) -> Image.Image:
    segments, layers = found.keys.shape
    pairs = [(found.keys, _KEYS)] if found.values is None else [(found.keys, _KEYS), (found.values, _VALUES)]
    top = max(max(tensor.max().item() for tensor, _ in pairs), 1e-12)
    image = Image.new("RGB", (_WIDTH, 2 * _MARGIN + segments * _PANEL + _MARGIN), _BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()

    def write(place: tuple[float, float], text: str, colour: str) -> None:
        # The small font knows Latin letters alone.
        pen.text(place, text.encode("ascii", "replace").decode(), fill=colour, font=font)

    write((6, 4), title[:60] if weight == 1 else f"{weight:g} x {title[:60]}", _INK)
    unit = "change / init phrase" if found.relative else "norm of a row"
    write((_WIDTH - 250, 4), f"{unit}, full height {found.text(torch.tensor(top))}", _INK)
    if found.values is not None:
        write((_WIDTH - 40, 4), "K", _KEYS)
        write((_WIDTH - 24, 4), "V", _VALUES)
    step = (_WIDTH - _SCALE_WIDTH - 8) / layers
    for segment in range(segments):
        bottom = _MARGIN + (segment + 1) * _PANEL
        first, last = segment_bounds(segment, segments)
        write((6, bottom - _PANEL // 2 - 6), f"t {first}-{last - 1}", _INK)
        pen.line([(_SCALE_WIDTH, bottom), (_WIDTH - 8, bottom)], fill=_FAINT)
        for layer in range(layers):
            for index, (tensor, colour) in enumerate(pairs):
                bar = min(step * 0.4, 40)
                left = _SCALE_WIDTH + layer * step + step * 0.1 + index * bar
                height = tensor[segment, layer].item() / top * (_PANEL - 10)
                pen.rectangle([left, bottom - height, max(left + bar - 1, left), bottom], fill=colour)
    if step >= 48:
        for layer, name in enumerate(found.layers):
            write(
                (_SCALE_WIDTH + layer * step + step * 0.1, _MARGIN + segments * _PANEL + 6),
                _short(name),
                _INK,
            )
    else:
        write(
            (_SCALE_WIDTH, _MARGIN + segments * _PANEL + 6),
            f"{layers} layers, from {_short(found.layers[0])} to {_short(found.layers[-1])}",
            _INK,
        )
    return image
