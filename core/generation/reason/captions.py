"""Captions of images that have none: by BLIP-2 as in the paper, or by any vision-language model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.stage import ID, Row, RowFunction, Stage
from ..errors import Refused
from ..sources.rows import CAPTION, IMAGE
from .filtering import PAIRS
from .models.captioners import Captioner

NO_CAPTION = "there is no caption"


@dataclass(frozen=True)
class _Captions:
    captioner: Callable[[], Captioner] | None

    def __call__(self) -> RowFunction:
        return _Captioning(self.captioner)


class _Captioning:
    """Loads the captioner when the first row has no caption."""

    def __init__(self, start: Callable[[], Captioner] | None) -> None:
        self._start = start
        self._captioner: Captioner | None = None

    def __call__(self, row: Row) -> Sequence[Row]:
        caption = row[CAPTION]
        if row["part"] == PAIRS or caption:
            return [{CAPTION: caption}]
        if self._start is None:
            raise Refused(NO_CAPTION, "name a captioner, or a source with captions")
        self._captioner = self._captioner or self._start()
        return [{CAPTION: self._captioner.caption(row[IMAGE], row[ID])}]


def caption_stage(captioner: Callable[[], Captioner] | None, **plan: Any) -> Stage:
    """Writes captions for images of Parts II and III that have none. Replaces ``caption``.

    Args:
        captioner: loads the captioner; None refuses images without a caption.
        plan: expected ``calls`` of a language model and their ``call_tokens``.
    """
    reads = ("part", IMAGE, CAPTION)
    return Stage("caption", reads, {CAPTION: "text"}, _Captions(captioner), **plan)
