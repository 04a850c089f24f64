"""Routes of the pairs board in Load Edit Pairs: what a folder holds, and small images of it."""

import asyncio
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from aiohttp import web

from ....core.errors import PairError
from ....core.pairs.survey import Survey, SurveyedPair, survey, thumbnail_of
from ....core.pairs.table_images import image_at
from ..folders import examples, paths
from ..folders.moves import move_to_free
from . import add_route, json_body

_MOST_KEPT = 16
_DAY = 24 * 60 * 60
# (folder, state of its files) -> what it holds, so that each image of a board need not list the folder again.
_surveys: OrderedDict[tuple[str, str], Survey] = OrderedDict()


def register() -> None:
    """Adds the routes of the board."""
    add_route("GET", "/pairs", _folder)
    add_route("GET", "/pairs/image", _image)
    add_route("POST", "/pairs/trash_mask", _trash_mask)


async def _folder(request: web.Request) -> dict[str, Any]:
    """The pairs of ``folder``. ``own`` says whether it is below ComfyUI's input folder."""
    name = request.query.get("folder", "")
    state, found = await asyncio.to_thread(_surveyed, name)
    return {"folder": name, "own": examples.pairs_path(name) is None, "state": state, **asdict(found)}


async def _image(request: web.Request) -> web.Response:
    """A thumbnail: ``side`` (before, after or mask) of the pair ``index`` of ``folder`` in ``state``."""
    query = request.query
    content, current = await asyncio.to_thread(
        _thumbnail, *(query.get(name, "") for name in ("folder", "state", "index", "side"))
    )
    # Another state of the folder may have another image in this place.
    headers = {"Cache-Control": f"private, max-age={_DAY}" if current else "no-store"}
    return web.Response(body=content, content_type="image/jpeg", headers=headers)


async def _trash_mask(request: web.Request) -> dict[str, Any]:
    """Moves the mask of a pair to the trash folder, before another one takes its place."""
    wanted = await json_body(request)
    folder, key = wanted.get("folder"), wanted.get("key")
    if not isinstance(folder, str) or not isinstance(key, str):
        raise PairError("Pairs board: the request needs a folder and the key of a pair.")
    return {"trashed": await asyncio.to_thread(_trashed, folder, key)}


def _surveyed(name: str) -> tuple[str, Survey]:
    folder = paths.pairs_path(name)
    state = paths.folder_state(folder)
    found = _surveys.get((name, state))
    if found is None:
        found = _surveys[name, state] = survey(folder)
        while len(_surveys) > _MOST_KEPT:
            _surveys.popitem(last=False)
    return state, found


def _thumbnail(name: str, state: str, index: str, side: str) -> tuple[bytes, bool]:
    """A thumbnail, and whether it belongs to this state of the folder."""
    folder = paths.pairs_path(name)
    kept = _surveys.get((name, state))
    current, found = (state, kept) if kept else _surveyed(name)
    pair = _pair(found, index)
    file = {"before": pair.before, "after": pair.after, "mask": pair.mask}.get(side)
    if file is None:
        raise PairError(f"Pairs board: pair '{pair.name}' has no image '{side[:20]}'.")
    return thumbnail_of(image_at(folder, file.file)), current == state


def _pair(found: Survey, index: str) -> SurveyedPair:
    number = int(index) if index.isdecimal() and len(index) < 6 else -1
    if not 0 <= number < len(found.pairs):
        raise PairError(f"Pairs board: there is no pair '{index[:20]}'.")
    return found.pairs[number]


def _trashed(name: str, key: str) -> bool:
    if examples.pairs_path(name) is not None:
        raise PairError(
            "Examples of the pack cannot be changed. Drop your images to make a folder of your own."
        )
    folder = paths.pairs_path(name)
    pair = next((pair for pair in _surveyed(name)[1].pairs if pair.key and pair.key == key), None)
    if pair is None or pair.mask is None:
        return False
    move_to_free(folder / pair.mask.file, paths.pairs_trash() / name.strip() / pair.mask.file)
    return True
