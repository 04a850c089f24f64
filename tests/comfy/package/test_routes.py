"""The routes of the widgets, as ComfyUI's server has them."""

import asyncio

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
