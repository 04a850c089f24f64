"""Words of captions, which of them belong together, and what their tokens take over."""

import random
from functools import cache
from itertools import combinations

import pytest
import torch
from transformers import CLIPTokenizer

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.prompt_to_prompt.alignment import Alignment, align
from instructbrush.core.generation.prompt_to_prompt.control import ControlSettings, pair_control
from instructbrush.core.generation.prompt_to_prompt.words import kept_words, read_caption
from instructbrush.core.models.tokenizer import clip_tokenizer


@cache
def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer()


def aligned(source: str, target: str, replace: bool = True) -> Alignment:
    return align(read_caption(source, tokenizer()), read_caption(target, tokenizer()), replace)


def taken(source: str, target: str, replace: bool = True) -> dict[str, str]:
    """Target words -> the words whose attention they take over, read from the matrix."""
    captions = [read_caption(text, tokenizer()) for text in (source, target)]
    transfer = align(*captions, replace).transfer
    found = {}
    for word in captions[1].words:
        columns = transfer[:, list(word.tokens)].sum(1)
        from_words = [each.text for each in captions[0].words if columns[list(each.tokens)].any()]
        found[word.text] = " ".join(from_words)
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A photo of a Cat", ["a", "photo", "of", "a", "cat"]),
        ("a labradoodle's bowl, half-full", ["a", "labradoodle", "'s", "bowl", ",", "half", "-", "full"]),
        ("", []),
        ("  two   spaces ", ["two", "spaces"]),
        ("ein Kätzchen 42", ["ein", "kÃ¤tzchen", "4", "2"]),
    ],
)
def test_cuts_captions_into_words(text: str, words: list[str]) -> None:
    caption = read_caption(text, tokenizer())
    assert [word.text for word in caption.words] == words and not caption.is_cut
    ids = tokenizer()(text).input_ids
    assert caption.end == len(ids) - 1
    assert [t for word in caption.words for t in word.tokens] == list(range(1, caption.end))


def test_cuts_captions_at_the_window() -> None:
    caption = read_caption("photosynthesizing " * 60, tokenizer())
    assert caption.is_cut and caption.end == 76 and caption.words[-1].tokens.stop == 76
    exact = read_caption("cat " * 75, tokenizer())
    assert not exact.is_cut and exact.end == 76
    torch.testing.assert_close(align(exact, exact).transfer, torch.eye(77))


@pytest.mark.parametrize(
    ("source", "target", "replaced"),
    [
        ("a photo of a cat", "a photo of a dog", {"dog": "cat"}),
        ("a photo of a cat", "a photo of a labradoodle", {"labradoodle": "cat"}),
        ("a labradoodle on grass", "a cat on snow", {"cat": "labradoodle", "snow": "grass"}),
        ("a cat", "a fluffy white cat", {"fluffy": "", "white": ""}),
        ("a fluffy white cat", "a cat", {}),
        (
            "a photo of a house",
            "a watercolor painting of a house",
            {"watercolor": "photo", "painting": "photo"},
        ),
        ("a cat sits", "a cat sits, at night", {",": "", "at": "", "night": ""}),
        ("red car", "blue bus", {"blue": "red", "bus": "car"}),
        ("a boy and a dog", "a girl and a cat", {"girl": "boy", "cat": "dog"}),
        ("a cat", "a cat", {}),
        ("a cat", "", None),
    ],
)
def test_kept_words_keep_their_attention_and_new_words_take_the_replaced_ones(
    source: str, target: str, replaced: dict[str, str] | None
) -> None:
    if replaced is None:
        assert taken(source, target) == {}
        return
    expected = {word.text: word.text for word in read_caption(target, tokenizer()).words}
    assert taken(source, target) == expected | replaced
    # Refinement keeps the attention of kept words only.
    assert taken(source, target, replace=False) == expected | dict.fromkeys(replaced, "")


def test_tokens_of_a_replaced_word_share_its_attention() -> None:
    caption = read_caption("a labradoodle runs", tokenizer())
    count = len(caption.words[1].tokens)
    assert count > 1
    longer = aligned("a cat runs", "a labradoodle runs")
    torch.testing.assert_close(longer.transfer[2, 2 : 2 + count], torch.full((count,), 1 / count))
    assert longer.transfer[3, 2 + count] == 1 and longer.is_replacement.nonzero()[:, 0].tolist() == list(
        range(2, 2 + count)
    )
    shorter = aligned("a labradoodle runs", "a cat runs")
    torch.testing.assert_close(shorter.transfer[2 : 2 + count, 2], torch.ones(count))
    same = aligned("a labradoodle runs", "a labradoodles runs")
    assert same.is_replacement.any()


@pytest.mark.parametrize(
    "pair", [("a cat runs", "a labradoodle runs"), ("a photo", "a big oil painting"), ("x", "y")]
)
def test_no_attention_of_replaced_or_kept_words_is_lost(pair: tuple[str, str]) -> None:
    captions = [read_caption(text, tokenizer()) for text in pair]
    rows = align(*captions).transfer.sum(1)
    torch.testing.assert_close(rows[: captions[0].end + 1], torch.ones(captions[0].end + 1))


def test_padding_takes_over_padding_only() -> None:
    for source, target in (("a", "a b c d e f"), ("a b c d e f", "a")):
        alignment = aligned(source, target)
        ends = [read_caption(text, tokenizer()).end for text in (source, target)]
        assert alignment.transfer[ends[0], ends[1]] == 1
        both = range(max(ends) + 1, 77)
        assert all(alignment.transfer[k, k] == 1 for k in both)
        # Positions that are padding in the target only have no source.
        assert not alignment.has_source[ends[1] + 1 : max(ends) + 1].any()


def test_keeps_as_many_words_and_neighbors_as_possible() -> None:
    draw = random.Random(3)
    for _ in range(300):
        source, target = ([draw.choice("abc") for _ in range(draw.randint(0, 6))] for _ in range(2))
        pairs = kept_words(source, target)
        assert all(source[i] == target[j] for i, j in pairs)
        assert all(a < c and b < d for (a, b), (c, d) in zip(pairs, pairs[1:], strict=False))
        assert (len(pairs), neighbors(pairs)) == best_by_trying(source, target)


def neighbors(pairs: list[tuple[int, int]]) -> int:
    return sum((a + 1, b + 1) == (c, d) for (a, b), (c, d) in zip(pairs, pairs[1:], strict=False))


def best_by_trying(source: list[str], target: list[str]) -> tuple[int, int]:
    for size in range(min(len(source), len(target)), -1, -1):
        found = [
            neighbors(list(zip(rows, columns, strict=True)))
            for rows in combinations(range(len(source)), size)
            for columns in combinations(range(len(target)), size)
            if [source[i] for i in rows] == [target[j] for j in columns]
        ]
        if found:
            return size, max(found)
    raise AssertionError


def test_keeps_a_phrase_together() -> None:
    assert kept_words("a cat and a dog".split(), "a dog".split()) == [(3, 0), (4, 1)]


def test_words_have_their_own_shares_and_weights() -> None:
    captions = ("a photo of a cat on grass", "a photo of a dog on deep snow")
    settings = ControlSettings(cross=1.0, replaced=0.5, words=(("deep snow", 0.25),), weights=(("dog", 3.0),))
    control = pair_control(captions, settings, 4, tokenizer())
    assert control.cross_steps[:9].tolist() == [4, 4, 4, 4, 4, 2, 4, 1, 1]
    assert control.weights[:7].tolist() == [1, 1, 1, 1, 1, 3, 1]
    taken = control.taken(1)
    assert taken is not None and taken[5, 5] == 3 and not taken[:, 7].any()
    last = control.taken(2)
    own = control.own(2)
    assert last is not None and own is not None and not last[:, 5].any() and own[5] == 3 and own[6] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross": 1.5}, "'cross' is 1.5"),
        ({"self_attention": float("nan")}, "'self_attention' is nan"),
        ({"words": (("dog", -0.1),)}, "'dog' is -0.1"),
        ({"self_pixels": 0}, "0 pixels"),
        ({"weights": (("zebra", 2.0),)}, "'zebra' is not in the target caption 'a dog'"),
        ({"words": (("", 0.5),)}, "'' is not in the target caption"),
    ],
)
def test_rejects_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        pair_control(("a cat", "a dog"), ControlSettings(**settings), 4, tokenizer())
