"""Images of one shade each: dark before the edit, light after it, white masks."""

from pathlib import Path

from PIL import Image

from instructbrush.core.pairs.pair_lists import ListedPair

BEFORE = 10
AFTER = 200
MASK = 255


def put(folder: Path, **shades: int) -> Path:
    """Writes images of one shade each by their names."""
    for name, shade in shades.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), shade).save(path)
    return folder


def shade(path: Path | None) -> int | None:
    if path is None:
        return None
    with Image.open(path) as image:
        return int(image.convert("L").getpixel((0, 0)))  # type: ignore[arg-type]


def sound(pairs: list[ListedPair]) -> list[str]:
    """The pairs' names, after checking which image is which."""
    assert all(
        (shade(pair.before), shade(pair.after)) == (BEFORE, AFTER) and shade(pair.mask) in (None, MASK)
        for pair in pairs
    )
    return [pair.name for pair in pairs]
