"""Outcomes of methods that learn from pairs, and their folder."""

from dataclasses import dataclass

from ...storage.image_files import save_image
from ...storage.image_tensors import to_image
from ..results import Key, ResultFolder
from .effects import Effect


@dataclass(frozen=True)
class Outcome:
    """Figures of one method on one effect with one seed. Lists are in the order of the test images."""

    effect: str
    scope: str
    method: str
    seed: int
    psnr: tuple[float, ...]
    """dB."""
    ssim: tuple[float, ...]
    lpips: tuple[float, ...] | None
    """None without a backbone."""
    direction: float
    """InstructBrush's Direction of the whole effect."""
    image_similarity: tuple[float, ...]
    """InstructPix2Pix's cos(E(in), E(out))."""
    init_text: str = ""
    final_loss: float | None = None
    seconds: float = 0.0
    """Wall time of learning and editing."""
    losses: str = ""
    """The losses that learning minimized: ``noise``, or ``noise, direction`` (Visii)."""
    remark: str = ""
    """What the reader should know, such as a loss that is left out."""
    text_scale: float | None = None
    """s_T of the edits; None in results of version 0.1."""
    image_scale: float | None = None
    """s_I of the edits."""
    learning_seconds: float | None = None
    """Wall time of learning alone, see ``Cost``; None if nothing was learned."""
    learning_rate: float | None = None
    file_bytes: int | None = None
    """Bytes of the file that holds what was learned."""
    damage: float | None = None
    """Mean absolute change of unrelated edits in words, in 0..1; measured with seed 0, see ``Probes``."""
    direction_similarity: tuple[float, ...] | None = None
    """InstructPix2Pix's agreement with the captions; None if the data set has none."""
    visual_similarity: tuple[float, ...] | None = None
    """Visii's Visual CLIP similarity to all training pairs; None in results of version 0.1."""
    recipe: str = ""
    """Identity of what made the figures, see ``Method.recipe``."""

    @property
    def key(self) -> Key:
        """(method, effect, seed)."""
        return self.method, self.effect, self.seed


class EffectFolder(ResultFolder):
    """The folder of a run on effects."""

    record = Outcome
    subfolder = "effects"

    def save_effect_images(self, effect: Effect) -> None:
        """Saves the effect's training pairs, test inputs and ground truth for the report."""
        folder = self.path / self.subfolder / effect.name
        for kind, pairs in (("pair", effect.train), ("test", effect.test)):
            for index, pair in enumerate(pairs):
                for side, image in enumerate((pair.before, pair.after)):
                    path = folder / f"{kind}-{index}_{side}.png"
                    if not path.exists():
                        save_image(to_image(image), path)
