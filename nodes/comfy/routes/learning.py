"""Routes of the learning panel: what runs now, and the buttons that end a run."""

from typing import Any

from aiohttp import web

from ....core.errors import LearningError
from ..learning import active
from . import add_route

LEARN_ON = "on"
_FIELDS = ("node", "run", "action")
_LONGEST_ID = 200


def register() -> None:
    """Registers the routes."""
    add_route("GET", "/learning", _running)
    add_route("POST", "/learning", _act)


async def _running(_request: web.Request) -> dict[str, Any]:
    return {"runs": active.summaries()}


async def _act(request: web.Request) -> dict[str, Any]:
    """``{"node": execution id, "run": id of the run, "action": "use", "later", "best" or "on"}``."""
    try:
        given = await request.json()
    except ValueError as error:
        raise LearningError("The learning panel sends JSON.") from error
    texts = [given.get(name) if isinstance(given, dict) else None for name in _FIELDS]
    if not all(isinstance(text, str) and len(text) <= _LONGEST_ID for text in texts):
        raise LearningError(f"The learning panel sends {', '.join(_FIELDS)} as texts.")
    node, run, action = map(str, texts)
    if action == LEARN_ON:
        active.learn_on(node, run)
    elif action in active.ACTIONS:
        active.ask(node, run, action)
    else:
        raise LearningError(f"'{action}' is not an action. Use one of: {', '.join(active.ACTIONS)}, on.")
    return {}
