"""Picture files of every kind people have: the right pixels, or a sentence that names the file."""

import io
import logging
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, features
from torchvision.io import decode_image

from instructbrush.core.errors import PairError
from instructbrush.core.picture_files import PICTURES, decode_picture, open_picture, read_picture

STEP = 1.001 / 255
Writer = Callable[[Path], np.ndarray]

_y, _x = np.mgrid[0:20, 0:24]
COLOURS = np.stack([_x * 255 // 23, _y * 255 // 19, (_x * 7 + _y * 5) % 256], axis=2).astype(np.uint8)
GREYS = COLOURS[..., 2]
DEEP = (COLOURS.astype(np.uint32) * 257 + 100).clip(0, 65535).astype(np.uint16)
RED = np.array([[0.64, 0.33], [0.21, 0.71], [0.15, 0.06]])
"""Primaries of Adobe RGB."""
P3 = np.array([[0.68, 0.32], [0.265, 0.69], [0.15, 0.06]])
SRGB = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]])
TO_D50 = np.array([[1.0478112, 0.0228866, -0.0501270], [0.0295424, 0.9904844, -0.0170491], [-0.0092345, 0.0150436, 0.7521316]])
"""Bradford's adaptation of D65."""
D50 = np.array([0.9642, 1.0, 0.8249])


def to_xyz(primaries: np.ndarray) -> np.ndarray:
    """Linear RGB -> XYZ under D50, for primaries under D65."""
    columns = np.stack([np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries], axis=1)
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return TO_D50 @ (columns * np.linalg.solve(columns, white))


def encoded(linear: np.ndarray) -> np.ndarray:
    """sRGB's curve."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_of(xyz: np.ndarray) -> np.ndarray:
    return encoded(xyz @ np.linalg.inv(to_xyz(SRGB)).T)


def srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    lightness, a, b = np.moveaxis(lab, -1, 0)
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], axis=-1)
    return srgb_of(np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50)


def icc(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    tags = {b"wtpt": xyz_tag(D50), **tags}
    table, data = b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = 132 + len(table) + len(data)
    header = struct.pack(">I4sI4s4s4s12s4s24xI", size, b"", 0x02400000, kind, space, connection, bytes(12), b"acsp", 0)
    return (header + struct.pack(">3i", *(D50 * 65536).round().astype(int))).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def xyz_tag(xyz: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(xyz * 65536).round().astype(int))


def gamma_tag(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def colour_profile(primaries: np.ndarray, gamma: float) -> bytes:
    columns = to_xyz(primaries).T
    names = zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    return icc(b"RGB ", b"XYZ ", b"mntr", {name: xyz_tag(xyz) for name, xyz in names} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma_tag(gamma)))


def ink_profile() -> bytes:
    """Every ink takes all lightness: L* = 100 (1 - K) along K."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([255 if not corner else 0, 128, 128]) for corner in range(16))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + corners + 3 * ramp
    return icc(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})


def png(values: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits, written by hand."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rgb(greys: np.ndarray) -> np.ndarray:
    return np.repeat(greys[..., None], 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    alpha = alpha[..., None] / 255
    return colours / 255 * alpha + 1 - alpha


def saved(image: Image.Image, expected: np.ndarray, **options: object) -> Writer:
    def write(path: Path) -> np.ndarray:
        image.save(path, **options)
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
        image.save(path, **options)
        return decode_image(str(path), "RGB").movedim(0, 2).numpy() / 255

    return write


IMAGE = Image.fromarray(COLOURS)
GREY = Image.fromarray(GREYS)
PALETTE = IMAGE.quantize(16)
PALETTED = np.array(PALETTE.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(PALETTE)]
OTHER = Image.fromarray(255 - COLOURS)
LINEAR = (COLOURS / 255).astype(np.float32)
INKS = np.stack([COLOURS[..., 0], COLOURS[..., 1], GREYS // 2, GREYS // 3], axis=2)
ADOBE = srgb_of((COLOURS / 255) ** 2.19921875 @ to_xyz(RED).T)
LAB = np.stack([GREYS, (_x - 12).astype(np.uint8), (_y - 10).astype(np.uint8)], axis=2)
WHOLE = rgb(GREYS) / 255

KINDS: dict[str, Writer] = {
    "colours.png": saved(IMAGE, COLOURS / 255),
    "ENDING.PNG": saved(IMAGE, COLOURS / 255),
    "greys.png": saved(GREY, WHOLE),
    "one bit.png": saved(GREY.convert("1", dither=Image.Dither.NONE), rgb(GREYS > 127).astype(float)),
    "palette.png": saved(PALETTE, PALETTED / 255),
    "palette with transparency.png": saved(PALETTE, on_white(PALETTED, np.where(np.asarray(PALETTE) == 3, 0, 255)), transparency=3),
    "colour that is transparent.png": saved(
        IMAGE, on_white(COLOURS, np.where((COLOURS == COLOURS[5, 5]).all(2), 0, 255)), transparency=tuple(COLOURS[5, 5].tolist())
    ),
    "grey and alpha.png": saved(Image.merge("LA", (GREY, GREY)), on_white(rgb(GREYS), GREYS)),
    "alpha.png": saved(Image.merge("RGBA", (*IMAGE.split(), GREY)), on_white(COLOURS, GREYS)),
    "16-bit greys.png": written(png(DEEP[..., 2], 0), rgb(DEEP[..., 2]) / 65535),
    "16-bit colours.png": written(png(DEEP, 2), DEEP / 65535),
    "Adobe RGB.png": saved(IMAGE, ADOBE, icc_profile=colour_profile(RED, 2.19921875)),
    "Adobe RGB.tif": saved(IMAGE, ADOBE, icc_profile=colour_profile(RED, 2.19921875)),
    "wide.webp": saved(IMAGE, srgb_of((COLOURS / 255) ** 2.2 @ to_xyz(P3).T), lossless=True, icc_profile=colour_profile(P3, 563 / 256)),
    "alpha and profile.png": saved(Image.merge("RGBA", (*IMAGE.split(), GREY)), on_white(ADOBE * 255, GREYS), icc_profile=colour_profile(RED, 2.19921875)),
    "grey with a grey profile.png": saved(GREY, rgb(encoded((GREYS / 255) ** 1.5)), icc_profile=icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": gamma_tag(1.5)})),
    "grey with a colour profile.png": saved(GREY, rgb(encoded((GREYS / 255) ** 2.19921875)), icc_profile=colour_profile(RED, 2.19921875)),
    "photograph.jpg": by_torchvision(IMAGE, quality=95),
    "photograph.jfif": by_torchvision(IMAGE, format="JPEG", quality=80),
    "photograph.jpe": by_torchvision(IMAGE, format="JPEG", quality=50),
    "progressive.jpeg": by_torchvision(IMAGE, progressive=True),
    "greys.jpg": by_torchvision(GREY),
    "a PNG in truth.jpg": saved(IMAGE, COLOURS / 255, format="PNG"),
    "a WebP in truth.png": saved(IMAGE, COLOURS / 255, format="WEBP", lossless=True),
    "bitmap.bmp": saved(IMAGE, COLOURS / 255),
    "wavelets.jp2": saved(IMAGE, COLOURS / 255),
    "pixels.ppm": written(b"P6 24 20 255\n" + COLOURS.tobytes(), COLOURS / 255),
    "16-bit.pgm": written(b"P5 24 20 65535\n" + DEEP[..., 0].astype(">u2").tobytes(), rgb(DEEP[..., 0]) / 65535),
    "animated.gif": saved(PALETTE, PALETTED / 255, save_all=True, append_images=[OTHER.quantize(16)]),
    "animated.png": saved(IMAGE, COLOURS / 255, save_all=True, append_images=[OTHER]),
    "animated.webp": saved(IMAGE, COLOURS / 255, save_all=True, append_images=[OTHER], lossless=True),
    "pages.tif": saved(IMAGE, COLOURS / 255, save_all=True, append_images=[OTHER]),
    "inks.tif": tiff(INKS, (1 - INKS[..., :3] / 255) * (1 - INKS[..., 3:] / 255), photometric="separated"),
    "inks with a profile.tif": saved(
        Image.merge("CMYK", (*(Image.new("L", (24, 20)) for _ in range(3)), GREY)),
        srgb_of_lab(np.stack([100 * (1 - GREYS / 255), 0 * _x, 0 * _x], axis=2)),
        icc_profile=ink_profile(),
    ),
    "Lab.tif": tiff(LAB, srgb_of_lab(LAB.astype(np.uint8).view(np.int8).astype(float) * [0, 1, 1] + rgb(GREYS) / 2.55 * [1, 0, 0]), photometric="cielab"),
    "16-bit greys.tif": tiff(DEEP[..., 0], rgb(DEEP[..., 0]) / 65535),
    "16-bit greys of other order.tif": tiff(DEEP[..., 0], rgb(DEEP[..., 0]) / 65535, byteorder=">"),
    "16-bit colours.tif": tiff(DEEP, DEEP / 65535, photometric="rgb"),
    "white is zero.tif": tiff(DEEP[..., 0], 1 - rgb(DEEP[..., 0]) / 65535, photometric="miniswhite"),
    "floats to 1.tif": tiff(LINEAR[..., 1], rgb(LINEAR[..., 1])),
    "float colours.tif": tiff(LINEAR, LINEAR, photometric="rgb"),
    "float planes.tif": tiff(np.moveaxis(LINEAR, 2, 0), LINEAR, photometric="rgb", planarconfig="separate", compression="zlib"),
    "float colours and alpha.tif": tiff(
        np.dstack([LINEAR, LINEAR[..., 1]]), on_white(COLOURS, COLOURS[..., 1]), photometric="rgb", extrasamples=["unassalpha"]
    ),
    "half floats.tif": tiff(LINEAR.astype(np.float16), LINEAR, photometric="rgb"),
    "double floats.tif": tiff(LINEAR[..., 0].astype(np.float64), rgb(LINEAR[..., 0])),
    "floats to 255.tif": tiff(GREYS.astype(np.float32) * 0.99, WHOLE * 0.99),
    "highlights.tif": tiff(LINEAR[..., 0] * 1.5, rgb(LINEAR[..., 0] * 1.5).clip(0, 1)),
    "32-bit numbers to 1.tif": tiff((GREYS > 99).astype(np.int32), rgb(GREYS > 99).astype(float)),
    "32-bit numbers to 255.tif": tiff(GREYS.astype(np.int32), WHOLE),
    "32-bit numbers to 65535.tif": tiff(DEEP[..., 0].astype(np.uint32), rgb(DEEP[..., 0]) / 65535),
    "32-bit numbers to the end.tif": tiff(GREYS.astype(np.uint32) * 16843009, WHOLE / WHOLE.max()),
    "32-bit colours.tif": tiff(COLOURS.astype(np.uint32), COLOURS / 255, photometric="rgb"),
}


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_right_to_one_step(tmp_path: Path, name: str) -> None:
    expected = KINDS[name](tmp_path / name)
    assert expected.max() - expected.min() > 0.2
    picture = read_picture(tmp_path / name)
    assert picture.dtype == torch.float32 and picture.shape == (20, 24, 3)
    assert np.abs(picture.numpy() - expected).max() <= STEP


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif(tmp_path: Path) -> None:
    flat = Image.new("RGB", (24, 20), (250, 40, 90))
    flat.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=turned(6))
    picture = read_picture(tmp_path / "a.avif")
    assert picture.shape == (24, 20, 3) and (picture - torch.tensor([250, 40, 90]) / 255).abs().max() <= STEP


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_pictures_are_upright(tmp_path: Path, ending: str) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }
    for orientation, stored in turns.items():
        path = tmp_path / f"{orientation}.{ending}"
        options = {"lossless": True} if ending == "webp" else {"quality": 100} if ending == "jpg" else {}
        Image.fromarray(np.ascontiguousarray(stored(upright))).save(path, exif=turned(orientation), **options)
        assert np.abs(read_picture(path).numpy() - upright / 255).max() <= 3 / 255, orientation
        assert open_picture(path, path.name, lambda *_: 4).size == (48, 32)


def test_what_a_user_should_know_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def remarks(name: str, writer: Writer) -> str:
        writer(tmp_path / name)
        caplog.clear()
        read_picture(tmp_path / name)
        opened = open_picture(tmp_path / name, name)
        assert list(opened.remarks) == [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        return " ".join(opened.remarks)

    assert remarks("a.png", KINDS["colours.png"]) == ""
    for kind in ("animated.gif", "animated.png", "animated.webp", "pages.tif"):
        assert remarks(kind, KINDS[kind]) == f"Picture '{kind}' holds several frames or pages; the first one is taken."
    second = saved(IMAGE, COLOURS, format="MPO", save_all=True, append_images=[OTHER])
    assert remarks("phone.jpg", second) == "Picture 'phone.jpg' holds several frames or pages; the first one is taken."
    broken = saved(IMAGE, COLOURS, icc_profile=b"no profile")
    assert remarks("b.png", broken) == "Picture 'b.png' has a colour profile that is damaged or of another kind; it was not used."
    foreign = saved(IMAGE, COLOURS, icc_profile=ink_profile())
    assert "of another kind; it was not used." in remarks("c.png", foreign)
    assert remarks("d.tif", KINDS["32-bit numbers to 255.tif"]) == (
        f"Picture 'd.tif' does not say its range; its values go up to {GREYS.max()} and are taken as 0 to 255."
    )
    assert remarks("e.tif", KINDS["highlights.tif"]) == "Picture 'e.tif' holds values up to 1.5; those above 1 are clipped."
    below = remarks("f.tif", tiff(LINEAR[..., 0] - 0.25, LINEAR))
    assert below == "Picture 'f.tif' holds values down to -0.25; those below 0 are clipped."


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert np.abs(read_picture(tmp_path / "a.png").numpy() - COLOURS / 255).max() <= STEP


@pytest.mark.parametrize(("ending", "options"), [("jpg", {}), ("jpg", {"progressive": True}), ("png", {})])
def test_a_picture_that_lacks_its_end_is_read_while_most_of_it_is_there(tmp_path: Path, ending: str, options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path, **options)
    whole, content = read_picture(path), path.read_bytes()
    for lost in (40 if ending == "png" else 7, len(content) // 10):
        path.write_bytes(content[:-lost])
        picture = open_picture(path, path.name)
        assert picture.remarks == (f"Picture 'a.{ending}' is cut short and was read as far as it goes. Copy or download it again if you can.",)
        if not options:  # a progressive one gets less sharp all over
            assert torch.equal(read_picture(path)[:150], whole[:150])
    for kept in (len(content) // 2, 400):
        if options and kept != 400:
            continue
        path.write_bytes(content[:kept])
        with pytest.raises(PairError, match=rf"Picture 'a\.{ending}' cannot be read \(.*\)\. Save it again as PNG or JPEG\."):
            read_picture(path)
    path.write_bytes(content[:-40])
    assert open_picture(path, path.name, lambda *_: 2).image.size == (100, 100)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", r"Picture 'empty\.png' cannot be read \(it is empty\)\. Save it again as PNG or JPEG\."),
        ("text.png", b"not a picture", r"it is no picture, or none of the formats PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 and PPM"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", r"it is no picture, or none of the formats"),
        ("paper.jpg", b"%PDF-1.4\n", r"it is no picture, or none of the formats"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"'phone\.heic' is a HEIC or AVIF picture, which this Pillow cannot read\. Install pillow-heif"),
        ("damaged.tif", b"II*\0\x08\0\0\0\0\0", r"Picture 'damaged\.tif' cannot be read"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PairError, match=message):
        read_picture(tmp_path / name)


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"Picture 'gone\.png' cannot be read \(No such file or directory\)"):
        read_picture(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PairError, match=r"Picture 'folder\.png' cannot be read \(Is a directory\)"):
        read_picture(tmp_path / "folder.png")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((20, 20), np.nan, np.float32))
    with pytest.raises(PairError, match=r"Picture 'nan\.tif' cannot be read \(it holds values that are not finite\)"):
        read_picture(tmp_path / "nan.tif")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(PairError, match=r"Picture 'bomb\.png' has more than 64 megapixels\. Scale it down first\."):
        decode_picture(io.BytesIO(bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))), "bomb.png")
    tifffile.imwrite(tmp_path / "bomb.tif", LINEAR, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "bomb.tif", mode="r+b") as file:
        for tag, side in (("ImageWidth", 7000), ("ImageLength", 10000)):
            file.pages[0].tags[tag].overwrite(side)
    with pytest.raises(PairError, match=r"'bomb\.tif' is 7000 x 10000: more than 64 megapixels"):
        read_picture(tmp_path / "bomb.tif")


def test_a_damaged_tiff_takes_no_memory(tmp_path: Path) -> None:
    """Its width is a list, its height millions: their product would be a list of millions."""
    tifffile.imwrite(tmp_path / "a.tif", LINEAR, photometric="rgb")
    content = (tmp_path / "a.tif").read_bytes()
    for old, new in (((256, 4, 1, 24), (256, 4, 2, 24)), ((257, 4, 1, 20), (257, 4, 1, 10**6))):
        assert content.count(struct.pack("<HHII", *old)) == 1
        content = content.replace(struct.pack("<HHII", *old), struct.pack("<HHII", *new))
    with pytest.raises(PairError, match=r"Picture 'a\.tif' cannot be read \(int\(\) argument must be"):
        decode_picture(io.BytesIO(content), "a.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory")
def test_a_photograph_of_65_megapixels_is_read_small_with_little_memory(tmp_path: Path) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    Image.new("RGB", (9280, 6944), "orange").save(tmp_path / "a.jpg", exif=turned(6))
    before = peak()
    assert read_picture(tmp_path / "a.jpg", 64).shape == (64, 64, 3)
    assert open_picture(tmp_path / "a.jpg", "a.jpg", lambda *_: 8).size == (6944, 9280)
    assert peak() - before < 100


def test_endings_of_phones_and_browsers_count() -> None:
    assert {".jpg", ".jfif", ".jpe", ".heic", ".heif", ".avif", ".gif", ".webp", ".tif", ".jp2"} <= PICTURES
    assert not PICTURES & {".eps", ".ps", ".pdf", ".wmf", ".svg"}
