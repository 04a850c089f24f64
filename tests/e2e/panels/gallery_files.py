"""Files of instructions for the tests of the gallery."""

import torch
from PIL import Image, ImageDraw

from instructbrush.core.instruction.file import save_instruction
from instructbrush.core.instruction.instruction import Instruction, InstructionInfo

FILES = [
    ("snow", "a snowy day", "pocket", "attention"),
    ("weather/rain", "rain at night", "pocket", "text"),
    ("gold", "made of gold", "sd15", "attention"),
    ("ink", "an ink drawing", "sdxl", "adapter"),
]
WORKFLOW = (
    '{"last_node_id": 1, "last_link_id": 0, "nodes": [{"id": 1, "type": "InstructBrushApply", "pos": [9, 9], '
    '"size": [300, 200], "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {}, '
    '"widgets_values": [1]}], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}'
)


def image_of(color):
    """Before: a house in gray. After: the same in a color."""
    image = Image.new("RGB", (256, 128))
    draw = ImageDraw.Draw(image)
    for left, wall, sky in ((0, "#999", "#cdd"), (128, color, "#456")):
        draw.rectangle((left, 0, left + 127, 127), sky)
        draw.rectangle((left + 30, 60, left + 98, 127), wall)
        draw.polygon([(left + 20, 60), (left + 108, 60), (left + 64, 20)], "#633")
    return image


def learned(words, family="pocket", space="attention", steps=400, wanted=400):
    settings = {"steps": wanted, "rank": 4} if space == "adapter" else {"steps": wanted}
    info = InstructionInfo(
        family, "0" * 64, 2, 2, space, words, words, "2026-11-27", "a model", 4, steps, 0.1, (0.2,), settings
    )
    context = torch.zeros(8, 4)
    if space == "text":
        return Instruction({}, {}, context, 1, info, torch.zeros(2, 2, 4))
    site = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    rows = {site: torch.zeros(2, 2, 4)}
    adapter = {}
    if space == "adapter":
        down, up = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
        adapter = {f"{site}.q.down": down, f"{site}.q.up": up}
    return Instruction(rows, rows, context, 1, info, adapter=adapter)


def write_files(folder):
    """Writes four files, an unfinished run and a damaged file."""
    for (name, words, family, space), color in zip(FILES, ("white", "#36c", "gold", "#222"), strict=True):
        save_instruction(
            learned(words, family, space),
            folder / f"{name}.safetensors",
            thumbnail=image_of(color),
            extra={"workflow": WORKFLOW},
        )
    save_instruction(
        learned(f"autumn/leaves\nin 'the' \"wood\"? {'far away ' * 20}", steps=57, wanted=300),
        folder / "unfinished" / "abc123.safetensors",
        thumbnail=image_of("#c63"),
        extra={"workflow": WORKFLOW},
    )
    (folder / "unfinished" / "abc123.checkpoint").write_bytes(b"state")
    (folder / "cut.safetensors").write_bytes((folder / "snow.safetensors").read_bytes()[:-9])
