"""Photographs: their sources, random crops for training, and the held-out crops in this repository.

`gather` looks for the sources in folders of this machine: the sample images of scikit-image and scikit-learn,
and unpacked Debian wallpaper packages. It copies them to the work folder, at most 512 px on the shorter side.
All images are in the public domain or under CC0, CC BY or CC BY-SA. Images marked `held` are never used for
training.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .drawing import SIZE

CROPS = Path(__file__).parent / "photos"


@dataclass(frozen=True)
class Source:
    """An image file, the package that contains it, its author and license."""

    file: str
    package: str
    author: str
    licence: str
    held: bool = False


SOURCES = (
    Source("coffee.png", "scikit-image", "Rachel Michetti", "CC0-1.0", held=True),
    Source("rocket.jpg", "scikit-image", "SpaceX", "public domain", held=True),
    Source("china.jpg", "scikit-learn", "danielbuechele", "CC-BY-2.0", held=True),
    Source("Wine_by_Jakkub_Mede.jpg", "lomiri-wallpapers-16.04", "Jakub Mede", "CC-BY-4.0", held=True),
    Source(
        "sunset_by_Aitzol_Berasategi.jpg",
        "lomiri-wallpapers-16.04",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        held=True,
    ),
    Source(
        "seeding_by_Clements_Engelhardt.jpg",
        "lomiri-wallpapers-16.04",
        "Clemens Engelhardt",
        "CC0-1.0",
        held=True,
    ),
    Source("astronaut.png", "scikit-image", "NASA", "public domain"),
    Source("chelsea.png", "scikit-image", "Stefan van der Walt", "CC0-1.0"),
    Source("hubble_deep_field.jpg", "scikit-image", "NASA", "public domain"),
    Source("camera.png", "scikit-image", "Lav Varshney", "CC0-1.0"),
    Source("brick.png", "scikit-image", "CC0Textures", "CC0-1.0"),
    Source("grass.png", "scikit-image", "linolafett", "CC0-1.0"),
    Source("gravel.png", "scikit-image", "CC0Textures", "CC0-1.0"),
    Source("flower.jpg", "scikit-learn", "vultilion", "CC-BY-2.0"),
    *(
        Source(f"{name}.jpg", "lomiri-wallpapers-16.04", author, licence)
        for name, author, licence in (
            ("aitzgorri_by_Aitzol_Berasategi", "Aitzol Berasategi", "CC-BY-4.0"),
            ("analogpattern_by_Peter_Nerlich", "Peter Nerlich", "CC-BY-SA-4.0"),
            ("Bridge_by_Sander_Klootwijk", "Sander Klootwijk", "CC-BY-SA-4.0"),
            ("Dragonfly_by_Bolly", "Bolly", "CC-BY-SA-4.0"),
            ("free_by_Peter_Nerlich", "Peter Nerlich", "CC-BY-SA-4.0"),
            ("friends_by_Aitzol_Berasategi", "Aitzol Berasategi", "CC-BY-4.0"),
            ("greentock_by_Peter_Nerlich", "Peter Nerlich", "CC-BY-SA-4.0"),
            ("life_by_Aitzol_Berasategi", "Aitzol Berasategi", "CC-BY-4.0"),
            ("picosdeeuropa_by_Aitzol_Berasategi", "Aitzol Berasategi", "CC-BY-4.0"),
            ("Picture_0B_by_freespace", "Trevor Freespace", "CC-BY-4.0"),
            ("Picture_1A_by_freespace", "Trevor Freespace", "CC-BY-4.0"),
            ("umang_by_Abhishek_Mudgal", "Abhishek Mudgal", "CC-BY-4.0"),
        )
    ),
    *(
        Source(f"{name}.jpg", "lomiri-wallpapers-20.04", author, "CC-BY-SA-3.0")
        for name, author in (
            ("Fossa_by_Jasper_Roks", "Jasper Roks"),
            ("Infinite-Sea_by_Aury88", "Aury88"),
            ("Kleiber_by_Lukas_Baubkus", "Lukas Baubkus"),
            ("Painting-Colors_by__herobrine7gamer", "HEROBRINE7GAMER"),
        )
    ),
    *(
        Source(name, "ukui-wallpapers", "Ubuntu Kylin community", "CC-BY-SA-3.0")
        for name in (
            "2004default.jpg",
            "calla.png",
            "desert.png",
            "city.png",
            "goldfish.png",
            "firstgeneration.jpg",
            "rhythm.jpg",
            "string.jpg",
        )
    ),
)


def _on_short_side(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def gather(target: Path, roots: list[Path]) -> list[str]:
    """Copies every source below `roots` to `target`. Returns the names that were not found."""
    target.mkdir(parents=True, exist_ok=True)
    found = {
        path.name: path
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in (".jpg", ".png")
    }
    missing = []
    for source in SOURCES:
        if source.file not in found:
            missing.append(source.file)
            continue
        image = Image.open(found[source.file]).convert("RGB")
        image = _on_short_side(image, min(512, *image.size))
        image.save(target / f"{Path(source.file).stem}.png")
    return missing


class Photos:
    """Random crops of the training photographs at several scales.

    Raises FileNotFoundError if the folder contains no training photograph.
    """

    SCALES = (140, 200, 300, 420)

    def __init__(self, folder: Path) -> None:
        self.images: list[np.ndarray] = []
        for source in SOURCES:
            path = folder / f"{Path(source.file).stem}.png"
            if source.held or not path.exists():
                continue
            image = Image.open(path)
            for side in self.SCALES:
                self.images.append(np.asarray(_on_short_side(image, side)))
        if not self.images:
            raise FileNotFoundError(
                f"No training photographs in {folder}. Run `python -m tools.pocket.world.photos` first."
            )

    def crop(self, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
        """Returns a random crop, float32 [size, size, 3] in 0..1, mirrored half of the time."""
        image = self.images[rng.integers(len(self.images))]
        y = rng.integers(image.shape[0] - size + 1)
        x = rng.integers(image.shape[1] - size + 1)
        crop = image[y : y + size, x : x + size].astype(np.float32) / 255
        return crop[:, ::-1].copy() if rng.random() < 0.5 else crop


def held_out() -> np.ndarray:
    """Returns the held-out crops, float32 [n, 128, 128, 3] in 0..1, in a fixed order.

    Raises FileNotFoundError if the repository's folder of crops is empty.
    """
    paths = sorted([*CROPS.glob("*.png"), *CROPS.glob("*.jpg")])
    if not paths:
        raise FileNotFoundError(
            f"No held-out crops in {CROPS}. Run `python -m tools.pocket.world.photos` first."
        )
    return np.stack([np.asarray(Image.open(path).convert("RGB"), np.float32) / 255 for path in paths])


def write_held_out(folder: Path) -> None:
    """Cuts four crops of each held-out image and writes SOURCES.md."""
    CROPS.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Where these photographs come from\n",
        "Crops of 128 px from scaled-down photographs. The pocket editor never saw these photographs "
        "in training.\nTests, demonstrations and the benchmark use the crops.\n",
        "| crops | file | package | author | license |",
        "|---|---|---|---|---|",
    ]
    for source in (source for source in SOURCES if source.held):
        stem = Path(source.file).stem
        name = stem.split("_")[0].lower()
        rng = np.random.default_rng(len(stem))
        for index, side in enumerate((132, 190, 260, 190)):
            image = _on_short_side(Image.open(folder / f"{stem}.png"), side)
            x = int(rng.integers(image.width - SIZE + 1))
            y = int(rng.integers(image.height - SIZE + 1))
            crop = image.crop((x, y, x + SIZE, y + SIZE))
            crop.save(CROPS / f"{index}_{name}.jpg", quality=95, subsampling=0)
        lines.append(
            f"| `*_{name}.jpg` | {source.file} | {source.package} | {source.author} | {source.licence} |"
        )
    (CROPS / "SOURCES.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Gather training photographs and cut the held-out crops.")
    parser.add_argument("--work", type=Path, default=Path(".pocket"))
    parser.add_argument(
        "--from",
        dest="roots",
        type=Path,
        nargs="+",
        required=True,
        help="folders to search: skimage/data, sklearn/datasets/images, unpacked wallpaper packages",
    )
    options = parser.parse_args()
    print("not found:", gather(options.work / "photos", options.roots))
    write_held_out(options.work / "photos")
