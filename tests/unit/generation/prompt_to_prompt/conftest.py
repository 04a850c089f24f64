"""One small model of each layout for all tests here."""

import pytest

from instructbrush.core.generation.prompt_to_prompt.model import TextToImage, load_text_to_image
from instructbrush.tests.support.text_to_image.tiny_models import write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextToImage]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: load_text_to_image(write_model(folder / kind, kind)) for kind in ("sd15", "sdxl")}
