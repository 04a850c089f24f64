"""Folders of models: the Hugging Face cache and extra_model_paths.yaml."""

import shutil

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


def copy_as_cached(model, folder):
    """Copies a model in the layout of the Hugging Face cache: a snapshot of links to blobs."""
    for file in sorted(path for path in model.rglob("*") if path.is_file()):
        name = file.relative_to(model)
        blob = folder / "blobs" / str(name).replace("/", "_")
        link = folder / "snapshots" / "0123abcd" / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(blob)


def test_models_in_the_hugging_face_cache_have_their_hub_names(comfy):
    builtin = comfy.pack("core.models.builtin")
    models = comfy.base / "models"
    sources = {
        "mllm": builtin.POCKET_READER_FOLDER,
        "clipseg": builtin.POCKET_FINDER_FOLDER,
        "diffusers": builtin.POCKET_FOLDER,
    }
    for kind, model in sources.items():
        copy_as_cached(model, models / kind / "models--owner--some-name")
    (models / "diffusers/models--owner--some-name/snapshots/0123abcd/model_index.json").write_text("{}")
    try:
        assert "mllm/owner/some-name" in comfy.pack("nodes.comfy.encoders.mllms").names()
        assert "clipseg/owner/some-name" in comfy.pack("nodes.comfy.encoders.finders").finder_names()
        models_listed = comfy.pack("nodes.comfy.models.loading").model_names()
        assert [name for name in models_listed if "some-name" in name] == ["diffusers/owner/some-name"]
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
        for kind in sources:
            shutil.rmtree(models / kind / "models--owner--some-name")


def write_models(folder, pocket_folder):
    """Writes an empty model of every kind below a folder."""
    for kind in ("mllm", "LLM", "grounding_dino", "sam", "clipseg"):
        (folder / kind / "extra").mkdir(parents=True)
        (folder / kind / "extra" / "config.json").write_text("{}")
    shutil.copytree(pocket_folder, folder / "diffusers" / "extra")
    (folder / "diffusers" / "extra" / "model_index.json").write_text("{}")
    for kind, file in (
        ("instructions", "extra"),
        ("connectors", "extra"),
        ("checkpoints", "extra"),
        ("open_clip", "ViT-B-32-extra"),
        ("lpips", "alexnet"),
    ):
        (folder / kind).mkdir(parents=True)
        (folder / kind / f"{file}.safetensors").touch()


def test_extra_model_paths_add_models_of_every_kind(comfy, tmp_path):
    from utils.extra_config import load_extra_path_config

    known = comfy.folder_paths.folder_names_and_paths
    before = {kind: (list(folders), suffixes) for kind, (folders, suffixes) in known.items()}
    config = tmp_path / "extra_model_paths.yaml"
    lines = [f"  {kind}: |\n    more/{kind}\n    none/{kind}\n" for kind in KINDS]
    config.write_text("mine:\n  base_path: .\n" + "".join(lines))
    more = tmp_path / "more"
    write_models(more, comfy.pack("core.models.builtin").POCKET_FOLDER)
    mllms = comfy.pack("nodes.comfy.encoders.mllms")
    finders = comfy.pack("nodes.comfy.encoders.finders")
    models = comfy.pack("nodes.comfy.models.loading")
    try:
        load_extra_path_config(config)
        assert "extra.safetensors" in comfy.pack("nodes.comfy.folders.paths").instruction_names()
        assert "extra.safetensors" in mllms.connector_names()
        assert {"mllm/extra", "LLM/extra"} <= set(mllms.names())
        assert {"grounding_dino/extra", "clipseg/extra"} <= set(finders.finder_names())
        assert "extra" in finders.sam_names()
        assert {"diffusers/extra", "checkpoints/extra.safetensors"} <= set(models.model_names())
        assert "ViT-B-32/extra" in comfy.pack("nodes.comfy.encoders.open_clip").names()
        assert comfy.pack("nodes.comfy.encoders.lpips").backbone() is not None
        assert models.model_path("diffusers/extra") == more / "diffusers" / "extra"
    finally:
        known.update(before)


def test_a_kind_keeps_the_file_types_of_other_packs(comfy):
    known = comfy.folder_paths.folder_names_and_paths
    before = known["open_clip"]
    try:
        known["open_clip"] = (before[0], {".onnx"})
        comfy.pack("nodes.comfy.folders.model_folders").register("open_clip")
        assert known["open_clip"][1] == {".onnx", ".safetensors"}
    finally:
        known["open_clip"] = before


def test_a_file_that_two_workflows_read_is_read_again_after_a_change(comfy):
    states = {"snow": "1"}
    files = comfy.pack("nodes.shared.node").FileFingerprints(lambda name: states[name])
    files.fingerprint(None)
    files.record("snow")
    by_wire = files.fingerprint(None)
    assert files.fingerprint(None) == by_wire
    states["snow"] = "2"
    files.record("snow")  # by the widget of another workflow
    assert files.fingerprint(None) != by_wire


def test_a_model_that_is_replaced_is_loaded_again(comfy):
    folder = comfy.base / "models" / "diffusers" / "replaced"
    shutil.copytree(comfy.pack("core.models.builtin").POCKET_FOLDER, folder)
    try:
        loader = comfy.nodes["InstructBrushLoadModel"]
        before = loader.fingerprint_inputs("diffusers/replaced")
        assert loader.fingerprint_inputs("diffusers/replaced") == before
        (folder / "unet" / "config.json").touch()
        assert loader.fingerprint_inputs("diffusers/replaced") != before
    finally:
        shutil.rmtree(folder)
