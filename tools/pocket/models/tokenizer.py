"""The small CLIP tokenizer, trained on the editor's captions and instructions and on common editing words.

It is a byte-level CLIP BPE (`vocab.json` and `merges.txt`). Every word of the captions and of the list is one
token. Any other text becomes several smaller tokens.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from ..stages.training_run import WORK
from ..world.drawing import UNSEEN_SHAPES
from ..world.effects import KINDS, edit
from ..world.scenes import caption, sample_scene
from .architecture import CONTEXT

COMMON = """
a an the and or of on in at to it its with without into from for as is are be this that these those all
every some any more less most very much little bit slightly strongly lightly please make turn change give
add put draw paint color colour recolor replace remove delete erase take away swap move flip mirror rotate
shift scale resize crop zoom enlarge shrink stretch cut copy paste fill cover hide show keep increase
decrease raise lower reduce boost soften sharpen blur smooth brighten darken lighten saturate desaturate
fade tint tone grade invert colorize posterize pixelate outline convert transform apply use look like style
effect filter image picture photo photograph drawing painting sketch cartoon poster print film frame border
edge edges corner corners shadow shadows highlight highlights background foreground sky ground floor grass
sand stone earth ice snow rain fog mist cloud clouds sun moon star stars sea water river mountain forest
tree trees flower house road city street field desert beach night day morning evening sunset sunrise dawn
dusk noon winter summer spring autumn fall weather storm wind light dark bright dim pale deep vivid dull
warm cold cool hot soft hard sharp flat high low contrast brightness saturation hue exposure gamma
temperature vignette sepia gray grey grayscale black white red orange yellow green cyan blue purple pink
brown teal turquoise olive navy maroon magenta violet lavender gold golden silver beige cream crimson
scarlet lime mint coral peach salmon indigo tan khaki rainbow duotone monochrome negative gradient pattern
striped stripes stripe dotted dots dot spots checkered plain texture wood metal glass paper canvas ink oil
watercolor pencil charcoal crayon pastel neon retro vintage old new modern faded cinematic teal-and-orange
dreamy noir pop art pixel pixels blurry noisy grainy clean circle square triangle diamond hexagon cross ring
oval heart crescent arrow shape shapes object objects thing things big bigger biggest large larger small
smaller tiny huge tall short wide narrow thick thin round left right top bottom middle center centre upper
lower above below under over behind front beside between next near far one two three four five first second
third other another same different only both each hat cap glasses sunglasses eye eyes smile face mouth nose
hair beard crown scarf bow tie shirt dress coat person man woman boy girl child dog cat bird fish horse car
boat plane cup bottle wine coffee table chair lamp window door wall roof bridge building tower garden rocket
astronaut happy sad young older younger degrees percent angle channel channels level levels ramp half side
sides full empty nothing something anything real fake watch turned made
"""


def corpus(count: int = 12_000) -> list[str]:
    """Draws captions and instructions like those of training."""
    rng = np.random.default_rng(5)
    lines = []
    for index in range(count):
        scene = sample_scene(rng)
        sample = edit(scene, KINDS[index % len(KINDS)], rng)
        lines.append(caption(scene, rng))
        if sample is not None:
            lines += [sample.words, sample.caption(rng)]
    return lines


def words_of(text: str) -> list[str]:
    """Splits text like CLIP's tokenizer: runs of letters, single digits, runs of other characters."""
    return re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())


def byte_letters() -> list[str]:
    """Returns the 256 printable characters that stand for bytes, in CLIP's order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index, _ in enumerate(others)]


def train_merges(counts: Counter[str], pieces: int = 150) -> list[tuple[str, str]]:
    """Learns `pieces` BPE merges by frequency, then merges until every word is a single token."""
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += counts[word] if len(merges) < pieces else 1
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, parts in words.items():
            words[word] = _merge(parts, best)


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def train_tokenizer(folder: Path) -> CLIPTokenizer:
    """Trains a tokenizer, writes its files to `folder`, and returns it as transformers loads it."""
    counts: Counter[str] = Counter(word for line in corpus() for word in words_of(line) if word.isalpha())
    for word in words_of(COMMON):
        if word.isalpha():
            counts[word] += 1
    for word in UNSEEN_SHAPES:
        counts[word] += 1
    merges = train_merges(counts)
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += dict.fromkeys(a + b for a, b in merges)
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: index for index, token in enumerate(tokens)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    special = {name: settings[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def tokenizer() -> CLIPTokenizer:
    """Loads the trained tokenizer. Trains it on first use."""
    folder = WORK / "tokenizer"
    if (folder / "vocab.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    return train_tokenizer(folder)
