"""Images that a method made elsewhere, as a row of a benchmark."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..errors import EvaluationError, PairError
from ..storage.image_files import read_image
from ..storage.image_sizes import Size

STORED = "images made elsewhere"
"""Remark of their outcomes."""

_SEED_AND_INDEX = re.compile(r"-([0-9]+)-[0-9]+\.png")


@dataclass(frozen=True)
class StoredImages:
    """A method's images, named as a benchmark names its own results.

    Image ``index`` of an effect or item with a seed is ``{folder}/{source}/{name}-{seed}-{index}.png``. The
    folder may also be that of a run, which has the folders of the sources in ``effects/`` or ``items/``.
    """

    name: str
    """Of the method: letters, digits, dots, hyphens and underscores."""
    folder: str

    def file(self, source: str, seed: int, index: int) -> Path:
        """Returns the path of an image."""
        return self._root / source / f"{self.name}-{seed}-{index}.png"

    @property
    def _root(self) -> Path:
        folder = Path(self.folder)
        return next((path for name in ("effects", "items") if (path := folder / name).is_dir()), folder)

    @property
    def seeds(self) -> set[int]:
        """The seeds that there are images of."""
        return set(self._files().values())

    def _files(self) -> dict[Path, int]:
        """The method's own images -> their seeds. Names of other methods may begin with its name."""
        files = {}
        for file in sorted(self._root.glob(f"*/{self.name}-*.png")):
            match = _SEED_AND_INDEX.fullmatch(file.name.removeprefix(self.name))
            if match:
                files[file] = int(match[1])
        return files

    def check(self, source: str, seed: int, sizes: Sequence[Size]) -> None:
        """Checks that all images of an effect or item are there, by reading them.

        Args:
            source: name of the effect or item.
            seed: of the images.
            sizes: (width, height) of each test image.

        Raises:
            EvaluationError: an image is missing, damaged, cut short, or of another size.
        """
        for index, size in enumerate(sizes):
            file = self.file(source, seed, index)
            where = f"Stored results '{self.name}'"
            if not file.is_file():
                raise EvaluationError(
                    f"{where}: '{file}' is missing. '{source}' has {len(sizes)} test images; each needs its "
                    f"result as {self.name}-SEED-INDEX.png in the folder '{source}', counted from 0."
                )
            try:
                height, width = read_image(file).shape[:2]
                # read_image accepts images without their last rows, whose figures would be wrong.
                with Image.open(file) as image:
                    image.load()
            except (PairError, OSError, ValueError, SyntaxError) as error:
                raise EvaluationError(
                    f"{where}: '{file}' cannot be read ({error}). Save it as PNG again."
                ) from error
            found = width, height
            if found != size:
                raise EvaluationError(
                    f"{where}: '{file}' is {found[0]} x {found[1]}, the test image is {size[0]} x {size[1]}. "
                    "Save the results at the size of the benchmark (--size), cropped as the inputs that a "
                    "run saves beside its report."
                )

    def read(self, source: str, seed: int, count: int) -> tuple[Tensor, ...]:
        """Returns an effect's or item's images, [H, W, 3] each, 8-bit values in 0..1.

        Raises:
            EvaluationError: an image is damaged.
        """
        try:
            return tuple(read_image(self.file(source, seed, index)) for index in range(count))
        except PairError as error:
            raise EvaluationError(f"Stored results '{self.name}': {error}") from error

    def digest(self) -> str:
        """Returns the identity of all images, so that a run does not resume with others."""
        states = [(file, file.stat()) for file in self._files()]
        return _digest(self._root, tuple((file, each.st_size, each.st_mtime_ns) for file, each in states))


# Every unit of work asks for it.
@lru_cache
def _digest(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    hashed = sha256()
    for file, _, _ in files:
        hashed.update(file.relative_to(root).as_posix().encode())
        hashed.update(sha256(file.read_bytes()).digest())
    return hashed.hexdigest()[:16]


def parse_stored(texts: Sequence[str], methods: Sequence[str]) -> tuple[StoredImages, ...]:
    """Reads texts ``NAME=FOLDER``.

    Args:
        texts: as given by the user.
        methods: names that are taken.

    Raises:
        EvaluationError: a text is malformed, a name is not usable or taken, or a folder does not exist or
            holds no image of the method.
    """
    stored: list[StoredImages] = []
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise EvaluationError(f"--stored '{text}' is not NAME=FOLDER, such as sdedit=results/sdedit.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise EvaluationError(
                f"--stored: the name '{name}' cannot be used. Use at most 64 letters, digits, dots, hyphens "
                "and underscores."
            )
        if name in methods:
            raise EvaluationError(
                f"--stored: '{name}' is a method of the benchmark. Give the stored results another name, and "
                "their files the same."
            )
        if name in [other.name for other in stored]:
            raise EvaluationError(f"--stored: '{name}' appears twice. Give each folder a name of its own.")
        images = StoredImages(name, str(Path(folder).resolve()))
        if not Path(folder).is_dir():
            raise EvaluationError(
                f"--stored: the folder '{folder}' of '{name}' does not exist. Check the path."
            )
        if 0 not in images.seeds:
            raise EvaluationError(
                f"--stored: '{folder}' holds no images of '{name}'. They must be in a folder for each effect "
                f"or item, as in '{images.file('EFFECT', 0, 0).relative_to(images.folder)}'."
            )
        stored.append(images)
    return tuple(stored)
