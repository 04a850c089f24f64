"""Learning on weights as ComfyUI keeps them: in the file's dtype, made in inference mode, offloaded, in fp8, with a LoRA."""

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructbrush.tests.comfy.addons import unet_lora_layers, write_lora
from instructbrush.tests.comfy.graphs import Parts, learning, pairs

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture(scope="module")
def parts(comfy):
    """MODEL, CLIP and VAE of the pocket editor."""
    graph = comfy.graph()
    loaded = Parts(graph)
    return comfy.values(graph, loaded.model, loaded.clip, loaded.vae)


def unet_states(comfy, dtype):
    """The pocket editor's UNet as a file of that dtype has it, under ComfyUI's names."""
    folder = comfy.pack("core.models.builtin").POCKET_FOLDER
    states = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return {
        key: value.to(dtype)
        for key, value in comfy.pack("nodes.comfy.models.key_names").unet_keys(states).items()
    }


def build(comfy, monkeypatch, stored, computed, lazily=True):
    """The pocket editor as ComfyUI builds it; ``lazily``: with dynamic VRAM, where layers take their weights as they are in the file."""
    from comfy import memory_management, sd

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(memory_management, "aimdo_enabled", lazily)
        return sd.load_diffusion_model_state_dict(
            unet_states(comfy, stored), model_options={"dtype": computed}
        )


def learned(comfy, model, parts, **changes):
    """What Learn Instruction makes of a MODEL."""
    given = Parts.__new__(Parts)
    graph = comfy.graph()
    given.model, given.clip, given.vae = (
        comfy.give(graph, model),
        comfy.give(graph, parts[1]),
        comfy.give(graph, parts[2]),
    )
    return comfy.values(graph, learning(graph, comfy, given, **changes).out(0))[0]


def distance(one, other):
    """How far two instructions are apart, in units of the second."""
    tensors = [
        (getattr(one, kind)[site], getattr(other, kind)[site])
        for kind in ("keys", "values")
        for site in other.keys
    ]
    return (
        float(sum((a - b).square().sum() for a, b in tensors) / sum(b.square().sum() for _, b in tensors))
        ** 0.5
    )


@pytest.mark.parametrize("computed", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
def test_the_files_dtype_may_differ_from_that_of_the_model(comfy, monkeypatch, parts, stored, computed):
    """Under dynamic VRAM, linear layers hold the file's dtype and convolutions the model's."""
    model = build(comfy, monkeypatch, DTYPES[stored], DTYPES[computed])
    layer = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_k
    assert layer.weight.dtype == DTYPES[stored]
    assert distance(learned(comfy, model, parts, steps=2), learned(comfy, parts[0], parts, steps=2)) < 0.05
    assert layer.weight.dtype == DTYPES[stored] and "comfy_cast_weights" not in vars(layer)


def test_weights_that_only_look_ordinary_can_be_learned_through(comfy, monkeypatch, parts):
    """Made in inference mode and moved outside it, as ComfyUI moves a module to the device: they say that they are no inference tensors."""
    model = build(comfy, monkeypatch, torch.float32, torch.float32, lazily=False)
    for parameter in model.model.parameters():
        parameter.data = torch.empty_like(parameter.data).copy_(parameter.data)
    unet = model.model.diffusion_model
    assert not any(parameter.is_inference() for parameter in unet.parameters())
    with pytest.raises(RuntimeError, match="version counter"):
        torch.nn.functional.linear(
            torch.zeros(1, 128, requires_grad=True),
            unet.middle_block[1].transformer_blocks[0].attn2.to_k.weight,
        )
    assert distance(learned(comfy, model, parts), learned(comfy, parts[0], parts)) == 0


def test_parameters_and_buffers_are_made_plain_and_stay_shared(comfy):
    weights = comfy.pack("nodes.comfy.models.plain_weights")
    with torch.inference_mode():
        module = torch.nn.Sequential(
            torch.nn.Embedding(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4, bias=False)
        )
        module[2].weight = module[0].weight
    places = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    weights.make_plain(module)
    assert module[2].weight is module[0].weight
    assert places == {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    assert not any(tensor.is_inference() for tensor in module.state_dict().values())
    given = torch.ones(2, 4, 3, requires_grad=True)
    module[2](module[1](given.mean(1))).sum().backward()
    assert given.grad is not None


def with_lora(comfy, graph, model, scale=0.3):
    write_lora(
        comfy.base / "models" / "loras" / "seeded_weights.safetensors", unet_lora_layers(model), scale=scale
    )
    node = graph.node(
        "LoraLoaderModelOnly",
        model=comfy.give(graph, model),
        lora_name="seeded_weights.safetensors",
        strength_model=1.0,
    )
    return comfy.values(graph, node.out(0))[0]


@pytest.mark.parametrize("loaded_before", [False, True])
def test_learning_sees_the_lora_that_sampling_sees(comfy, parts, loaded_before):
    from comfy import model_management as management

    model = with_lora(comfy, comfy.graph(), parts[0])
    description = comfy.pack("nodes.comfy.models.description").describe
    assert description(model) == description(parts[0])
    x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 3.0])
    given = {
        "c_concat": x,
        "c_crossattn": torch.randn(2, 32, 128, generator=torch.Generator().manual_seed(2)),
    }
    with torch.inference_mode():
        management.load_models_gpu([model])
        x, sigma, given = (
            x.to(comfy.device),
            sigma.to(comfy.device),
            {name: tensor.to(comfy.device) for name, tensor in given.items()},
        )
        sampled = model.model.apply_model(x, sigma, **given)
        management.load_models_gpu([parts[0]])
        without = parts[0].model.apply_model(x, sigma, **given)
        if loaded_before:
            management.load_models_gpu([model])
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    with denoiser.loaded():
        assert torch.allclose(denoiser.patcher.model.apply_model(x, sigma, **given), sampled, atol=1e-4)
    with torch.inference_mode():
        management.load_models_gpu([parts[0]])
        assert torch.equal(parts[0].model.apply_model(x, sigma, **given), without)
    assert not torch.allclose(sampled, without, atol=1e-2)


def test_a_model_in_fp8_with_a_lora_can_be_learned_on(comfy, monkeypatch, parts):
    model = build(comfy, monkeypatch, torch.float8_e4m3fn, torch.float8_e4m3fn, lazily=False)
    plain, patched = (
        learned(comfy, model, parts),
        learned(comfy, with_lora(comfy, comfy.graph(), model), parts),
    )
    began = distance(plain, learned(comfy, parts[0], parts))
    assert 0 < began < 0.2 and 0 < distance(patched, plain)
    assert all(
        tensor.isfinite().all() and not torch.equal(tensor[0], tensor[1]) for tensor in patched.keys.values()
    )


def test_a_model_that_comfyui_makes_fp8_of_is_still_itself(comfy, monkeypatch, parts):
    """--fp8_e4m3fn-unet: what was learned on it fits the model as it is, and the other way round."""
    models, description = (
        comfy.pack("nodes.comfy.models.loading"),
        comfy.pack("nodes.comfy.models.description").describe,
    )
    from comfy import cli_args

    monkeypatch.setattr(cli_args.args, "fp8_e4m3fn_unet", True)
    with torch.inference_mode():
        model = models.load_folder_unet(str(comfy.pack("core.models.builtin").POCKET_FOLDER))
    assert {parameter.dtype for parameter in model.model.diffusion_model.parameters()} == {
        torch.float8_e4m3fn
    }
    assert description(model) == description(parts[0])
    assert learned(comfy, model, parts).check_fits(description(parts[0])) == []


def test_an_offloaded_model_can_be_learned_on(comfy, monkeypatch, parts):
    """As with --lowvram: weights stay away and are cast and patched in every call."""
    from comfy import model_management as management

    model = with_lora(
        comfy, comfy.graph(), build(comfy, monkeypatch, torch.float32, torch.float32, lazily=False)
    )
    expected = learned(comfy, model, parts)
    with torch.inference_mode():
        away = management.LoadedModel(model)
        away.model_load(lowvram_model_memory=0.1)
        management.current_loaded_models.insert(0, away)
    layer = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_out[0]
    assert layer.comfy_cast_weights and layer.weight_function
    assert distance(learned(comfy, model, parts), expected) < 1e-5


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_given_back_as_it_was(comfy, parts, fails):
    model = parts[0]
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    others = model.model.diffusion_model.middle_block[0]
    forward = others.forward
    others.forward = lambda *given, **named: forward(*given, **named)  # as another pack may have set it
    before = [
        (each, dict(each._parameters), dict(each._buffers), {**vars(each)}) for each in model.model.modules()
    ]
    error = MemoryError("out of memory") if fails else None
    try:
        with denoiser.loaded():
            assert not any(parameter.is_inference() for parameter in model.model.parameters())
            if error:
                raise error
    except MemoryError as caught:
        assert caught is error
    for module, parameters, buffers, attributes in before:
        assert all(module._parameters[name] is parameter for name, parameter in parameters.items())
        assert all(module._buffers[name] is buffer for name, buffer in buffers.items())
        assert vars(module).get("forward") is attributes.get("forward")
        assert set(vars(module)) == set(attributes), type(module)
    del others.forward


def test_weights_of_the_right_dtype_are_not_copied(comfy, monkeypatch, parts):
    if comfy.device.type == "cuda":
        pytest.skip("on a GPU they are copied there")
    model = build(comfy, monkeypatch, torch.float32, torch.float32, lazily=False)
    places = {name: tensor.data_ptr() for name, tensor in model.model.state_dict().items()}
    with comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model).loaded():
        assert {name: tensor.data_ptr() for name, tensor in model.model.state_dict().items()} == places


def test_a_gpu_holds_one_copy_and_gives_it_back(comfy, monkeypatch, parts):
    if comfy.device.type != "cuda":
        pytest.skip("there is no GPU")
    from comfy import model_management as management

    management.unload_all_models()
    gc.collect()
    before = torch.cuda.memory_allocated()
    model = build(comfy, monkeypatch, torch.float16, torch.float32, lazily=False)
    with torch.inference_mode():
        management.load_models_gpu([model])
    with comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model).loaded():
        size = sum(parameter.nbytes for parameter in model.model.parameters())
        assert torch.cuda.memory_allocated() - before < 1.2 * size + 2**20
    assert torch.cuda.memory_allocated() - before < 0.2 * size + 2**20


def test_what_a_run_held_goes_with_it(comfy, parts):
    kept = []
    trainer = comfy.pack("core.learning.trainer").Trainer
    made = trainer.__init__

    def watched(self, *inputs, **named):
        kept.append(weakref.ref(self))
        made(self, *inputs, **named)

    trainer.__init__ = watched
    try:
        for seed in range(3):
            learned(comfy, parts[0], parts, seed=seed, preview_every=2)
    finally:
        trainer.__init__ = made
    gc.collect()
    assert len(kept) == 3 and not any(ref() for ref in kept)


def test_a_checkpoint_file_of_another_dtype_learns_through_the_loader(comfy, tmp_path):
    """The whole way, from a diffusers folder in fp32 as people have it."""
    folder = comfy.base / "models" / "diffusers" / "pocket-fp32"
    builtin = comfy.pack("core.models.builtin").POCKET_FOLDER
    for path in builtin.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(builtin)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value.float() for key, value in load_file(unet).items()}, unet)
    graph = comfy.graph()
    node = learning(
        graph, comfy, Parts(graph, "diffusers/pocket-fp32"), pairs=comfy.give(graph, pairs(comfy))
    )
    assert comfy.values(graph, node.out(0))[0].info.steps == 6
