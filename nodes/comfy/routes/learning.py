"""Routes of the learning panel: what runs now, and the buttons that end a run."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from ....core.errors import LearningError
from ..learning import active
from ..learning.progress import ENDED
from . import add_route, json_body

LEARN_ON = "on"
_FIELDS = ("node", "run", "action")
_LONGEST_ID = 200
_MOST_WAITING = 100
_ALIVE_SECONDS = 10


def register() -> None:
    """Registers the routes."""
    add_route("GET", "/learning", _running)
    add_route("GET", "/learning/events", _follow)
    add_route("POST", "/learning", _act)


async def _running(_request: web.Request) -> dict[str, Any]:
    return {"runs": active.summaries()}


async def _follow(request: web.Request) -> web.StreamResponse:
    """The messages of the runs that are active, as server-sent events, until one ends; 204 if none is active.

    For a page that was reloaded: ComfyUI may drop its new socket when it notices that the old one is gone.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()

    def add(message: Mapping[str, Any]) -> None:
        if waiting.qsize() < _MOST_WAITING:
            waiting.put_nowait(message)

    with active.heard(lambda message: loop.call_soon_threadsafe(add, message)):
        runs = active.summaries()
        if not runs:
            return web.Response(status=204)
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        response.headers["Cache-Control"] = "no-store"
        # Writing fails once the page is gone.
        with suppress(ConnectionError):
            await response.prepare(request)
            await _send(response, runs, waiting)
    return response


async def _send(
    response: web.StreamResponse, runs: list[dict[str, Any]], waiting: asyncio.Queue[Mapping[str, Any]]
) -> None:
    """Sends what runs show now, then the messages that wait."""
    for run in runs:
        await response.write(_event(run))
    while True:
        if not active.any_active():
            await asyncio.sleep(0)  # the last message of a run that has just ended may be on its way
            if waiting.empty():
                return
        try:
            message = await asyncio.wait_for(waiting.get(), _ALIVE_SECONDS)
        except asyncio.TimeoutError:
            await response.write(b":\n\n")
            continue
        await response.write(_event(message))
        if message["phase"] in ENDED:
            return


def _event(message: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(message)}\n\n".encode()


async def _act(request: web.Request) -> dict[str, Any]:
    """``{"node": execution id, "run": id of the run, "action": "use", "later", "best" or "on"}``."""
    given = await json_body(request)
    texts = [given.get(name) for name in _FIELDS]
    if not all(isinstance(text, str) and len(text) <= _LONGEST_ID for text in texts):
        raise LearningError(f"The learning panel sends {', '.join(_FIELDS)} as texts.")
    node, run, action = map(str, texts)
    if action == LEARN_ON:
        active.learn_on(run)
    elif action in active.ACTIONS:
        active.ask(node, run, action)
    else:
        raise LearningError(f"'{action}' is not an action. Use one of: {', '.join(active.ACTIONS)}, on.")
    return {}
