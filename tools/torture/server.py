"""Trials on a real server: many runs in a row, hostile names, two clients at once, memory that runs out."""

from __future__ import annotations

import copy
import random
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from instructbrush.tools.comfy_server import ComfyServer, ServerError

ADDON = Path(__file__).with_name("out_of_memory.py")
MODEL = "pocket editor (built in)"
_PAIRS = "hours_passed (example)"
# Kinds of ComfyUI's errors for values that the nodes or ComfyUI refuse.
_REFUSALS = ("custom_validation_failed", "value_not_in_list")
# Memory or time that the last runs may take, relative to early ones.
_MOST_GROWTH = 1.05
_NAMES_TO_A_RUN = 10

# Pieces of hostile names.
_PIECES = (
    "..",
    "/",
    "\\",
    ".",
    "~",
    "%2e%2e",
    "%00",
    "\0",
    "\n",
    "\x7f",
    "\ud800",
    "\u202e",
    " ",
    "",
    "-rf",
    "*",
    "?",
    "<",
    ">",
    "|",
    '"',
    "'",
    "`id`",
    "$(id)",
    "con",
    "NUL",
    "aux.txt",
    "C:",
    "//host/share",
    "file://",
    "${HOME}",
    "{}",
    "雪",
    "e\u0301",
    "🦊",
    "a" * 250,
    "a" * 5000,
    "mllm",
    "clipseg",
    "etc/passwd",
    "diffusers",
    "checkpoints",
    "snow",
    ".safetensors",
    ".checkpoint",
    "unfinished",
    MODEL,
    "(example)",
)
# Node -> its input that becomes a path, and its other inputs.
NAME_INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "InstructBrushLoad": ("name", {}),
    "InstructBrushLoadPairs": ("folder", {"size": 64}),
    "InstructBrushLoadModel": ("model_name", {}),
    "InstructBrushLoadOpenClip": ("clip_name", {}),
    "InstructBrushLoadMllm": ("mllm_name", {"precision": "auto"}),
    "InstructBrushLoadConnector": ("connector_name", {}),
    "InstructBrushLoadRegionFinder": ("finder_name", {"sam_name": "x"}),
}


def run(count: int, seed: int) -> dict[str, int]:
    """Runs ``count`` workflows in a row, tries ten times as many names, and does the other trials once."""
    with tempfile.TemporaryDirectory(prefix="instructbrush-") as place:
        base = Path(place) / "base"
        (base / "custom_nodes").mkdir(parents=True)
        shutil.copy(ADDON, base / "custom_nodes" / ADDON.name)
        with ComfyServer(base, arguments=["--cpu"]) as server:
            return _sum(
                soak(server, count),
                hostile_names(server, 10 * count, seed),
                two_clients(server, max(count // 20, 2)),
                out_of_memory(server),
            )


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


class Nodes(dict[str, Any]):
    """A workflow in API format."""

    def add(self, kind: str, **inputs: Any) -> list[Any]:
        """Adds a node. Returns its first output."""
        name = str(len(self) + 1)
        self[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]


def learning(seed: int, steps: int = 4, calls: int | None = None) -> Nodes:
    """Returns a workflow: learn, save, edit an image, preview.

    Args:
        seed: seed of learning and sampling.
        steps: learning steps.
        calls: attention calls after which the model's memory runs out; None for no limit.
    """
    nodes = Nodes()
    loaded = nodes.add("InstructBrushLoadModel", model_name=MODEL)
    clip, vae = [loaded[0], 1], [loaded[0], 2]
    model = loaded if calls is None else nodes.add("TortureOutOfMemory", model=loaded, calls=calls)
    pairs = nodes.add("InstructBrushLoadPairs", folder=_PAIRS, size=64)
    settings = {
        "preset": "custom",
        "tokens": 4,
        "segments": 2,
        "segment_mode": "shared",
        "steps": steps,
        "learning_rate": 0.03,
        "objective": "plain",
    }
    preview = {"seed": seed, "preview_every": 2, "hold_out": 0}
    learned = nodes.add(
        "InstructBrushLearn",
        model=model,
        clip=clip,
        vae=vae,
        pairs=pairs,
        init_text="make it night",
        **settings,
        **preview,
    )
    nodes.add("InstructBrushSave", instruction=learned, name="soak", if_taken="overwrite")
    image = nodes.add("EmptyImage", width=64, height=64, batch_size=1, color=1000 + seed % 1000)
    edit: dict[str, Any] = {
        "words": "",
        "text_scale": -1.0,
        "image_scale": 1.5,
        "strength": 1.0,
        "instruction": learned,
    }
    guider = nodes.add("InstructBrushEditGuider", model=loaded, clip=clip, vae=vae, image=image, **edit)
    noise = nodes.add("RandomNoise", noise_seed=seed)
    sampler = nodes.add("KSamplerSelect", sampler_name="euler")
    sigmas = nodes.add("BasicScheduler", model=loaded, scheduler="normal", steps=2, denoise=1.0)
    sampled = nodes.add(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=[guider[0], 1],
    )
    nodes.add("PreviewImage", images=nodes.add("VAEDecode", samples=sampled, vae=vae))
    return nodes


def soak(server: ComfyServer, count: int) -> dict[str, int]:
    """Runs workflows one after the other. Memory and processor time must not grow."""
    process = psutil.Process(server.pid)
    memory = []
    seconds = []
    for number in range(count):
        before = process.cpu_times().user
        server.run(learning(number))
        seconds.append(process.cpu_times().user - before)
        memory.append(process.memory_info().rss)
    fifth = max(count // 5, 1)
    early, late = slice(fifth, 2 * fifth), slice(-fifth, None)
    counts = {"tried": count, "survived": count, "escaped": 0, "lost": 0}
    for what, values in (("memory", memory), ("time", seconds)):
        growth = median(values[late]) / median(values[early])
        print(f"server: {what} of the last runs / of early ones: {growth:.3f}", flush=True)
        if count >= 50 and growth > _MOST_GROWTH:
            counts["escaped"] += 1
    return counts


def hostile_names(server: ComfyServer, count: int, seed: int) -> dict[str, int]:
    """Gives names that no file should have to every input that becomes a path.

    Each must be refused with an error of this package or ComfyUI's validation, or stay inside its folder.
    """
    draw = random.Random(seed)
    counts = {"tried": 0, "valid": 0, "refused": 0, "escaped": 0, "lost": 0}
    outside = _files(server.base, skip=("output", "temp", "user", "server.log"))
    nodes = list(NAME_INPUTS)
    for start in range(0, count, _NAMES_TO_A_RUN):
        for number in range(start, min(start + _NAMES_TO_A_RUN, count)):
            name = "".join(draw.choices(_PIECES, k=draw.randint(1, 4)))
            kind = draw.choice([*nodes, "InstructBrushSave"])
            outcome = _try_name(server, kind, name, linked=bool(number % 2))
            counts["tried"] += 1
            counts[outcome] += 1
    appeared = _files(server.base, skip=("output", "temp", "user", "server.log")) - outside
    if appeared:
        print(f"server: files appeared: {sorted(map(str, appeared))[:5]}", flush=True)
        counts["escaped"] += 1
    return counts


def _try_name(server: ComfyServer, kind: str, name: str, linked: bool) -> str:
    """Gives a name to a node, in its widget or through a link. Returns the outcome."""
    nodes = Nodes()
    value: Any = nodes.add("PrimitiveString", value=name) if linked else name
    if kind == "InstructBrushSave":
        instruction = nodes.add("InstructBrushLoad", name="plum_and_mint.safetensors")
        nodes.add(kind, instruction=instruction, name=value, if_taken="overwrite")
    else:
        field, more = NAME_INPUTS[kind]
        nodes.add("PreviewAny", source=nodes.add(kind, **{field: value}, **more))
    try:
        server.run(nodes, seconds=60)
    except ServerError as error:
        ours = [kind in _REFUSALS or kind.startswith("InstructBrush.") for kind in error.kinds]
        if ours and all(ours):
            return "refused"
        how = " through a link" if linked else ""
        print(f"server: {kind} with {name[:60]!r}{how}: {error.kinds} {str(error)[:300]}", flush=True)
        return "escaped"
    return "valid"


def _files(folder: Path, skip: Sequence[str]) -> set[Path]:
    return {
        path
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in skip and "custom_nodes" not in path.parts
    }


def two_clients(server: ComfyServer, count: int) -> dict[str, int]:
    """Lets two users queue at once. Each must see progress and end of their own runs only."""
    other = copy.copy(server)
    other.client = uuid.uuid4().hex
    counts = {"tried": 2 * count, "survived": 0, "escaped": 0, "lost": 0}

    def run_all(client: ComfyServer, first: int) -> list[str]:
        faults = []
        for number in range(first, first + count):
            steps = 3 + first % 2
            try:
                seen = client.run(learning(number, steps)).data("instructbrush.learn")
            except ServerError as error:
                faults.append(str(error))
                continue
            if not seen or {message["total"] for message in seen} != {steps} or seen[-1]["step"] != steps:
                progress = [(message["step"], message["total"]) for message in seen]
                faults.append(f"progress was {progress}, expected {steps} steps")
        return faults

    with ThreadPoolExecutor(2) as threads:
        faults = [
            fault for found in threads.map(run_all, (server, other), (10_000, 20_001)) for fault in found
        ]
    for fault in faults:
        print(f"server: two clients: {fault}", flush=True)
    counts["lost"] = len(faults)
    counts["survived"] = counts["tried"] - len(faults)
    return counts


def out_of_memory(server: ComfyServer) -> dict[str, int]:
    """Lets memory run out during learning. The run must report it and keep a checkpoint."""
    counts = {"tried": 1, "survived": 0, "refused": 0, "escaped": 0, "lost": 0}
    try:
        server.run(learning(30_000, steps=40, calls=400))
        counts["escaped"] += 1
        print("server: memory ran out and no error was raised", flush=True)
    except ServerError as error:
        if "memory" in str(error):
            counts["refused"] += 1
        else:
            counts["escaped"] += 1
            print(f"server: out of memory: {error}", flush=True)
    kept = list((server.base / "output" / "instructions" / "unfinished").glob("*.checkpoint"))
    if not kept:
        print("server: there is no checkpoint of the run whose memory ran out", flush=True)
        counts["lost"] += 1
    server.run(learning(30_000, steps=6))
    counts["survived"] += 1
    return counts
