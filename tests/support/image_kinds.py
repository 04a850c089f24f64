"""Image files of many formats, each with its correct pixels, computed by formulas or other libraries."""

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from torchvision.io import decode_image

STEP = 1.001 / 255
Writer = Callable[[Path], np.ndarray]

_y, _x = np.mgrid[0:20, 0:24]
COLOURS = np.stack([_x * 255 // 23, _y * 255 // 19, (_x * 7 + _y * 5) % 256], axis=2).astype(np.uint8)
GREYS = COLOURS[..., 2]
DEEP = (COLOURS.astype(np.uint32) * 257 + 100).clip(0, 65535).astype(np.uint16)
# Primaries, xy of red, green and blue.
ADOBE_RGB = np.array([[0.64, 0.33], [0.21, 0.71], [0.15, 0.06]])
P3 = np.array([[0.68, 0.32], [0.265, 0.69], [0.15, 0.06]])
SRGB = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]])
# Bradford's adaptation of D65 to D50.
TO_D50 = np.array(
    [
        [1.0478112, 0.0228866, -0.0501270],
        [0.0295424, 0.9904844, -0.0170491],
        [-0.0092345, 0.0150436, 0.7521316],
    ]
)
D50 = np.array([0.9642, 1.0, 0.8249])


def to_xyz(primaries: np.ndarray) -> np.ndarray:
    """Matrix from linear RGB to XYZ under D50, for primaries under D65."""
    columns = np.stack([np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries], axis=1)
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return TO_D50 @ (columns * np.linalg.solve(columns, white))


def encoded(linear: np.ndarray) -> np.ndarray:
    """Applies sRGB's transfer function."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_of(xyz: np.ndarray) -> np.ndarray:
    return encoded(xyz @ np.linalg.inv(to_xyz(SRGB)).T)


def srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    lightness, a, b = np.moveaxis(lab, -1, 0)
    f = np.stack(
        [(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], axis=-1
    )
    return srgb_of(np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50)


def icc(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Builds an ICC profile of version 2."""
    tags = {b"wtpt": xyz_tag(D50), **tags}
    table = b""
    data = b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = 132 + len(table) + len(data)
    header = struct.pack(
        ">I4sI4s4s4s12s4s24xI", size, b"", 0x02400000, kind, space, connection, bytes(12), b"acsp", 0
    )
    return (
        (header + struct.pack(">3i", *(D50 * 65536).round().astype(int))).ljust(128, b"\0")
        + struct.pack(">I", len(tags))
        + table
        + data
    )


def xyz_tag(xyz: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(xyz * 65536).round().astype(int))


def gamma_tag(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def colour_profile(primaries: np.ndarray, gamma: float) -> bytes:
    columns = to_xyz(primaries).T
    names = zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    return icc(
        b"RGB ",
        b"XYZ ",
        b"mntr",
        {name: xyz_tag(xyz) for name, xyz in names}
        | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma_tag(gamma)),
    )


def ink_profile() -> bytes:
    """Builds a CMYK profile in which every full ink is black: L* = 100 (1 - K) along K."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([255 if not corner else 0, 128, 128]) for corner in range(16))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + corners + 3 * ramp
    return icc(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})


def png(values: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """Encodes a PNG of 16 bits."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def rgb(greys: np.ndarray) -> np.ndarray:
    return np.repeat(greys[..., None], 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    alpha = alpha[..., None] / 255
    return colours / 255 * alpha + 1 - alpha


def saved(
    image: Image.Image, expected: np.ndarray, more: Sequence[Image.Image] = (), **options: object
) -> Writer:
    def write(path: Path) -> np.ndarray:
        # Saves copies, because saving as JPEG leaves its settings in an image.
        frames = [frame.copy() for frame in (image, *more)]
        frames[0].save(path, **options, **({"save_all": True, "append_images": frames[1:]} if more else {}))
        return expected

    return write


def written(content: bytes, expected: np.ndarray) -> Writer:
    def write(path: Path) -> np.ndarray:
        path.write_bytes(content)
        return expected

    return write


def tiff(values: np.ndarray, expected: np.ndarray, **options: object) -> Writer:
    def write(path: Path) -> np.ndarray:
        tifffile.imwrite(path, values, **options)
        return expected

    return write


def by_torchvision(image: Image.Image, **options: object) -> Writer:
    def write(path: Path) -> np.ndarray:
        image.copy().save(path, **options)
        return decode_image(str(path), "RGB").movedim(0, 2).numpy() / 255

    return write


IMAGE = Image.fromarray(COLOURS)
GRAY = Image.fromarray(GREYS)
PALETTE = IMAGE.quantize(16)
PALETTED = np.array(PALETTE.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(PALETTE)]
OTHER = Image.fromarray(255 - COLOURS)
LINEAR = (COLOURS / 255).astype(np.float32)
INKS = np.stack([COLOURS[..., 0], COLOURS[..., 1], GREYS // 2, GREYS // 3], axis=2)
ADOBE = srgb_of((COLOURS / 255) ** 2.19921875 @ to_xyz(ADOBE_RGB).T)
LAB = np.stack([GREYS, (_x - 12).astype(np.uint8), (_y - 10).astype(np.uint8)], axis=2)
GREY_PIXELS = rgb(GREYS) / 255

KINDS: dict[str, Writer] = {
    "colours.png": saved(IMAGE, COLOURS / 255),
    "ENDING.PNG": saved(IMAGE, COLOURS / 255),
    "greys.png": saved(GRAY, GREY_PIXELS),
    "one bit.png": saved(GRAY.convert("1", dither=Image.Dither.NONE), rgb(GREYS > 127).astype(float)),
    "palette.png": saved(PALETTE, PALETTED / 255),
    "palette with transparency.png": saved(
        PALETTE, on_white(PALETTED, np.where(np.asarray(PALETTE) == 3, 0, 255)), transparency=3
    ),
    "colour that is transparent.png": saved(
        IMAGE,
        on_white(COLOURS, np.where((COLOURS == COLOURS[5, 5]).all(2), 0, 255)),
        transparency=tuple(COLOURS[5, 5].tolist()),
    ),
    "grey and alpha.png": saved(Image.merge("LA", (GRAY, GRAY)), on_white(rgb(GREYS), GREYS)),
    "alpha.png": saved(Image.merge("RGBA", (*IMAGE.split(), GRAY)), on_white(COLOURS, GREYS)),
    "16-bit greys.png": written(png(DEEP[..., 2], 0), rgb(DEEP[..., 2]) / 65535),
    "16-bit colours.png": written(png(DEEP, 2), DEEP / 65535),
    "Adobe RGB.png": saved(IMAGE, ADOBE, icc_profile=colour_profile(ADOBE_RGB, 2.19921875)),
    "Adobe RGB.tif": saved(IMAGE, ADOBE, icc_profile=colour_profile(ADOBE_RGB, 2.19921875)),
    "wide.webp": saved(
        IMAGE,
        srgb_of((COLOURS / 255) ** 2.2 @ to_xyz(P3).T),
        lossless=True,
        icc_profile=colour_profile(P3, 563 / 256),
    ),
    "alpha and profile.png": saved(
        Image.merge("RGBA", (*IMAGE.split(), GRAY)),
        on_white(ADOBE * 255, GREYS),
        icc_profile=colour_profile(ADOBE_RGB, 2.19921875),
    ),
    "grey with a grey profile.png": saved(
        GRAY,
        rgb(encoded((GREYS / 255) ** 1.5)),
        icc_profile=icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": gamma_tag(1.5)}),
    ),
    "grey with a colour profile.png": saved(
        GRAY, rgb(encoded((GREYS / 255) ** 2.19921875)), icc_profile=colour_profile(ADOBE_RGB, 2.19921875)
    ),
    "photograph.jpg": by_torchvision(IMAGE, quality=95),
    "photograph.jfif": by_torchvision(IMAGE, format="JPEG", quality=80),
    "photograph.jpe": by_torchvision(IMAGE, format="JPEG", quality=50),
    "progressive.jpeg": by_torchvision(IMAGE, progressive=True),
    "greys.jpg": by_torchvision(GRAY),
    "a PNG in truth.jpg": saved(IMAGE, COLOURS / 255, format="PNG"),
    "a WebP in truth.png": saved(IMAGE, COLOURS / 255, format="WEBP", lossless=True),
    "bitmap.bmp": saved(IMAGE, COLOURS / 255),
    "wavelets.jp2": saved(IMAGE, COLOURS / 255),
    "pixels.ppm": written(b"P6 24 20 255\n" + COLOURS.tobytes(), COLOURS / 255),
    "16-bit.pgm": written(
        b"P5 24 20 65535\n" + DEEP[..., 0].astype(">u2").tobytes(), rgb(DEEP[..., 0]) / 65535
    ),
    "animated.gif": saved(PALETTE, PALETTED / 255, more=[OTHER.quantize(16)]),
    "animated.png": saved(IMAGE, COLOURS / 255, more=[OTHER]),
    "animated.webp": saved(IMAGE, COLOURS / 255, more=[OTHER], lossless=True),
    "pages.tif": saved(IMAGE, COLOURS / 255, more=[OTHER]),
    "inks.tif": tiff(INKS, (1 - INKS[..., :3] / 255) * (1 - INKS[..., 3:] / 255), photometric="separated"),
    "inks with a profile.tif": saved(
        Image.merge("CMYK", (*(Image.new("L", (24, 20)) for _ in range(3)), GRAY)),
        srgb_of_lab(np.stack([100 * (1 - GREYS / 255), 0 * _x, 0 * _x], axis=2)),
        icc_profile=ink_profile(),
    ),
    "Lab.tif": tiff(
        LAB,
        srgb_of_lab(
            LAB.astype(np.uint8).view(np.int8).astype(float) * [0, 1, 1] + rgb(GREYS) / 2.55 * [1, 0, 0]
        ),
        photometric="cielab",
    ),
    "16-bit greys.tif": tiff(DEEP[..., 0], rgb(DEEP[..., 0]) / 65535),
    "16-bit greys of other order.tif": tiff(DEEP[..., 0], rgb(DEEP[..., 0]) / 65535, byteorder=">"),
    "16-bit colours.tif": tiff(DEEP, DEEP / 65535, photometric="rgb"),
    "white is zero.tif": tiff(DEEP[..., 0], 1 - rgb(DEEP[..., 0]) / 65535, photometric="miniswhite"),
    "floats to 1.tif": tiff(LINEAR[..., 1], rgb(LINEAR[..., 1])),
    "float colours.tif": tiff(LINEAR, LINEAR, photometric="rgb"),
    "float planes.tif": tiff(
        np.moveaxis(LINEAR, 2, 0), LINEAR, photometric="rgb", planarconfig="separate", compression="zlib"
    ),
    "float colours and alpha.tif": tiff(
        np.dstack([LINEAR, LINEAR[..., 1]]),
        on_white(COLOURS, COLOURS[..., 1]),
        photometric="rgb",
        extrasamples=["unassalpha"],
    ),
    "half floats.tif": tiff(LINEAR.astype(np.float16), LINEAR, photometric="rgb"),
    "double floats.tif": tiff(LINEAR[..., 0].astype(np.float64), rgb(LINEAR[..., 0])),
    "floats to 255.tif": tiff(GREYS.astype(np.float32) * 0.99, GREY_PIXELS * 0.99),
    "highlights.tif": tiff(LINEAR[..., 0] * 1.5, rgb(LINEAR[..., 0] * 1.5).clip(0, 1)),
    "32-bit numbers to 1.tif": tiff((GREYS > 99).astype(np.int32), rgb(GREYS > 99).astype(float)),
    "32-bit numbers to 255.tif": tiff(GREYS.astype(np.int32), GREY_PIXELS),
    "32-bit numbers to 65535.tif": tiff(DEEP[..., 0].astype(np.uint32), rgb(DEEP[..., 0]) / 65535),
    "32-bit numbers to the end.tif": tiff(
        GREYS.astype(np.uint32) * 16843009, GREY_PIXELS / GREY_PIXELS.max()
    ),
    "32-bit colours.tif": tiff(COLOURS.astype(np.uint32), COLOURS / 255, photometric="rgb"),
}
