"""Methods that a benchmark compares."""

from collections.abc import Mapping

from .base import BenchmarkModels, Edited, EffectEditor, Method
from .learned import LEARNED
from .lora import LORA
from .paper import PAPER
from .visii import VISII_ROWS

__all__ = ["DEFAULT_METHODS", "METHODS", "BenchmarkModels", "Edited", "EffectEditor", "Method"]

METHODS: Mapping[str, Method] = {method.name: method for method in (*LEARNED, *PAPER, *LORA, *VISII_ROWS)}
"""Name -> method."""

DEFAULT_METHODS = ("words", "visii", "instructbrush", "no_attention", "no_time", "no_init", "one_shot")
