"""`make bench-regions`: measures what edits change outside their region, on 60 unseen local edits.

    .venv/bin/python tools/benchmarks/region_bench.py [--items N] [--out FOLDER] [--parts N] [--publish]

All edits follow words. The masks of the rows are made from the true change, widened as a segmenter and a
detector would widen it: they know what a user does not know before the edit. In two rows the pocket finder
makes the mask: ``finder`` gets the name of the thing that the edit changes ("the red star"), ``words`` what a
grammar reads in the instruction. If there is none, or it is not found, the whole image is the region.

Figures of the outside are means over the pixels outside the true soft mask, figures of the inside over the
pixels where it is positive. Both are the same pixels in all rows.

A stopped run resumes. After --parts the exit code is 3 while parts are missing. When all are done, the last
line of the output is one JSON object, and --publish also writes docs/results/region_bench.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from instructbrush.core.diffusion.region_blending import Region
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.reports.figures import interval, plain_figures
from instructbrush.core.models.builtin import POCKET_FINDER_FOLDER, POCKET_FOLDER, POCKET_REGION_FOLDER
from instructbrush.core.reasoning.edited_objects import edited_objects
from instructbrush.core.regions.boxes import bounding_box_mask, box_mask
from instructbrush.core.regions.finder_loading import load_finder
from instructbrush.core.regions.masks import soft_mask
from instructbrush.core.regions.paste_back import paste_back
from instructbrush.tools.benchmarks.parts import models_digest, run_parts
from instructbrush.tools.benchmarks.published import command_line, publish
from instructbrush.tools.benchmarks.timing import side_by_side
from instructbrush.tools.pocket.world.effects import LOCAL, edit
from instructbrush.tools.pocket.world.image_grid import grid
from instructbrush.tools.pocket.world.region_pairs import changed
from instructbrush.tools.pocket.world.scenes import Scene, nearest_name, render, sample_scene

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = (POCKET_FOLDER, POCKET_REGION_FOLDER, POCKET_FINDER_FOLDER)
ITEMS = 60
SEED = 4_040
STEPS = 20
BATCH = 12
# s of Eq. 2: how much of the edit shows between fine mask and box.
S = 0.5
# Pixels by which a segmenter's mask and a detector's box exceed the changed area.
MARGIN = 2
BOX_MARGIN = 4
# Items of the timing.
TIMED = 6
TIMING = "timing"
ROWS = ("free", "soft", "hard", "pasted", "reads", "reads_soft", "finder", "words", "input")
# The mask of each row whose seam is measured.
SEAMS = {"soft": "soft", "hard": "fine"}


@dataclass(frozen=True)
class Items:
    """Images [n, 128, 128, 3] before and after the edit, fine and box masks [n, 128, 128], and words."""

    before: Tensor
    after: Tensor
    fine: Tensor
    box: Tensor
    words: list[str]
    things: list[str]
    """What the edit changes, such as "the red star"; empty if it adds a thing."""

    @property
    def soft(self) -> Tensor:
        """Soft masks (Eq. 2) [n, 128, 128]."""
        return soft_mask(self.fine, self.box, S)

    def part(self, rows: slice) -> Items:
        """Some of the items."""
        return Items(*(getattr(self, field.name)[rows] for field in fields(self)))


def unseen_items(count: int) -> Items:
    """Draws ``count`` local edits, every kind in turn. Training omits some pairs of shape and color."""
    rng = np.random.default_rng(SEED)
    before = []
    after = []
    fine = []
    words: list[str] = []
    things: list[str] = []
    while len(words) < count:
        scene = sample_scene(rng, unseen_pairs=True, dressed=0.0)
        made = edit(scene, LOCAL[len(words) % len(LOCAL)], rng, vague=False)
        if made is None:
            continue
        image = render(scene)
        edited = made.render()
        region = changed(image, edited)
        if region.sum() < 30:
            continue
        before.append(image)
        after.append(edited)
        filled = ndimage.binary_fill_holes(region)
        fine.append(ndimage.binary_dilation(filled, iterations=MARGIN).astype(np.float32))
        words.append(made.words)
        things.append(changed_thing(scene, made.scene))
    masks = torch.from_numpy(np.stack(fine))
    wider = functional.max_pool2d(masks[:, None], 2 * BOX_MARGIN + 1, 1, BOX_MARGIN)[:, 0]
    return Items(
        before=torch.from_numpy(np.stack(before)),
        after=torch.from_numpy(np.stack(after)),
        fine=masks,
        box=bounding_box_mask(wider),
        words=words,
        things=things,
    )


def changed_thing(before: Scene, after: Scene) -> str:
    """Names the thing that an edit changes, such as "the red star"; empty if it changes none."""
    for thing in before.things:
        if all(thing is not kept for kept in after.things):
            return f"the {nearest_name(thing.colour)} {thing.shape}"
    return ""


class ItemEditor:
    """Edits the items by words with one model. ``first`` is the number of the first item."""

    def __init__(self, editor: DiffusersEditor, items: Items, first: int) -> None:
        self.editor = editor
        self.items = items
        # The noise of an item depends on its number.
        self._seed = 1000 + first
        self.words = editor.encode_text(items.words)
        self.source = editor.scale(editor.encode_images(items.before))

    def latents(self, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Returns the edited latents.

        Args:
            mask: Region Edit's mask [n, 128, 128]; None edits everywhere.
            condition: mask that the model reads [n, 128, 128]; None for other models.
        """
        made = []
        for start in range(0, len(self.items.words), BATCH):
            part = slice(start, start + BATCH)
            region = None
            if mask is not None:
                small = functional.interpolate(mask[part, None], self.source.shape[2:], mode="bilinear")
                region = Region(small, self.source[part])
            mask_read = None if condition is None else condition[part]
            made.append(
                edit_latents(
                    self.editor.denoiser,
                    self.editor.condition(self.items.before[part], mask_read),
                    self.words[part],
                    self.editor.null_context,
                    settings=SamplingSettings(STEPS, seed=self._seed + start),
                    region=region,
                )
            )
        return torch.cat(made)

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents to images, rounded to 8 bits."""
        parts = [self.editor.decode(latents[i : i + BATCH]) for i in range(0, len(latents), BATCH)]
        return (torch.cat(parts) * 255).round() / 255


def mean_inside(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of values [n, ..., h, w] or [n, h, w, 3] under the mask of each item."""
    return (values * mask).flatten(1).sum(1) / mask.expand_as(values).flatten(1).sum(1).clamp(min=1)


def psnr_inside(images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Returns the PSNR of the masked pixels of each item in dB."""
    return -10 * mean_inside((images - truth).square(), mask[..., None]).clamp(min=1e-10).log10()


def seam(images: Tensor, before: Tensor, truth: Tensor, mask: Tensor) -> tuple[float, float]:
    """Measures visible seams: how much more neighbors across a mask's border differ than in the true change.

    Returns:
        The sum over all pairs of neighbors at borders, and their number.
    """
    total = 0.0
    pairs = 0.0
    for change, sign in ((images - before, 1), (truth - before, -1)):
        for axis in (1, 2):
            jump = change.diff(dim=axis).abs().mean(-1)
            border = mask.diff(dim=axis).abs() > 0
            total += sign * float((jump * border).sum())
            pairs += float(border.sum()) / 2
    return total, pairs


def found_masks(items: Items, things: Sequence[Sequence[str]]) -> tuple[Tensor, list[float]]:
    """Returns the pocket finder's soft masks, and the IoU of each with its true fine mask."""
    masks = []
    overlaps = []
    for image, names, true in zip(items.before, things, items.fine, strict=True):
        objects = _finder().find(image, names) if names else []
        fine = torch.zeros_like(true)
        for each in objects:
            fine = torch.maximum(fine, each.mask)
        hit = torch.minimum(fine, true).sum() / torch.maximum(fine, true).sum()
        overlaps.append(float(hit))
        if not fine.any():
            masks.append(torch.ones_like(true))
            continue
        masks.append(soft_mask(fine, box_mask([each.box for each in objects], *fine.shape), S))
    return torch.stack(masks), overlaps


@cache
def _finder() -> Any:
    return load_finder()


@cache
def _editors() -> list[DiffusersEditor]:
    return [load_editor(), load_editor(POCKET_REGION_FOLDER)]


def measure_part(items: Items, first: int, models: Sequence[DiffusersEditor], out: Path) -> dict[str, Any]:
    """Edits a part of the items in every row. Returns row -> figure -> value of each item.

    Args:
        items: the items of the part.
        first: number of the first one.
        models: the pocket editor and the pocket region editor.
        out: folder of the grid of images.
    """
    plain, reading = (ItemEditor(model, items, first) for model in models)
    by_name, name_overlaps = found_masks(items, [[thing] if thing else [] for thing in items.things])
    edited = [edited_objects(words, items.before[0]).objects for words in items.words]
    by_words, words_overlaps = found_masks(items, edited)
    latents = {
        "free": plain.latents(),
        "soft": plain.latents(items.soft),
        "hard": plain.latents(items.fine),
        "reads": reading.latents(condition=items.fine),
        "reads_soft": reading.latents(items.soft, condition=items.fine),
        "finder": plain.latents(by_name),
        "words": plain.latents(by_words),
    }
    images = {name: plain.decode(each) for name, each in latents.items()}
    images["pasted"] = paste_back(images["soft"], items.before, items.soft)
    images["input"] = items.before
    draw_grid(items, by_words, images, out / f"grid-{first:03d}.png")
    outside = (items.soft == 0).float()
    # A latent pixel is outside if all pixels of its patch are.
    outside_latent = 1 - functional.max_pool2d(items.soft[:, None], 8).ceil()
    inside = (items.soft > 0).float()
    # The autoencoder alone changes images too; edits are compared with its output.
    unedited = plain.decode(plain.source)
    part: dict[str, Any] = {}
    for row in ROWS:
        values = {
            "outside_error": mean_inside((images[row] - items.before).abs(), outside[..., None]),
            "inside_psnr": psnr_inside(images[row], items.after, inside),
        }
        if row in latents:
            values["outside_latent"] = mean_inside((latents[row] - plain.source).abs(), outside_latent)
            values["outside_by_edit"] = mean_inside((images[row] - unedited).abs(), outside[..., None])
        part[row] = {name: each.tolist() for name, each in values.items()}
    for row, mask in SEAMS.items():
        part[row]["seam"] = seam(images[row], items.before, items.after, getattr(items, mask))
    touched = (images["pasted"] != items.before).any(-1) & (outside > 0)
    part["pasted"]["changed_pixels_outside"] = touched.sum((1, 2)).tolist()
    part["finder"]["mask_iou"] = name_overlaps
    part["words"]["mask_iou"] = words_overlaps
    return part


def measure_times(items: Items, model: DiffusersEditor) -> dict[str, float]:
    """Returns the time of a region edit relative to an edit of the whole image."""
    plain = ItemEditor(model, items, 0)
    times = side_by_side(5, free=lambda: plain.latents(), region=lambda: plain.latents(items.soft))
    return {"time_ratio": times.ratio("region", "free")}


def figures(parts: Sequence[Mapping[str, Any]], timing: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Returns row -> figure -> mean over the items, with 95 % intervals over the items."""
    rows: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        names = [name for name in parts[0][row] if name not in ("seam", "changed_pixels_outside")]
        intervals = {name: interval([value for part in parts for value in part[row][name]]) for name in names}
        rows[row] = plain_figures(intervals, 5)
        if row in SEAMS:
            totals, pairs = (sum(part[row]["seam"][i] for part in parts) for i in (0, 1))
            rows[row]["seam"] = round(totals / pairs, 5)
        rows[row]["items"] = sum(len(part[row]["inside_psnr"]) for part in parts)
    rows["soft"]["time_ratio"] = round(timing["time_ratio"], 3)
    changed_pixels = [value for part in parts for value in part["pasted"]["changed_pixels_outside"]]
    rows["pasted"]["changed_pixels_outside"] = sum(changed_pixels)
    return rows


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Returns the figures that are compared between versions."""
    free = rows["free"]
    soft = rows["soft"]
    return {
        "outside_error_ratio": max(soft[name] / free[name] for name in ("outside_latent", "outside_by_edit")),
        "outside_pixels_changed_with_paste_back": rows["pasted"]["changed_pixels_outside"],
        "inside_psnr_loss": free["inside_psnr"] - soft["inside_psnr"],
        "mask_model_inside_gain": rows["reads"]["inside_psnr"] - free["inside_psnr"],
        "seam_soft": soft["seam"],
        "seam_hard": rows["hard"]["seam"],
        "time_ratio": soft["time_ratio"],
    }


def draw_grid(items: Items, found: Tensor, images: Mapping[str, Tensor], path: Path) -> None:
    """Writes the items of a part with their masks and edits."""
    columns = (
        items.before,
        items.after,
        items.soft[..., None].expand(-1, -1, -1, 3),
        *(images[name] for name in ("free", "soft", "pasted", "reads_soft")),
        found[..., None].expand(-1, -1, -1, 3),
        images["words"],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    grid([[column[row].numpy() for column in columns] for row in range(len(items.words))], path)


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the figures of every row."""
    print("method       outside, latent  outside, pixels  of it by the edit  inside, dB")
    for row, values in rows.items():
        cells = [values.get(name) for name in ("outside_latent", "outside_error", "outside_by_edit")]
        texts = ["" if value is None else f"{value:.4f}" for value in cells]
        print(f"{row:12} {texts[0]:>15}  {texts[1]:>15}  {texts[2]:>17}  {values['inside_psnr']:10.2f}")
    overlaps = [f"{rows[row]['mask_iou']:.2f} ({row})" for row in ("finder", "words")]
    print(f"The found masks overlap the true ones by {' and '.join(overlaps)} (IoU).")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "output" / "region_bench")
    parser.add_argument("--parts", type=int, help="stop after this many new parts (default: none)")
    parser.add_argument("--publish", action="store_true", help="write docs/results/region_bench.json")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.publish and options.items != ITEMS:
        parser.error(f"--publish needs all {ITEMS} items; leave --items out")
    items = unseen_items(options.items)
    starts = {f"items-{start:03d}": start for start in range(0, options.items, BATCH)}
    about = {"items": options.items, "seed": SEED, "sampling_steps": STEPS, "s": S}
    # The fingerprints of both editors are equal, because their cross-attention is.
    settings = {**about, "models": models_digest(MODELS)}

    def measure(name: str) -> Mapping[str, Any]:
        if name == TIMING:
            return measure_times(items.part(slice(TIMED)), _editors()[0])
        start = starts[name]
        return measure_part(items.part(slice(start, start + BATCH)), start, _editors(), options.out)

    try:
        parts = run_parts(options.out, settings, [*starts, TIMING], measure, options.parts)
        if parts is None:
            print("region_bench: parts are missing; the same command resumes", file=sys.stderr)
            return 3
        rows = figures(parts[:-1], parts[-1])
        if options.publish:
            command = command_line("tools/benchmarks/region_bench.py", given, ("--out", "--parts"))
            print(publish("region_bench", "Edits in a region", command, rows, about))
    except (InstructBrushError, OSError) as error:
        print(f"region_bench: {error}", file=sys.stderr)
        return 1
    print_table(rows)
    print(json.dumps({name: round(value, 5) for name, value in summary(rows).items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
