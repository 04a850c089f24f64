"""Routes of the instruction gallery: list, thumbnails, workflows, rename, trash and restore."""

import asyncio
import io
import logging
from typing import Any

from aiohttp import web

from ....core.errors import InstructBrushError, ModelError
from ....core.instruction.file import read_thumbnail
from ..folders import instruction_cards, instruction_moves
from ..models.loading import family_of
from . import add_route, json_body

_MOST_NAME = 4096
_MOST_RESTORED = 16
_THUMBNAIL = (768, 768)
# The address changes with the file, so the image behind it never does.
_FOREVER = "private, max-age=31536000, immutable"


def register() -> None:
    """Registers the routes."""
    add_route("GET", "/gallery", _list)
    add_route("GET", "/gallery/thumbnail", _thumbnail)
    add_route("GET", "/gallery/workflow", _workflow)
    add_route("GET", "/gallery/family", _family)
    add_route("POST", "/gallery/rename", _rename)
    add_route("POST", "/gallery/trash", _trash)
    add_route("POST", "/gallery/restore", _restore)


async def _list(_request: web.Request) -> Any:
    return await asyncio.to_thread(instruction_cards.gallery)


async def _thumbnail(request: web.Request) -> web.Response:
    image, version = await asyncio.to_thread(_jpeg, _query(request, "name"))
    current = request.query.get("v") == version
    headers = {
        "Cache-Control": _FOREVER if current else "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=image, content_type="image/jpeg", headers=headers)


async def _workflow(request: web.Request) -> Any:
    return await asyncio.to_thread(instruction_cards.graph_of, _query(request, "name"))


async def _family(request: web.Request) -> Any:
    """The family of one of Load InstructPix2Pix's models; None if it is no editing model."""
    model = _query(request, "model")
    try:
        return {"family": (await asyncio.to_thread(family_of, model)).name}
    except ModelError as error:
        logging.debug("InstructBrush: %s", error)
        return {"family": None}


async def _rename(request: web.Request) -> Any:
    body = await json_body(request)
    name, new_name = _text(body, "name"), _text(body, "new_name")
    return {"name": await asyncio.to_thread(instruction_moves.rename, name, new_name)}


async def _trash(request: web.Request) -> Any:
    name = _text(await json_body(request), "name")
    return {"trashed": await asyncio.to_thread(instruction_moves.to_trash, name)}


async def _restore(request: web.Request) -> Any:
    trashed = (await json_body(request)).get("trashed")
    if (
        not isinstance(trashed, list)
        or not 0 < len(trashed) <= _MOST_RESTORED
        or not all(isinstance(name, str) and len(name) <= _MOST_NAME for name in trashed)
    ):
        raise InstructBrushError("The request needs 'trashed', a list of names.")
    await asyncio.to_thread(instruction_moves.restore, trashed)
    return {}


def _jpeg(name: str) -> tuple[bytes, str]:
    path = instruction_cards.listed_path(name)
    version = instruction_cards.version(path)
    image = read_thumbnail(path)
    if image is None:
        raise InstructBrushError("This instruction has no thumbnail.")
    image.thumbnail(_THUMBNAIL)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=90)
    return written.getvalue(), version


def _query(request: web.Request, key: str) -> str:
    return _text(dict(request.query), key)


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or len(value) > _MOST_NAME:
        raise InstructBrushError(f"The request needs '{key}', a text.")
    return value
