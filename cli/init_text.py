"""The init text of ``learn``, and the CLIP that finds it."""

import argparse
import os
from pathlib import Path

from ..core.editing.editor import DiffusersEditor
from ..core.encoders.clip import POCKET_NAME, OpenClipModel
from ..core.encoders.clip_loading import load_clip
from ..core.encoders.pocket_clip import pocket_clip
from ..core.errors import InstructBrushError
from ..core.learning.init_text.captions import caption_images
from ..core.learning.init_text.phrases import PhraseSettings, unique_phrases
from ..core.learning.init_text.vocabulary import LISTS, lists_for, missing_lists
from ..core.pairs.pairs import EditPairs
from .options import Several, finite_float, utf8_text
from .terminal import say

_WORDS, _PHRASES, _CAPTION = "words", "phrases", "caption"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the init text and of its CLIP."""
    parser.add_argument("--init", type=utf8_text, help="words that are close to the edit; may be empty")
    parser.add_argument(
        "--begin",
        choices=(_WORDS, _PHRASES, _CAPTION),
        help="what learning starts from: the words of --init, unique phrases (InstructBrush), or a caption "
        "of the images after (Visii). Default: words if --init is given; else with a CLIP a caption in "
        "the text space, and elsewhere phrases if its word lists are there; else no words",
    )
    parser.add_argument(
        "--clip",
        help="CLIP for phrases, captions and Visii's direction, such as ViT-L-14/openai (pocket editor: "
        "its own)",
    )
    parser.add_argument("--clip-folder", help="folder of its .safetensors")
    add_phrase_options(parser)
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="folder for the features of word lists, computed once for each CLIP (default "
        "~/.cache/instructbrush/phrases)",
    )


def add_phrase_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of unique phrases, also to ``bench``."""
    parser.add_argument(
        "--eta",
        type=finite_float,
        help="least sensitivity of a unique phrase. The paper has 0.15 and names no CLIP for it; our "
        "defaults are 0.15 for ViT-H-14, 0.03 for ViT-L-14, 0.25 for the pocket CLIP, 0.05 for others",
    )
    parser.add_argument(
        "--lists",
        action=Several,
        choices=LISTS,
        metavar="LIST",
        help=f"word lists of unique phrases: {', '.join(LISTS)} (default: pocket for the pocket CLIP, else "
        "flavors mediums movements)",
    )


def chosen_clip(options: argparse.Namespace, editor: DiffusersEditor) -> OpenClipModel | None:
    """The CLIP of ``--clip``; without it the built-in one for the pocket editor, and none for other
    models."""
    if options.clip:
        return load_clip(options.clip, Path(options.clip_folder or "."), options.device)
    return pocket_clip(options.device) if editor.description.family.name == "pocket" else None


def needs_clip(options: argparse.Namespace) -> bool:
    """Whether the init text may need a CLIP."""
    return options.begin in (_PHRASES, _CAPTION) or (options.begin is None and options.init is None)


def find_init_text(options: argparse.Namespace, pairs: EditPairs, clip: OpenClipModel | None) -> str:
    """Returns the init text that the options ask for, and says what it is and where it comes from.

    Raises:
        InstructBrushError: it takes a CLIP or word lists that are not there, or an option does nothing.
    """
    begin = options.begin
    reason = ""
    if begin is None:
        begin, reason = _default_begin(options, clip)
    _check(options, begin)
    if begin == _WORDS:
        text = options.init or ""
        say(f"learning starts from '{text}' (--init)" if text else f"learning starts from no words{reason}")
        return text
    if clip is None:
        raise InstructBrushError(
            "Finding words for the pairs takes a CLIP. Add --clip ViT-L-14/openai and --clip-folder DIR, "
            "or give the words with --init."
        )
    if begin == _CAPTION:
        text = caption_images(clip, [pair.after for pair in pairs]).text
        say(f"learning starts from '{text}' (a caption of the images after)")
        return text
    found = unique_phrases(
        clip, pairs, PhraseSettings(eta=options.eta, lists=options.lists), _cache(options, clip)
    )
    if found.init_text:
        say(f"learning starts from '{found.init_text}' (unique phrases, eta {found.eta:g})")
    else:
        say(found.remark)
    return found.init_text


def _default_begin(options: argparse.Namespace, clip: OpenClipModel | None) -> tuple[str, str]:
    """What learning starts from without ``--begin``, and why it does without words."""
    if options.init is not None:
        return _WORDS, ""
    if clip is None:
        return _WORDS, (
            ": finding them takes a CLIP. Give words with --init, or a CLIP with --clip and --clip-folder."
        )
    if options.space == "text":
        return _CAPTION, ""
    missing = missing_lists(options.lists or lists_for(clip))
    if missing:
        return _WORDS, (
            f": the word lists {', '.join(missing)} come with the package clip-interrogator, which is not "
            "installed. Run: pip install --no-deps clip-interrogator. Or give words with --init, or other "
            "--lists."
        )
    return _PHRASES, ""


def _check(options: argparse.Namespace, begin: str) -> None:
    if begin != _WORDS and options.init:
        say(f"--init is not used: learning starts from {_name(begin)}.")
    if begin != _PHRASES:
        for name in ("eta", "lists"):
            if getattr(options, name) is not None:
                raise InstructBrushError(
                    f"--{name} is for unique phrases, but learning starts from {_name(begin)}. Leave it out, "
                    "or add --begin phrases."
                )


def _name(begin: str) -> str:
    return "a caption" if begin == _CAPTION else begin


def _cache(options: argparse.Namespace, clip: OpenClipModel) -> Path | None:
    """The folder for features of word lists. Those of the pocket CLIP's short list take no time."""
    if options.cache:
        return Path(options.cache)
    if clip.name == POCKET_NAME:
        return None
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "instructbrush" / "phrases"
