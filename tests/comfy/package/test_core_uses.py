"""What the pack takes of ComfyUI beyond its public comfy_api: each is named here with the arguments it is given, so that a ComfyUI that lacks one is known."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = sorted((REPOSITORY / "nodes").rglob("*.py"))
PACKAGES = {
    "comfy",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "nodes",
    "server",
}
TORCH_PRIVATE = {"_parameters", "_buffers"}
"""Underscore names of torch.nn.Module, through which weights are put in place without new parameters being registered."""

NAMED: dict[str, tuple[str, ...] | None] = {
    "comfy.cli_args.args.disable_metadata": None,
    "comfy.conds.CONDConstant": ("cond",),
    "comfy.k_diffusion.sampling.sample_euler_ancestral": (
        "model",
        "x",
        "sigmas",
        "extra_args",
        "callback",
        "disable",
        "eta",
        "s_noise",
        "noise_sampler",
    ),
    "comfy.latent_formats.LatentFormat": (),
    "comfy.latent_formats.SD3": (),
    "comfy.ldm.modules.attention.BasicTransformerBlock": None,
    "comfy.ldm.modules.attention.attention_pytorch": ("q", "k", "v", "heads", "mask"),
    "comfy.ldm.modules.attention.optimized_attention": ("q", "k", "v", "heads", "mask"),
    "comfy.ldm.modules.diffusionmodules.openaimodel.ResBlock": None,
    "comfy.model_base.BaseModel": ("model_config", "model_type", "device"),
    "comfy.model_base.IP2P": (),
    "comfy.model_base.ModelType.EPS": None,
    "comfy.model_base.ModelType.V_PREDICTION": None,
    "comfy.model_base.ModelType.V_PREDICTION_EDM": None,
    "comfy.model_base.SD3": ("model_config", "device"),
    "comfy.model_base.SDXL_instructpix2pix": ("model_config", "device"),
    "comfy.model_management.InterruptProcessingException": None,
    "comfy.model_management.current_loaded_models": None,
    "comfy.model_management.free_memory": ("memory_required", "device", "keep_loaded"),
    "comfy.model_management.get_torch_device": (),
    "comfy.model_management.load_models_gpu": ("models", "force_full_load"),
    "comfy.model_management.soft_empty_cache": (),
    "comfy.model_management.text_encoder_offload_device": (),
    "comfy.model_management.throw_exception_if_processing_interrupted": (),
    "comfy.model_management.unload_all_models": (),
    "comfy.model_patcher.ModelPatcher": ("model", "load_device", "offload_device"),
    "comfy.model_patcher.get_key_weight": ("model", "key"),
    "comfy.model_sampling.ModelSamplingDiscrete": (),
    "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL": None,
    "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE": None,
    "comfy.patcher_extension.WrappersMP.PREDICT_NOISE": None,
    "comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE": None,
    "comfy.patcher_extension.copy_nested_dicts": ("input_dict",),
    "comfy.patcher_extension.merge_nested_dicts": ("dict1", "dict2"),
    "comfy.samplers.CFGGuider": ("model_patcher",),
    "comfy.samplers.KSAMPLER": ("sampler_function", "extra_options"),
    "comfy.samplers.calc_cond_batch": ("model", "conds", "x_in", "timestep", "model_options"),
    "comfy.sd.CLIP": ("target", "embedding_directory", "parameters", "tokenizer_data", "state_dict"),
    "comfy.sd.CLIPType.SD3": None,
    "comfy.sd.CLIPType.STABLE_DIFFUSION": None,
    "comfy.sd.VAE": ("sd", "dtype"),
    "comfy.sd.load_checkpoint_guess_config": (
        "ckpt_path",
        "output_vae",
        "output_clip",
        "embedding_directory",
    ),
    "comfy.sd.load_diffusion_model_state_dict": ("sd", "disable_dynamic"),
    "comfy.sd.load_text_encoder_state_dicts": ("state_dicts", "embedding_directory", "clip_type"),
    "comfy.sd1_clip.SD1ClipModel": ("device", "dtype", "model_options", "clip_model"),
    "comfy.sd1_clip.SD1Tokenizer": ("embedding_directory", "tokenizer_data", "tokenizer"),
    "comfy.sd1_clip.SDClipModel": (
        "device",
        "dtype",
        "max_length",
        "textmodel_json_config",
        "special_tokens",
        "return_projected_pooled",
        "model_options",
    ),
    "comfy.sd1_clip.SDTokenizer": (
        "tokenizer_path",
        "max_length",
        "embedding_directory",
        "embedding_size",
        "embedding_key",
        "tokenizer_data",
    ),
    "comfy.supported_models.SD15": None,
    "comfy.supported_models.SD15_instructpix2pix.unet_config": None,
    "comfy.supported_models.SD20.unet_config": None,
    "comfy.supported_models.SD3.unet_config": None,
    "comfy.supported_models.SDXL_instructpix2pix.unet_config": None,
    "comfy.supported_models.models.insert": None,
    "comfy.supported_models_base.ClipTarget": ("tokenizer", "clip"),
    "comfy.utils.ProgressBar": ("total", "node_id"),
    "comfy.utils.calculate_parameters": ("sd",),
    "comfy.utils.load_torch_file": ("ckpt",),
    "comfy.utils.unet_to_diffusers": ("unet_config",),
    "folder_paths.add_model_folder_path": ("folder_name", "full_folder_path"),
    "folder_paths.folder_names_and_paths": None,
    "folder_paths.get_folder_paths": ("folder_name",),
    "folder_paths.get_input_directory": (),
    "folder_paths.get_output_directory": (),
    "folder_paths.get_system_user_directory": ("name",),
    "folder_paths.models_dir": None,
    "server.PromptServer.instance.client_id": None,
    "server.PromptServer.instance.send_sync": ("event", "data", "sid"),
}
"""Name -> the arguments it must take, None for what is not called."""

METHODS: dict[str, tuple[str, ...]] = {
    "comfy.model_patcher.ModelPatcher.clone": ("disable_dynamic", "model_override"),
    "comfy.model_patcher.ModelPatcher.get_clone_model_override": (),
    "comfy.model_patcher.ModelPatcher.is_dynamic": (),
    "comfy.model_patcher.ModelPatcher.get_model_object": ("name",),
    "comfy.model_patcher.ModelPatcher.model_patches_models": (),
    "comfy.model_patcher.ModelPatcher.model_patches_to": ("device",),
    "comfy.model_patcher.ModelPatcher.model_dtype": (),
    "comfy.model_patcher.ModelPatcher.patch_model": ("load_weights",),
    "comfy.model_patcher.ModelPatcher.unpatch_model": ("unpatch_weights",),
    "comfy.model_patcher.ModelPatcher.patch_weight_to_device": ("key", "device_to", "return_weight"),
    "comfy.model_patcher.ModelPatcher.pre_run": (),
    "comfy.model_patcher.ModelPatcher.cleanup": (),
    "comfy.model_patcher.ModelPatcher.get_wrappers": ("wrapper_type", "key"),
    "comfy.model_patcher.ModelPatcher.add_wrapper_with_key": ("wrapper_type", "key", "wrapper"),
    "comfy.model_patcher.ModelPatcher.remove_wrappers_with_key": ("wrapper_type", "key"),
    "comfy.model_base.BaseModel.get_dtype_inference": (),
    "comfy.model_base.BaseModel.encode_adm": (),
    "comfy.model_base.BaseModel.extra_conds": (),
    "comfy.samplers.CFGGuider.inner_set_conds": ("conds",),
    "comfy.samplers.CFGGuider.predict_noise": ("x", "timestep", "model_options", "seed"),
    "comfy.sd.CLIP.tokenize": ("text",),
    "comfy.sd.CLIP.encode_from_tokens": ("tokens",),
    "comfy.sd.CLIP.encode_from_tokens_scheduled": ("tokens",),
    "comfy.sd.VAE.encode": ("pixel_samples",),
    "comfy.sd.VAE.decode": ("samples_in",),
    "comfy.utils.ProgressBar.update_absolute": ("value", "total", "preview"),
    # The class of nodes: what nodes/shared/node.py answers, and what the tests of the pack look at.
    "comfy_api.latest.io.ComfyNode.GET_SCHEMA": (),
    "comfy_api.latest.io.ComfyNode.check_lazy_status": (),
    "comfy_api.latest.io.Combo.Input.get_io_type": (),
}
"""Methods that are called, or overridden, through an object."""


def looked_up(name: str) -> object:
    """The thing of that dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part)
        return thing
    raise ImportError(name)


def arguments(thing: object) -> tuple[set[str], bool]:
    """The names of what can be given, and whether any other name can be given as well."""
    parameters = inspect.signature(thing).parameters.values()
    return {each.name for each in parameters}, any(each.kind is each.VAR_KEYWORD for each in parameters)


def uses(source: str) -> set[str]:
    """Everything of ComfyUI's packages but comfy_api that a file names, each as long as it is written."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                each.asname or each.name.split(".")[0]: each.name if each.asname else each.name.split(".")[0]
                for each in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            known |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    known = {alias: name for alias, name in known.items() if name.split(".")[0] in PACKAGES}
    found = {name for name in known.values() if "." in name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in known:
            first, *rest = ast.unparse(node).split(".")
            found.add(".".join([known[first], *rest]))
    return found


def private_names(source: str) -> Iterator[str]:
    """Underscore attributes of anything but the object or the class itself."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.endswith("__")
            and ast.unparse(node.value) not in ("self", "cls")
        ):
            yield node.attr


@pytest.mark.parametrize("name", [*NAMED, *METHODS])
def test_comfyui_has_it_and_it_takes_what_it_is_given(comfy, name):
    thing, wanted = looked_up(name), {**NAMED, **METHODS}[name]
    if wanted is not None:
        taken, any_other = arguments(thing)
        assert any_other or set(wanted) <= taken, f"{name} takes {sorted(taken)}"


def test_everything_that_nodes_take_of_comfyui_is_named_here():
    found = set().union(*(uses(path.read_text(encoding="utf-8")) for path in SOURCES))
    longest = {name for name in found if not any(other.startswith(f"{name}.") for other in found)}
    assert longest == set(NAMED)


def test_nothing_private_is_touched():
    assert {
        name for path in SOURCES for name in private_names(path.read_text(encoding="utf-8"))
    } <= TORCH_PRIVATE


def test_the_scan_sees_what_it_looks_for():
    source = "import comfy.utils\nfrom comfy import sd as s\nimport folder_paths\ns.VAE(x)\ncomfy.utils._hidden(1)\nfolder_paths.models_dir\na.b._c\nself._d"
    assert {"comfy.sd.VAE", "comfy.utils._hidden", "folder_paths.models_dir"} <= uses(source)
    assert set(private_names(source)) == {"_hidden", "_c"}


def test_folders_of_models_are_pairs_of_a_list_and_a_set(comfy):
    for folders, suffixes in comfy.folder_paths.folder_names_and_paths.values():
        assert isinstance(folders, list) and isinstance(suffixes, list | set)
