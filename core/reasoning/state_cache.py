"""States of a vision-language model, kept by what they were made of: the same image and words are never computed twice."""

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..encoders.mllm import STATES_TASK, Mllm, Progress
from ..errors import StorageError
from ..storage.files import write_tensors
from ..storage.images import to_image

logger = logging.getLogger(__name__)

VERSION = "1"
"""Of how states are made. Another one finds nothing that was kept before."""

_KEY = "instructbrush.states"


class StateStore:
    """States [L, D] of single chats, in memory and in a folder; what was used longest ago goes first.

    Args:
        folder: of safetensors files, one for each entry; None keeps nothing on disk.
        most_bytes: that the folder's files hold together. One entry of LLaVA-1.5-7B is 5 MB in half precision.
        most_memory: that are kept in memory.
    """

    def __init__(
        self, folder: Path | None = None, most_bytes: int = 4 * 2**30, most_memory: int = 256 * 2**20
    ) -> None:
        self.folder, self._most_bytes, self._most_memory = folder, most_bytes, most_memory
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._used = 0
        self._held: int | None = None
        """Bytes in the folder, as far as is known."""
        self._warned = False

    def get(self, key: str) -> Tensor | None:
        """What is kept under a key of :func:`state_key`, on the CPU in the precision it was computed in. A damaged file counts as none."""
        found = self._recent.get(key)
        if found is None and self.folder is not None:
            found = _read(self._file(self.folder, key), key)
            if found is not None:
                # The time of last use, by which files are dropped.
                with suppress(OSError):
                    os.utime(self._file(self.folder, key))
        if found is not None:
            self._remember(key, found)
        return found

    def has(self, key: str) -> bool:
        """Whether there is something under a key, damaged or not; nothing is read."""
        return key in self._recent or (self.folder is not None and self._file(self.folder, key).is_file())

    def put(self, key: str, states: Tensor) -> None:
        """Keep states [L, D]. Where the folder cannot be written to, a warning says so once."""
        states = states.detach().cpu().contiguous()
        self._remember(key, states)
        if self.folder is not None and states.nbytes <= self._most_bytes:
            try:
                self._make_room(self.folder, states.nbytes)
                write_tensors({"states": states}, self._file(self.folder, key), {_KEY: key})
            except (OSError, StorageError) as error:
                if not self._warned:
                    logger.warning(
                        "States of an MLLM could not be kept in %s (%s); they will be computed again.",
                        self.folder,
                        error,
                    )
                self._warned = True

    def _remember(self, key: str, states: Tensor) -> None:
        before = self._recent.pop(key, None)
        self._used += states.nbytes - (0 if before is None else before.nbytes)
        self._recent[key] = states
        while len(self._recent) > 1 and self._used > self._most_memory:
            self._used -= self._recent.popitem(last=False)[1].nbytes

    def _make_room(self, folder: Path, size: int) -> None:
        # The folder is looked through once, and again when it seems full: other processes may use it too.
        held = self._held
        if held is None or held + size > self._most_bytes:
            files = []
            for path in folder.glob("*.safetensors"):
                with suppress(FileNotFoundError):  # another process dropped it
                    files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            held = sum(each for _, each, _ in files)
            for _, each, path in sorted(files):
                if held + size <= self._most_bytes:
                    break
                path.unlink(missing_ok=True)
                held -= each
        self._held = held + size

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / f"{key[:40]}.safetensors"


def state_key(mllm: Mllm, image: Tensor, words: str, task: str = STATES_TASK) -> str:
    """Hex digits of all that decides about states: the image [H, W, 3] in 8 bits, the whole chat, the model and the precision it computes in."""
    pixels = to_image(image)
    parts = (
        VERSION,
        mllm.fingerprint,
        str(mllm.dtype),
        str(mllm.bits),
        mllm.prompt(words, task),
        str(pixels.size),
    )
    digest = hashlib.sha256("\0".join(parts).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def kept_states(
    mllm: Mllm,
    images: Sequence[Tensor],
    texts: Sequence[str],
    store: StateStore,
    task: str = STATES_TASK,
    at_once: int = 1,
    ready: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """As :meth:`~..encoders.mllm.Mllm.states`, taken from the store where it has them and kept there where it has not.

    Args:
        mllm: its weights are not even read when the store has everything.
        images, texts, task: see there.
        store: where they are kept.
        at_once: chats that are computed together.
        ready: called once, before the model is used for the first time.
        progress: called with the chats that are done and all there are.

    Returns:
        fp32 [B, L, D] and bool [B, L] on the CPU.

    Raises:
        ModelError: see there.
    """
    if not texts or len(images) != len(texts):
        mllm.states(images, texts, task)  # says what is wrong
    keys = [state_key(mllm, image, words, task) for image, words in zip(images, texts, strict=True)]
    found = {key: states for key in dict.fromkeys(keys) if (states := store.get(key)) is not None}
    wanted = {key: place for place, key in reversed(list(enumerate(keys))) if key not in found}
    places = sorted(wanted.values())
    if places and ready is not None:
        ready()
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        hidden, mask = mllm.states([images[place] for place in some], [texts[place] for place in some], task)
        for place, states, real in zip(some, hidden, mask, strict=True):
            # Exact: the last layer computed in this precision.
            found[keys[place]] = states[real].to(mllm.dtype).cpu()
            store.put(keys[place], found[keys[place]])
        if progress:
            progress(len(keys) - len(places) + start + len(some), len(keys))
    return padded([found[key] for key in keys])


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States [L_i, D] of different lengths as one fp32 [B, L, D], with zeros at the end, and bool [B, L], true where there are states."""
    lengths = torch.tensor([len(each) for each in states])
    joined = pad_sequence([each.float() for each in states], batch_first=True)
    return joined, torch.arange(joined.shape[1])[None] < lengths[:, None]


def _read(file: Path, key: str) -> Tensor | None:
    try:
        with safe_open(file, framework="pt") as opened:
            states = opened.get_tensor("states") if (opened.metadata() or {}).get(_KEY) == key else None
    except (OSError, SafetensorError):
        return None
    return states if states is not None and states.ndim == 2 and bool(states.isfinite().all()) else None
