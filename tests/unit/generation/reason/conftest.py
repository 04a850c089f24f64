import pytest

from instructbrush.core.generation.engine.stage import Row
from instructbrush.tests.unit.generation.reason.scripted_builds import PocketRows


@pytest.fixture(scope="session")
def pocket_row() -> Row:
    """One pair of the pocket world."""
    return next(PocketRows(1).rows(0, 1))
