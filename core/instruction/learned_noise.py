"""The noise that an instruction was learned with (Visii)."""

from ..errors import InstructionError
from .instruction import Blend, Instruction, parts_of


def learned_noise_seed(instruction: Instruction | Blend) -> int:
    """The seed of the fixed noise that an instruction, or every part of a blend, was learned with.

    Raises:
        InstructionError: learning had new noise for every sample, or the parts have several seeds.
    """
    settings = [part.instruction.info.settings for part in parts_of(instruction)]
    seeds = {int(each.get("seed", 0)) for each in settings if each.get("noise") == "fixed"}
    if len(seeds) != 1 or any(each.get("noise") != "fixed" for each in settings):
        raise InstructionError(
            f"Fixed Noise: '{instruction.title}' was not learned with one fixed noise. "
            "Learn it with noise set to 'fixed', or sample with random noise instead."
        )
    return seeds.pop()
