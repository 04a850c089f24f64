"""The learning nodes that run now: what their panels show after a reload, and what the buttons ask for."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from ....core.errors import LearningError

Action = Literal["use", "later", "best"]
ACTIONS: tuple[Action, ...] = ("use", "later", "best")
"""Ends the run with what is learned so far; stops it, to be resumed; ends it with the state that had the
least error on the held-out pair."""


class ActiveRun(Protocol):
    """A run that a panel shows."""

    run: str
    """Unique id of the run."""
    request: Action | None
    """What the user asked for. The run reads it between two steps."""

    def actions(self) -> tuple[Action, ...]:
        """What can be asked for now."""
        ...

    def summary(self) -> dict[str, Any]:
        """Everything that the panel shows, as one message. Safe in other threads than the run's."""
        ...


Listener = Callable[[Mapping[str, Any]], object]
"""Gets every message of every run, in the run's thread."""

_runs: dict[str, ActiveRun] = {}
_listeners: list[Listener] = []
_Key = tuple[str, str]
"""A node and its inputs. Workflows share ids of nodes, so the id alone does not tell two nodes apart."""

# Run that ended early and can be continued -> its key.
_early: dict[str, _Key] = {}
_more: Counter[_Key] = Counter()
# Node -> its key in the prompt that runs now.
_keys: dict[str, _Key] = {}


@contextmanager
def listed(node: str, run: ActiveRun) -> Iterator[None]:
    """Lists a run while it is active."""
    _runs[node] = run
    for earlier in [earlier for earlier, key in _early.items() if key == _key_of(node)]:
        del _early[earlier]
    try:
        yield
    finally:
        _runs.pop(node, None)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Calls a listener until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def publish(message: Mapping[str, Any]) -> None:
    """Gives a message of a run to all listeners."""
    for listener in list(_listeners):
        listener(message)


def summaries() -> list[dict[str, Any]]:
    """What the panels of all active runs show."""
    return [run.summary() for run in list(_runs.values())]


def any_active() -> bool:
    """Whether a run is active."""
    return bool(_runs)


def ask(node: str, run: str, action: str) -> None:
    """Asks a run to end.

    Args:
        node: the node's execution id.
        run: id of the run, so that a late click does not end the next run.
        action: one of ``ACTIONS``.

    Raises:
        LearningError: the run is not active, or cannot do this now.
    """
    active = _runs.get(node)
    if active is None or active.run != run:
        raise LearningError("This run is over. Press Run to start it again.")
    for known in active.actions():
        if known == action:
            active.request = known
            return
    raise LearningError(f"'{action}' is not possible now. Wait until the panel offers it.")


def allow_learning_on(node: str, run: str) -> None:
    """Says that a node's run ended early, and that a next one would continue it."""
    _early[run] = _key_of(node)


def learn_on(run: str) -> None:
    """Makes the next Run execute a node again, although ComfyUI has its result in its cache.

    Raises:
        LearningError: the run is not the node's last one, or is complete.
    """
    if run not in _early:
        raise LearningError("This run cannot be continued from here. Press Run to start the node again.")
    _more[_early[run]] += 1


def fingerprint(node: str, inputs: Mapping[str, Any]) -> int:
    """Number that changes after ``learn_on``, for fingerprint_inputs.

    Args:
        node: the node's id.
        inputs: those that do not come by wire.
    """
    _keys[node] = (node, repr(sorted(inputs.items())))
    return _more[_keys[node]]


def _key_of(node: str) -> _Key:
    return _keys.get(node, (node, ""))
