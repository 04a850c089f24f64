"""Start-up: a broken module, node or folder does not remove other nodes."""

import pytest

from instructbrush.tests.comfy.graphs import write_pairs
from instructbrush.tests.comfy.package.test_model_folders import KINDS
from instructbrush.tests.support.node_names import NODES


def test_gives_all_nodes(load_pack):
    assert set(load_pack()) == set(NODES)


def test_module_that_cannot_be_imported_removes_only_its_own_nodes(comfy, load_pack, monkeypatch, warnings):
    nodes = comfy.pack("nodes")
    monkeypatch.setattr(nodes, "_NODES", {"nowhere": ("Gone", "Lost"), **nodes._NODES})
    monkeypatch.setattr(nodes, "_REGISTERED", ("nowhere", *nodes._REGISTERED))
    assert set(load_pack()) == set(NODES)
    assert warnings() == [
        "InstructBrush: nodes/comfy/nowhere.py could not register its folders, models or routes. "
        "Nodes that need them may not work.",
        "InstructBrush: nodes/nowhere.py cannot be imported. Its nodes (Gone, Lost) are left out; the "
        "other nodes work.",
    ]


def test_node_that_cannot_describe_itself_removes_no_other(comfy, load_pack, monkeypatch, warnings):
    def broken(cls):
        raise OSError("share is gone")

    node = comfy.pack("nodes.regions.finding").LoadRegionFinder
    monkeypatch.setattr(node, "define_schema", classmethod(broken))
    assert set(load_pack()) == set(NODES) - {"InstructBrushLoadRegionFinder"}
    assert warnings() == [
        "InstructBrush: the node LoadRegionFinder cannot describe itself. It is left out; the other nodes "
        "work."
    ]


def test_missing_input_folder_leaves_the_examples(comfy, schemas, listing, warnings):
    away = (comfy.base / "input").rename(comfy.base / "away")
    try:
        for _ in range(3):
            folder = schemas()["InstructBrushLoadPairs"]["input"]["required"]["folder"]
        options = folder[1]["options"]
        assert options and all(name.endswith(" (example)") for name in options)
        assert warnings() == [
            f"InstructBrush: ComfyUI's input folder {comfy.base / 'input'} does not exist."
            " Load Edit Pairs lists only the pack's examples."
        ]
    finally:
        away.rename(comfy.base / "input")


def test_warns_once_about_an_unreadable_folder_and_leaves_it_out(
    comfy, schemas, listing, paths, unreadable, warnings
):
    write_pairs(comfy.base / "input" / "readable")
    write_pairs(comfy.base / "input" / "lost+found")
    (comfy.base / "models" / "mllm" / "private").mkdir(parents=True, exist_ok=True)
    unreadable.update({"lost+found", "private"})
    for _ in range(3):
        assert set(schemas()) == set(NODES)
        folders = paths.pairs_folders()
        assert "readable" in folders and "lost+found" not in folders
    messages = warnings()
    assert len(messages) == 2
    for message in messages:
        assert "cannot be read ([Errno 13] Permission denied" in message
        assert message.endswith(" not listed.")


@pytest.mark.parametrize("kind", KINDS)
def test_works_without_each_folder_of_models(comfy, schemas, load_pack, listing, unreadable, kind):
    folder = comfy.base / "models" / kind
    folder.mkdir(parents=True, exist_ok=True)
    unreadable.add(kind)
    assert set(schemas()) == set(NODES)
    away = folder.rename(comfy.base / "away")
    try:
        assert set(schemas()) == set(NODES)
        folder.symlink_to(comfy.base / "nowhere")
        assert set(load_pack()) == set(schemas()) == set(NODES)
    finally:
        folder.unlink(missing_ok=True)
        away.rename(folder)
