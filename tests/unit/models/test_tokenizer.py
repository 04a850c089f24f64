"""CLIP's tokenizer, rebuilt from the vocabulary that open_clip ships."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from instructbrush.core.models.tokenizer import clip_tokenizer


def test_rebuilt_tokenizer_matches_clip(repository: Path) -> None:
    rebuilt = clip_tokenizer()
    # Known ids of CLIP's vocabulary, where ComfyUI's files are not at hand.
    assert rebuilt("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(rebuilt) == 49408 and rebuilt.model_max_length == 77
    stock = repository / ".comfyui" / "ComfyUI" / "comfy" / "sd1_tokenizer"
    if not stock.is_dir():
        pytest.skip("the rest compares with the files that ComfyUI ships")
    reference = CLIPTokenizer.from_pretrained(stock, local_files_only=True)
    assert rebuilt.get_vocab() == reference.get_vocab()
    for text in (
        "turn it into a teal hat",
        "Ünïcode  naïve 漢字 🙂",
        "it's 1234 -- (a:1.2) !?",
        "",
        "x" * 60,
    ):
        assert rebuilt(text).input_ids == reference(text).input_ids
