"""Cache of a vision-language model's states. The same image and words are never computed twice."""

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

from ..encoders.mllm import Mllm
from ..encoders.mllm_chat import STATES_TASK
from ..errors import StorageError
from ..progress import Progress
from ..storage.files import read_tensor, write_tensors
from ..storage.image_tensors import to_image

logger = logging.getLogger(__name__)

# Version of how states are computed. A new version invalidates all cached states.
VERSION = "1"

_METADATA_KEY = "instructbrush.states"


class StateStore:
    """States [L, D] of chats, in memory and in a folder. Drops the least recently used entries first.

    Args:
        folder: holds one safetensors file for each entry; None stores nothing on disk.
        most_bytes: size limit of the folder. An entry of LLaVA-1.5-7B takes 5 MB in half precision.
        most_memory: size limit of the entries in memory, in bytes.
    """

    def __init__(
        self, folder: Path | None = None, most_bytes: int = 4 * 2**30, most_memory: int = 256 * 2**20
    ) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._most_memory = most_memory
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._memory_used = 0
        self._folder_size: int | None = None
        """Estimated bytes in the folder; None before the first look."""
        self._warned = False

    def get(self, key: str) -> Tensor | None:
        """Returns the states under a ``state_key``, on the CPU in the precision they were computed in.

        Returns None if there are none or if the file is damaged.
        """
        found = self._recent.get(key)
        if found is None and self.folder is not None:
            found = _read(self._file(self.folder, key), key)
            if found is not None:
                # The modification time records the last use. Old files are dropped first.
                with suppress(OSError):
                    os.utime(self._file(self.folder, key))
        if found is not None:
            self._remember(key, found)
        return found

    def has(self, key: str) -> bool:
        """Returns whether there is an entry, possibly damaged. Reads no file."""
        return key in self._recent or (self.folder is not None and self._file(self.folder, key).is_file())

    def put(self, key: str, states: Tensor) -> None:
        """Stores states [L, D]. Warns once if the folder cannot be written to."""
        states = states.detach().cpu().contiguous()
        self._remember(key, states)
        if self.folder is not None and states.nbytes <= self._most_bytes:
            try:
                self._make_room(self.folder, states.nbytes)
                write_tensors({"states": states}, self._file(self.folder, key), {_METADATA_KEY: key})
            except (OSError, StorageError) as error:
                if not self._warned:
                    logger.warning(
                        "States of an MLLM could not be kept in %s (%s); they are computed again.",
                        self.folder,
                        error,
                    )
                self._warned = True

    def _remember(self, key: str, states: Tensor) -> None:
        old = self._recent.pop(key, None)
        self._memory_used += states.nbytes - (0 if old is None else old.nbytes)
        self._recent[key] = states
        while len(self._recent) > 1 and self._memory_used > self._most_memory:
            self._memory_used -= self._recent.popitem(last=False)[1].nbytes

    def _make_room(self, folder: Path, size: int) -> None:
        # Listing the folder is slow, so it happens once, and again when the folder seems full: other
        # processes may use it too.
        total = self._folder_size
        if total is None or total + size > self._most_bytes:
            files = []
            for path in folder.glob("*.safetensors"):
                with suppress(FileNotFoundError):  # Another process may have dropped it.
                    files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(file_size for _, file_size, _ in files)
            for _, file_size, path in sorted(files):
                if total + size <= self._most_bytes:
                    break
                with suppress(OSError):  # Windows keeps a file that is open.
                    path.unlink(missing_ok=True)
                    total -= file_size
        self._folder_size = total + size

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / f"{key[:40]}.safetensors"


def state_key(mllm: Mllm, image: Tensor, words: str, task: str = STATES_TASK) -> str:
    """Returns hex digits of everything that determines the states.

    These are the image [H, W, 3] in 8 bits, the whole chat, the model and its precision.
    """
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


def cached_states(
    mllm: Mllm,
    chats: Sequence[tuple[Tensor, str]],
    store: StateStore,
    task: str = STATES_TASK,
    at_once: int = 1,
    ready: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns what ``Mllm.states`` returns. Computes and stores only what the store does not have.

    Args:
        mllm: its weights are not read if the store has everything.
        chats: (image [H, W, 3], words) each.
        store: the cache.
        task: see ``Mllm.states``.
        at_once: chats that are computed together.
        ready: called once, before the model is first used.
        progress: called with the number of finished chats and of all chats.

    Returns:
        States fp32 [B, L, D] and their mask bool [B, L], on the CPU.

    Raises:
        ModelError: see ``Mllm.states``.
    """
    if not chats:
        mllm.states([], [], task)  # Raises the error for empty input.
    keys = [state_key(mllm, image, words, task) for image, words in chats]
    found = {key: states for key in dict.fromkeys(keys) if (states := store.get(key)) is not None}
    missing = {key: place for place, key in reversed(list(enumerate(keys))) if key not in found}
    places = sorted(missing.values())
    if places and ready is not None:
        ready()
    for start in range(0, len(places), at_once):
        batch = places[start : start + at_once]
        images = [chats[place][0] for place in batch]
        texts = [chats[place][1] for place in batch]
        hidden, mask = mllm.states(images, texts, task)
        for place, states, real in zip(batch, hidden, mask, strict=True):
            # The cast is exact: the model's last layer computes in this precision.
            found[keys[place]] = states[real].to(mllm.dtype).cpu()
            store.put(keys[place], found[keys[place]])
        if progress:
            progress(len(keys) - len(places) + start + len(batch), len(keys))
    return padded([found[key] for key in keys])


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pads states [L_i, D] with zeros at the end.

    Returns:
        fp32 [B, L, D], and a mask bool [B, L] that is true for real states.
    """
    lengths = torch.tensor([len(each) for each in states])
    joined = pad_sequence([each.float() for each in states], batch_first=True)
    return joined, torch.arange(joined.shape[1])[None] < lengths[:, None]


def _read(file: Path, key: str) -> Tensor | None:
    try:
        with safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get(_METADATA_KEY) != key:
                return None
            states = read_tensor(opened, "states")
    except (OSError, SafetensorError):
        return None
    return states if states.ndim == 2 and bool(states.isfinite().all()) else None
