"""Fixtures for all tests: no network, few threads, random images and pairs, the pocket editor."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# These must be set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])  # torch takes the larger of the two
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
)
# Commands take a GPU if there is one; the tests compare with results of the CPU.
if not os.environ.get("INSTRUCTBRUSH_TEST_DEVICE", "").startswith("cuda"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# `python -m pytest` adds the working folder, where nodes/ would shadow ComfyUI's nodes.py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != REPOSITORY]

import socket  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

LOOPBACK = ("127.0.0.1", "::1", "localhost")


# Background jobs of a shell ignore Ctrl-C, and so would all processes that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder in ("comfy", "e2e"):
            if Path(__file__).parent / folder in item.path.parents:
                item.add_marker(folder)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Makes every connection to another machine fail."""
    getaddrinfo = socket.getaddrinfo

    def check(host: object) -> None:
        if isinstance(host, str) and host not in LOOPBACK:
            raise PermissionError(f"a test tried to reach {host}: tests use no network")

    def guarded(original: Callable[..., object]) -> Callable[..., object]:
        def call(self: socket.socket, *arguments: object) -> object:
            address = arguments[-1]
            if isinstance(address, tuple):  # a plain string is a socket file
                check(address[0])
            return original(self, *arguments)

        return call

    def resolve(host: object, *rest: object, **named: object) -> object:
        check(host.decode() if isinstance(host, bytes) else host)
        return getaddrinfo(host, *rest, **named)

    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    patch.setattr(socket, "getaddrinfo", resolve)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeds the global generators, in case a test draws from them."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The diffusers folder of the pocket editor."""
    folder = REPOSITORY / "core" / "models" / "pocket"
    assert (folder / "model_index.json").is_file(), f"the built-in model is missing from {folder}"
    return folder


@pytest.fixture(scope="session")
def editor(pocket: Path) -> object:
    """The pocket editor on the diffusers engine, fp32 on the CPU. Shared: do not change its weights."""
    from instructbrush.core.editing.loading import load_editor

    return load_editor()


@pytest.fixture(scope="session")
def make_image() -> Callable[..., torch.Tensor]:
    """`make_image(seed, height=128, width=128)` draws a disc on two colors, [H, W, 3] fp32 in 0..1."""

    def make(seed: int, height: int = 128, width: int = 128) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        ground, sky, disc = torch.rand(3, 3, generator=draw)
        place = torch.rand(2, generator=draw) * 0.5 + 0.25
        y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
        blend = ((y - 0.5) * 8).sigmoid()[..., None]
        inside = ((0.18 - ((y - place[0]) ** 2 + (x - place[1]) ** 2).sqrt()) * 60).sigmoid()[..., None]
        return ((sky * (1 - blend) + ground * blend) * (1 - inside) + disc * inside).clamp(0, 1)

    return make


@pytest.fixture(scope="session")
def pair_tensors(make_image: Callable[..., torch.Tensor]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """`pair_tensors(count, height=128, width=128)` returns (before, after), each [N, H, W, 3].

    The edit swaps red and blue.
    """

    def make(
        count: int, height: int = 128, width: int = 128, seed: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = torch.stack([make_image(seed + i, height, width) for i in range(count)])
        return before, before.flip(-1).contiguous()

    return make


@pytest.fixture(scope="session")
def save_image() -> Callable[[torch.Tensor, Path], Path]:
    """`save_image(tensor [H, W, 3], path)` writes an 8-bit image, creates its folder and returns the path."""

    def save(tensor: torch.Tensor, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((tensor.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def write_pairs(
    pair_tensors: Callable[..., tuple[torch.Tensor, torch.Tensor]], save_image: Callable[..., Path]
) -> Callable[..., Path]:
    """`write_pairs(folder, count, layout="numbered"|"folders", size=(128, 128))` writes a folder of pairs."""

    def write(
        folder: Path, count: int, layout: str = "numbered", size: tuple[int, int] = (128, 128), seed: int = 0
    ) -> Path:
        before, after = pair_tensors(count, *size, seed=seed)
        for i in range(count):
            names = (
                (f"{i}_0.png", f"{i}_1.png")
                if layout == "numbered"
                else (f"before/{i}.png", f"after/{i}.png")
            )
            for tensor, name in zip((before[i], after[i]), names, strict=True):
                save_image(tensor, folder / name)
        return folder

    return write
