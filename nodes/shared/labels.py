"""What people read beside the inputs. Ids of inputs stand in saved workflows and stay as they are."""

from comfy_api.latest import io

_LABELS = {
    "adapter_rate": "adapter learning rate",
    "batch": "samples per step",
    "batch_size": "images per step",
    "box_threshold": "least object score",
    "bypass": "bypass width",
    "cell": "cell width",
    "clip": "CLIP",
    "clip_name": "CLIP",
    "connector_name": "connector",
    "direction_weight": "CLIP direction weight",
    "end_timestep": "acts down to timestep",
    "eta": "strictness",
    "finder_name": "finder",
    "gradient_checkpointing": "save memory",
    "guidance": "guidance scales",
    "hold_out": "pair to hold out",
    "if_taken": "if the name is taken",
    "image_scale": "image guidance",
    "include_bos": "learn the start row",
    "max_edits": "most edits",
    "max_fragments": "most fragments",
    "max_objects": "most objects",
    "max_steps": "most edits",
    "max_tokens": "longest answer (tokens)",
    "max_area": "largest area",
    "min_area": "smallest area",
    "mllm": "MLLM",
    "mllm_name": "MLLM",
    "model_name": "model",
    "open_clip": "OpenCLIP",
    "own_box": "box",
    "preview_every": "steps between previews",
    "s": "softness",
    "sam_name": "SAM",
    "save_every": "steps between saves",
    "segment_mode": "segments are learned",
    "start_timestep": "acts from timestep",
    "text_scale": "instruction guidance",
    "text_threshold": "least word score",
    "tokens": "learned rows",
    "vae": "VAE",
    "weighting": "noise weights",
}
"""Id of an input -> its label, where the id with spaces for underscores is not plain."""

_OWN_LABELS = {"InstructBrushCaptionInit": {"tokens": "tokens"}}
"""Id of a node -> labels that only it has."""

_AUTO = {
    "box_threshold": -1,
    "eta": -1,
    "final_learning_rate": 0,
    "image_scale": -1,
    "text_scale": -1,
    "text_threshold": -1,
}
"""Id of an input -> the value that stands for automatic, where the input can have it."""

_ZERO = {
    "hold_out": "none",
    "preview_every": "off",
    "save_every": "off",
    "size": "as they are",
}
"""Id of an input -> what its value 0 means, where the input can have it. web/js/widgets knows these words."""

_OWN_ZERO = {"InstructBrushLearnAdapter": {"tokens": "none"}}
"""Id of a node -> such values that only it has."""

_OWN_AUTO = {
    "InstructBrushCaptionInit": {"steps": 0},
    "InstructBrushLearn": {"tokens": 0},
    "InstructBrushLearnText": {"tokens": 0},
}
"""Id of a node -> such values of inputs that mean something else in other nodes."""


def add_labels(schema: io.Schema) -> io.Schema:
    """Adds labels to the inputs of a schema, and to numbers the least value that widgets show as a word."""
    labels = _LABELS | _OWN_LABELS.get(schema.node_id, {})
    auto = _AUTO | _OWN_AUTO.get(schema.node_id, {})
    zero = _ZERO | _OWN_ZERO.get(schema.node_id, {})
    for each in schema.inputs:
        if each.display_name is None:
            each.display_name = labels.get(each.id, each.id.replace("_", " "))
        if isinstance(each, io.Int.Input | io.Float.Input) and auto.get(each.id) == each.min:
            each.extra_dict = {**each.extra_dict, "auto": each.min}
        if isinstance(each, io.Int.Input) and each.id in zero and each.min == 0:
            each.extra_dict = {**each.extra_dict, "zero": zero[each.id]}
    return schema
