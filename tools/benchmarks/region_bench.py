"""`make bench-regions`: measures what edits change outside their region, on 60 unseen local edits.

    .venv/bin/python tools/benchmarks/region_bench.py [--items N] [--out FOLDER]

All edits follow words. The rows: the pocket editor without a region; with Region Edit and a soft or a hard
mask; the pocket region editor, which reads the hard mask. Figures of the outside are means over the pixels
outside the soft mask, figures of the inside over the pixels where the mask is positive. Times are measured in
turn in one run. The last line of the output is one JSON object.
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
from instructbrush.core.regions.boxes import bounding_box_mask
from instructbrush.core.regions.masks import soft_mask
from instructbrush.core.regions.paste_back import paste_back
from instructbrush.core.storage.image_tensors import to_image
from instructbrush.tools.benchmarks.timing import side_by_side
from instructbrush.tools.pocket.world.drawing import SIZE
from instructbrush.tools.pocket.world.effects import LOCAL, edit
from instructbrush.tools.pocket.world.region_pairs import changed
from instructbrush.tools.pocket.world.scenes import render, sample_scene

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 4_040
STEPS = 20
BATCH = 12
# s of Eq. 2: how much of the edit shows between fine mask and box.
S = 0.5
# Pixels by which a segmenter's mask and a detector's box exceed the changed area.
MARGIN = 2
BOX_MARGIN = 4


@dataclass(frozen=True)
class Items:
    """Images [n, 128, 128, 3] before and after the edit, fine and box masks [n, 128, 128], and words."""

    before: Tensor
    after: Tensor
    fine: Tensor
    box: Tensor
    words: list[str]

    @property
    def soft(self) -> Tensor:
        """Soft masks (Eq. 2) [n, 128, 128]."""
        return soft_mask(self.fine, self.box, S)


def unseen_items(count: int) -> Items:
    """Draws ``count`` local edits, every kind in turn. Training omits some pairs of shape and color."""
    rng = np.random.default_rng(SEED)
    before = []
    after = []
    fine = []
    words = []
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
    masks = torch.from_numpy(np.stack(fine))
    wider = functional.max_pool2d(masks[:, None], 2 * BOX_MARGIN + 1, 1, BOX_MARGIN)[:, 0]
    return Items(
        before=torch.from_numpy(np.stack(before)),
        after=torch.from_numpy(np.stack(after)),
        fine=masks,
        box=bounding_box_mask(wider),
        words=words,
    )


class ItemEditor:
    """Edits the items by words with one model."""

    def __init__(self, editor: DiffusersEditor, items: Items) -> None:
        self.editor = editor
        self.items = items
        self.words = editor.encode_text(items.words)
        self.source = editor.scale(editor.encode_images(items.before))

    def latents(
        self, mask: Tensor | None = None, condition: Tensor | None = None, rows: slice = slice(None)
    ) -> Tensor:
        """Returns the edited latents of some items.

        Args:
            mask: Region Edit's mask [n, 128, 128]; None edits everywhere.
            condition: mask that the model reads [n, 128, 128]; None for other models.
            rows: the items.
        """
        made = []
        first, last, _ = rows.indices(len(self.items.words))
        for start in range(first, last, BATCH):
            part = slice(start, min(start + BATCH, last))
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
                    settings=SamplingSettings(STEPS, seed=1000 + start),
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


def seam(images: Tensor, before: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Measures visible seams: how much more neighbors across a mask's border differ than in the true change.

    The mean over all pairs of neighbors at borders.
    """
    total = 0.0
    pairs = 0.0
    for change, sign in ((images - before, 1), (truth - before, -1)):
        for axis in (1, 2):
            jump = change.diff(dim=axis).abs().mean(-1)
            border = mask.diff(dim=axis).abs() > 0
            total += sign * float((jump * border).sum())
            pairs += float(border.sum()) / 2
    return total / pairs


def grid(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Writes images [h, w, 3] as a grid."""
    cells = [[to_image(cell).resize((SIZE, SIZE)) for cell in row] for row in rows]
    whole = Image.new("RGB", (len(cells[0]) * (SIZE + 2), len(cells) * (SIZE + 2)), "white")
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            whole.paste(cell, (c * (SIZE + 2), r * (SIZE + 2)))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path)


def measure(items: Items, out: Path) -> dict[str, float]:
    """Edits all items, prints a table, writes a grid of images and returns the figures."""
    plain = ItemEditor(load_editor(), items)
    reading = ItemEditor(load_editor(POCKET_REGION_FOLDER), items)
    latents = {
        "free": plain.latents(),
        "soft": plain.latents(items.soft),
        "hard": plain.latents(items.fine),
        "reads": reading.latents(condition=items.fine),
        "reads_soft": reading.latents(items.soft, condition=items.fine),
    }
    images = {name: plain.decode(each) for name, each in latents.items()}
    images["pasted"] = paste_back(images["soft"], items.before, items.soft)
    draw_grid(items, images, out)
    outside = (items.soft == 0).float()
    # A latent pixel is outside if all pixels of its patch are.
    outside_latent = 1 - functional.max_pool2d(items.soft[:, None], 8).ceil()
    inside = (items.soft > 0).float()
    # The autoencoder alone changes images too; edits are compared with its output.
    unedited = plain.decode(plain.source)
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
        spill = spilled.get(name, 0)
        print(f"{name:12} {spill:15.4f}  {errors[name]:15.4f}  {moved[name]:17.4f}  {quality[name]:10.2f}")
    untouched = float(psnr_inside(items.before, items.after, inside).mean())
    print(f"{'input':12} {0:15.4f}  {0:15.4f}  {'':17}  {untouched:10.2f}")
    first = slice(0, BATCH)
    seconds = side_by_side(
        5, free=lambda: plain.latents(rows=first), region=lambda: plain.latents(items.soft, rows=first)
    )
    latent_ratio = spilled["soft"] / spilled["free"]
    pixel_ratio = moved["soft"] / moved["free"]
    print(f"outside, latent ratio {latent_ratio:.4f}, pixel ratio {pixel_ratio:.4f}")
    return {
        "outside_error_ratio": max(latent_ratio, pixel_ratio),
        "outside_pixels_changed_with_paste_back": changed_pixels,
        "inside_psnr_loss": quality["free"] - quality["soft"],
        "mask_model_inside_gain": quality["reads"] - quality["free"],
        "seam_soft": seams["soft"],
        "seam_hard": seams["hard"],
        "time_ratio": seconds["region"] / seconds["free"],
    }


def draw_grid(items: Items, images: dict[str, Tensor], out: Path) -> None:
    """Writes about 14 items with their edits to grid.png."""
    rows = range(0, len(items.words), max(1, len(items.words) // 14))
    columns = (
        items.before,
        items.after,
        items.soft[..., None].expand(-1, -1, -1, 3),
        *(images[name] for name in ("free", "soft", "pasted", "reads_soft")),
    )
    grid([[column[row] for column in columns] for row in rows], out / "grid.png")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "output" / "region_bench")
    options = parser.parse_args()
    figures = measure(unseen_items(options.items), options.out)
    print(json.dumps({name: round(value, 5) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
