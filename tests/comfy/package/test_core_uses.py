"""Everything of ComfyUI that the pack uses beyond the public comfy_api, and the arguments it passes.

A failure shows which name or argument a newer ComfyUI no longer has.
"""

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
# Private names of torch.nn.Module with which the pack replaces weights without registering new parameters.
TORCH_PRIVATE = {"_parameters", "_buffers"}

# Name -> arguments that it must accept; None for what is not called.
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
    "comfy.ldm.modules.attention.get_attn_precision": ("attn_precision", "current_dtype"),
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
    "comfy.model_management.pytorch_attention_enabled": (),
    "comfy.model_management.should_use_bf16": ("device", "prioritize_performance", "manual_cast"),
    "comfy.model_management.soft_empty_cache": (),
    "comfy.model_management.text_encoder_offload_device": (),
    "comfy.model_management.throw_exception_if_processing_interrupted": (),
    "comfy.model_management.unload_all_models": (),
    "comfy.model_patcher.ModelPatcher": ("model", "load_device", "offload_device"),
    "comfy.model_patcher.get_key_weight": ("model", "key"),
    "comfy.model_sampling.ModelSamplingContinuousEDM": (),
    "comfy.model_sampling.ModelSamplingDiscrete": (),
    "comfy.patcher_extension.WrappersMP.APPLY_MODEL": None,
    "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL": None,
    "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE": None,
    "comfy.patcher_extension.WrappersMP.PREDICT_NOISE": None,
    "comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE": None,
    "comfy.patcher_extension.copy_nested_dicts": ("input_dict",),
    "comfy.patcher_extension.merge_nested_dicts": ("dict1", "dict2"),
    "comfy.samplers.CFGGuider": ("model_patcher",),
    "comfy.samplers.KSAMPLER": ("sampler_function", "extra_options"),
    "comfy.samplers.calc_cond_batch": ("model", "conds", "x_in", "timestep", "model_options"),
    "comfy.samplers.cfg_function": (
        "model",
        "cond_pred",
        "uncond_pred",
        "cond_scale",
        "x",
        "timestep",
        "model_options",
        "cond",
        "uncond",
    ),
    "comfy.sd.CLIP": (
        "target",
        "embedding_directory",
        "parameters",
        "tokenizer_data",
        "state_dict",
        "disable_dynamic",
    ),
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
    "comfy.sd.load_text_encoder_state_dicts": (
        "state_dicts",
        "embedding_directory",
        "clip_type",
        "disable_dynamic",
    ),
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
    "comfy_execution.graph_utils.GraphBuilder": (),
    "comfy_execution.graph_utils.is_link": ("obj",),
    "comfy_execution.utils.get_executing_context": (),
    "folder_paths.add_model_folder_path": ("folder_name", "full_folder_path"),
    "folder_paths.folder_names_and_paths": None,
    "folder_paths.get_folder_paths": ("folder_name",),
    "folder_paths.get_input_directory": (),
    "folder_paths.get_output_directory": (),
    "folder_paths.get_system_user_directory": ("name",),
    "folder_paths.models_dir": None,
    "server.PromptServer.instance.client_id": None,
    "server.PromptServer.instance.prompt_queue.get_current_queue_volatile": (),
    "server.PromptServer.instance.routes.route": ("method", "path"),
    "server.PromptServer.instance.send_sync": ("event", "data", "sid"),
}

# Methods that the pack calls or overrides on an object.
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
    # The base class of nodes: overridden in nodes/shared/node.py, or used in tests.
    "comfy_api.latest.io.ComfyNode.GET_SCHEMA": (),
    "comfy_api.latest.io.ComfyNode.check_lazy_status": (),
    "comfy_api.latest.io.Combo.Input.get_io_type": (),
}


def find(name: str) -> object:
    """Returns the module, class, function or attribute with a dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Returns alias -> dotted name of everything that a file imports from ComfyUI's packages."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                package = each.name.split(".")[0]
                imported[each.asname or package] = each.name if each.asname else package
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for each in node.names:
                imported[each.asname or each.name] = f"{node.module}.{each.name}"
    return {alias: name for alias, name in imported.items() if name.split(".")[0] in PACKAGES}


def uses(source: str) -> set[str]:
    """Returns the dotted names from ComfyUI's packages in a file, each as long as it is written."""
    tree = ast.parse(source)
    imported = imported_names(tree)
    found = {name for name in imported.values() if "." in name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in imported:
                found.add(".".join([imported[first], *rest]))
    return found


def private_names(source: str) -> Iterator[str]:
    """Yields underscore attributes of anything but ``self`` and ``cls``."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.endswith("__")
            and ast.unparse(node.value) not in ("self", "cls")
        ):
            yield node.attr


@pytest.mark.parametrize("name", [*NAMED, *METHODS])
def test_comfyui_has_the_name_and_its_arguments(comfy, name):
    found = find(name)
    needed = {**NAMED, **METHODS}[name]
    if needed is not None:
        parameters = inspect.signature(found).parameters
        any_keyword = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        assert any_keyword or set(needed) <= set(parameters), f"{name} takes {sorted(parameters)}"


def test_list_names_everything_that_nodes_use():
    found = set().union(*(uses(path.read_text(encoding="utf-8")) for path in SOURCES))
    longest = {name for name in found if not any(other.startswith(f"{name}.") for other in found)}
    assert longest == set(NAMED)


def test_nodes_use_no_private_names():
    found = {name for path in SOURCES for name in private_names(path.read_text(encoding="utf-8"))}
    assert found <= TORCH_PRIVATE


SOURCE = """
import comfy.utils
from comfy import sd as s
import folder_paths
s.VAE(x)
comfy.utils._hidden(1)
folder_paths.models_dir
a.b._c
self._d
"""


def test_scan_finds_used_and_private_names():
    assert {"comfy.sd.VAE", "comfy.utils._hidden", "folder_paths.models_dir"} <= uses(SOURCE)
    assert set(private_names(SOURCE)) == {"_hidden", "_c"}


def test_folder_names_and_paths_holds_lists_and_sets(comfy):
    assert comfy.folder_paths.folder_names_and_paths
    for folders, suffixes in comfy.folder_paths.folder_names_and_paths.values():
        assert isinstance(folders, list) and isinstance(suffixes, list | set)
