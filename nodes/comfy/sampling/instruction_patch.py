"""How an instruction acts in a ComfyUI graph.

The instruction travels in the CONDITIONING: every entry gets a :class:`Mark` among its ``model_conds``, which survives masks, areas, timestep
ranges, ControlNets and combining. The MODEL carries one wrapper, the same for all instructions, that meets the marks when the UNet is called and
replaces keys and values in that call alone, in the rows of the marked entries. Anything that has already been put in their place (IPAdapter and the
like) is called with the learned ones. While an attending MODEL samples, entries without an instruction carry an empty mark, so that ComfyUI batches them
with the others and an edit costs as many model calls as one by words.
"""

from collections.abc import Callable
from typing import Any

import torch
from comfy.conds import CONDConstant
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....core.errors import InstructionError, ModelError
from ....core.instruction.injection import AnyInjection, GroupedInjection, InjectedCall, Injection
from ....core.models.attention_sites import Site
from ....core.models.families import ModelDescription

KEY = "instructbrush"

Conditioning = list[list[Any]]
Replace = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


class Mark:
    """An instruction on its way to the UNet.

    It also notices when it never gets there: a CONDITIONING that was wired without the MODEL would otherwise change nothing, silently. It is
    handed out once for every model call, and must have been received before it is handed out again.
    """

    def __init__(self, injection: Injection, model: ModelDescription) -> None:
        self.sites = model.sites
        self.edm = model.family.prediction == "edm_v"
        self.awaited = False
        self.attended = False
        self._injections = {injection.device: injection}

    def hand_out(self) -> None:
        """Called for every model call that this instruction takes part in.

        Raises:
            ModelError: the last one did not arrive.
        """
        if self.awaited and not self.attended:
            self.awaited = False
            raise ModelError(
                "Apply Instruction: its CONDITIONING reached the sampler but its MODEL did not, so the instruction would do nothing. "
                "Connect the MODEL output of Apply Instruction to the sampler or guider."
            )
        self.awaited = True

    def receive(self, device: torch.device) -> Injection:
        """Called by the wrapper on MODEL.

        Returns:
            The learned keys and values on ``device``, copied there once.
        """
        self.awaited = False
        if device not in self._injections:
            self._injections[device] = next(iter(self._injections.values())).to(device)
        return self._injections[device]


class _MarkCond(CONDConstant):
    """A :class:`Mark`, or None, in the form in which ComfyUI carries conditions to the model. In a batch they become a tuple, one for each entry."""

    def can_concat(self, other: "_MarkCond") -> bool:
        return True

    def concat(self, others: "list[_MarkCond]") -> tuple[Mark | None, ...]:
        marks = (self.cond, *(other.cond for other in others))
        for each in dict.fromkeys(marks):
            if each is not None:
                each.hand_out()
        return marks


_UNMARKED = _MarkCond(None)


def mark(conditioning: Conditioning, injection: Injection, model: ModelDescription) -> Conditioning:
    """A CONDITIONING whose entries carry the instruction; the given one is left alone.

    Raises:
        InstructionError: an entry carries an instruction already.
    """
    cond = _MarkCond(Mark(injection, model))
    marked = []
    for states, options in conditioning:
        carried = options.get("model_conds", {})
        if KEY in carried:
            raise InstructionError(
                "Apply Instruction: this CONDITIONING carries an instruction already. Apply each instruction to a CONDITIONING of its own, "
                "give each a mask or an area, and combine them."
            )
        marked.append([states, {**options, "model_conds": {**carried, KEY: cond}}])
    return marked


def patch_model(model: ModelPatcher) -> ModelPatcher:
    """A MODEL that heeds marked conditionings and is otherwise the same, to the bit. Attending twice is attending once."""
    attending = model.clone()
    if not attending.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        attending.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _call_unet)
        attending.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _sample)
    return attending


def prepare_call(
    injection: AnyInjection,
    sites: tuple[Site, ...],
    timesteps: Tensor,
    context: Tensor,
    transformer_options: dict[str, Any],
) -> tuple[Tensor, dict[str, Any]]:
    """Prepare one UNet call.

    Args:
        injection: on the device of the call.
        sites: the UNet's.
        timesteps: [B], 0..999, one for each row.
        context: the text states the call was to use [B, L, D].
        transformer_options: the call's; not modified.

    Returns:
        The context and the transformer options to call with.
    """
    options = transformer_options.copy()
    replaces = options["patches_replace"] = options.get("patches_replace", {}).copy()
    attn2 = replaces["attn2"] = replaces.get("attn2", {}).copy()
    call = injection.begin(context, timesteps)
    for site in sites:
        # ComfyUI looks for the exact layer first, then for the block.
        previous = attn2.get(site.block, attn2.get(site.block[:2]))
        attn2[site.block] = _InjectedAttention(site.name, call, previous)
    return call.context, options


def train_timesteps(timesteps: Tensor, edm: bool) -> Tensor:
    """The UNet's own timesteps as positions 0..999 of Stable Diffusion's schedule, by which segments are told.

    EDM models are given ``log(sigma) / 4`` instead; the position is that of the nearest sigma.
    """
    if not edm:
        return timesteps
    schedule = _SCHEDULE.to(timesteps.device)
    return schedule.timestep((4 * timesteps.float()).exp())


_SCHEDULE = ModelSamplingDiscrete()


class _InjectedAttention:
    """Attention of one site with the instruction's keys and values, through whatever attention was in its place before."""

    def __init__(self, site: str, call: InjectedCall, previous: Replace | None) -> None:
        self.site = site
        self.call = call
        self.previous = previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        k, v = self.call.keys_values(self.site, k, v)
        if self.previous is not None:
            return self.previous(q, k, v, extra_options)
        heads, precision = extra_options["n_heads"], extra_options["attn_precision"]
        return optimized_attention(
            q, k, v, heads, attn_precision=precision, transformer_options=extra_options
        )


def _call_unet(
    executor: Any,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    y: Any,
    control: Any,
    transformer_options: dict[str, Any],
    **kwargs: Any,
) -> Tensor:
    marks: tuple[Mark | None, ...] = kwargs.pop(KEY, ())
    found = next((each for each in marks if each is not None), None)
    if found is not None:
        received = {each: each.receive(x.device) for each in marks if each is not None}
        alike = len(received) == 1 and None not in marks
        injection = (
            received[found]
            if alike
            else GroupedInjection([None if each is None else received[each] for each in marks])
        )
        rows = train_timesteps(timesteps, found.edm)
        context, transformer_options = prepare_call(injection, found.sites, rows, context, transformer_options)
    return executor(x, timesteps, context, y, control, transformer_options, **kwargs)


def _sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Sampling with an attending MODEL: whatever skips model calls (caches), the marks are in good hands, and none is left from a broken run."""
    entries = [entry for conds in executor.class_obj.conds.values() for entry in conds]
    marks = [entry["model_conds"][KEY].cond for entry in entries if KEY in entry.get("model_conds", {})]
    if marks:
        for entry in entries:  # the sampler's own copies; only their inner dicts are shared with the graph
            entry["model_conds"] = {KEY: _UNMARKED, **entry.get("model_conds", {})}
    for found in marks:
        found.awaited, found.attended = False, True
    try:
        return executor(*args, **kwargs)
    finally:
        for found in marks:
            found.attended = False
