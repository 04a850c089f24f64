"""Learning on weights as ComfyUI keeps them: any dtype, inference tensors, offloaded, fp8, with a LoRA."""

import gc
import weakref
from contextlib import nullcontext

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
    """Returns the pocket editor's UNet in a dtype, under ComfyUI's names."""
    folder = comfy.pack("core.models.builtin").POCKET_FOLDER
    states = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return {
        key: value.to(dtype)
        for key, value in comfy.pack("nodes.comfy.models.key_names").unet_keys(states).items()
    }


def build(comfy, monkeypatch, stored, computed, lazily=True):
    """Builds the pocket editor. ``lazily`` uses dynamic VRAM, where layers keep the file's dtype."""
    from comfy import memory_management, sd

    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(memory_management, "aimdo_enabled", lazily)
        return sd.load_diffusion_model_state_dict(
            unet_states(comfy, stored), model_options={"dtype": computed}
        )


def learned(comfy, model, parts, **changes):
    """Runs Learn Instruction on a MODEL."""
    sockets = Parts.__new__(Parts)
    graph = comfy.graph()
    sockets.model = comfy.give(graph, model)
    sockets.clip = comfy.give(graph, parts[1])
    sockets.vae = comfy.give(graph, parts[2])
    return comfy.values(graph, learning(graph, comfy, sockets, **changes).out(0))[0]


def distance(one, other):
    """Returns the norm of the difference of two instructions, relative to that of the second."""
    difference = 0.0
    size = 0.0
    for name, tensor in other.learned().items():
        difference += float((one.learned()[name] - tensor).square().sum())
        size += float(tensor.square().sum())
    return (difference / size) ** 0.5


@pytest.mark.parametrize("computed", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
def test_learns_if_stored_and_computed_dtypes_differ(comfy, monkeypatch, parts, stored, computed):
    """With dynamic VRAM, linear layers keep the file's dtype, and convolutions have the model's."""
    model = build(comfy, monkeypatch, DTYPES[stored], DTYPES[computed])
    layer = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_k
    assert layer.weight.dtype == DTYPES[stored]
    assert distance(learned(comfy, model, parts, steps=2), learned(comfy, parts[0], parts, steps=2)) < 0.05
    assert layer.weight.dtype == DTYPES[stored] and "comfy_cast_weights" not in vars(layer)


def test_learns_through_hidden_inference_tensors(comfy, monkeypatch, parts):
    """After a move to the device outside inference mode, inference tensors deny being such."""
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


def test_make_plain_keeps_memory_and_sharing(comfy):
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
    states = torch.ones(2, 4, 3, requires_grad=True)
    module[2](module[1](states.mean(1))).sum().backward()
    assert states.grad is not None


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
def test_learning_uses_the_same_lora_as_sampling(comfy, parts, loaded_before):
    from comfy import model_management as management

    model = with_lora(comfy, comfy.graph(), parts[0])
    description = comfy.pack("nodes.comfy.models.description").describe
    assert description(model) == description(parts[0])
    x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 3.0])
    conditions = {
        "c_concat": x,
        "c_crossattn": torch.randn(2, 32, 128, generator=torch.Generator().manual_seed(2)),
    }
    with torch.inference_mode():
        management.load_models_gpu([model])
        x = x.to(comfy.device)
        sigma = sigma.to(comfy.device)
        conditions = {name: tensor.to(comfy.device) for name, tensor in conditions.items()}
        sampled = model.model.apply_model(x, sigma, **conditions)
        management.load_models_gpu([parts[0]])
        without = parts[0].model.apply_model(x, sigma, **conditions)
        if loaded_before:
            management.load_models_gpu([model])
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    with denoiser.loaded():
        assert torch.allclose(denoiser.patcher.model.apply_model(x, sigma, **conditions), sampled, atol=1e-4)
    with torch.inference_mode():
        management.load_models_gpu([parts[0]])
        assert torch.equal(parts[0].model.apply_model(x, sigma, **conditions), without)
    assert not torch.allclose(sampled, without, atol=1e-2)


def test_learns_on_fp8_with_a_lora(comfy, monkeypatch, parts):
    model = build(comfy, monkeypatch, torch.float8_e4m3fn, torch.float8_e4m3fn, lazily=False)
    plain = learned(comfy, model, parts)
    patched = learned(comfy, with_lora(comfy, comfy.graph(), model), parts)
    assert 0 < distance(plain, learned(comfy, parts[0], parts)) < 0.2
    assert distance(patched, plain) > 0
    assert patched.keys
    for tensor in patched.keys.values():
        assert tensor.isfinite().all() and not torch.equal(tensor[0], tensor[1])


def test_fingerprint_survives_fp8(comfy, monkeypatch, parts):
    """With --fp8_e4m3fn-unet: an instruction learned on the fp8 model fits the original."""
    models = comfy.pack("nodes.comfy.models.loading")
    description = comfy.pack("nodes.comfy.models.description").describe
    from comfy import cli_args

    monkeypatch.setattr(cli_args.args, "fp8_e4m3fn_unet", True)
    with torch.inference_mode():
        model = models.load_folder_unet(str(comfy.pack("core.models.builtin").POCKET_FOLDER))
    assert {parameter.dtype for parameter in model.model.diffusion_model.parameters()} == {
        torch.float8_e4m3fn
    }
    assert description(model) == description(parts[0])
    assert learned(comfy, model, parts).check_fits(description(parts[0])) == []


def test_learns_on_an_offloaded_model(comfy, monkeypatch, parts):
    """As with --lowvram: weights stay on the CPU, and are cast and patched in every call."""
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
def test_restores_the_model(comfy, parts, fails):
    model = parts[0]
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    others = model.model.diffusion_model.middle_block[0]
    forward = others.forward
    others.forward = lambda *inputs, **named: forward(*inputs, **named)  # as another pack may do
    before = [
        (each, dict(each._parameters), dict(each._buffers), {**vars(each)}) for each in model.model.modules()
    ]
    expectation = pytest.raises(MemoryError, match="^out of memory$") if fails else nullcontext()
    with expectation, denoiser.loaded():
        assert not any(parameter.is_inference() for parameter in model.model.parameters())
        if fails:
            raise MemoryError("out of memory")
    for module, parameters, buffers, attributes in before:
        assert all(module._parameters[name] is parameter for name, parameter in parameters.items())
        assert all(module._buffers[name] is buffer for name, buffer in buffers.items())
        assert vars(module).get("forward") is attributes.get("forward")
        assert set(vars(module)) == set(attributes), type(module)
    del others.forward


def test_shares_memory_of_weights_in_the_right_dtype(comfy, monkeypatch, parts):
    if comfy.device.type == "cuda":
        pytest.skip("a GPU needs copies")
    model = build(comfy, monkeypatch, torch.float32, torch.float32, lazily=False)
    places = {name: tensor.data_ptr() for name, tensor in model.model.state_dict().items()}
    with comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model).loaded():
        assert {name: tensor.data_ptr() for name, tensor in model.model.state_dict().items()} == places


def test_gpu_holds_one_copy_and_frees_it(comfy, monkeypatch, parts):
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


def test_says_which_patches_gradients_do_not_pass(comfy, parts):
    """As a hypernetwork's: its weights are made in inference mode."""
    model = parts[0].clone()
    with torch.inference_mode():
        scale = torch.ones(1, device=comfy.device)
    model.set_model_attn2_patch(lambda q, k, v, extra: (q * scale, k, v))
    sockets = Parts.__new__(Parts)
    graph = comfy.graph()
    sockets.model, sockets.clip, sockets.vae = (comfy.give(graph, each) for each in (model, *parts[1:]))
    message = comfy.error(graph, learning(graph, comfy, sockets).out(0))
    assert message.startswith("Learning: this MODEL carries a patch with weights of its own")


def test_vae_that_a_preview_loaded_encodes_afterwards(comfy, monkeypatch, parts):
    """Weights that move to a GPU outside of inference mode fail in every later node."""
    from comfy import model_management

    modes = []
    for name in ("load_models_gpu", "free_memory"):
        inner = getattr(model_management, name)

        def noted(*given, inner=inner, **named):
            modes.append(torch.is_inference_mode_enabled())
            return inner(*given, **named)

        monkeypatch.setattr(model_management, name, noted)
    learned(comfy, parts[0], parts, preview_every=2, hold_out=1)
    assert modes and all(modes)
    graph = comfy.graph()
    vae, pixels = (comfy.give(graph, each) for each in (parts[2], torch.rand(1, 32, 32, 3)))
    comfy.values(graph, graph.node("VAEEncode", vae=vae, pixels=pixels).out(0))


def test_frees_the_trainer_after_a_run(comfy, monkeypatch, parts):
    trainers = []
    trainer = comfy.pack("core.learning.trainer").Trainer
    original = trainer.__init__

    def recorded(self, *inputs, **named):
        trainers.append(weakref.ref(self))
        original(self, *inputs, **named)

    monkeypatch.setattr(trainer, "__init__", recorded)
    for seed in range(2):
        learned(comfy, parts[0], parts, seed=seed, preview_every=2)
    gc.collect()
    assert len(trainers) == 2 and not any(reference() for reference in trainers)


def test_learns_on_an_fp32_folder_through_the_loader(comfy, tmp_path):
    """Loads a diffusers folder in fp32 through the node and learns on it."""
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
