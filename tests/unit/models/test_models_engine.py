"""The diffusers engine: predictions, gradients, text and latents."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.diffusers_denoiser import DiffusersDenoiser
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.errors import ModelError
from instructbrush.core.instruction.injected_instruction import InjectedInstruction
from instructbrush.core.instruction.injection import Injection, inject
from instructbrush.core.instruction.instruction import Instruction, InstructionInfo
from instructbrush.tests.support import seeded

ROWS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = seeded.write_folder(
        tmp_path_factory.mktemp("small") / "model", 3, text={**seeded.SMALL_CLIP, "vocab_size": 49408}
    )
    seeded.write_tokenizer(root / "tokenizer")
    return root


@pytest.fixture(scope="module")
def small(folder: Path) -> DiffusersEditor:
    """SD1.5's layout with few channels."""
    return load_editor(folder)


def inputs(editor: DiffusersEditor, batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, 4, 8, 8, generator=draw)
    image = torch.randn(batch, 4, 8, 8, generator=draw)
    context = editor.encode_text(["make it night"] * batch)
    return noisy, torch.arange(batch) * 350 + 40, image, context


def instruction_of(editor: DiffusersEditor, text: str, learned: bool = False) -> Instruction:
    """Makes an instruction of a text's keys and values; ``learned`` adds noise to them."""
    states = editor.encode_text([text])[0]
    own = editor.denoiser.project(states)
    draw = torch.Generator().manual_seed(2)

    def rows(tensor: Tensor) -> Tensor:
        copies = tensor[1 : 1 + ROWS].repeat(5, 1, 1)
        return copies + (torch.randn(copies.shape, generator=draw) if learned else 0)

    keys = {name: rows(pair[0]) for name, pair in own.items()}
    values = {name: rows(pair[1]) for name, pair in own.items()}
    info = InstructionInfo(
        editor.description.family.name, editor.description.fingerprint, segments=5, tokens=ROWS
    )
    return Instruction(keys, values, states, 1, info)


@pytest.fixture(params=["pocket", "small"])
def model(request: pytest.FixtureRequest, editor: DiffusersEditor, small: DiffusersEditor) -> DiffusersEditor:
    return editor if request.param == "pocket" else small


@torch.no_grad()
def test_prediction_equals_the_stock_unet(model: DiffusersEditor) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    noisy, times, image, context = inputs(model)
    ours = model.denoiser.predict(noisy, times, image, context)
    unet, mine = model.denoiser.unet, dict(model.denoiser.unet.attn_processors)
    unet.set_attn_processor(AttnProcessor2_0())
    stock = unet(torch.cat([noisy, image], 1), times, context).sample
    unet.set_attn_processor(mine)
    assert torch.equal(ours, stock)
    assert ours.dtype == torch.float32


@torch.no_grad()
def test_keys_and_values_of_a_text_act_like_the_text(model: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(model)
    injection = inject(instruction_of(model, "make it night"))
    other = model.encode_text(["something else"] * 2)
    text = model.denoiser.predict(noisy, times, image, context)
    assert torch.equal(model.denoiser.predict(noisy, times, image, other, injection), text)
    assert not torch.equal(model.denoiser.predict(noisy, times, image, other), text)


@torch.no_grad()
def test_strength_0_is_the_identity_and_others_change_every_row(model: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(model)
    plain = model.denoiser.predict(noisy, times, image, context)
    learned = instruction_of(model, "a hat", learned=True)
    assert torch.equal(model.denoiser.predict(noisy, times, image, context, inject(learned, 0.0)), plain)
    for strength in (1.0, 0.5):
        changed = model.denoiser.predict(noisy, times, image, context, inject(learned, strength))
        assert ((changed - plain).flatten(1).abs().amax(1) > 1e-3).all()


@torch.no_grad()
def test_rows_of_a_batch_are_independent(model: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(model, 3)
    injection = inject(instruction_of(model, "a hat", learned=True))
    together = model.denoiser.predict(noisy, times, image, context, injection)
    for row in range(3):
        one = slice(row, row + 1)
        alone = model.denoiser.predict(noisy[one], times[one], image[one], context[one], injection)
        torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_learned_tensors_get_gradients(model: DiffusersEditor, checkpointing: bool) -> None:
    noisy, times, image, context = inputs(model)
    learned = instruction_of(model, "a hat")
    keys = {name: tensor.clone().requires_grad_() for name, tensor in learned.keys.items()}
    values = {name: tensor.clone().requires_grad_() for name, tensor in learned.values.items()}
    injection = Injection((InjectedInstruction.attention(learned.context, 1, keys, values),), torch.ones(5))
    unet = model.denoiser.unet
    if checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        model.denoiser.predict(noisy, times, image, context, injection).square().mean().backward()
    finally:
        unet.disable_gradient_checkpointing()
    touched = sorted({int(time) // 200 for time in times})
    for side in (keys, values):
        for name, tensor in side.items():
            moved = tensor.grad.abs().amax((1, 2)) > 0
            assert moved.nonzero().flatten().tolist() == touched, name
    assert all(not weight.requires_grad and weight.grad is None for weight in unet.parameters())


def test_gradients_match_finite_differences(small: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(small, 1)
    learned = instruction_of(small, "a hat")
    site = small.description.sites[-1].name
    tensor = learned.values[site].clone().requires_grad_()
    draw = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4))

    def mean(value: Tensor) -> Tensor:
        values = {**learned.values, site: value}
        part = InjectedInstruction.attention(learned.context, 1, learned.keys, values)
        injection = Injection((part,), torch.ones(5))
        return small.denoiser.predict(noisy, times, image, context, injection).square().mean()

    mean(tensor).backward()
    step = 0.05
    with torch.no_grad():
        slope = (mean(tensor + step * draw) - mean(tensor - step * draw)) / (2 * step)
    torch.testing.assert_close((tensor.grad * draw).sum(), slope, rtol=2e-2, atol=1e-6)


def test_threads_keep_their_own_instruction(editor: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(editor)
    injections = [None, *(inject(instruction_of(editor, text, learned=True)) for text in ("a hat", "snow"))]
    with torch.no_grad():
        expected = [
            editor.denoiser.predict(noisy, times, image, context, injection) for injection in injections
        ]
    results: dict[int, list[Tensor]] = {index: [] for index in range(len(injections))}

    def work(index: int) -> None:
        with torch.no_grad():
            results[index].extend(
                editor.denoiser.predict(noisy, times, image, context, injections[index]) for _ in range(3)
            )

    threads = [threading.Thread(target=work, args=(index,)) for index in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, outcome in results.items():
        assert len(outcome) == 3
        for result in outcome:
            torch.testing.assert_close(result, expected[index], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_project_returns_the_projections_of_every_site(model: DiffusersEditor) -> None:
    states = model.encode_text(["make it night"])[0]
    projected = model.denoiser.project(states)
    assert list(projected) == [site.name for site in model.description.sites]
    for site in model.description.sites:
        keys, values = projected[site.name]
        layer = model.denoiser.unet.get_submodule(site.name)
        assert keys.shape == values.shape == (len(states), site.width)
        assert torch.equal(keys, layer.to_k(states)) and torch.equal(values, layer.to_v(states))


def test_learned_tensors_stay_fp32_in_a_half_precision_model(folder: Path, small: DiffusersEditor) -> None:
    half = load_editor(folder, dtype=torch.bfloat16)
    noisy, times, image, context = inputs(small)
    learned = instruction_of(small, "a hat", learned=True)
    keys = {name: tensor.clone().requires_grad_() for name, tensor in learned.keys.items()}
    result = half.denoiser.predict(
        noisy,
        times,
        image,
        context,
        Injection((InjectedInstruction.attention(learned.context, 1, keys, learned.values),), torch.ones(5)),
    )
    result.square().mean().backward()
    assert result.dtype == torch.float32
    assert all(
        tensor.grad.dtype == torch.float32 and tensor.grad.isfinite().all() for tensor in keys.values()
    )
    assert half.denoiser.project(context[0])[half.description.sites[0].name][0].dtype == torch.float32
    with torch.no_grad():
        full = small.denoiser.predict(noisy, times, image, context, inject(learned))
    assert (result - full).abs().mean() < 0.05 * full.abs().mean()


@torch.no_grad()
def test_converts_v_prediction_to_noise(folder: Path, small: DiffusersEditor, tmp_path: Path) -> None:
    velocity = seeded.write_folder(
        tmp_path / "v", 3, scheduler={**seeded.SCHEDULER, "prediction_type": "v_prediction"}
    )
    denoiser = load_editor(velocity, tokenizer=folder / "tokenizer").denoiser
    assert denoiser.description.family.prediction == "v_prediction"
    noisy, times, image, context = inputs(small)
    raw = small.denoiser.predict(noisy, times, image, context)
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)[
        times
    ].view(-1, 1, 1, 1)
    torch.testing.assert_close(
        denoiser.predict(noisy, times, image, context),
        (abar.sqrt() * raw + (1 - abar).sqrt() * noisy).float(),
    )


def test_uses_the_noise_schedule_of_stable_diffusion(editor: DiffusersEditor) -> None:
    abar = editor.denoiser.alphas_cumprod
    assert abar.shape == (1000,) and abar.dtype == torch.float32
    assert abar[0] == pytest.approx(0.99915, abs=1e-5) and abar[-1] == pytest.approx(0.0047, abs=1e-4)


def test_rejects_wrong_shapes(editor: DiffusersEditor) -> None:
    noisy, times, image, context = inputs(editor)
    with pytest.raises(
        ModelError,
        match=(
            r"^Latents: noisy \(2, 4, 8, 8\) and image \(2, 4, 4, 4\) must have the same shape \[batch, 4, "
            r"height, width\].$"
        ),
    ):
        editor.denoiser.predict(noisy, times, image[..., :4, :4], context)
    with pytest.raises(
        ModelError, match=r"^Text states: shape \(1, 32, 128\) does not fit; \[2, tokens, 128\] is needed.$"
    ):
        editor.denoiser.predict(noisy, times, image, context[:1])
    with pytest.raises(
        ModelError,
        match="^Images: 60 x 64 pixels cannot be encoded; crop or pad both sides to multiples of 8.$",
    ):
        editor.encode_images(torch.zeros(1, 64, 60, 3))
    with pytest.raises(
        ModelError,
        match=r"^Images: shape \(1, 3, 64, 64\) does not fit; \[batch, height, width, 3\] is needed.$",
    ):
        editor.encode_images(torch.zeros(1, 3, 64, 64))
    with pytest.raises(
        ModelError, match=r"^Latents: shape \(4, 8, 8\) does not fit; \[batch, 4, height, width\] is needed.$"
    ):
        editor.decode(torch.zeros(4, 8, 8))


@torch.no_grad()
def test_text_and_latents_match_the_diffusers_pipeline(
    model: DiffusersEditor, folder: Path, pocket: Path
) -> None:
    from diffusers import AutoencoderKL, AutoencoderTiny
    from transformers import CLIPTextModel, CLIPTokenizer

    is_pocket = model.description.family.name == "pocket"
    source = pocket if is_pocket else folder
    tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(source / "text_encoder", torch_dtype=torch.float32)
    vae = (AutoencoderTiny if is_pocket else AutoencoderKL).from_pretrained(
        source / "vae", torch_dtype=torch.float32
    )
    words = ["make it night", ""]
    ids = tokenizer(
        words,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    assert torch.equal(model.encode_text(words), text_encoder(ids)[0])
    assert ids.shape[1] == model.window

    images = torch.rand(2, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    encoded = vae.encode(images.movedim(3, 1) * 2 - 1)
    latents = model.encode_images(images)
    assert torch.equal(latents, encoded.latents if is_pocket else encoded.latent_dist.mode())
    assert latents.shape == (2, 4, 6, 8)
    factor = vae.config.scaling_factor
    assert torch.equal(model.scale(latents), latents * factor)
    decoded = model.decode(model.scale(latents))
    torch.testing.assert_close(
        decoded, (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, 3), rtol=1e-4, atol=1e-5
    )
    assert decoded.shape == images.shape and 0 <= decoded.min() and decoded.max() <= 1


def test_counts_tokens_and_warns_of_cut_text(
    editor: DiffusersEditor, small: DiffusersEditor, caplog: pytest.LogCaptureFixture
) -> None:
    assert small.count_tokens("make it night") == 3 and small.count_tokens("") == 0
    long = "night " * 100
    assert editor.encode_text([long]).shape[1] == editor.window
    assert f"is cut to the {editor.window - 2} that fit" in caplog.text
    # Training encodes the same texts in every epoch.
    caplog.clear()
    editor.encode_text([long, long])
    assert not caplog.text


def test_does_not_scale_conditions_from_a_tiny_vae(small: DiffusersEditor) -> None:
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    ).requires_grad_(False)
    editor = DiffusersEditor(small.denoiser, vae, small.text_encoder, small.tokenizer)
    images = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    scaled = vae.encode(images.movedim(3, 1) * 2 - 1).latents
    torch.testing.assert_close(editor.scale(editor.encode_images(images)), scaled)
    torch.testing.assert_close(
        editor.decode(scaled), (vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).movedim(1, 3)
    )


def test_rejects_an_sdxl_denoiser(small: DiffusersEditor) -> None:
    from dataclasses import replace

    from instructbrush.core.models.families import SDXL

    with pytest.raises(ModelError, match="runs in ComfyUI only"):
        DiffusersDenoiser(small.denoiser.unet, replace(small.description, family=SDXL), torch.ones(1000))
