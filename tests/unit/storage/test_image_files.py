"""Image files of every kind: correct pixels, or an error that names the file."""

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

from instructbrush.core.errors import PairError
from instructbrush.core.storage.image_files import IMAGES, decode_image, open_image, read_image
from instructbrush.tests.support.image_kinds import (
    COLOURS,
    GREYS,
    IMAGE,
    KINDS,
    LINEAR,
    OTHER,
    STEP,
    Writer,
    ink_profile,
    saved,
    tiff,
)


@pytest.mark.parametrize("name", KINDS)
def test_reads_pixels_exactly_to_one_step(tmp_path: Path, name: str) -> None:
    expected = KINDS[name](tmp_path / name)
    assert expected.max() - expected.min() > 0.2
    image = read_image(tmp_path / name)
    assert image.dtype == torch.float32 and image.shape == (20, 24, 3)
    assert np.abs(image.numpy() - expected).max() <= STEP


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_reads_avif(tmp_path: Path) -> None:
    flat = Image.new("RGB", (24, 20), (250, 40, 90))
    flat.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=turned(6))
    image = read_image(tmp_path / "a.avif")
    assert image.shape == (24, 20, 3) and (image - torch.tensor([250, 40, 90]) / 255).abs().max() <= STEP


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_turns_images_upright(tmp_path: Path, ending: str) -> None:
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
        assert np.abs(read_image(path).numpy() - upright / 255).max() <= 3 / 255, orientation
        assert open_image(path, path.name, lambda *_: 4).size == (48, 32)


def test_reduces_a_long_narrow_photograph(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 16), "red").save(tmp_path / "long.jpg")
    image = open_image(tmp_path / "long.jpg", "long.jpg", lambda *_: 19).image
    assert image.height >= 1 and image.width < 4000


def test_logs_remarks_about_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def remarks(name: str, writer: Writer) -> str:
        writer(tmp_path / name)
        caplog.clear()
        read_image(tmp_path / name)
        opened = open_image(tmp_path / name, name)
        assert list(opened.remarks) == [
            record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
        ]
        return " ".join(opened.remarks)

    assert remarks("a.png", KINDS["colours.png"]) == ""
    for kind in ("animated.gif", "animated.png", "animated.webp", "pages.tif"):
        assert (
            remarks(kind, KINDS[kind])
            == f"Image '{kind}' holds several frames or pages; the first one is taken."
        )
    second = saved(IMAGE, COLOURS, format="MPO", more=[OTHER])
    assert (
        remarks("phone.jpg", second)
        == "Image 'phone.jpg' holds several frames or pages; the first one is taken."
    )
    broken = saved(IMAGE, COLOURS, icc_profile=b"no profile")
    assert (
        remarks("b.png", broken)
        == "Image 'b.png' has a color profile that is damaged or of another kind; it was not used."
    )
    foreign = saved(IMAGE, COLOURS, icc_profile=ink_profile())
    assert "of another kind; it was not used." in remarks("c.png", foreign)
    assert remarks("d.tif", KINDS["32-bit numbers to 255.tif"]) == (
        f"Image 'd.tif' does not state its range; its values go up to {GREYS.max()} and are read as 0 to 255."
    )
    assert (
        remarks("e.tif", KINDS["highlights.tif"])
        == "Image 'e.tif' holds values up to 1.5; those above 1 are clipped."
    )
    below = remarks("f.tif", tiff(LINEAR[..., 0] - 0.25, LINEAR))
    assert below == "Image 'f.tif' holds values down to -0.25; those below 0 are clipped."


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"extrasamples": ["unassalpha"]},
        {"extratags": [(274, "H", 1, 6, True)]},
    ],
)
def test_rounds_color_of_16_bits(tmp_path: Path, options: dict) -> None:
    # 254.09, whose upper 8 bits are 255.
    deep = np.full((16, 24, 4 if "extrasamples" in options else 3), 65300, np.uint16)
    deep[..., 3:] = 65535
    deep = deep.transpose(2, 0, 1) if "planarconfig" in options else deep
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", **options)
    opened = open_image(tmp_path / "a.tif", "a.tif")
    assert opened.size == ((16, 24) if "extratags" in options else (24, 16)) and not opened.remarks
    assert (read_image(tmp_path / "a.tif") * 255).unique().tolist() == [254]
    assert read_image(tmp_path / "a.tif", 8).shape == (8, 8, 3)


def deep_png(values: np.ndarray, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits, whose rows hold differences to the pixel on the left (filter 1)."""
    rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    width = values[0, 0].nbytes
    rows[:, width:] -= rows[:, :-width].copy()
    data = zlib.compress(np.hstack([np.ones((len(rows), 1), np.uint8), rows]).tobytes())
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, kind, 0, 0, 0)
    every = ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in every
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(("channels", "kind"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_rounds_png_of_16_bits(channels: int, kind: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (24, 31, channels), np.uint16)
    values[0, 0] = 65300  # 254.09, whose upper 8 bits are 255
    opened = open_image(io.BytesIO(deep_png(values, kind)), "a.png")
    rounded = np.round(values / 257).astype(np.uint8)
    colors = rounded[..., : 3 if channels > 2 else 1]
    expected = np.broadcast_to(colors, (24, 31, 3))
    if channels in (2, 4):
        expected = np.dstack([expected, rounded[..., -1]])
    assert np.array_equal(np.asarray(opened.image), expected)


def test_reads_the_transparent_color_of_a_png_of_16_bits() -> None:
    values = np.full((4, 4, 3), 40_000, np.uint16)
    values[1, 2, 0] += 1
    content = deep_png(values, 2, (b"tRNS", struct.pack(">3H", 40_000, 40_000, 40_000)))
    alpha = np.asarray(open_image(io.BytesIO(content), "a.png").image)[..., 3]
    assert alpha[1, 2] == 255 and alpha.sum() == 255


def test_reads_deep_color_that_tifffile_cannot_read(tmp_path: Path) -> None:
    deep = np.full((16, 16, 4), 257 * 40, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="separated")
    opened = open_image(tmp_path / "a.tif", "a.tif")
    assert opened.image.size == (16, 16)
    remark = "Image 'a.tif' holds more than 8 bits a channel, of which the upper 8 are read."
    assert opened.remarks == (remark,)


def test_rejects_a_deep_tiff_that_is_cut_short(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((64, 64, 3), 65300, np.uint16), photometric="rgb")
    content = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(PairError, match=r"Image 'a\.tif' cannot be read"):
        decode_image(io.BytesIO(content[: len(content) // 2]), "a.tif")


def test_ignores_damaged_exif(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert np.abs(read_image(tmp_path / "a.png").numpy() - COLOURS / 255).max() <= STEP


@pytest.mark.parametrize(("ending", "options"), [("jpg", {}), ("jpg", {"progressive": True}), ("png", {})])
def test_reads_a_truncated_image_if_most_of_it_is_there(
    tmp_path: Path, ending: str, options: dict[str, object]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path, **options)
    whole, content = read_image(path), path.read_bytes()
    for lost in (40 if ending == "png" else 7, len(content) // 10):
        path.write_bytes(content[:-lost])
        image = open_image(path, path.name)
        assert image.remarks == (
            f"Image 'a.{ending}' is cut short and was read as far as it goes. "
            "Copy or download it again if you can.",
        )
        if not options:  # a progressive image loses sharpness everywhere
            assert torch.equal(read_image(path)[:150], whole[:150])
    for kept in (len(content) // 2, 400):
        if options and kept != 400:
            continue
        path.write_bytes(content[:kept])
        with pytest.raises(
            PairError, match=rf"Image 'a\.{ending}' cannot be read \(.*\)\. Save it again as PNG or JPEG\."
        ):
            read_image(path)
    path.write_bytes(content[:-40])
    assert open_image(path, path.name, lambda *_: 2).image.size == (100, 100)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "empty.png",
            b"",
            r"Image 'empty\.png' cannot be read \(it is empty\)\. Save it again as PNG or JPEG\.",
        ),
        (
            "text.png",
            b"not an image",
            r"not in one of the formats PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 and PPM\)",
        ),
        (
            "script.png",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            r"it is not an image, or not in one of the formats",
        ),
        ("paper.jpg", b"%PDF-1.4\n", r"it is not an image, or not in one of the formats"),
        (
            "phone.heic",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            r"'phone\.heic' is a HEIC or AVIF image, which this Pillow cannot read\. Install pillow-heif",
        ),
        ("damaged.tif", b"II*\0\x08\0\0\0\0\0", r"Image 'damaged\.tif' cannot be read"),
    ],
)
def test_rejects_files_that_are_not_images(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PairError, match=message):
        read_image(tmp_path / name)


def test_rejects_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"Image 'gone\.png' cannot be read \(No such file or directory\)"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PairError, match=r"Image 'folder\.png' cannot be read \(Is a directory\)"):
        read_image(tmp_path / "folder.png")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((20, 20), np.nan, np.float32))
    with pytest.raises(
        PairError, match=r"Image 'nan\.tif' cannot be read \(it holds values that are not finite\)"
    ):
        read_image(tmp_path / "nan.tif")


def test_rejects_huge_images_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    with pytest.raises(
        PairError, match=r"Image 'bomb\.png' has more than 64 megapixels\. Scale it down first\."
    ):
        decode_image(
            io.BytesIO(bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))),
            "bomb.png",
        )
    tifffile.imwrite(tmp_path / "bomb.tif", LINEAR, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "bomb.tif", mode="r+b") as file:
        for tag, side in (("ImageWidth", 7000), ("ImageLength", 10000)):
            file.pages[0].tags[tag].overwrite(side)
    with pytest.raises(PairError, match=r"'bomb\.tif' is 7000 x 10000: more than 64 megapixels"):
        read_image(tmp_path / "bomb.tif")


def test_rejects_a_damaged_tiff_without_using_memory(tmp_path: Path) -> None:
    """Its width is a list and its height is millions: their product would be a huge list."""
    tifffile.imwrite(tmp_path / "a.tif", LINEAR, photometric="rgb")
    content = (tmp_path / "a.tif").read_bytes()
    for old, new in (((256, 4, 1, 24), (256, 4, 2, 24)), ((257, 4, 1, 20), (257, 4, 1, 10**6))):
        assert content.count(struct.pack("<HHII", *old)) == 1
        content = content.replace(struct.pack("<HHII", *old), struct.pack("<HHII", *new))
    with pytest.raises(PairError, match=r"Image 'a\.tif' cannot be read \(int\(\) argument must be"):
        decode_image(io.BytesIO(content), "a.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="measures memory")
def test_reads_64_megapixels_reduced_with_little_memory(tmp_path: Path) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    Image.new("RGB", (9280, 6944), "orange").save(tmp_path / "a.jpg", exif=turned(6))
    before = peak()
    assert read_image(tmp_path / "a.jpg", 64).shape == (64, 64, 3)
    assert open_image(tmp_path / "a.jpg", "a.jpg", lambda *_: 8).size == (6944, 9280)
    assert peak() - before < 100


def test_knows_the_endings_of_phones_and_browsers() -> None:
    assert {".jpg", ".jfif", ".jpe", ".heic", ".heif", ".avif", ".gif", ".webp", ".tif", ".jp2"} <= IMAGES
    assert not IMAGES & {".eps", ".ps", ".pdf", ".wmf", ".svg"}
