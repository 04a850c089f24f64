"""Unique phrases: ranking and chain of clip-interrogator, Eq. 6 and 7 by hand, word lists and caches."""

import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructbrush.core.encoders.clip_loading import open_clip_model
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import LearningError, ModelError
from instructbrush.core.learning.init_text import vocabulary
from instructbrush.core.learning.init_text.phrases import (
    Phrase,
    PhraseSettings,
    chain,
    choose_phrases,
    default_eta,
    instruction_text,
    rank,
    sensitivities,
    set_features,
    unique_phrases,
)
from instructbrush.core.learning.init_text.vocabulary import (
    INTERROGATOR,
    LISTS,
    encode_phrases,
    list_features,
    lists_for,
    read_list,
)
from instructbrush.core.pairs.pairs import make_pairs
from instructbrush.tests.support import tiny_clip

CHUNK = 128


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_clip_model(tiny_clip.NAME, tiny_clip.write(tmp_path_factory.mktemp("phrases")))


@pytest.fixture(scope="module")
def pocket_model():
    return pocket_clip()


@pytest.fixture(scope="module")
def interrogator(tmp_path_factory):
    """clip-interrogator on the same open_clip model, with the first phrases of each of its lists and small
    chunks, so that it ranks in parts."""
    theirs = pytest.importorskip("clip_interrogator.clip_interrogator")
    folder = tmp_path_factory.mktemp("interrogator")
    (folder / "data").mkdir()
    for name in ("artists", "flavors", "mediums", "movements"):
        lines = [line.removeprefix("by ") for line in read_list(name)][: 500 if name == "flavors" else 60]
        (folder / "data" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data" / "negative.txt").write_text("blurry\n")
    config = theirs.Config(
        caption_model_name=None, clip_model_name=tiny_clip.NAME, cache_path=None, download_cache=False,
        chunk_size=CHUNK,
        data_path=str(folder / "data"), device="cpu", flavor_intermediate_count=100, quiet=True,
    )  # fmt: skip
    config.clip_model, config.clip_preprocess = tiny_clip.reference(folder), None
    with pytest.warns(FutureWarning):
        return theirs.Interrogator(config), theirs._merge_tables


def features_of(clip, seed):
    return set_features(clip, list(torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(seed))))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_rank_and_chain_match_clip_interrogator(clip, interrogator, seed):
    theirs, merge = interrogator
    features = features_of(clip, seed)
    table = merge([theirs.flavors, theirs.mediums, theirs.movements], theirs)
    assert len(table.labels) > 4 * CHUNK
    candidates = table.rank(features[None], 100)
    ours = rank(features, table.labels, encode_phrases(clip, table.labels).half(), 100, CHUNK)
    assert ours == candidates and len(set(ours)) > 90
    short = theirs.mediums.rank(features[None], 20)
    assert (
        rank(features, theirs.mediums.labels, encode_phrases(clip, theirs.mediums.labels).half(), 20, CHUNK)
        == short
    )

    found = chain(clip, features, candidates, 5)
    assert len(found.phrases) == 5
    # Their chain returns only its best beginning. Asked for one phrase more, it shows each choice.
    text = found.phrases[0]
    assert theirs.chain(features[None], candidates, min_count=0, max_count=0) == text
    for place in range(1, 5):
        left = set(candidates) - set(found.phrases[:place])
        text = theirs.chain(features[None], left, text, -2.0, min_count=1, max_count=1)
        assert text == ", ".join(found.phrases[: place + 1])
        assert theirs.similarity(features[None], text) == pytest.approx(found.similarities[place], abs=1e-5)
    assert theirs.chain(features[None], candidates, min_count=4, max_count=4) == ", ".join(found.best)
    for minimum in (0, 2):
        ended = chain(clip, features, candidates, 12, minimum)
        assert theirs.chain(features[None], candidates, min_count=minimum, max_count=11) == ", ".join(
            ended.best
        )


@pytest.mark.filterwarnings("ignore")
def test_chain_stops_at_a_full_window_like_clip_interrogator(clip, interrogator):
    theirs, _ = interrogator
    features = features_of(clip, 9)
    candidates = [
        f"{word} of a very long phrase with many words in it"
        for word in ("cats", "dogs", "birds", "boats", "clouds", "stones")
    ]
    found = chain(clip, features, candidates, 6)
    assert 1 < len(found.phrases) < 6
    assert theirs.chain(features[None], candidates, min_count=5, max_count=5) == ", ".join(found.best)


def test_sensitivity_matches_eq_6_by_hand(clip):
    """sens(p) = mean over x of cos(p, x) - mean over y of cos(p, y), written out image by image."""
    before = list(torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(1)))
    after = list(torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(2)))
    words = ["a cat", "oil painting", "night"]

    def cosine(text, image):
        first, second = clip.encode_texts([text])[0].double(), clip.encode_images(image[None])[0].double()
        return float((first * second).sum() / (first.pow(2).sum().sqrt() * second.pow(2).sum().sqrt()))

    x, y = set_features(clip, before), set_features(clip, after)
    by_hand = [
        sum(cosine(word, p) for p in before) / 2 - sum(cosine(word, p) for p in after) / 2 for word in words
    ]
    assert sensitivities(clip, words, x, y) == pytest.approx(by_hand, abs=1e-5)
    assert sensitivities(clip, words, y, x) == pytest.approx([-value for value in by_hand], abs=1e-5)
    assert sensitivities(clip, words, x, y, 100.0) == pytest.approx(
        [100 * value for value in by_hand], abs=1e-3
    )


def phrase(text, side, value):
    return Phrase(text, side, value)


def test_template_gets_the_most_sensitive_phrases():
    table = (
        phrase("a photo", "before", 0.2),
        phrase("a cat", "before", 0.3),
        phrase("snow", "after", 0.15),
        phrase("ice", "after", 0.1),
    )
    found = choose_phrases(table, 0.15)
    assert (found.before, found.after, found.init_text) == ("a cat", "snow", "turn a cat into snow")
    assert found.describe().splitlines() == [
        "set     phrase   sensitivity",
        "before  a photo  +0.2000",
        "before  a cat    +0.3000  *",
        "after   snow     +0.1500  *",
        "after   ice      +0.1000",
        "eta 0.15. Init text: turn a cat into snow",
    ]


def test_eq_7_omits_phrases_that_are_not_unique_enough():
    table = (phrase("a cat", "before", 0.1), phrase("snow", "after", 0.4))
    assert choose_phrases(table, 0.2).init_text == "turn it into snow"
    assert (
        choose_phrases(table, 0.2).remark
        == "Init text: turn it into snow (no phrase of the images before the edit is unique enough)"
    )
    none = choose_phrases((phrase("a cat", "before", 0.9), phrase("snow", "after", 0.1999)), 0.2)
    assert (none.before, none.after, none.init_text) == ("a cat", "", "")
    assert none.remark == (
        "No init text: the highest sensitivity after the edit is 0.1999 ('snow'), below eta. Learning "
        "starts from an empty text; a lower eta accepts the phrase."
    )
    assert [instruction_text(*sides) for sides in (("a", "b"), ("", "b"), ("a", ""), ("", ""))] == [
        "turn a into b",
        "turn it into b",
        "",
        "",
    ]


@pytest.fixture(scope="module")
def night():
    """Pairs of the held-out effect ``night_snow``."""
    from instructbrush.tools.pocket.world.held_out_effects import EFFECTS

    before, after = EFFECTS["night_snow"].pairs(4, 1)
    return make_pairs(torch.from_numpy(before), torch.from_numpy(after))


@pytest.mark.slow
def test_pocket_clip_finds_words_for_a_held_out_edit(pocket_model, night, tmp_path):
    seen = []
    found = unique_phrases(
        pocket_model, night, cache=tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert (
        found.after in ("night", "snow")
        and found.init_text.endswith(f" into {found.after}")
        and found.eta == default_eta(pocket_model) == 0.25
    )
    assert [entry.side for entry in found.table] == ["before"] * 5 + ["after"] * 5
    assert seen[-1] == (300, 300) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    again = unique_phrases(pocket_model, night, cache=tmp_path)
    assert again == found, "a cached list gives what a fresh one gave"
    assert unique_phrases(pocket_model, night, PhraseSettings(eta=2.0), tmp_path).init_text == ""
    scaled = unique_phrases(pocket_model, night, PhraseSettings(scale=10.0, eta=2.5), tmp_path)
    assert scaled.init_text == found.init_text and scaled.table[0].sensitivity == pytest.approx(
        10 * found.table[0].sensitivity, abs=1e-5
    )
    assert len(unique_phrases(pocket_model, night, PhraseSettings(count=1), tmp_path).table) == 2


def test_finds_no_unique_phrase_without_a_change(pocket_model, night):
    images = torch.stack([pair.before for pair in night])
    found = unique_phrases(pocket_model, make_pairs(images, images))
    assert found.init_text == "" and all(entry.sensitivity == 0 for entry in found.table)


def test_accepts_pairs_of_several_sizes(pocket_model):
    from instructbrush.core.pairs.pairs import EditPairs

    small = make_pairs(torch.rand(1, 40, 50, 3), torch.rand(1, 40, 50, 3))[0]
    large = make_pairs(torch.rand(1, 90, 50, 3), torch.rand(1, 90, 50, 3))[0]
    assert len(unique_phrases(pocket_model, EditPairs((small, large)), PhraseSettings(count=2)).table) == 4


def test_stops_when_the_user_cancels(pocket_model, night, tmp_path):
    class CancelledError(Exception):
        pass

    def cancel(done, total):
        raise CancelledError

    with pytest.raises(CancelledError):
        unique_phrases(pocket_model, night, cache=tmp_path, progress=cancel)
    assert list(tmp_path.iterdir()) == []


def test_lists_match_clip_interrogator(interrogator):
    assert (
        len(read_list("flavors")) == 100_970
        and len(read_list("mediums")) == 95
        and len(read_list("movements")) == 200
    )
    assert read_list("artists")[0].startswith("by ") and len(read_list("artists")) == 2 * 5265
    assert sorted(read_list("trending")) == sorted(interrogator[0].trendings.labels)
    assert read_list("artists")[:60] == [
        label for label in interrogator[0].artists.labels if label.startswith("by ")
    ]


def test_pocket_list_matches_its_tool():
    from instructbrush.tools.pocket.world.phrases import phrases

    assert read_list("pocket") == phrases() and len(set(read_list("pocket"))) == len(read_list("pocket"))


def test_takes_the_default_lists_of_the_model(clip, pocket_model):
    assert (
        lists_for(pocket_model) == ("pocket",)
        and lists_for(clip) == ("flavors", "mediums", "movements") == INTERROGATOR[:3]
    )
    assert default_eta(clip) == 0.05


@pytest.mark.parametrize(
    ("name", "eta"),
    [("ViT-H-14/laion2b_s32b_b79k", 0.15), ("ViT-L-14/openai", 0.03), ("ViT-L-14/laion2b_s32b_b82k", 0.03)],
)
def test_eta_depends_on_the_architecture_of_the_clip(name, eta):
    assert default_eta(SimpleNamespace(name=name)) == eta


def test_computes_features_once_and_in_chunks(clip, tmp_path, monkeypatch):
    seen = []
    words, first = list_features(clip, "pocket", tmp_path, lambda done, total: seen.append((done, total)))
    assert (
        seen == [(256, len(words)), (len(words), len(words))]
        and first.dtype == torch.float16
        and first.shape == (len(words), 24)
    )
    torch.testing.assert_close(first.float(), encode_phrases(clip, words), atol=1e-3, rtol=0)
    (file,) = tmp_path.iterdir()
    _, second = list_features(clip, "pocket", tmp_path, lambda *_: pytest.fail("computed again"))
    assert torch.equal(first, second)
    # None of these is used: another model's file, a shorter list's, values that are not finite, half a file.
    good = load_file(file)["features"]
    for spoilt in (
        lambda: save_file({"features": good}, file, metadata={"model": "another", "list": "another"}),
        lambda: save_file({"features": good[:3]}, file, metadata=metadata(file)),
        lambda: save_file({"features": good * float("nan")}, file, metadata=metadata(file)),
        lambda: file.write_bytes(file.read_bytes()[:100]),
    ):
        spoilt()
        assert torch.equal(list_features(clip, "pocket", tmp_path)[1], first)
        assert torch.equal(load_file(file)["features"], first)
    monkeypatch.setattr(vocabulary, "read_list", lambda name: words[1:])
    assert (
        len(list_features(clip, "pocket", tmp_path)[1]) == len(words) - 1
        and len(list(tmp_path.iterdir())) == 2
    )


def metadata(file):
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def refused(kind, message):
    return pytest.raises(kind, match="^" + re.escape(message) + "$")


def test_names_the_command_that_installs_clip_interrogator(monkeypatch, clip, night):
    monkeypatch.setattr(vocabulary, "find_spec", lambda name: None)
    message = (
        "Word list 'flavors' comes with the package clip-interrogator, which is not installed. Run: pip "
        "install --no-deps clip-interrogator. Or choose the list 'pocket'."
    )
    with refused(ModelError, message):
        unique_phrases(clip, night)
    assert unique_phrases(clip, night, PhraseSettings(lists=["pocket", "trending", "pocket"])).table


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"count": 0},
            "Unique Phrases: 0 phrases for a caption are out of range. Choose 1 to 32; the paper takes 5.",
        ),
        (
            {"count": 33},
            "Unique Phrases: 33 phrases for a caption are out of range. Choose 1 to 32; the paper takes 5.",
        ),
        (
            {"eta": float("nan")},
            "Unique Phrases: eta nan is not a finite number. Choose about 0.25 for this model.",
        ),
        (
            {"scale": 0.0},
            "Unique Phrases: the similarity scale 0.0 must be above 0. 1 leaves cosines as they are.",
        ),
        (
            {"scale": float("inf")},
            "Unique Phrases: the similarity scale inf must be above 0. 1 leaves cosines as they are.",
        ),
        ({"lists": []}, "Unique Phrases: no word list was chosen. Choose at least one."),
        ({"lists": ["verbs"]}, f"Word list 'verbs' does not exist. Choose from {', '.join(LISTS)}."),
    ],
)
def test_rejects_invalid_settings(pocket_model, night, settings, message):
    with refused(LearningError, message):
        unique_phrases(pocket_model, night, PhraseSettings(**settings))
