"""The vocabulary that Unique Phrases searches with the pocket CLIP: names of image content and effects.

    python -m tools.pocket.world.phrases

The command writes core/learning/init_text/vocabulary_pocket.txt. The phrases are nouns because the template
reads "turn <phrase> into <phrase>". Shapes that training never showed are left out: the model does not know
them, and their phrases would match anything.
"""

from __future__ import annotations

from pathlib import Path

from .drawing import COLOUR_NAMES, SHAPES

FILE = Path(__file__).parents[3] / "core" / "learning" / "init_text" / "vocabulary_pocket.txt"

EFFECTS = """
a photo, a picture, a drawing, a sepia photo, an old photo, a black and white photo, a grayscale picture,
a negative, inverted colors, a warm tone, a cold tone, warm colors, cold colors, bright light, dark light,
a bright picture, a dark picture, shifted colors, another hue, a vignette, dark corners, dark edges,
a poster, fewer colors, flat colors, high contrast, low contrast, more contrast, faded colors, pale colors,
vivid colors, more saturation, a sunset, night, nighttime, a sketch, a pencil drawing, charcoal,
a charcoal drawing, snow, rain, fog, mist, a blurry picture, big pixels, pixels, pixel art,
an empty background, a gradient, a plain background, the sun, a sun, eyes, a smile, a face, glasses, a hat,
a border, stripes, dots
"""


def phrases() -> list[str]:
    """Returns every phrase once: effects, things with a color, shapes."""
    found = [phrase.strip() for phrase in EFFECTS.replace("\n", " ").split(",")]
    for colour in COLOUR_NAMES:
        a = "an" if colour[0] in "aeiou" else "a"
        found += [
            f"{a} {colour} {thing}"
            for thing in (
                "picture",
                "tint",
                "duotone",
                "background",
                "gradient",
                "sky",
                "frame",
                "hat",
                "border",
            )
        ]
        found += [f"{colour} {thing}" for thing in ("glasses", "stripes", "dots")]
        found += [f"{a} {colour} {shape}" for shape in SHAPES]
    for shape in SHAPES:
        a = "an" if shape[0] in "aeiou" else "a"
        found += [f"{a} {shape}", f"a big {shape}", f"a small {shape}"]
        found += [
            f"{a} {shape} with {extra}"
            for extra in ("a hat", "a border", "eyes", "a smile", "glasses", "stripes", "dots")
        ]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    FILE.write_text("\n".join(phrases()) + "\n", encoding="utf-8")
    print(f"{len(phrases())} phrases in {FILE}")
