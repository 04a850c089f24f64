"""The routes of the widgets, as ComfyUI's server has them."""

import asyncio
import gzip
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer


def changing_routes(comfy):
    """Paths of the pack's routes that change something."""
    prefix = comfy.pack("nodes.comfy.routes").PREFIX
    ours = [route for route in comfy.server.routes if route.path.startswith(prefix)]
    return [route.path for route in ours if route.method not in ("GET", "HEAD")]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("{}", "text/plain", "must be of the type application/json"),
        ("{", "application/json", "is not JSON"),
        ("[]", "application/json", "must be a JSON table"),
        ('"' + "x" * 70_000 + '"', "application/json", "at most 65536 bytes"),
    ],
)
def test_routes_that_change_something_take_small_json_tables_only(comfy, content, kind, message):
    """A form of another web page cannot send JSON."""
    changing = changing_routes(comfy)
    assert len(changing) > 3

    async def send():
        app = web.Application()
        app.add_routes(comfy.server.routes)
        async with TestClient(TestServer(app)) as client:
            for path in changing:
                headers = {"Content-Type": kind}
                async with client.post(path, data=content, headers=headers) as response:
                    assert response.status == 400, path
                    assert message in (await response.json())["error"], path

    asyncio.run(send())


def test_routes_that_change_something_take_no_compressed_json(comfy):
    """A few compressed bytes can be a very large text."""
    content = gzip.compress(b'{"name": "' + b"x" * 10_000_000 + b'"}')
    assert len(content) < 65_536

    async def send():
        app = web.Application()
        app.add_routes(comfy.server.routes)
        async with TestClient(TestServer(app)) as client:
            for path in changing_routes(comfy):
                headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
                async with client.post(path, data=content, headers=headers) as response:
                    assert response.status == 400, path
                    assert "must not be compressed" in (await response.json())["error"], path

    asyncio.run(send())


HOSTILE = [
    "../../one.safetensors",
    "/etc/passwd",
    "C:\\Windows\\win.ini",
    "one.safetensors\x00",
    "con",
    ".",
    "\u202eone",
    "x" * 300,
    "%2e%2e/x",
    "٣",
]
"""Names that must not become paths."""
JSON_ONLY = [None, 7, 1e300, True, [], {}, [[]], ["../x"] * 17, {"name": "x"}, "x" * 60_000]
FIELDS = ("name", "new_name", "model", "trashed", "node", "run", "action", "folder", "key")
FIELDS_OF_IMAGES = ("folder", "state", "index", "side")


def files_of(comfy):
    return {path: path.stat().st_mtime_ns for path in comfy.base.rglob("*") if path.is_file()}


def test_hostile_requests_are_refused_and_change_nothing(comfy):
    prefix = comfy.pack("nodes.comfy.routes").PREFIX
    ours = [route for route in comfy.server.routes if route.path.startswith(prefix)]
    values = [*HOSTILE, *JSON_ONLY]
    bodies = [*(dict.fromkeys(FIELDS, value) for value in values), *({name: "x"} for name in FIELDS)]
    queries = [dict.fromkeys((*FIELDS, *FIELDS_OF_IMAGES), value) for value in HOSTILE]
    raw = [b"\xff\xfe", b"{" * 60_000, b'{"name": "\\ud800"}', b'{"name": NaN}', b"9" * 60_000]
    before = files_of(comfy)

    async def send():
        app = web.Application()
        app.add_routes(comfy.server.routes)
        async with TestClient(TestServer(app)) as client:
            for route in ours:
                if route.method == "GET":
                    given = [{"params": query} for query in ({}, *queries)]
                else:
                    headers = {"Content-Type": "application/json"}
                    given = [{"json": body} for body in bodies]
                    given += [{"data": content, "headers": headers} for content in raw]
                for options in given:
                    async with client.request(route.method, route.path, **options) as response:
                        answer = await response.read()
                    place = (route.method, route.path, str(options)[:80], answer[:200])
                    assert response.status in ((200, 204, 400) if route.method == "GET" else (400,)), place
                    assert response.status != 400 or json.loads(answer)["error"], place

    asyncio.run(send())
    assert files_of(comfy) == before
