import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import ModelError
from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language.models import UNUSABLE
from instructbrush.core.generation.reason.captions import NO_CAPTION, caption_stage
from instructbrush.core.generation.reason.models.captioners import (
    AskedCaptioner,
    FolderCaptioner,
    read_caption,
)
from instructbrush.tests.support import tiny_mllms
from instructbrush.tests.unit.generation.reason.scripted_builds import Replies
from instructbrush.tools.build_demo.pocket_rows import encoded

IMAGE = encoded(np.random.default_rng(0).random((48, 64, 3)))


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded BLIP-2 of the public layout: vision model, Q-Former, OPT."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    folder = tmp_path_factory.mktemp("blip2")
    words = tiny_mllms.tokenizer()
    vision = Blip2VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    bridge = Blip2QFormerConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        encoder_hidden_size=16, vocab_size=64,
    )  # fmt: skip
    text = OPTConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=48,
        word_embed_proj_dim=32, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=4,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=bridge.to_dict(), text_config=text.to_dict(),
        num_query_tokens=4, image_token_index=3,
    )  # fmt: skip
    tiny_mllms.drawn(Blip2ForConditionalGeneration(config), 1).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    images.save_pretrained(folder)
    return folder


def test_blip2_from_a_folder_captions_as_transformers_does(
    blip2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import BytesIO

    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    from instructbrush.core.generation.reason.models import captioners

    processor = Blip2Processor.from_pretrained(blip2)
    model = Blip2ForConditionalGeneration.from_pretrained(blip2)
    inputs = processor(images=Image.open(BytesIO(IMAGE["bytes"])), return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=captioners._MOST_TOKENS, do_sample=False, num_beams=1)
    expected = processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert expected.strip()
    # Seeded weights write no sentence, so what they write is compared before it is read as a caption.
    monkeypatch.setattr(captioners, "_refusing", lambda answer: answer)
    assert FolderCaptioner(str(blip2))().caption(IMAGE, "a") == expected


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "there is no model.safetensors in"),
        ("tokenizer.json", "BLIP-2 'own': tokenizer.json or tokenizer.model or vocab.json and merges.txt is"),
    ],
)
def test_blip2_needs_all_its_files(blip2: Path, tmp_path: Path, missing: str, message: str) -> None:
    own = tmp_path / "own"
    shutil.copytree(blip2, own)
    (own / missing).unlink()
    with pytest.raises(ModelError, match=message):
        FolderCaptioner(str(own))()


def test_the_built_in_reader_captions_the_pocket_world(pocket_row: Row) -> None:
    row = {**pocket_row, "part": 3, "caption": None}
    (made,) = caption_stage(FolderCaptioner()).start()(row)
    assert any(
        word in made["caption"] for word in ("circle", "star", "oval", "square", "ring", "cross", "a ")
    )
    assert '{"' not in made["caption"]


def test_a_caption_of_the_source_is_kept_without_loading_a_captioner() -> None:
    stage = caption_stage(FolderCaptioner("/does/not/exist")).start()
    assert stage({"id": "a", "part": 2, "image": None, "caption": "a dog"}) == [{"caption": "a dog"}]
    assert stage({"id": "a", "part": 1, "image": None, "caption": None}) == [{"caption": None}]
    with pytest.raises(Refused, match=NO_CAPTION):
        caption_stage(None).start()({"id": "a", "part": 2, "image": IMAGE, "caption": None})


def test_a_language_model_that_sees_is_asked_until_it_captions() -> None:
    model = Replies("I'm sorry, I can't see images.", "", 'Caption: "A dog on a sofa."')
    (made,) = caption_stage(AskedCaptioner(model)).start()(
        {"id": "a", "part": 3, "image": IMAGE, "caption": None}
    )
    assert made["caption"] == "A dog on a sofa"
    assert model.questions[0].image == IMAGE["bytes"]
    with pytest.raises(Refused, match=UNUSABLE):
        AskedCaptioner(Replies("", "...", "-"))().caption(IMAGE, "a")


def test_rejects_language_models_that_do_not_see() -> None:
    blind = Replies()
    blind.sees_images = False
    with pytest.raises(ModelError, match="does not see images"):
        AskedCaptioner(blind)()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "no words"),
        (" 12 ", "no words"),
        ("a dog " * 60, "characters"),
        ("As an AI I cannot", "no caption"),
    ],
)
def test_rejects_answers_that_are_no_captions(answer: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_caption(answer)
