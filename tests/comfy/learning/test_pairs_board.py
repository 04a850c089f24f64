"""The board of Load Edit Pairs: decisions, masks, the held-out pair in learning nodes, and the routes."""

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from instructbrush.tests.comfy.graphs import Parts, learning


def put(comfy, folder, *names, size=(32, 24)):
    for name in names:
        path = comfy.base / "input" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    return folder


def four(comfy, folder):
    return put(comfy, folder, *(f"{number}_{side}.png" for number in range(4) for side in (0, 1)))


def load(comfy, **inputs):
    graph = comfy.graph()
    return comfy.values(graph, graph.node("InstructBrushLoadPairs", size=0, **inputs).out(0))[0]


def test_node_follows_its_board(comfy):
    folder = four(comfy, "board_node")
    assert [pair.name for pair in load(comfy, folder=folder)] == ["0", "1", "2", "3"]
    board = json.dumps({"order": ["3"], "skip": ["1"], "held_out": "0"})
    pairs = load(comfy, folder=folder, board=board)
    assert [pair.name for pair in pairs] == ["3", "0", "2"] and pairs.held_out == 1


def test_names_a_malformed_board(comfy):
    folder = four(comfy, "board_bad")
    graph = comfy.graph()
    link = graph.node("InstructBrushLoadPairs", folder=folder, size=0, board='{"skip": 3}').out(0)
    assert comfy.error(graph, link).startswith(
        'Load Edit Pairs: board must be empty or JSON such as {"skip": ["3"], "held_out": "1"} (skip is 3).'
    )


@pytest.mark.parametrize(
    ("hold_out", "star", "learned", "watched"),
    [(0, "", "0123", "0"), (0, "2", "013", "2"), (1, "2", "123", "0"), (4, "", "012", "3")],
)
def test_star_holds_a_pair_out_unless_the_learning_node_does(comfy, hold_out, star, learned, watched):
    pairs = load(comfy, folder=four(comfy, "board_star"), board=json.dumps({"held_out": star}))
    common = comfy.pack("nodes.learning.runs").CommonInputs.__new__(
        comfy.pack("nodes.learning.runs").CommonInputs
    )
    object.__setattr__(common, "pairs", pairs)
    object.__setattr__(common, "hold_out", hold_out)
    rest, shown = common.split_pairs()
    assert "".join(pair.name for pair in rest) == learned and shown.name == watched


def test_rejects_a_pair_to_hold_out_that_does_not_exist(comfy):
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), hold_out=4, steps=2)
    assert comfy.error(graph, node.out(0)).startswith(
        "Pair to hold out is 4, but there are 3 pairs. Choose a smaller number, or none."
    )


def test_learning_follows_star_and_masks(comfy):
    folder = put(
        comfy, "board_learn", *(f"{at}_{side}.png" for at in (0, 1) for side in (0, 1)), size=(64, 64)
    )

    for turns, name in enumerate(("0_1.png", "1_0.png", "1_1.png"), start=1):
        path = comfy.base / "input" / folder / name
        Image.open(path).rotate(90 * turns).save(path)

    def learned(board=None, **changes):
        graph = comfy.graph()
        loaded = graph.node(
            "InstructBrushLoadPairs", folder=folder, size=0, board=json.dumps(board) if board else ""
        )
        node = learning(
            graph, comfy, Parts(graph), pairs=loaded.out(0), steps=6, guidance="default", **changes
        )
        (instruction,) = comfy.values(graph, node.out(0))
        return torch.cat([tensor.flatten() for tensor in instruction.keys.values()])

    whole = learned()
    assert torch.equal(learned({"held_out": "1"}), learned(hold_out=2))
    assert not torch.equal(learned({"held_out": "1"}), whole)
    mask = comfy.base / "input" / folder / "0_mask.png"
    Image.new("L", (64, 64), 255).save(mask)
    # Everywhere white is everywhere.
    assert torch.equal(learned(), whole)
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(mask)
    assert not torch.equal(learned(), whole) and torch.equal(learned({"no_mask": ["0"]}), whole)


def ask(comfy, *requests):
    """Answers of the pack's routes: (method, path, parameters or JSON body) -> (status, content)."""

    async def run():
        app = web.Application()
        app.add_routes(comfy.server.routes)
        found = []
        async with TestClient(TestServer(app)) as client:
            for method, path, given in requests:
                kind = {"params": given} if method == "GET" else {"json": given}
                response = await client.request(method, f"/instructbrush{path}", **kind)
                read = response.json if "json" in response.content_type else response.read
                found.append((response.status, await read()))
        return found

    return asyncio.run(run())


def test_routes_tell_what_a_folder_holds(comfy):
    folder = four(comfy, "sub/board_routes")
    (comfy.base / "input" / folder / "3_1.png").unlink()
    ((status, answer),) = ask(comfy, ("GET", "/pairs", {"folder": folder}))
    assert status == 200 and answer["own"] is True and answer["layout"] == "names"
    assert [pair["problem"] for pair in answer["pairs"]] == ["", "", "", "partner"]
    image = {"folder": folder, "state": answer["state"], "index": "1", "side": "after"}
    ((status, content),) = ask(comfy, ("GET", "/pairs/image", image))
    assert status == 200 and Image.open(io.BytesIO(content)).size == (32, 24)
    ((status, answer),) = ask(comfy, ("GET", "/pairs", {"folder": "hours_passed (example)"}))
    assert status == 200 and answer["own"] is False and answer["pairs"]


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("/pairs", {"folder": "nowhere"}, "Pairs folder 'nowhere' does not exist"),
        ("/pairs", {"folder": "../output"}, "Name '../output' cannot be used"),
        ("/pairs", {"folder": "/etc"}, "Name '/etc' cannot be used"),
        ("/pairs", {}, "Name '' cannot be used"),
        ("/pairs/image", {"index": "9"}, "Pairs board: there is no pair '9'"),
        ("/pairs/image", {"index": "-1"}, "Pairs board: there is no pair '-1'"),
        ("/pairs/image", {"index": "0", "side": "mask"}, "Pairs board: pair '0' has no image 'mask'"),
        ("/pairs/image", {"index": "0", "side": "../x"}, "Pairs board: pair '0' has no image '../x'"),
    ],
)
def test_routes_refuse_what_is_not_there(comfy, path, given, message):
    folder = four(comfy, "board_refuse")
    given = {"folder": folder, **given} if path.endswith("image") else given
    ((status, answer),) = ask(comfy, ("GET", path, given))
    assert status == 400 and answer["error"].startswith(message)


def test_browsers_keep_only_images_of_the_folders_present_state(comfy):
    folder = four(comfy, "board_cache")
    state = ask(comfy, ("GET", "/pairs", {"folder": folder}))[0][1]["state"]
    assert caching(comfy, folder, state).startswith("private, max-age=")
    assert caching(comfy, folder, "older") == "no-store"


def caching(comfy, folder, state):
    async def run():
        app = web.Application()
        app.add_routes(comfy.server.routes)
        query = {"folder": folder, "state": state, "index": "0", "side": "after"}
        async with TestClient(TestServer(app)) as client:
            response = await client.get("/instructbrush/pairs/image", params=query)
            assert response.status == 200
            return response.headers["Cache-Control"]

    return asyncio.run(run())


def test_masks_of_one_name_do_not_replace_each_other_in_the_trash(comfy, tmp_path):
    move_to_free = comfy.pack("nodes.comfy.folders.moves").move_to_free
    masks = [tmp_path / f"{number}.png" for number in range(40)]
    for mask in masks:
        mask.write_text(mask.name)
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda mask: move_to_free(mask, tmp_path / "trash" / "mask.png"), masks))
    assert [path.read_text() for path in moved] == [mask.name for mask in masks]
    assert not any(mask.exists() for mask in masks)
    with pytest.raises(comfy.pack("core.errors").StorageError, match=r"'0\.png' is gone from"):
        move_to_free(masks[0], tmp_path / "trash" / "mask.png")


def test_replaced_masks_go_to_the_trash(comfy):
    folder = put(comfy, "board_trash", "a_0.png", "a_1.png", "a_mask.png")
    wanted = {"folder": folder, "key": "a"}
    answers = ask(comfy, *[("POST", "/pairs/trash_mask", wanted)] * 2)
    assert answers == [(200, {"trashed": True}), (200, {"trashed": False})]
    assert not (comfy.base / "input" / folder / "a_mask.png").exists()
    trash = comfy.base / "output" / "instructbrush_trash" / "pairs" / folder
    assert [file.name for file in trash.iterdir()] == ["a_mask.png"]
    example = {"folder": "hours_passed (example)", "key": "0"}
    answers = ask(comfy, ("POST", "/pairs/trash_mask", example), ("POST", "/pairs/trash_mask", []))
    assert [status for status, _ in answers] == [400, 400]
    assert answers[0][1]["error"].startswith("Examples of the pack cannot be changed.")
