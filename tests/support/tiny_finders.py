"""Writes tiny random Grounding DINO, SAM and CLIPSeg models as transformers folders."""

from pathlib import Path
from typing import Any

import torch

POCKET_TOKENIZER = Path(__file__).parents[2] / "core" / "models" / "pocket" / "tokenizer"
WORDS = ["red", "blue", "ball", "cat", "dog", "circle", "square", "hat", "a", "the", "on", "##s"]
# Grounding DINO expects these tokens at their numbers in BERT's vocabulary.
_NUMBERED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
_VOCABULARY = 1100


def grounding_dino(folder: Path, seed: int = 12, kind: str = "GroundingDino", **changes: Any) -> Path:
    """Writes a Grounding DINO for images of about 64 px.

    Args:
        kind: GroundingDino or MMGroundingDino.
        changes: to its configuration.
    """
    import transformers
    from transformers import BertConfig, GroundingDinoImageProcessor, SwinConfig

    swin = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
        drop_path_rate=0.0,
    )
    bert = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    )
    settings: dict[str, Any] = {
        "d_model": 64,
        "encoder_layers": 1,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "num_queries": 14,
        "max_text_len": 64,
        **changes,
    }
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=swin.to_dict(), text_config=bert.to_dict(), **settings
    )
    model = _drawn(getattr(transformers, f"{kind}ForObjectDetection")(config), seed)
    model.save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    _bert_tokenizer(folder).save_pretrained(folder)
    return folder


def sam(folder: Path, seed: int = 0) -> Path:
    """Writes a SAM for 64 px."""
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=8,
    )
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    model = _drawn(
        SamModel(
            SamConfig(
                vision_config=vision.to_dict(),
                prompt_encoder_config=prompts.to_dict(),
                mask_decoder_config=decoder.to_dict(),
            )
        ),
        seed,
    )
    model.save_pretrained(folder)
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def sam2(folder: Path, seed: int = 0) -> Path:
    """Writes a SAM 2 for 64 px."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    trunk = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=trunk.to_dict(),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    config = Sam2Config(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompts.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )
    _drawn(Sam2Model(config), seed).save_pretrained(folder)
    Sam2ImageProcessor(
        size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


def clipseg(folder: Path, seed: int = 0) -> Path:
    """Writes a CLIPSeg for 64 px with the pocket editor's vocabulary."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessor

    tokenizer = CLIPTokenizer.from_pretrained(POCKET_TOKENIZER, local_files_only=True)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = CLIPSegConfig(
        text_config={**text, **ends, "max_position_embeddings": 32},
        vision_config=vision,
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    model = _drawn(CLIPSegForImageSegmentation(config), seed)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _bert_tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer

    free = iter(WORDS)
    tokens = [
        _NUMBERED.get(number) or (next(free, f"[unused{number}]") if number > 103 else f"[unused{number}]")
        for number in range(_VOCABULARY)
    ]
    file = folder / "vocab.txt"
    file.write_text("\n".join(tokens), encoding="utf-8")
    return BertTokenizer(str(file))


def _drawn(model: torch.nn.Module, seed: int) -> Any:
    """Draws weights that are large enough for images and words to matter."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter[0].numel() ** -0.5)
    return model.eval()
