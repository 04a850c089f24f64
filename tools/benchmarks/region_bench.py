"""Edits that stay where they belong (`make bench-regions`): 60 unseen local edits of the pocket world. The last line it prints is one JSON object.

    .venv/bin/python tools/benchmarks/region_bench.py [--items N] [--out FOLDER]

By words: the pocket editor free-form, with Region Edit (soft and hard mask), and the pocket region editor, which reads the hard mask itself. Figures of the
outside are means over what lies outside the soft mask, those of the inside over what the mask lets change. Times are taken in turn in one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from instructbrush.core.diffusion.region_blending import Region
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.models.builtin import POCKET_REGION_FOLDER
from instructbrush.core.regions.masks import bounding_box_mask, paste_back, soft_mask
from instructbrush.core.storage.image_tensors import to_image
from instructbrush.tools.benchmarks.speed import side_by_side
from instructbrush.tools.pocket.world.drawing import SIZE
from instructbrush.tools.pocket.world.effects import LOCAL, edit
from instructbrush.tools.pocket.world.region_pairs import changed
from instructbrush.tools.pocket.world.scenes import render, sample_scene

REPOSITORY = Path(__file__).resolve().parents[2]
SEED, STEPS, BATCH = 4_040, 20, 12
S = 0.5
"""Eq. 2's s: how much of the edit shows between fine mask and box."""
MARGIN, BOX_MARGIN = 2, 4
"""Pixels by which a segmenter's mask, and a detector's box, reach beyond what changes."""


@dataclass(frozen=True)
class Items:
    """Images [n, 128, 128, 3] before and after, fine and box masks [n, 128, 128], and words."""

    before: Tensor
    after: Tensor
    fine: Tensor
    box: Tensor
    words: list[str]

    @property
    def soft(self) -> Tensor:
        """Eq. 2."""
        return soft_mask(self.fine, self.box, S)


def unseen_items(count: int) -> Items:
    """``count`` local edits, every kind in turn, on scenes that training never drew; shape and colour pairs it never saw occur."""
    rng = np.random.default_rng(SEED)
    before, after, fine, words = [], [], [], []
    while len(words) < count:
        scene = sample_scene(rng, unseen_pairs=True, dressed=0.0)
        made = edit(scene, LOCAL[len(words) % len(LOCAL)], rng, vague=False)
        if made is None:
            continue
        images = render(scene), made.render()
        region = changed(*images)
        if region.sum() < 30:
            continue
        before.append(images[0])
        after.append(images[1])
        fine.append(
            ndimage.binary_dilation(ndimage.binary_fill_holes(region), iterations=MARGIN).astype(np.float32)
        )
        words.append(made.words)
    images, truth, masks = (torch.from_numpy(np.stack(side)) for side in (before, after, fine))
    wider = functional.max_pool2d(masks[:, None], 2 * BOX_MARGIN + 1, 1, BOX_MARGIN)[:, 0]
    return Items(images, truth, masks, bounding_box_mask(wider), words)


class Editing:
    """One editor on all items, by words."""

    def __init__(self, editor: DiffusersEditor, items: Items) -> None:
        self.editor, self.items = editor, items
        self.words = editor.encode_text(items.words)
        self.source = editor.scale(editor.encode_images(items.before))

    def latents(
        self, mask: Tensor | None = None, condition: Tensor | None = None, rows: slice = slice(None)
    ) -> Tensor:
        """Edited latents of some items: free-form, or with Region Edit's mask, or with a mask that the model reads."""
        made, count = [], len(self.items.words)
        for start in range(*rows.indices(count)[:2], BATCH):
            part = slice(start, min(start + BATCH, rows.indices(count)[1]))
            small = (
                None
                if mask is None
                else functional.interpolate(mask[part, None], self.source.shape[2:], mode="bilinear")
            )
            given = None if condition is None else condition[part]
            made.append(
                edit_latents(
                    self.editor.denoiser,
                    self.editor.condition(self.items.before[part], given),
                    self.words[part],
                    self.editor.null_context,
                    settings=SamplingSettings(STEPS, seed=1000 + start),
                    region=None if small is None else Region(small, self.source[part]),
                )
            )
        return torch.cat(made)

    def decode(self, latents: Tensor) -> Tensor:
        """Images, as 8 bit would keep them."""
        parts = [self.editor.decode(latents[i : i + BATCH]) for i in range(0, len(latents), BATCH)]
        return (torch.cat(parts) * 255).round() / 255


def mean_inside(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [n, ..., h, w] or [n, h, w, 3] under masks of the same height and width, for each item."""
    return (values * mask).flatten(1).sum(1) / mask.expand_as(values).flatten(1).sum(1).clamp(min=1)


def psnr_inside(images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """dB over the masked pixels of each item."""
    return -10 * mean_inside((images - truth).square(), mask[..., None]).clamp(min=1e-10).log10()


def seam(images: Tensor, before: Tensor, truth: Tensor, mask: Tensor) -> float:
    """How much more the change jumps between neighbours across a mask's border than the true change does there, mean over all border pairs."""
    total, pairs = 0.0, 0.0
    for change, sign in ((images - before, 1), (truth - before, -1)):
        for axis in (1, 2):
            jump = change.diff(dim=axis).abs().mean(-1)
            border = mask.diff(dim=axis).abs() > 0
            total += sign * float((jump * border).sum())
            pairs += float(border.sum()) / 2
    return total / pairs


def grid(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Images side by side."""
    cells = [[to_image(cell).resize((SIZE, SIZE)) for cell in row] for row in rows]
    whole = Image.new("RGB", (len(cells[0]) * (SIZE + 2), len(cells) * (SIZE + 2)), "white")
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            whole.paste(cell, (c * (SIZE + 2), r * (SIZE + 2)))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path)


def measure(items: Items, out: Path) -> dict[str, float]:
    """Run everything; print a table, leave a grid of images, return the figures."""
    plain, reading = Editing(load_editor(), items), Editing(load_editor(POCKET_REGION_FOLDER), items)
    outside = (items.soft == 0).float()
    # A latent pixel is outside where no pixel of its patch is inside.
    outside_latent = 1 - functional.max_pool2d(items.soft[:, None], 8).ceil()
    inside = (items.soft > 0).float()
    latents = {
        "free": plain.latents(),
        "soft": plain.latents(items.soft),
        "hard": plain.latents(items.fine),
        "reads": reading.latents(condition=items.fine),
    }
    latents["reads_soft"] = reading.latents(items.soft, condition=items.fine)
    images = {name: plain.decode(each) for name, each in latents.items()}
    # What the autoencoder changes by itself is no edit's doing.
    unedited = plain.decode(plain.source)
    images["pasted"] = paste_back(images["soft"], items.before, items.soft)
    spilled = {
        name: float(mean_inside((each - plain.source).abs(), outside_latent).mean())
        for name, each in latents.items()
    }
    errors = {
        name: float(mean_inside((each - items.before).abs(), outside[..., None]).mean())
        for name, each in images.items()
    }
    moved = {
        name: float(mean_inside((each - unedited).abs(), outside[..., None]).mean())
        for name, each in images.items()
    }
    quality = {name: float(psnr_inside(each, items.after, inside).mean()) for name, each in images.items()}
    seams = {
        name: seam(images[name], items.before, items.after, mask)
        for name, mask in (("soft", items.soft), ("hard", items.fine))
    }
    changed_pixels = int(((images["pasted"] != items.before).any(-1) & (outside > 0)).sum())
    print("method       outside, latent  outside, pixels  of it by the edit  inside, dB")
    for name in images:
        print(
            f"{name:12} {spilled.get(name, 0):15.4f}  {errors[name]:15.4f}  {moved[name]:17.4f}  {quality[name]:10.2f}"
        )
    print(
        f"{'input':12} {0:15.4f}  {0:15.4f}  {'':17}  {float(psnr_inside(items.before, items.after, inside).mean()):10.2f}"
    )
    rows = range(0, len(items.words), max(1, len(items.words) // 14))
    shown = (
        items.before,
        items.after,
        items.soft[..., None].expand(-1, -1, -1, 3),
        *(images[name] for name in ("free", "soft", "pasted", "reads_soft")),
    )
    grid([[column[row] for column in shown] for row in rows], out / "grid.png")
    first = slice(0, BATCH)
    seconds = side_by_side(
        5, free=lambda: plain.latents(rows=first), region=lambda: plain.latents(items.soft, rows=first)
    )
    ratios = spilled["soft"] / spilled["free"], moved["soft"] / moved["free"]
    print(f"outside, latent ratio {ratios[0]:.4f}, pixel ratio {ratios[1]:.4f}")
    return {
        "outside_error_ratio": max(ratios),
        "outside_pixels_changed_with_paste_back": changed_pixels,
        "inside_psnr_loss": quality["free"] - quality["soft"],
        "mask_model_inside_gain": quality["reads"] - quality["free"],
        "seam_soft": seams["soft"],
        "seam_hard": seams["hard"],
        "time_ratio": seconds["region"] / seconds["free"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "output" / "region_bench")
    options = parser.parse_args()
    print(
        json.dumps(
            {
                name: round(value, 5)
                for name, value in measure(unseen_items(options.items), options.out).items()
            }
        )
    )


if __name__ == "__main__":
    main()
