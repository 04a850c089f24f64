"""Start-up and lists: no folder, link, node or file takes a node away, and lists cost nothing while nothing changes."""

import asyncio
import logging
import os
import shutil

import pytest

from instructbrush.tests.comfy.graphs import instruction
from instructbrush.tests.comfy.package.test_nodes import NODES, write_pairs

OLD = 1_600_000_000
"""A time so long ago that a folder is sure not to have changed since it was read."""
KINDS = (
    "instructions",
    "connectors",
    "mllm",
    "LLM",
    "grounding_dino",
    "sam",
    "clipseg",
    "diffusers",
    "checkpoints",
    "open_clip",
    "lpips",
)


def every_schema(comfy):
    """All nodes as GET /object_info describes them."""
    return {name: comfy.nodes[name].GET_NODE_INFO_V1() for name in NODES}


def entered(comfy):
    """The ids of the nodes that the pack gives when it is asked anew."""
    extension = asyncio.run(comfy.pack().comfy_entrypoint())
    asyncio.run(extension.on_load())
    return [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]


def warnings(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "root" and record.levelno >= logging.WARNING
    ]


@pytest.fixture
def listing(comfy):
    """The module that reads folders, with nothing kept and nothing told."""
    module = comfy.pack("nodes.comfy.folders.listing")
    module._kept.clear()
    module._warned.clear()
    return module


@pytest.fixture
def refused(monkeypatch):
    """A set of folders' names that scandir may not read, as if they were another user's."""
    names = set()
    own = os.scandir

    def scandir(path="."):
        if os.path.basename(path) in names:
            raise PermissionError(13, "Permission denied", str(path))
        return own(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return names


def test_all_nodes_are_given_in_the_order_of_a_first_use(comfy):
    assert set(entered(comfy)) == set(NODES)


def test_a_module_that_cannot_be_imported_takes_only_its_own_nodes_away(comfy, monkeypatch, caplog):
    nodes = comfy.pack("nodes")
    monkeypatch.setattr(nodes, "_NODES", {"nowhere": ("Gone", "Lost"), **nodes._NODES})
    monkeypatch.setattr(nodes, "_ENTERED", ("nowhere", *nodes._ENTERED))
    assert set(entered(comfy)) == set(NODES)
    assert warnings(caplog) == [
        "InstructBrush: nodes/comfy/nowhere.py could not enter its folders or models. The nodes that need them may miss some.",
        "InstructBrush: nodes/nowhere.py cannot be imported. Its nodes (Gone, Lost) are left out, the others work.",
    ]


def test_a_node_that_cannot_describe_itself_takes_no_other_away(comfy, monkeypatch, caplog):
    def broken(cls):
        raise OSError("share is gone")

    monkeypatch.setattr(
        comfy.pack("nodes.regions.finding").LoadRegionFinder, "define_schema", classmethod(broken)
    )
    assert set(entered(comfy)) == set(NODES) - {"InstructBrushLoadRegionFinder"}
    assert warnings(caplog) == [
        "InstructBrush: the node LoadRegionFinder cannot describe itself. It is left out, the others work."
    ]


def test_a_missing_input_folder_leaves_the_examples(comfy, listing, caplog):
    away = (comfy.base / "input").rename(comfy.base / "away")
    try:
        for _ in range(3):
            options = every_schema(comfy)["InstructBrushLoadPairs"]["input"]["required"]["folder"][1][
                "options"
            ]
        assert options and all(name.endswith(" (example)") for name in options)
        assert warnings(caplog) == [
            f"InstructBrush: ComfyUI's input folder {comfy.base / 'input'} is not there. Load Edit Pairs offers the pack's examples only."
        ]
    finally:
        away.rename(comfy.base / "input")


def test_an_unreadable_folder_is_told_once_and_left_out(comfy, listing, refused, caplog):
    write_pairs(comfy.base / "input" / "readable")
    write_pairs(comfy.base / "input" / "lost+found")
    (comfy.base / "models" / "mllm" / "private").mkdir(parents=True, exist_ok=True)
    refused.update({"lost+found", "private"})
    for _ in range(3):
        assert set(every_schema(comfy)) == set(NODES)
        folders = comfy.pack("nodes.comfy.folders.paths").pairs_folders()
        assert "readable" in folders and "lost+found" not in folders
    told = warnings(caplog)
    assert len(told) == 2 and all(
        "cannot be read ([Errno 13] Permission denied" in line
        and line.endswith(" What lies in it is not offered.")
        for line in told
    )


@pytest.mark.parametrize("name", KINDS)
def test_no_folder_of_models_is_needed(comfy, listing, refused, name):
    folder = comfy.base / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    refused.add(name)
    every_schema(comfy)
    away = folder.rename(comfy.base / "away")
    try:
        every_schema(comfy)
        folder.symlink_to(comfy.base / "nowhere")
        assert set(entered(comfy)) == set(every_schema(comfy)) == set(NODES)
    finally:
        folder.unlink(missing_ok=True)
        away.rename(folder)


def test_a_folder_that_vanishes_is_forgotten(comfy, listing):
    paths = comfy.pack("nodes.comfy.folders.paths")
    folder = comfy.base / "output" / "instructions" / "passing"
    comfy.pack("core.instruction.file").save_instruction(
        instruction(comfy), folder / "by.safetensors", overwrite=True
    )
    assert "passing/by.safetensors" in paths.instruction_names()
    shutil.rmtree(folder)
    assert "passing/by.safetensors" not in paths.instruction_names()


def test_links_in_a_ring_end(comfy, listing):
    root = comfy.base / "input" / "ring"
    write_pairs(root / "pairs")
    for place, target in (
        ("back", root),
        ("pairs/up", root),
        ("self", root / "self"),
        ("nowhere", root / "gone"),
    ):
        if not (root / place).is_symlink():
            (root / place).symlink_to(target)
    found = [
        name for name in comfy.pack("nodes.comfy.folders.paths").pairs_folders() if name.startswith("ring")
    ]
    assert found == ["ring/pairs"]
    (comfy.base / "models" / "instructions" / "ring").symlink_to(comfy.base / "models")
    try:
        assert len(comfy.pack("nodes.comfy.folders.paths").instruction_names()) < 100
    finally:
        (comfy.base / "models" / "instructions" / "ring").unlink()


def test_names_that_no_input_can_carry_are_not_offered(comfy, listing):
    for name in ("back\\slash", "line\nfeed", " space ", "half\udc80"):
        write_pairs(comfy.base / "input" / name, 1, 16)
    try:
        every_schema(comfy)
        assert not [
            name
            for name in comfy.pack("nodes.comfy.folders.paths").pairs_folders()
            if "slash" in name or "feed" in name or "space" in name or "half" in name
        ]
    finally:
        for name in ("back\\slash", "line\nfeed", " space ", "half\udc80"):
            shutil.rmtree(comfy.base / "input" / name)


def test_folders_of_every_layout_are_offered_as_a_whole(comfy, listing):
    root = comfy.base / "input" / "layouts"
    for file in (
        "listed/metadata.jsonl",
        "lines/pairs.jsonl",
        "sides/Original/1.png",
        "sides/Edited/1.png",
        "sides/mask/1.png",
        "tree/0001/prompt.json",
        "tree/0001/1_0.jpg",
        "tree/0002/prompt.json",
        "none/notes.txt",
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    offered = [
        name for name in comfy.pack("nodes.comfy.folders.paths").pairs_folders() if name.startswith("layouts")
    ]
    assert offered == ["layouts/lines", "layouts/listed", "layouts/sides", "layouts/tree"]


def test_a_folder_is_read_again_only_when_it_has_changed(comfy, listing, tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    own, read = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path=".": (read.append(path), own(path))[1])
    # Young folders are read each time: one may change twice within a step of its file system's clock.
    assert listing.entries(tmp_path).files == listing.entries(tmp_path).files == ("a.png",) and len(read) == 2
    os.utime(tmp_path, (OLD, OLD))
    assert listing.entries(tmp_path).files == listing.entries(tmp_path).files == ("a.png",) and len(read) == 3
    (tmp_path / "b.png").touch()
    os.utime(tmp_path, (OLD + 1, OLD + 1))
    assert listing.entries(tmp_path).files == ("a.png", "b.png") and len(read) == 4
    (tmp_path / "link").symlink_to(tmp_path / "later")
    os.utime(tmp_path, (OLD + 2, OLD + 2))
    assert listing.entries(tmp_path).folders == ()
    (tmp_path.parent / "later").mkdir(exist_ok=True)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path.parent / "later")
    os.utime(tmp_path, (OLD + 3, OLD + 3))
    assert listing.entries(tmp_path).folders == ("link",)
    (tmp_path.parent / "later").rmdir()
    assert listing.entries(tmp_path).folders == ()


def test_many_images_cost_one_look_at_each_folder(comfy, listing, monkeypatch):
    root = comfy.base / "input" / "many"
    for number in range(20):
        (root / f"{number}").mkdir(parents=True)
        for image in range(50):
            (root / f"{number}" / f"{image}.png").touch()
    try:
        for folder in (comfy.base / "input").rglob("*/"):
            os.utime(folder, (OLD, OLD))
        os.utime(comfy.base / "input", (OLD, OLD))
        first = comfy.pack("nodes.comfy.folders.paths").pairs_folders()
        monkeypatch.setattr(os, "scandir", lambda path=".": pytest.fail(f"{path} is read again"))
        assert comfy.pack("nodes.comfy.folders.paths").pairs_folders() == first and "many/7" in first
    finally:
        monkeypatch.undo()
        shutil.rmtree(root)


def test_linked_folders_and_files_are_listed_and_loaded(comfy, tmp_path):
    write_pairs(tmp_path / "far")
    (comfy.base / "input" / "near").symlink_to(tmp_path / "far")
    file = comfy.pack("core.instruction.file").save_instruction(
        instruction(comfy), tmp_path / "far.safetensors"
    )
    for link, target in (
        ("linked_file.safetensors", file or tmp_path / "far.safetensors"),
        ("linked_folder", tmp_path),
    ):
        (comfy.base / "models" / "instructions" / link).symlink_to(target)
    try:
        paths = comfy.pack("nodes.comfy.folders.paths")
        assert "near" in paths.pairs_folders() and {
            "linked_file.safetensors",
            "linked_folder/far.safetensors",
        } <= set(paths.instruction_names())
        graph = comfy.graph()
        links = [
            graph.node("InstructBrushLoad", name=name).out(0)
            for name in ("linked_file.safetensors", "linked_folder/far.safetensors")
        ]
        pairs, *loaded = comfy.values(
            graph, graph.node("InstructBrushLoadPairs", folder="near", size=0).out(0), *links
        )
        assert len(pairs) == 2 and loaded[0].context.equal(loaded[1].context)
    finally:
        (comfy.base / "input" / "near").unlink()
        for link in ("linked_file.safetensors", "linked_folder"):
            (comfy.base / "models" / "instructions" / link).unlink()


def cached(folder, model):
    """A model folder as the Hugging Face cache keeps it: a snapshot of links into blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0123abcd"
    for file in sorted(path for path in model.rglob("*") if path.is_file()):
        blob, link = (
            blobs / str(file.relative_to(model)).replace("/", "_"),
            snapshot / file.relative_to(model),
        )
        for each in (blob, link):
            each.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(blob)


def test_models_in_the_hugging_face_cache_go_by_their_names_on_the_hub(comfy):
    builtin, models = comfy.pack("core.models.builtin"), comfy.base / "models"
    made = {
        "mllm": builtin.POCKET_READER_FOLDER,
        "clipseg": builtin.POCKET_FINDER_FOLDER,
        "diffusers": builtin.POCKET_FOLDER,
    }
    for kind, model in made.items():
        cached(models / kind / "models--owner--some-name", model)
    (models / "diffusers/models--owner--some-name/snapshots/0123abcd/model_index.json").write_text("{}")
    try:
        assert "mllm/owner/some-name" in comfy.pack("nodes.comfy.encoders.mllms").names()
        assert "clipseg/owner/some-name" in comfy.pack("nodes.comfy.encoders.finders").finder_names()
        assert [
            name for name in comfy.pack("nodes.comfy.models.loading").model_names() if "some-name" in name
        ] == ["diffusers/owner/some-name"]
        for node, inputs in (
            ("InstructBrushLoadMllm", {"mllm_name": "mllm/owner/some-name", "precision": "auto"}),
            (
                "InstructBrushLoadRegionFinder",
                {"finder_name": "clipseg/owner/some-name", "sam_name": "sam-vit-base"},
            ),
            ("InstructBrushLoadModel", {"model_name": "diffusers/owner/some-name"}),
        ):
            graph = comfy.graph()
            inputs = {key: graph.node("PrimitiveString", value=value).out(0) for key, value in inputs.items()}
            assert comfy.values(graph, graph.node(node, **inputs).out(0))[0] is not None
    finally:
        for kind in made:
            shutil.rmtree(models / kind / "models--owner--some-name")


def test_extra_model_paths_add_to_every_kind(comfy, tmp_path):
    from utils.extra_config import load_extra_path_config

    builtin = comfy.pack("core.models.builtin")
    before = {
        kind: (list(folders), suffixes)
        for kind, (folders, suffixes) in comfy.folder_paths.folder_names_and_paths.items()
    }
    config = tmp_path / "extra_model_paths.yaml"
    config.write_text(
        "mine:\n  base_path: .\n"
        + "".join(f"  {kind}: |\n    more/{kind}\n    none/{kind}\n" for kind in KINDS)
    )
    more = tmp_path / "more"
    for kind in ("mllm", "LLM", "grounding_dino", "sam", "clipseg"):
        (more / kind / "extra").mkdir(parents=True)
        (more / kind / "extra" / "config.json").write_text("{}")
    shutil.copytree(builtin.POCKET_FOLDER, more / "diffusers" / "extra")
    (more / "diffusers" / "extra" / "model_index.json").write_text("{}")
    for kind, file in (
        ("instructions", "extra"),
        ("connectors", "extra"),
        ("checkpoints", "extra"),
        ("open_clip", "ViT-B-32-extra"),
        ("lpips", "alexnet"),
    ):
        (more / kind).mkdir(parents=True)
        (more / kind / f"{file}.safetensors").touch()
    try:
        load_extra_path_config(config)
        pack = comfy.pack
        assert "extra.safetensors" in pack("nodes.comfy.folders.paths").instruction_names()
        assert "extra.safetensors" in pack("nodes.comfy.encoders.mllms").connector_names()
        assert {"mllm/extra", "LLM/extra"} <= set(pack("nodes.comfy.encoders.mllms").names())
        assert {"grounding_dino/extra", "clipseg/extra"} <= set(
            pack("nodes.comfy.encoders.finders").finder_names()
        )
        assert "extra" in pack("nodes.comfy.encoders.finders").sam_names()
        assert {"diffusers/extra", "checkpoints/extra.safetensors"} <= set(
            pack("nodes.comfy.models.loading").model_names()
        )
        assert "ViT-B-32/extra" in pack("nodes.comfy.encoders.open_clip").names()
        assert pack("nodes.comfy.encoders.lpips").backbone() is not None
        assert (
            pack("nodes.comfy.models.loading").model_path("diffusers/extra") == more / "diffusers" / "extra"
        )
    finally:
        comfy.folder_paths.folder_names_and_paths.update(before)


def test_a_state_tells_changed_files_and_passes_over_what_cannot_be_read(comfy, listing, tmp_path, refused):
    paths = comfy.pack("nodes.comfy.folders.paths")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").write_bytes(b"1")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    first = paths.folder_state(tmp_path)
    assert paths.folder_state(tmp_path) == first
    (tmp_path / "deep" / "er" / "a.png").write_bytes(b"22")
    second = paths.folder_state(tmp_path)
    assert second != first
    refused.add("er")
    listing._kept.clear()
    assert paths.folder_state(tmp_path) not in (first, second)
    assert paths.folder_state(tmp_path / "nowhere") == paths.folder_state(tmp_path / "nowhere either")
