from pathlib import Path

import pytest
import spacy
from spacy.training import Example

from instructbrush.core.errors import ModelError
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.reason.models.parsers import SpacyParser, cleaned
from instructbrush.core.generation.reason.nouns import NO_NOUNS, nouns_stage
from instructbrush.core.regions.finder import split_phrases

# Words, parts of speech, heads and dependencies.
SENTENCES = (
    ("a small dog sits beside the red ball", "DET ADJ NOUN VERB ADP DET ADJ NOUN",
     (2, 2, 3, 3, 3, 7, 7, 4), "det amod nsubj ROOT prep det amod pobj"),
    ("a butterfly sits on the yellow flower", "DET NOUN VERB ADP DET ADJ NOUN",
     (1, 2, 2, 2, 6, 6, 3), "det nsubj ROOT prep det amod pobj"),
    ("the old man holds a cup", "DET ADJ NOUN VERB DET NOUN",
     (2, 2, 3, 3, 5, 3), "det amod nsubj ROOT det dobj"),
    ("it stands on a table", "PRON VERB ADP DET NOUN", (1, 1, 1, 4, 2), "nsubj ROOT prep det pobj"),
)  # fmt: skip


@pytest.fixture(scope="module")
def parser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline that is trained on a few sentences until it parses them."""
    spacy.util.fix_random_seed(0)
    pipeline = spacy.blank("en")
    tok2vec = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 32, "depth": 2,
               "embed_size": 200, "window_size": 1, "maxout_pieces": 2,
               "subword_features": False}  # fmt: skip
    pipeline.add_pipe("morphologizer", config={"model": {"tok2vec": tok2vec}})
    pipeline.add_pipe("parser", config={"model": {"tok2vec": tok2vec}, "min_action_freq": 1})
    examples = [
        Example.from_dict(
            pipeline.make_doc(text),
            {"pos": tags.split(), "morphs": [""] * len(heads), "heads": list(heads), "deps": deps.split()},
        )
        for text, tags, heads, deps in SENTENCES
    ]
    optimizer = pipeline.initialize(lambda: examples)
    for _ in range(40):
        pipeline.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("spacy") / "tiny"
    pipeline.meta["name"] = "tiny"
    pipeline.to_disk(folder)
    return folder


def test_a_spacy_pipeline_finds_noun_chunks(parser_folder: Path) -> None:
    parser = SpacyParser(str(parser_folder))()
    assert parser.categories("a butterfly sits on the yellow flower") == ["butterfly", "yellow flower"]
    assert parser.categories("it stands on a table") == ["table"]
    row = {"id": "a", "part": 3, "caption": "a small dog sits beside the red ball"}
    (made,) = nouns_stage(SpacyParser(str(parser_folder))).start()(row)
    assert made == {"nouns": ["small dog", "red ball"], "parser": "spacy en_tiny 0.0.0"}


def test_tags_are_enough_without_a_parser(tmp_path: Path) -> None:
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for tag, words in (("NOUN", ("dog", "ball", "park")), ("ADJ", ("red", "small")), ("ADP", ("in",))):
        for word in words:
            ruler.add([[{"LOWER": word}]], {"POS": tag})  # pyright: ignore[reportAttributeAccessIssue]
    for word in ("a", "the", "with", "sits", "beside"):
        ruler.add([[{"LOWER": word}]], {"POS": "X"})  # pyright: ignore[reportAttributeAccessIssue]
    pipeline.to_disk(tmp_path)
    found = SpacyParser(str(tmp_path))().categories("a small dog with the red ball in the park")
    assert found == ["small dog", "red ball", "park"]


def test_rejects_folders_that_are_no_pipeline_and_pipelines_that_find_no_nouns(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no spaCy pipeline"):
        SpacyParser(str(tmp_path / "none"))()
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ModelError, match="neither a parser nor part-of-speech tags"):
        SpacyParser(str(tmp_path / "blank"))()


def test_categories_are_phrases_that_finders_do_not_split() -> None:
    found = cleaned(["a large, brown dog", "The St. Bernard.", "a dog;", "the large brown dog"])
    assert found == ["large brown dog", "st bernard", "dog"]
    assert split_phrases("\n".join(found)) == found


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red circle with a blue hat on grass under a cyan sky",
         ["red circle", "blue hat", "grass", "cyan sky"]),
        ("a green star and an oval", ["green star", "oval"]),
        ("a picture of the whole scene", []),
        ("it", []),
    ],
)  # fmt: skip
def test_the_grammar_finds_the_things_of_simple_captions(caption: str, expected: list[str]) -> None:
    parser = SpacyParser()()
    assert parser.name == "grammar"
    assert parser.categories(caption) == expected


def test_captions_without_things_are_refused() -> None:
    stage = nouns_stage(SpacyParser()).start()
    with pytest.raises(Refused, match=NO_NOUNS):
        stage({"id": "a", "part": 2, "caption": "it is everything"})
    assert stage({"id": "a", "part": 1, "caption": None}) == [{"nouns": None, "parser": None}]
