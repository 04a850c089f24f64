"""Small data sets in public layouts. Image ``n`` is uniformly of the grey level ``n``."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 24


def encoded(level: int, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(file, kind, quality=95)
    return file.getvalue()


def level_of(cell: dict[str, Any]) -> int:
    """The grey level of an image's cell."""
    with Image.open(BytesIO(cell["bytes"])) as image:
        assert image.size == (SIDE, SIDE)
        return round(sum(image.convert("RGB").getpixel((5, 5))) / 3)  # type: ignore[arg-type]


def put(folder: Path, files: dict[str, int]) -> Path:
    """Writes images by their names."""
    for name, level in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(level, "PNG" if path.suffix == ".png" else "JPEG"))
    return folder


def write_tree(folder: Path, seeds: bool = True) -> Path:
    """Writes InstructPix2Pix's tree: two prompts with two and one pairs."""
    for name, numbers in (("0000012", ("7", "1234")), ("0000345", ("99",))):
        for index, seed in enumerate(numbers):
            start = 10 * int(name[-1]) + 4 * index
            put(folder, {f"{name}/{seed}_0.jpg": start, f"{name}/{seed}_1.jpg": start + 100})
        words = {"input": f"a hill {name}", "edit": "make it snow", "output": f"a snowy hill {name}"}
        (folder / name / "prompt.json").write_text(json.dumps({**words, "url": "x"}))
        lines = [json.dumps({"seed": int(seed), "clip_sim_dir": 0.3}) for seed in numbers]
        (folder / name / "metadata.jsonl").write_text("\n".join(lines))
    if seeds:
        listed = [["0000012", ["7", "1234"]], ["0000345", ["99"]]]
        (folder / "seeds.json").write_text(json.dumps(listed))
    return folder


def write_objects(folder: Path, **changes: Any) -> Path:
    """Writes V3Det's layout. Returns the annotation file."""
    names = [f"images/n0{number}/{number}_x.jpg" for number in range(3)]
    put(folder, {name: 20 * number for number, name in enumerate(names)})
    content: dict[str, Any] = {
        "images": [
            {"id": 5 + number, "file_name": name, "height": SIDE, "width": SIDE}
            for number, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "bee"}, {"id": 2, "name": "flower", "cat_info": "a plant"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": kind, "bbox": [0, 0, 5.5, 6], "iscrowd": 0}
            for number, (image, kind) in enumerate([(5, 2), (7, 1), (5, 1), (5, 2)])
        ],
        **changes,
    }
    file = folder / "annotations" / "v3det_2023_v1_train.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_captions(folder: Path, **changes: Any) -> Path:
    """Writes COCO's captions, two of them for the first image. Returns the annotation file."""
    put(folder / "train2017", {"000009.jpg": 30, "000025.jpg": 60})
    content: dict[str, Any] = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": 9, "file_name": "000009.jpg"}, {"id": 25, "file_name": "000025.jpg"}],
        "annotations": [
            {"image_id": 25, "id": 100, "caption": "A giraffe."},
            {"image_id": 9, "id": 101, "caption": "Some food. "},
            {"image_id": 9, "id": 102, "caption": "A lunch box."},
        ],
        **changes,
    }
    file = folder / "annotations" / "captions_train2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file
