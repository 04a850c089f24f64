"""What a stage raises to end one row."""


class Refused(Exception):  # noqa: N818 (a row's end, not a fault)
    """A row cannot go on. Refusals are counted by reason.

    Args:
        reason: a short sentence, the same for all rows that are refused for it.
        detail: what was wrong with this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
