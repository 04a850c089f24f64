"""CLIP's tokenizer, from a folder or from the vocabulary that open_clip ships. Needs no network."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# 49152 tokens less 256 bytes and 2 special tokens.
_MERGES = 49152 - 256 - 2


def tokenizer_from_folder(folder: Path) -> "CLIPTokenizer":
    """Reads ``vocab.json`` and ``merges.txt`` (or ``tokenizer.json``) of a diffusers or transformers folder.

    Raises:
        ModelError: the folder holds no CLIP tokenizer.
    """
    from transformers import CLIPTokenizer

    if not (folder / "tokenizer.json").is_file() and not (
        (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    ):
        raise ModelError(
            f"Tokenizer: neither vocab.json and merges.txt nor tokenizer.json are in {folder}. Put the "
            "files of the model's tokenizer there."
        )
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # Damaged files can make transformers raise anything.
        raise ModelError(
            f"Tokenizer: the files in {folder} cannot be read ({str(error)[:300]}). Download them again."
        ) from error


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> "CLIPTokenizer":
    """Builds CLIP's tokenizer (49,408 tokens, window of 77) from the byte-pair merges that open_clip ships.

    Args:
        pad_token: fills the window; ``<|endoftext|>`` for SD1.5, ``!`` for SD2.1.

    Raises:
        ModelError: open_clip is not installed.
    """
    from transformers import CLIPTokenizer

    spec = find_spec("open_clip")
    source = (
        Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
        if spec and spec.submodule_search_locations
        else None
    )
    if source is None or not source.is_file():
        raise ModelError(
            "Tokenizer: a single-file checkpoint holds no vocabulary. Install open_clip_torch, which ships "
            "it, or give a folder with vocab.json and merges.txt."
        )
    with gzip.open(source, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [line.split() for line in lines[1 : _MERGES + 1]]
    # CLIP's order of tokens: printable bytes, other bytes, all of them as ends of words, merges, special
    # tokens.
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {token: number for number, token in enumerate(tokens)}
    # Through files, because the constructor differs between transformers 4 and 5.
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text(
            "\n".join(["#version: 0.2", *map(" ".join, merges)]), encoding="utf-8"
        )
        return CLIPTokenizer.from_pretrained(
            folder, local_files_only=True, pad_token=pad_token, model_max_length=77
        )
