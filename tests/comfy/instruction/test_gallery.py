"""The routes of the instruction gallery: what they list, refuse, rename, remove and bring back."""

import asyncio
import io
import json
import os
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from instructbrush.tests.comfy.graphs import instruction

ROUTE = "/instructbrush/gallery"
HOSTILE = [
    "",
    "..",
    "../up.safetensors",
    "/etc/passwd",
    "a\\..\\b.safetensors",
    "trash/../one.safetensors",
    "no_such.safetensors",
    "one.safetensors\x00",
    "x" * 5000,
    "\ud800.safetensors",
]


class Gallery:
    """Sends requests to the pack's routes on the real server object."""

    def __init__(self, comfy):
        self.comfy = comfy
        self.paths = comfy.pack("nodes.comfy.folders.paths")
        self.folder = self.paths.output_instructions()
        self.loop = asyncio.new_event_loop()
        app = web.Application()
        app.add_routes(comfy.server.routes)
        self.client = self.loop.run_until_complete(self._start(app))

    async def _start(self, app):
        client = TestClient(TestServer(app))
        await client.start_server()
        return client

    def close(self):
        self.loop.run_until_complete(self.client.close())
        self.loop.close()

    def request(self, method, path, **options):
        """Returns (status, headers, body)."""

        async def send():
            async with self.client.request(method, ROUTE + path, **options) as response:
                return response.status, response.headers, await response.read()

        return self.loop.run_until_complete(send())

    def get(self, path="", **query):
        status, _, body = self.request("GET", path, params=query)
        return status, json.loads(body)

    def post(self, path, values):
        status, _, body = self.request("POST", path, json=values)
        return status, json.loads(body)

    def save(self, name, seed=0, folder=None, **options):
        path = (folder or self.folder) / name
        learned = instruction(self.comfy, seed)
        save = self.comfy.pack("core.instruction.file").save_instruction
        return save(learned, path, overwrite=True, **options)

    def cards(self):
        return {card["name"]: card for card in self.get()[1]["cards"]}


@pytest.fixture
def gallery(comfy, tmp_path, monkeypatch):
    monkeypatch.setattr(comfy.folder_paths, "output_directory", str(tmp_path / "output"))
    roots, suffixes = comfy.folder_paths.folder_names_and_paths["instructions"]
    mine = [str(tmp_path / "models"), str(tmp_path / "output" / "instructions"), roots[-1]]
    monkeypatch.setitem(comfy.folder_paths.folder_names_and_paths, "instructions", (mine, suffixes))
    opened = Gallery(comfy)
    opened.models = tmp_path / "models"
    yield opened
    opened.close()


def red_and_blue():
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    return image


def test_lists_facts_of_every_file(gallery):
    extra = {"workflow": '{"nodes": []}', "prompt": "{}"}
    path = gallery.save("weather/snow.safetensors", thumbnail=red_and_blue(), extra=extra)
    status, listed = gallery.get()
    sdxl = {"title": "InstructPix2Pix (SDXL)", "width": 2048, "side": 1024}
    assert status == 200 and listed["families"]["sdxl"] == sdxl
    card = next(card for card in listed["cards"] if card["name"] == "weather/snow.safetensors")
    info = instruction(gallery.comfy, 0).info
    assert card["parts"] == [{"family": info.family, "space": "attention"}]
    assert (card["words"], card["steps"]) == (info.init_text, info.steps)
    assert card["segments"] == info.segments == 5
    assert card["thumbnail"] and card["workflow"] and card["changeable"]
    assert card["size"] == path.stat().st_size and card["facts"][0]["model"]
    example = next(card for card in listed["cards"] if card["name"] == "plum_and_mint.safetensors")
    assert not example["changeable"] and "error" not in example


def test_damaged_files_are_cards_with_their_error(gallery):
    whole = gallery.save("whole.safetensors").read_bytes()
    for name, content in {
        "cut": whole[:-10],
        "empty": b"",
        "foreign": b"\x02\0\0\0\0\0\0\0{}",
        "noise": os.urandom(200),
        "no_json": (8).to_bytes(8, "little") + b"not json",
    }.items():
        (gallery.folder / f"{name}.safetensors").write_bytes(content)
    cards = gallery.cards()
    errors = {name: card["error"] for name, card in cards.items() if "error" in card}
    assert sorted(errors) == [
        f"{name}.safetensors" for name in ("cut", "empty", "foreign", "no_json", "noise")
    ]
    assert "cut short" in errors["cut.safetensors"] and "words" in cards["whole.safetensors"]
    # A damaged file can still be moved away.
    assert gallery.post("/trash", {"name": "cut.safetensors"})[0] == 200


def test_reads_a_file_again_only_when_it_changed(gallery, monkeypatch):
    module = gallery.comfy.pack("nodes.comfy.folders.instruction_cards")
    read = []
    real = module.checked_header
    monkeypatch.setattr(module, "checked_header", lambda path: read.append(path.name) or real(path))
    gallery.save("once.safetensors")
    first = gallery.cards()["once.safetensors"]
    gallery.cards()
    assert read.count("once.safetensors") == 1
    gallery.save("once.safetensors", 3)
    assert gallery.cards()["once.safetensors"]["version"] != first["version"]
    assert read.count("once.safetensors") == 2


def test_thumbnail_is_cached_by_its_version(gallery):
    gallery.save("shown.safetensors", thumbnail=red_and_blue())
    version = gallery.cards()["shown.safetensors"]["version"]
    query = {"name": "shown.safetensors", "v": version}
    status, headers, body = gallery.request("GET", "/thumbnail", params=query)
    assert status == 200 and headers["Content-Type"] == "image/jpeg"
    assert "immutable" in headers["Cache-Control"] and headers["X-Content-Type-Options"] == "nosniff"
    image = Image.open(io.BytesIO(body))
    assert image.size == (64, 32)
    red, blue = image.getpixel((5, 16)), image.getpixel((60, 16))
    assert red[0] > 200 > 60 > red[2] and blue[2] > 200 > 60 > blue[0]
    _, headers, _ = gallery.request("GET", "/thumbnail", params={**query, "v": "old"})
    assert headers["Cache-Control"] == "no-store"


def test_returns_the_workflow_of_a_file(gallery):
    gallery.save("graph.safetensors", extra={"workflow": '{"nodes": [1]}', "prompt": "damaged"})
    gallery.save("none.safetensors")
    assert gallery.get("/workflow", name="graph.safetensors") == (200, {"workflow": {"nodes": [1]}})
    status, answer = gallery.get("/workflow", name="none.safetensors")
    assert status == 400 and "no workflow" in answer["error"]


def test_graphs_have_only_numbers_that_browsers_read(gallery):
    prompt = '{"1": {"is_changed": [NaN, Infinity, -Infinity, 1e999, 2.5]}}'
    gallery.save("both.safetensors", extra={"workflow": '{"nodes": [NaN]}', "prompt": prompt})
    gallery.save("prompt.safetensors", extra={"prompt": prompt})
    for name, graph in (
        ("both", {"workflow": {"nodes": [None]}}),
        ("prompt", {"prompt": {"1": {"is_changed": [None] * 4 + [2.5]}}}),
    ):
        assert gallery.get("/workflow", name=f"{name}.safetensors") == (200, graph)


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_names_that_are_not_listed(gallery, name):
    path = gallery.save("one.safetensors", thumbnail=red_and_blue())
    before = path.read_bytes()
    for answer in (
        gallery.post("/rename", {"name": name, "new_name": "two"}),
        gallery.post("/trash", {"name": name}),
        gallery.post("/restore", {"trashed": [name]}),
    ):
        assert answer[0] == 400 and answer[1]["error"]
    if name.isprintable():
        for route in ("/thumbnail", "/workflow"):
            assert gallery.get(route, name=name)[0] == 400
    assert path.read_bytes() == before


@pytest.mark.parametrize("new_name", [*HOSTILE[:5], "con", "a:b", "trash/x", "unfinished/x", "y" * 300])
def test_refuses_new_names_as_save_instruction_does(gallery, new_name):
    path = gallery.save("one.safetensors")
    status, answer = gallery.post("/rename", {"name": "one.safetensors", "new_name": new_name})
    assert status == 400 and answer["error"] and path.exists()
    assert [each.name for each in path.parent.parent.rglob("*.safetensors")] == ["one.safetensors"]


def test_refuses_forms_of_other_pages(gallery):
    path = gallery.save("one.safetensors")
    body = b'{"name": "one.safetensors"}'
    status, _, answer = gallery.request("POST", "/trash", data=body, headers={"Content-Type": "text/plain"})
    assert status == 400 and "application/json" in json.loads(answer)["error"] and path.exists()


def test_renames_and_never_overwrites(gallery):
    first, second = gallery.save("first.safetensors", 1), gallery.save("second.safetensors", 2)
    hidden = gallery.save("third.safetensors", 3, folder=gallery.models)
    content, other = first.read_bytes(), second.read_bytes()
    for taken in ("second", "third", "second.safetensors", "plum_and_mint"):
        status, answer = gallery.post("/rename", {"name": "first.safetensors", "new_name": taken})
        assert status == 400 and "exists already" in answer["error"]
    assert (first.read_bytes(), second.read_bytes()) == (content, other) and hidden.exists()
    values = {"name": "first.safetensors", "new_name": " sky/dawn "}
    assert gallery.post("/rename", values) == (200, {"name": "sky/dawn.safetensors"})
    assert (gallery.folder / "sky" / "dawn.safetensors").read_bytes() == content and not first.exists()
    # A file stays in its own folder of models.
    gallery.post("/rename", {"name": "third.safetensors", "new_name": "fourth"})
    assert (gallery.models / "fourth.safetensors").exists()


@pytest.mark.parametrize("new_name", ["Trash/one", ".hidden/one", "a/" * 9 + "one"])
def test_refuses_new_names_that_the_gallery_would_not_list(gallery, new_name):
    path = gallery.save("one.safetensors")
    status, answer = gallery.post("/rename", {"name": "one.safetensors", "new_name": new_name})
    assert status == 400 and path.exists(), answer


@pytest.mark.parametrize("name", ["trash/one", "Unfinished/one", " trash/deep/one.safetensors"])
def test_nothing_is_saved_where_the_gallery_would_not_list_it(gallery, name):
    graph = gallery.comfy.graph()
    learned = gallery.comfy.give(graph, instruction(gallery.comfy, 0))
    graph.node("InstructBrushSave", instruction=learned, name=name, if_taken="overwrite")
    message = gallery.comfy.error(graph)
    assert message == f"The folder '{name.split('/')[0].strip()}' has its own use. Choose another name."
    assert not list(gallery.folder.rglob("one*"))


def test_examples_of_the_pack_cannot_be_changed(gallery):
    for route, more in (("/rename", {"new_name": "mine"}), ("/trash", {})):
        status, answer = gallery.post(route, {"name": "plum_and_mint.safetensors", **more})
        assert status == 400 and "example" in answer["error"]


def test_trash_keeps_files_and_undo_brings_them_back(gallery):
    paths = [gallery.save("a/one.safetensors", 1), gallery.save("one.safetensors", 2, folder=gallery.models)]
    contents = [path.read_bytes() for path in paths]
    for name, path, content in zip(("a/one.safetensors", "one.safetensors"), paths, contents, strict=True):
        status, answer = gallery.post("/trash", {"name": name})
        assert status == 200 and not path.exists() and name not in gallery.cards()
        assert (gallery.paths.trash() / answer["trashed"][0]).read_bytes() == content
        assert name not in gallery.paths.instruction_names()
        assert gallery.post("/restore", answer) == (200, {})
        assert path.read_bytes() == content and name in gallery.cards()
        assert gallery.post("/restore", answer)[0] == 400


@pytest.mark.skipif(os.name == "nt", reason="Windows may allow no links")
def test_links_point_to_the_same_file_wherever_they_are_moved(gallery):
    kept = gallery.save("kept/real.safetensors", folder=gallery.models.parent)
    link = gallery.folder / "deep" / "link.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(kept, link.parent))
    status, answer = gallery.post("/trash", {"name": "deep/link.safetensors"})
    assert status == 200 and not link.is_symlink()
    assert (gallery.paths.trash() / answer["trashed"][0]).samefile(kept)
    assert gallery.post("/restore", answer) == (200, {})
    assert link.is_symlink() and link.samefile(kept)
    link.unlink()
    link.symlink_to(os.path.relpath(kept, link.parent))
    assert gallery.post("/rename", {"name": "deep/link.safetensors", "new_name": "up"})[0] == 200
    up = gallery.folder / "up.safetensors"
    assert up.is_symlink() and up.samefile(kept)


def test_trash_keeps_several_files_of_one_name_and_restores_none_over_another(gallery):
    trashed = []
    for seed in (1, 2):
        path = gallery.save("same.safetensors", seed)
        trashed.append((path.read_bytes(), gallery.post("/trash", {"name": "same.safetensors"})[1]))
    for content, answer in trashed:
        assert (gallery.paths.trash() / answer["trashed"][0]).read_bytes() == content
    assert gallery.post("/restore", trashed[0][1])[0] == 200
    status, answer = gallery.post("/restore", trashed[1][1])
    assert status == 400 and "exists again" in answer["error"] and path.read_bytes() == trashed[0][0]
    assert (gallery.paths.trash() / trashed[1][1]["trashed"][0]).exists()


def test_files_move_to_another_disk_without_links(gallery, monkeypatch):
    def refuse(*_given, **_options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    path = gallery.save("far.safetensors")
    content = path.read_bytes()
    assert gallery.post("/trash", {"name": "far.safetensors"}) == (200, {"trashed": ["far.safetensors"]})
    assert (gallery.paths.trash() / "far.safetensors").read_bytes() == content and not path.exists()


def test_unfinished_runs_have_a_shelf_of_their_own(gallery):
    folder = gallery.paths.unfinished()
    gallery.save("abc.safetensors", folder=folder, extra={"workflow": '{"nodes": []}'})
    (folder / "abc.checkpoint").write_bytes(b"state")
    (folder / "def.checkpoint").write_bytes(b"damaged")
    (folder / "ghi.damaged").write_bytes(b"set aside")
    listed = gallery.get()[1]
    assert not [card for card in listed["cards"] if card["name"].startswith("unfinished/")]
    run, killed = listed["unfinished"]
    assert (
        run["stem"] == "abc" and run["workflow"] and run["steps"] == instruction(gallery.comfy, 0).info.steps
    )
    assert killed["stem"] == "def" and "cut short" in killed["error"]
    for stem, files in (("abc", 2), ("def", 1)):
        status, answer = gallery.post("/trash", {"name": f"unfinished/{stem}.safetensors"})
        assert status == 200 and len(answer["trashed"]) == files
        assert gallery.post("/restore", answer)[0] == 200
    assert (folder / "abc.checkpoint").read_bytes() == b"state" and (folder / "abc.safetensors").exists()


def test_tells_the_family_of_a_model(gallery):
    assert gallery.get("/family", model="pocket editor (built in)") == (200, {"family": "pocket"})
    for name in ("checkpoints/../x", "checkpoints/none.safetensors", ""):
        assert gallery.get("/family", model=name) == (200, {"family": None})


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"name": 3}', b"\xff", b" " * 100_000])
def test_refuses_other_requests(gallery, body):
    for route in ("/rename", "/trash", "/restore"):
        for kind in ("application/json", "text/plain"):
            status, _, answer = gallery.request("POST", route, data=body, headers={"Content-Type": kind})
            assert status == 400 and json.loads(answer)["error"]
        assert gallery.request("GET", route)[0] == 405


def test_lists_300_files_in_half_a_second(gallery):
    noise = Image.effect_noise((256, 128), 80)
    content = gallery.save("0.safetensors", thumbnail=noise, extra={"workflow": json.dumps([0] * 9000)})
    for number in range(1, 300):
        (gallery.folder / f"{number}.safetensors").write_bytes(content.read_bytes())
    began = time.process_time()
    assert len(gallery.cards()) >= 300
    first = time.process_time() - began
    began = time.process_time()
    gallery.cards()
    assert time.process_time() - began < 0.2 and first < 2


def test_finds_the_graph_that_runs_now(comfy, monkeypatch):
    metadata = comfy.pack("nodes.comfy.folders.metadata")
    queue = comfy.server.prompt_queue
    assert metadata.running_graph() == {}
    extra_data = {"extra_pnginfo": {"workflow": {"nodes": []}}}
    queue.put((0, "id", {"1": {}}, extra_data, [], {}))
    _, number = queue.get()
    try:
        assert metadata.running_graph() == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'}
        from comfy.cli_args import args

        monkeypatch.setattr(args, "disable_metadata", True)
        assert metadata.running_graph() == {}
    finally:
        queue.currently_running.pop(number)


def test_file_that_is_open_on_windows_stays_where_it_is(gallery, monkeypatch):
    moves = gallery.comfy.pack("nodes.comfy.folders.moves")
    monkeypatch.setattr(moves, "is_windows", lambda: True)
    path = gallery.save("busy.safetensors")

    def refuse(*_given, **_options):
        raise PermissionError(13, "The process cannot access the file")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        status, answer = gallery.post("/rename", {"name": "busy.safetensors", "new_name": "free"})
    assert status == 400 and "has the file open" in answer["error"]
    assert path.exists() and not path.with_stem("free").exists()
    assert gallery.post("/rename", {"name": "busy.safetensors", "new_name": "free"})[0] == 200
    assert path.with_stem("free").exists() and not path.exists()
