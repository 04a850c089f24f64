"""Routes of ComfyUI's server for the widgets. They take names from the pack's own lists, never paths.

Each module of this folder registers the routes of one widget with ``register``.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from aiohttp import web
from server import PromptServer

from ....core.errors import InstructBrushError
from ....core.storage.json_text import parse_json

PREFIX = "/instructbrush"
_MODULES: tuple[str, ...] = ("gallery", "learning", "pairs")

_MOST_BODY_BYTES = 64 * 1024

Answer = Callable[[web.Request], Awaitable[Any]]


def register() -> None:
    """Registers all routes."""
    for name in _MODULES:
        import_module(f".{name}", __name__).register()


def add_route(method: str, path: str, answer: Answer) -> None:
    """Adds a route under ``/instructbrush``.

    Args:
        method: GET or POST.
        path: such as ``/gallery``; ``{name}`` is a part that the handler reads from ``match_info``.
        answer: returns a response, or plain values for a JSON response. Its ``InstructBrushError`` becomes
            status 400 with ``{"error": text}``.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            answered = await answer(request)
        except InstructBrushError as error:
            return web.json_response({"error": str(error)}, status=400)
        return answered if isinstance(answered, web.StreamResponse) else web.json_response(answered)

    PromptServer.instance.routes.route(method, f"{PREFIX}{path}")(handle)


async def json_body(request: web.Request) -> dict[str, Any]:
    """Returns the JSON table of a POST request.

    Raises:
        InstructBrushError: it is of another type, compressed, too large, or damaged.
    """
    # Other pages can send forms to this server, but JSON only if the server allows it.
    if request.content_type != "application/json":
        raise InstructBrushError("The request must be of the type application/json.")
    # Its length would be that before decompression.
    if request.headers.get("Content-Encoding"):
        raise InstructBrushError("The request must not be compressed.")
    if request.content_length is None or request.content_length > _MOST_BODY_BYTES:
        raise InstructBrushError(f"The request must be JSON of at most {_MOST_BODY_BYTES} bytes.")
    try:
        body = parse_json(await request.read())
    except ValueError as error:
        raise InstructBrushError(f"The request is not JSON ({error}).") from error
    if not isinstance(body, dict):
        raise InstructBrushError("The request must be a JSON table.")
    return body
