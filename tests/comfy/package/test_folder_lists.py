"""Lists of folders and files: links, odd names, changes, and no reading while nothing changes."""

import os
import shutil

import pytest

from instructbrush.tests.comfy.graphs import instruction, write_pairs

# A time so long ago that the list can rely on it.
OLD = 1_600_000_000


def test_forgets_a_folder_that_vanishes(comfy, listing, paths):
    folder = comfy.base / "output" / "instructions" / "passing"
    save = comfy.pack("core.instruction.file").save_instruction
    save(instruction(comfy), folder / "by.safetensors", overwrite=True)
    assert "passing/by.safetensors" in paths.instruction_names()
    shutil.rmtree(folder)
    assert "passing/by.safetensors" not in paths.instruction_names()


def test_follows_links_in_a_ring_only_once(comfy, listing, paths):
    root = comfy.base / "input" / "ring"
    write_pairs(root / "pairs")
    for place, target in (
        ("back", root),
        ("pairs/up", root),
        ("self", root / "self"),
        ("nowhere", root / "gone"),
    ):
        (root / place).symlink_to(target)
    assert [name for name in paths.pairs_folders() if name.startswith("ring")] == ["ring/pairs"]
    link = comfy.base / "models" / "instructions" / "ring"
    link.symlink_to(comfy.base / "models")
    try:
        assert len(paths.instruction_names()) < 100
    finally:
        link.unlink()


def test_leaves_out_names_that_no_input_can_carry(comfy, schemas, listing, paths):
    before = paths.pairs_folders()
    names = ("back\\slash", "line\nfeed", " space ", "half\udc80")
    for name in names:
        write_pairs(comfy.base / "input" / name, 1, 16)
    try:
        assert schemas()
        assert paths.pairs_folders() == before
    finally:
        for name in names:
            shutil.rmtree(comfy.base / "input" / name)


def test_lists_a_folder_of_any_layout_once(comfy, listing, paths):
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
    listed = [name for name in paths.pairs_folders() if name.startswith("layouts")]
    assert listed == ["layouts/lines", "layouts/listed", "layouts/sides", "layouts/tree"]


def test_reads_a_folder_again_only_after_a_change(listing, tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    scandir = os.scandir
    read = []

    def counted(path="."):
        read.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    # Recent folders are read each time, because they may change again without a new time.
    assert listing.entries(tmp_path).files == listing.entries(tmp_path).files == ("a.png",)
    assert len(read) == 2
    os.utime(tmp_path, (OLD, OLD))
    assert listing.entries(tmp_path).files == listing.entries(tmp_path).files == ("a.png",)
    assert len(read) == 3
    (tmp_path / "b.png").touch()
    os.utime(tmp_path, (OLD + 1, OLD + 1))
    assert listing.entries(tmp_path).files == ("a.png", "b.png")
    assert len(read) == 4


def test_checks_the_targets_of_links_each_time(listing, tmp_path):
    link = tmp_path / "folder" / "link"
    target = tmp_path / "target"
    link.parent.mkdir()
    link.symlink_to(target)
    os.utime(link.parent, (OLD, OLD))
    assert listing.entries(link.parent).folders == ()
    target.mkdir()
    assert listing.entries(link.parent).folders == ("link",)
    target.rmdir()
    assert listing.entries(link.parent).folders == ()


def test_reads_no_folder_while_nothing_changes(comfy, listing, paths, monkeypatch):
    root = comfy.base / "input" / "many"
    for number in range(20):
        (root / f"{number}").mkdir(parents=True)
        for image in range(50):
            (root / f"{number}" / f"{image}.png").touch()
    try:
        for folder in (comfy.base / "input").rglob("*/"):
            os.utime(folder, (OLD, OLD))
        os.utime(comfy.base / "input", (OLD, OLD))
        first = paths.pairs_folders()
        monkeypatch.setattr(os, "scandir", lambda path=".": pytest.fail(f"{path} is read again"))
        assert paths.pairs_folders() == first and "many/7" in first
    finally:
        monkeypatch.undo()
        shutil.rmtree(root)


def test_lists_and_loads_linked_folders_and_files(comfy, paths, tmp_path):
    write_pairs(tmp_path / "far")
    file = tmp_path / "far.safetensors"
    comfy.pack("core.instruction.file").save_instruction(instruction(comfy), file)
    instructions = comfy.base / "models" / "instructions"
    links = {
        comfy.base / "input" / "near": tmp_path / "far",
        instructions / "linked_file.safetensors": file,
        instructions / "linked_folder": tmp_path,
    }
    names = ("linked_file.safetensors", "linked_folder/far.safetensors")
    for link, target in links.items():
        link.symlink_to(target)
    try:
        assert "near" in paths.pairs_folders()
        assert set(names) <= set(paths.instruction_names())
        graph = comfy.graph()
        pairs, first, second = comfy.values(
            graph,
            graph.node("InstructBrushLoadPairs", folder="near", size=0).out(0),
            *(graph.node("InstructBrushLoad", name=name).out(0) for name in names),
        )
        assert len(pairs) == 2
        assert first.context.equal(second.context)
    finally:
        for link in links:
            link.unlink()


def test_folder_state_changes_with_files_and_skips_unreadable_folders(listing, paths, tmp_path, unreadable):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").write_bytes(b"1")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    first = paths.folder_state(tmp_path)
    assert paths.folder_state(tmp_path) == first
    (tmp_path / "deep" / "er" / "a.png").write_bytes(b"22")
    second = paths.folder_state(tmp_path)
    assert second != first
    unreadable.add("er")
    listing._cache.clear()
    assert paths.folder_state(tmp_path) not in (first, second)
    assert paths.folder_state(tmp_path / "nowhere") == paths.folder_state(tmp_path / "nowhere either")


def test_looks_again_where_folders_keep_their_time(listing, tmp_path, monkeypatch):
    """As on exFAT under Windows."""
    (tmp_path / "a.png").touch()
    os.utime(tmp_path, (OLD, OLD))
    assert listing.entries(tmp_path).files == ("a.png",)
    (tmp_path / "b.png").touch()
    (tmp_path / "._b.png").touch()  # macOS keeps attributes there
    os.utime(tmp_path, (OLD, OLD))
    assert listing.entries(tmp_path).files == ("a.png",)
    monkeypatch.setattr(listing, "is_windows", lambda: True)
    monkeypatch.setattr(listing, "_TRUSTED_SECONDS", 0.0)
    assert listing.entries(tmp_path).files == ("a.png", "b.png")
