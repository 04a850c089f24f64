"""Makes an instruction act in a ComfyUI graph: attaches it to a CONDITIONING and patches the MODEL.

Every entry of the CONDITIONING gets an ``AttachedInstruction`` in its ``model_conds``, which survives masks,
areas, timestep ranges, ControlNets and combining. The MODEL gets one wrapper, the same for all instructions.
When the UNet is called, the wrapper finds the attached instructions and replaces keys and values in their
rows, in that call only. Attention that other patches have replaced (IPAdapter and others) is called with the
learned keys and values. While a patched MODEL samples, entries without an instruction get an empty
attachment, so that ComfyUI batches them with the others. An edit then takes as many model calls as one by
words.
"""

import logging
from typing import Any

import torch
from comfy.conds import CONDConstant
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....core.diffusion.schedule import TRAIN_TIMESTEPS
from ....core.errors import InstructionError, ModelError
from ....core.instruction.injection import AnyInjection, GroupedInjection, Injection
from ....core.models.attention_sites import Site
from ....core.models.families import ModelDescription
from .attention_patches import InjectedAttention, adapt_attention, own_replacements, replacement_of

KEY = "instructbrush"
APPLIED = "instructbrush_applied"
"""Option of entries of a CONDITIONING that an instruction was applied to: its own scales, or None."""

Conditioning = list[list[Any]]

_SCHEDULE = ModelSamplingDiscrete()

logger = logging.getLogger(__name__)


class AttachedInstruction:
    """An instruction in a CONDITIONING.

    Detects a CONDITIONING that reached the sampler without its MODEL, where it would silently do nothing:
    every announced model call must fetch the injection before the next call is announced.
    """

    def __init__(self, injection: Injection, model: ModelDescription, states: Tensor) -> None:
        self.sites = model.sites
        self.states = states
        """Text states of the entry when the instruction was attached."""
        self.replaces_states = injection.replaces_conditioning
        self.joins_others = injection.joins(states.shape[1])
        """Entries without an instruction should share its model call."""
        self.edm = model.family.prediction == "edm_v"
        self.announced = False
        """A call was announced and has not fetched the injection yet."""
        self.model_is_patched = False
        """A patched MODEL is sampling. Calls may then be skipped, for example by caches."""
        self._injection = injection
        self._copies: dict[torch.device, Injection] = {}

    def announce_call(self) -> None:
        """Notes that a model call with this instruction comes next.

        Raises:
            ModelError: the last announced call did not fetch the injection.
        """
        if self.announced and not self.model_is_patched:
            self.announced = False
            raise ModelError(
                "Apply Instruction: its CONDITIONING reached the sampler but its MODEL did not, so the "
                "instruction would do nothing. "
                "Connect the MODEL output of Apply Instruction to the sampler or guider."
            )
        self.announced = True

    def fetch(self, device: torch.device) -> Injection:
        """Returns the injection on ``device``, where it is copied once a sampling run."""
        self.announced = False
        if device not in self._copies:
            self._copies[device] = self._injection.to(device)
        return self._copies[device]

    def forget_copies(self) -> None:
        """Frees the copies. ComfyUI keeps CONDITIONING after a run and cannot move it off a device."""
        self._copies.clear()


class _Attachment(CONDConstant):
    """An ``AttachedInstruction`` or None as a ComfyUI condition. A batch gets a tuple, one for each entry."""

    def can_concat(self, other: "_Attachment") -> bool:
        return all(each.cond is None or each.cond.joins_others for each in (self, other))

    def concat(self, others: "list[_Attachment]") -> tuple[AttachedInstruction | None, ...]:
        attached = (self.cond, *(other.cond for other in others))
        for instruction in dict.fromkeys(attached):
            if instruction is not None:
                instruction.announce_call()
        return attached


_NO_INSTRUCTION = _Attachment(None)


def attach_instruction(
    conditioning: Conditioning, injection: Injection, model: ModelDescription
) -> Conditioning:
    """Attaches an instruction to every entry of a CONDITIONING, which is not changed."""
    result = []
    for states, options in conditioning:
        attachment = _Attachment(AttachedInstruction(injection, model, states))
        model_conds = options.get("model_conds", {})
        result.append([states, {**options, "model_conds": {**model_conds, KEY: attachment}}])
    return result


def mark_applied(conditioning: Conditioning, scales: tuple[float, float] | None) -> Conditioning:
    """Marks every entry of a CONDITIONING as one that an instruction is applied to.

    Args:
        conditioning: the CONDITIONING. It is not changed.
        scales: s_T and s_I that were found for the instruction.

    Raises:
        InstructionError: an entry is marked already.
    """
    if any(APPLIED in options for _, options in conditioning):
        raise InstructionError(
            "Apply Instruction: this CONDITIONING already carries an instruction. "
            "Apply each instruction to a separate CONDITIONING, "
            "give each a mask or an area, and combine them."
        )
    return [[states, {**options, APPLIED: scales}] for states, options in conditioning]


def scales_of(conditioning: Conditioning) -> tuple[float, float] | None:
    """Mean of the scales of a CONDITIONING's instructions; None if one's are unknown, or there is none."""
    marks = [options[APPLIED] for _, options in conditioning if APPLIED in options]
    # An instruction in CLIP space has one entry for each of its intervals, all with the same mark.
    found = list({id(mark): mark for mark in marks}.values())
    if not found or None in found:
        return None
    text, image = (sum(each) / len(found) for each in zip(*found, strict=True))
    return text, image


def patch_model(model: ModelPatcher) -> ModelPatcher:
    """Returns a MODEL that lets attached instructions act.

    Without attached instructions it computes the same, bit for bit. A patched MODEL is not patched again.
    """
    patched = model.clone()
    if not patched.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _call_unet)
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _sample)
    return patched


def prepare_call(
    injection: AnyInjection,
    sites: tuple[Site, ...],
    timesteps: Tensor,
    context: Tensor,
    transformer_options: dict[str, Any],
) -> tuple[Tensor, dict[str, Any]]:
    """Prepares one UNet call with an injection.

    Args:
        injection: on the device of the call.
        sites: the UNet's cross-attention layers.
        timesteps: [B], 0..999, one for each row.
        context: text states of the call, [B, L, D].
        transformer_options: options of the call. They are not changed.

    Returns:
        The context and the transformer options for the call.
    """
    options = transformer_options.copy()
    replacements = own_replacements(options, "attn2")
    call = injection.begin(context, timesteps)
    for site in sites:
        previous = replacement_of(site.block, replacements)
        replacements[site.block] = InjectedAttention(site.name, call, previous)
    if call.adapts:
        adapt_attention(call, sites, options)
    return call.context, options


def train_timesteps(timesteps: Tensor, edm: bool) -> Tensor:
    """Converts the UNet's timesteps to positions 0..999 of Stable Diffusion's schedule, which segments use.

    EDM models get ``log(sigma) / 4`` as timestep. Their position is that of the nearest sigma.
    """
    if not edm:
        return timesteps
    schedule = _SCHEDULE.to(timesteps.device)
    return schedule.timestep((4 * timesteps.float()).exp())


def percent_of(timestep: float, sampling: Any) -> float:
    """Converts a position 0..999 of Stable Diffusion's schedule to ComfyUI's percent, where 0 is pure noise.

    EDM models have another schedule. Their percent is that of the same noise level.

    Args:
        timestep: may lie between two positions, or half a one outside.
        sampling: the MODEL's "model_sampling".
    """
    if isinstance(sampling, ModelSamplingContinuousEDM):
        log_sigma = float(_SCHEDULE.sigma(torch.tensor(timestep)).log())
        least, most = (float(sigma.log()) for sigma in (sampling.sigma_min, sampling.sigma_max))
        percent = (most - log_sigma) / (most - least)
    else:
        percent = 1 - timestep / (TRAIN_TIMESTEPS - 1)
    return min(max(percent, 0.0), 1.0)


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
    """Wraps a UNet call: lets the attached instructions act."""
    attached: tuple[AttachedInstruction | None, ...] = kwargs.pop(KEY, ())
    instructions = [instruction for instruction in attached if instruction is not None]
    if instructions:
        first = instructions[0]
        injections = {instruction: instruction.fetch(x.device) for instruction in instructions}
        injection: AnyInjection
        if len(injections) == 1 and None not in attached:
            injection = injections[first]
        else:
            injection = GroupedInjection(
                [None if instruction is None else injections[instruction] for instruction in attached]
            )
        positions = train_timesteps(timesteps, first.edm)
        context, transformer_options = prepare_call(
            injection, first.sites, positions, context, transformer_options
        )
    return executor(x, timesteps, context, y, control, transformer_options, **kwargs)


def _check_states(entry: dict[str, Any]) -> None:
    """Looks whether another node changed the text states of an entry after its instruction was attached."""
    attached: AttachedInstruction | None = entry["model_conds"][KEY].cond
    states = entry.get("cross_attn")
    if attached is None or states is None or states is attached.states:
        return
    before = attached.states.to(states)
    if states.shape == before.shape and torch.equal(states, before):
        return
    if not torch.count_nonzero(states):
        # Conditioning Zero Out makes a negative of the positive.
        entry["model_conds"][KEY] = _NO_INSTRUCTION
    elif attached.replaces_states:
        logger.warning(
            "InstructBrush: another node changed the words of a CONDITIONING after Apply Instruction. At "
            "strength 1 words do not act: put that node before Apply Instruction, or use Add Words to "
            "Instruction."
        )


def _sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps a sampling run of a patched MODEL.

    Announced calls may be skipped during the run, and an interrupted run before it leaves no announced call.
    """
    entries = [entry for conds in executor.class_obj.conds.values() for entry in conds]
    attached: list[AttachedInstruction] = [
        entry["model_conds"][KEY].cond for entry in entries if KEY in entry.get("model_conds", {})
    ]
    if not attached:
        logger.warning(
            "InstructBrush: the MODEL of Apply Instruction samples, but no CONDITIONING here carries an "
            "instruction, so it does nothing. Connect the CONDITIONING of Apply Instruction as positive."
        )
    else:
        # Entries are the sampler's copies, but the graph shares their inner dicts: replace, do not change
        # them.
        for entry in entries:
            entry["model_conds"] = {KEY: _NO_INSTRUCTION, **entry.get("model_conds", {})}
            _check_states(entry)
    for instruction in attached:
        instruction.announced = False
        instruction.model_is_patched = True
    try:
        return executor(*args, **kwargs)
    finally:
        for instruction in attached:
            instruction.model_is_patched = False
            instruction.forget_copies()
