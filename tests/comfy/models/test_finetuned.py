"""Models that fine-tuning exports, in Load InstructPix2Pix."""

import shutil

import torch

from instructbrush.core.editing.loading import load_editor
from instructbrush.core.finetuning.export import save_model
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.tests.comfy.graphs import make_image
from instructbrush.tests.comfy.models.test_models import load


def test_comfyui_loads_an_exported_model_with_its_weights(comfy):
    from comfy import model_management

    editor = load_editor()
    unet = editor.denoiser.unet
    drawn = torch.randn(unet.conv_in.weight.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        unet.conv_in.weight += 0.05 * drawn
    folder = comfy.base / "models" / "diffusers" / "finetuned"
    save_model(editor, POCKET_FOLDER, folder)
    try:
        model, clip, vae, *_ = load(comfy, "diffusers/finetuned")
        image = make_image(1)
        with torch.inference_mode():
            states = clip.encode_from_tokens_scheduled(clip.tokenize("make it night"))[0][0]
            latent = vae.encode(image)
            model_management.load_models_gpu([model])
            timestep = 500
            abar = editor.denoiser.alphas_cumprod[timestep]
            sigma = ((1 - abar) / abar).sqrt()
            noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
            options = {"c_concat": latent.to(comfy.device), "c_crossattn": states.to(comfy.device)}
            given = (noisy / abar.sqrt()).to(comfy.device), sigma[None].to(comfy.device)
            clean = model.model.apply_model(*given, **options).cpu().float()
        with torch.no_grad():
            context = editor.encode_text(["make it night"])
            noise = editor.denoiser.predict(noisy, torch.tensor([timestep]), editor.condition(image), context)
        expected = (noisy - (1 - abar).sqrt() * noise) / abar.sqrt()
        torch.testing.assert_close(clean, expected, rtol=0, atol=5e-3 * float(expected.abs().max()))
        del model, clip, vae
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        comfy.forget()
