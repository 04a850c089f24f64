"""CLIP models: features equal those of open_clip and transformers; invalid files are rejected."""

import re

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from instructbrush.core.encoders.clip import image_features, text_features
from instructbrush.core.encoders.clip_loading import clip_file, clip_names, load_clip, open_clip_model
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.encoders.preprocessing import Preprocessing
from instructbrush.core.errors import ModelError
from instructbrush.tests.support import tiny_clip

TEXTS = ["make it night", "a red circle on a blue background, in the snow", "", "word " * 60]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Our model, open_clip's model, and the file."""
    folder = tmp_path_factory.mktemp("open_clip")
    path = tiny_clip.write(folder)
    return open_clip_model(tiny_clip.NAME, path), tiny_clip.reference(folder / "configs"), path


@pytest.fixture(scope="module")
def small_pocket():
    return pocket_clip()


def smooth(side=(48, 40), count=2):
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return torch.nn.functional.interpolate(coarse, side, mode="bilinear").movedim(1, -1)


def test_features_match_open_clip(small):
    clip, model, _ = small
    tokenizer = open_clip.get_tokenizer(tiny_clip.ARCHITECTURE)
    images = smooth((32, 32))
    with torch.no_grad():
        torch.testing.assert_close(
            clip.encode_texts(TEXTS), model.encode_text(tokenizer(TEXTS)), atol=1e-5, rtol=1e-5
        )
        transform = open_clip.image_transform(32, is_train=False)
        torch.testing.assert_close(
            clip.encode_images(images),
            model.encode_image(transform(images.movedim(-1, 1))),
            atol=1e-5,
            rtol=1e-5,
        )
    assert (
        clip.text_projection.shape == (16, 24)
        and clip.token_embedding.shape == (49408, 16)
        and clip.context_length == 40
    )


@pytest.mark.parametrize("size", [(32, 32), (75, 40), (41, 133), (20, 24), (200, 300)])
def test_preprocessing_matches_open_clip(size):
    frames = smooth(size)
    # On tensors, open_clip computes the same. On PIL images it rounds to 8 bits after scaling each axis.
    ours = Preprocessing((32, 32))(frames)
    transform = open_clip.image_transform(32, is_train=False)
    torch.testing.assert_close(ours, transform(frames.movedim(-1, 1)), atol=1e-5, rtol=0)
    eight = (frames * 255).round()
    images = [Image.fromarray(frame.numpy().astype(np.uint8)) for frame in eight]
    theirs = torch.stack([transform(image) for image in images])
    step = 1 / 255 / 0.26
    assert (Preprocessing((32, 32))(eight / 255) - theirs).abs().max() <= (
        1e-5 if size == (32, 32) else 1.6 * step
    )


def test_preprocessing_clips_sharp_edges_like_pil():
    stripes = (torch.arange(64) // 8 % 2).float().expand(64, 64)[None, ..., None].expand(1, 64, 64, 3)
    image = Image.fromarray((stripes[0] * 255).numpy().astype(np.uint8))
    theirs = open_clip.image_transform(48, is_train=False)(image)
    assert (Preprocessing((48, 48))(stripes)[0] - theirs).abs().max() <= 1.6 / 255 / 0.26


def test_squashing_matches_open_clip():
    images = smooth((50, 90))
    transform = open_clip.image_transform(
        32, is_train=False, resize_mode="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    ours = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", "squash")(images)
    torch.testing.assert_close(ours, transform(images.movedim(-1, 1)), atol=1e-5, rtol=0)


def test_pocket_clip_matches_transformers(small_pocket, pocket, editor):
    from transformers import CLIPVisionModelWithProjection

    vision = CLIPVisionModelWithProjection.from_pretrained(
        pocket / "image_encoder", dtype=torch.float32, local_files_only=True
    ).eval()
    images = smooth((128, 128))
    with torch.no_grad():
        torch.testing.assert_close(
            small_pocket.encode_images(images),
            vision(small_pocket.preprocessing(images)).image_embeds,
            atol=1e-5,
            rtol=1e-5,
        )
    texts = TEXTS[:3]
    ids = editor.tokenizer(
        texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt"
    ).input_ids
    ends = (ids == small_pocket.end_id).int().argmax(-1)
    states = editor.encode_text(texts)[torch.arange(3), ends]
    torch.testing.assert_close(
        small_pocket.encode_texts(texts), states @ small_pocket.text_projection, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("which", ["small", "small_pocket"])
def test_embeddings_encode_like_texts_with_gradients(which, request):
    clip = request.getfixturevalue(which)
    clip = clip[0] if isinstance(clip, tuple) else clip
    ids = clip.tokenize("make it night")
    rows = [clip.start_id, *ids, clip.end_id, 0, 0]
    embeddings = clip.token_embedding[torch.tensor(rows)][None].clone().requires_grad_()
    feature = clip.encode_embeddings(embeddings, len(ids) + 1)
    torch.testing.assert_close(feature, clip.encode_texts(["make it night"]), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(feature.square().sum(), embeddings)
    assert gradient[0, : len(ids) + 2].abs().sum() > 0 and gradient[0, len(ids) + 2 :].abs().sum() == 0
    assert clip.decode(ids) == "make it night" and clip.start_id not in ids and clip.end_id not in ids


def test_loads_files_in_the_layout_of_transformers(small, tmp_path):
    clip, model, _ = small
    theirs = {}
    for name, tensor in model.state_dict().items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        name = name.removeprefix("visual.")
        places = {
            "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
            "positional_embedding": f"{tower}.embeddings.position_embedding.weight",
            "class_embedding": "vision_model.embeddings.class_embedding",
            "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
            "text_projection": "text_projection.weight",
            "proj": "visual_projection.weight",
            "logit_scale": "logit_scale",
        }
        if name in places:
            theirs[places[name]] = tensor.T if name in ("text_projection", "proj") else tensor
            continue
        name = (
            name.replace("transformer.resblocks.", "encoder.layers.")
            .replace("ln_1", "layer_norm1")
            .replace("ln_2", "layer_norm2")
        )
        name = (
            name.replace("mlp.c_fc", "mlp.fc1")
            .replace("mlp.c_proj", "mlp.fc2")
            .replace(".attn.", ".self_attn.")
        )
        name = (
            name.replace("ln_final", "final_layer_norm")
            .replace("ln_pre", "pre_layrnorm")
            .replace("ln_post", "post_layernorm")
        )
        if "in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                theirs[f"{tower}.{name.replace('in_proj_', f'{part}_proj.')}"] = third
        else:
            theirs[f"{tower}.{name}"] = tensor
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, path)
    other = open_clip_model(tiny_clip.NAME, path)
    assert (
        torch.equal(other.encode_texts(TEXTS), clip.encode_texts(TEXTS))
        and other.fingerprint == clip.fingerprint
    )


def test_fingerprint_depends_on_weights_and_not_on_precision(small, small_pocket, tmp_path):
    clip, _, path = small
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(halves, tmp_path / path.name)
    assert open_clip_model(tiny_clip.NAME, tmp_path / path.name).fingerprint == clip.fingerprint
    other = open_clip_model(tiny_clip.NAME, tiny_clip.write(tmp_path / "other", seed=1))
    assert len({clip.fingerprint, small_pocket.fingerprint, other.fingerprint}) == 3


def test_name_of_the_weights_decides_the_activation(tmp_path, monkeypatch):
    """OpenAI's weights need QuickGELU, although their architecture does not declare it."""
    import open_clip.pretrained as pretrained

    path = tiny_clip.write(tmp_path)
    monkeypatch.setitem(
        pretrained._PRETRAINED,
        tiny_clip.ARCHITECTURE,
        {"tests": {"quick_gelu": True, "mean": (0.5,) * 3, "interpolation": "bilinear"}},
    )
    clip = open_clip_model(tiny_clip.NAME, path)
    assert (
        "QuickGELU" in str(clip.module)
        and clip.preprocessing.mean == (0.5,) * 3
        and clip.preprocessing.interpolation == "bilinear"
    )
    assert "QuickGELU" not in str(tiny_clip.reference(tmp_path / "again"))


def test_loads_models_by_name(small):
    _, _, path = small
    assert (
        load_clip(tiny_clip.NAME, path.parent).name == tiny_clip.NAME
        and load_clip().name == load_clip("pocket").name == "pocket"
    )


def test_lists_models_by_name(tmp_path):
    for name in ("ViT-L-14-openai", "ViT-L-14-336-openai", "ViT-B-16-plus-240-laion400m_e32", "something"):
        (tmp_path / f"{name}.safetensors").touch()
    assert clip_names(tmp_path) == [
        "ViT-B-16-plus-240/laion400m_e32",
        "ViT-L-14-336/openai",
        "ViT-L-14/openai",
    ]
    assert clip_names(tmp_path / "nowhere") == []


def rejected(message):
    return pytest.raises(ModelError, match="^" + re.escape(message))


def test_missing_file_error_tells_which_file_is_needed(tmp_path):
    message = (
        f"CLIP 'ViT-L-14/openai': ViT-L-14-openai.safetensors is not in {tmp_path}. Put the model's "
        ".safetensors file (open_clip's, or the model.safetensors of transformers) there under this name, "
        "or choose the pocket CLIP. Nothing is downloaded automatically."
    )
    with rejected(message):
        load_clip("ViT-L-14/openai", tmp_path)
    with rejected(
        "CLIP 'ViT-L-14/openai': no folder was given to look for ViT-L-14-openai.safetensors in. Give one, "
        "or use the pocket CLIP."
    ):
        clip_file("ViT-L-14/openai", None)


@pytest.mark.parametrize(
    "name", ["ViT-L-14", "", "/openai", "ViT-L-14/", "../x/y", "hf-hub:a/b", "ViT-L-14/../x"]
)
def test_rejects_invalid_names(name, tmp_path):
    with rejected(f"CLIP '{name}': a name is architecture/weights, such as ViT-L-14/openai, or pocket."):
        load_clip(name, tmp_path)


def test_rejects_unsupported_architectures(small, tmp_path):
    _, _, path = small
    with rejected(
        "CLIP 'ViT-Z-99/openai': open_clip knows no architecture 'ViT-Z-99'. Names are like ViT-L-14/openai: "
        "architecture/weights."
    ):
        open_clip_model("ViT-Z-99/openai", path)
    for architecture in ("ViT-B-16-SigLIP", "roberta-ViT-B-32", "coca_ViT-L-14", "ViT-L-14-CLIPA"):
        message = (
            f"CLIP '{architecture}/x': {architecture} has a text encoder of another kind, which is not "
            "supported. Choose a plain CLIP such as"
        )
        with rejected(message):
            open_clip_model(f"{architecture}/x", path)


def test_rejects_unsupported_image_encoders(small, monkeypatch, tmp_path):
    import open_clip.pretrained as pretrained

    message = (
        "CLIP '{}': the image encoder of {} is of a kind that is not supported. "
        "Choose another such as ViT-L-14/openai."
    )
    oblong = {**tiny_clip.CONFIG, "vision_cfg": {**tiny_clip.CONFIG["vision_cfg"], "image_size": [32, 64]}}
    tiny_clip.register(tmp_path, "ViT-oblong", oblong)
    with rejected(message.format("ViT-oblong/x", "ViT-oblong")):
        open_clip_model("ViT-oblong/x", small[2])
    monkeypatch.setitem(pretrained._PRETRAINED, tiny_clip.ARCHITECTURE, {"tests": {"resize_mode": "longest"}})
    with rejected(message.format(tiny_clip.NAME, tiny_clip.ARCHITECTURE)):
        open_clip_model(tiny_clip.NAME, small[2])


def test_rejects_invalid_images(small_pocket):
    with rejected("Images of shape (3, 128, 128) do not fit; [batch, height, width, 3] is needed."):
        small_pocket.encode_images(torch.zeros(3, 128, 128))
    with rejected("Images of shape (1, 128, 128, 4) do not fit; [batch, height, width, 3] is needed."):
        small_pocket.encode_images(torch.zeros(1, 128, 128, 4))
    with rejected("Images of shape (0, 128, 128, 3) do not fit; [batch, height, width, 3] is needed."):
        small_pocket.encode_images(torch.zeros(0, 128, 128, 3))


def test_rejects_invalid_files(small, tmp_path):
    _, _, path = small
    states = load_file(path)
    target = tmp_path / path.name
    part = f"{path.name} as {tiny_clip.ARCHITECTURE}"
    save_file({name: tensor for name, tensor in states.items() if name != "visual.proj"}, target)
    with rejected(
        f"{part}: the weight visual.proj is missing. The file is incomplete or of another "
        "kind. Download it again."
    ):
        open_clip_model(tiny_clip.NAME, target)
    save_file({**states, "text_projection": torch.zeros(16, 25)}, target)
    with rejected(
        f"{part}: the weight text_projection has shape [16, 25]; [16, 24] is needed. The file is of another "
        "kind. Choose another file."
    ):
        open_clip_model(tiny_clip.NAME, target)
    target.write_bytes(path.read_bytes()[:-1000])
    with rejected(f"{path.name}: the file is cut short"):
        open_clip_model(tiny_clip.NAME, target)
    target.write_bytes(b"\x80\x04nothing good")
    with rejected(f"{path.name}: this is a pickled checkpoint under another name."):
        open_clip_model(tiny_clip.NAME, target)
    with rejected("open_clip_pytorch_model.bin: .bin files are not read, only .safetensors."):
        open_clip_model(tiny_clip.NAME, tmp_path / "open_clip_pytorch_model.bin")


def test_features_are_normalized_and_sizes_may_differ(small_pocket) -> None:
    images = [*torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0)), torch.rand(64, 48, 3)]
    features = image_features(small_pocket, images)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    alone = small_pocket.encode_images(images[1][None])[0]
    torch.testing.assert_close(features[1], alone / alone.norm(), rtol=1e-5, atol=1e-6)
    texts = small_pocket.encode_texts(["a red circle", "snow"])
    torch.testing.assert_close(
        text_features(small_pocket, ["a red circle", "snow"]), texts / texts.norm(dim=1, keepdim=True)
    )
