import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbrush.core.errors import BuildError, ModelError
from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.images import read_cell
from instructbrush.core.generation.reason.models.gligen import GligenSpec
from instructbrush.core.generation.reason.models.region_editor import RegionEditorSpec, instruction_for
from instructbrush.core.generation.reason.replacing import (
    UNCHANGED,
    ObjectReplacer,
    ReplacementRequest,
    crop_around,
    replacement_stage,
)
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.core.regions.boxes import Box, box_mask
from instructbrush.tests.support.text_to_image.tiny_gligen import write_gligen

BOX = Box(30, 36, 84, 90)


@pytest.fixture(scope="module")
def gligen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gligen(tmp_path_factory.mktemp("gligen"))


def replacer_of(kind: str, gligen: Path) -> ObjectReplacer:
    if kind == "gligen":
        return GligenSpec(str(gligen), steps=3)()
    return RegionEditorSpec(steps=3, model="" if kind == "region" else str(POCKET_FOLDER), side=128)()


def request(seed: int = 1, target: str = "star", box: Box = BOX) -> ReplacementRequest:
    return ReplacementRequest("circle", target, box, f"a {target}", seed)


@pytest.mark.parametrize("kind", ["gligen", "region", "editor"])
def test_only_the_box_changes_and_the_same_request_gives_the_same_image(kind: str, gligen: Path) -> None:
    replacer = replacer_of(kind, gligen)
    image = torch.rand(96, 136, 3, generator=torch.Generator().manual_seed(2))
    edited = replacer.replace(image, request())
    inside = box_mask([BOX], 96, 136) > 0
    assert edited.shape == image.shape
    assert torch.equal(edited[~inside], image[~inside])
    assert (edited - image)[inside].abs().mean() > 0.01
    torch.manual_seed(9)  # the global generator takes no part
    state = torch.get_rng_state()
    assert torch.equal(replacer.replace(image, request()), edited)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(replacer.replace(image, request(seed=2)), edited)
    assert not torch.equal(replacer.replace(image, request(target="oval")), edited)


@pytest.mark.parametrize(
    ("selected", "target", "pocket", "words"),
    [
        ("circle", "oval", True, "turn it into an oval"),
        ("big red circle", "big blue circle", True, "make it blue"),
        ("red circle", "small blue circle", True, "turn it into a small blue circle"),
        ("red circle", "blue circle", False, "turn the red circle into a blue circle"),
    ],
)
def test_editors_get_words_that_they_know(selected: str, target: str, pocket: bool, words: str) -> None:
    assert instruction_for(selected, target, pocket) == words


def test_gligen_gets_the_target_and_whole_latent_pixels_of_the_box(
    gligen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacer: Any = GligenSpec(str(gligen), steps=3)()
    asked: dict[str, Any] = {}
    call = type(replacer._pipeline).__call__

    def spy(self: Any, **options: Any) -> Any:
        asked.update(options)
        return call(self, **options)

    monkeypatch.setattr(type(replacer._pipeline), "__call__", spy)
    # The square around the box begins at column 20 of 200.
    replacer.replace(torch.rand(100, 200, 3), request(box=Box(50, 10, 90, 51)))
    assert asked["gligen_phrases"] == ["a star"] and asked["prompt"] == "a star"
    assert asked["gligen_inpaint_image"].size == (64, 64)
    assert asked["gligen_boxes"] == [[2 / 8, 0.0, 6 / 8, 5 / 8]]
    # A box longer than the shorter side lies in no square.
    replacer.replace(torch.rand(100, 200, 3), request(box=Box(0, 10, 200, 51)))
    assert asked["gligen_boxes"] == [[0.0, 0.0, 1.0, 5 / 8]]


def test_values_of_gligen_that_are_not_finite_stop_the_build(gligen: Path, pocket_row: Row) -> None:
    replacer: Any = GligenSpec(str(gligen), steps=1)()
    replacer._pipeline.vae.decoder.conv_out.bias.data.fill_(torch.nan)
    row = {**pocket_row, "part": 2, "box": [20.0, 20.0, 60.0, 60.0]}
    row |= {"selected_object": "circle", "target_object": "star", "edited_caption": "a star"}
    with pytest.raises(BuildError, match="not finite. Use the model in fp32"):
        replacement_stage(lambda: replacer).start()(row)


def test_rejects_folders_that_are_no_gligen_for_inpainting(gligen: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        GligenSpec(str(tmp_path / "none"))()
    with pytest.raises(ModelError, match="unet/config.json is missing"):
        GligenSpec(str(tmp_path))()
    with pytest.raises(ModelError, match="no GLIGEN for inpainting|input channels"):
        _linked(gligen, tmp_path / "other", "unet", POCKET_FOLDER / "unet")
        GligenSpec(str(tmp_path / "other"))()


def test_rejects_pickled_weights(gligen: Path, tmp_path: Path) -> None:
    unet = tmp_path / "pickled_unet"
    unet.mkdir()
    (unet / "config.json").write_bytes((gligen / "unet" / "config.json").read_bytes())
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02.")
    _linked(gligen, tmp_path / "pickled", "unet", unet)
    with pytest.raises(ModelError, match="safetensors"):
        GligenSpec(str(tmp_path / "pickled"))()


@pytest.mark.parametrize(
    "file", ["evil.py", "unet/diffusers.py", "model_index.json", "text_encoder/adapter_config.json"]
)
def test_runs_no_code_of_a_gligen(gligen: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(gligen, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / file).write_text("raise SystemExit('code of the folder was run')")
    if file == "model_index.json":
        (folder / file).write_text(json.dumps({**index, "_class_name": ["evil", "Pipeline"]}))
    message = (
        "holds an adapter" if "adapter" in file else r"GLIGEN 'model': a part of it is code in .*not run"
    )
    with pytest.raises(ModelError, match=message):
        GligenSpec(str(folder))()


def test_rejects_a_gligen_whose_parts_ask_the_hub(gligen: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gligen, tmp_path / "model"))
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_attn_implementation": "owner/kernel"}))
    with pytest.raises(
        ModelError, match="text_encoder/config.json: with _attn_implementation = owner/kernel"
    ):
        GligenSpec(str(folder))()
    (folder / "model_index.json").unlink()
    config.write_text("{}")
    with pytest.raises(ModelError, match="GLIGEN 'model': model_index.json is missing in "):
        GligenSpec(str(folder))()


def _linked(source: Path, folder: Path, part: str, other: Path) -> None:
    """Makes a folder of links to the parts of another one, with one part exchanged."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(other if path.name == part else path)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(50, 10, 90, 51), (0, 20, 100)),
        (Box(0, 0, 10, 10), (0, 0, 100)),
        (Box(190, 90, 200, 100), (0, 100, 100)),
        (Box(0, 10, 200, 51), (0, 50, 100)),
    ],
)
def test_the_square_lies_around_the_box(box: Box, expected: tuple[int, int, int]) -> None:
    assert crop_around(box, 100, 200) == expected


def test_a_box_at_the_border_of_a_scaled_image_stays_inside() -> None:
    """314 rows become 248, and 314 * (248 / 314) is rounded to more than 248."""
    request = ReplacementRequest("circle", "red circle", Box(10, 10, 640, 314), "a red circle", 1)
    replacer = RegionEditorSpec(str(POCKET_FOLDER), side=512, steps=1)()
    assert replacer.replace(torch.rand(314, 640, 3), request).shape == (314, 640, 3)


class Painted:
    """Fills a part of the box."""

    def __init__(self, paint: Callable[[Tensor], Tensor]) -> None:
        self.paint = paint

    def __call__(self) -> "Painted":
        return self

    def replace(self, image: Tensor, request: ReplacementRequest) -> Tensor:
        return self.paint(image)


def replaced(pocket_row: Row, paint: Callable[[Tensor], Tensor]) -> Row:
    row = {
        **pocket_row,
        "part": 2,
        "box": [20.0, 20.0, 60.0, 60.0],
        "selected_object": "circle",
        "target_object": "star",
    }
    (made,) = replacement_stage(Painted(paint)).start()(row)
    return made


def test_the_edited_image_is_stored_and_a_replacement_without_change_is_refused(pocket_row: Row) -> None:
    image = read_cell(pocket_row["image"], "a")
    made = replaced(pocket_row, lambda image: 1 - image)
    assert torch.allclose(read_cell(made["edited_image"], "a"), 1 - image, atol=1 / 255)
    with pytest.raises(Refused, match=UNCHANGED):
        replaced(pocket_row, lambda image: image + 0.001)
    with pytest.raises(BuildError, match="shape"):
        replaced(pocket_row, lambda image: image[:-1])
    with pytest.raises(BuildError, match="not finite"):
        replaced(pocket_row, lambda image: image * torch.nan)


def test_rows_of_pairs_keep_their_edited_image(pocket_row: Row) -> None:
    stage = replacement_stage(Painted(lambda image: image), has_pairs=True)
    assert "edited_image" in stage.reads
    row = {**pocket_row, "part": 1}
    assert stage.start()(row) == [{"edited_image": pocket_row["edited_image"]}]
