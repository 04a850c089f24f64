"""Runs ComfyUI in this process: its nodes, validation and executor, and this pack as ComfyUI loads it.

    graph = comfy.graph()
    model = graph.node("InstructBrushLoadModel", model="...")
    latent = comfy.values(graph, model.out(0))[0]        # runs the graph, returns the values of the links
    message = comfy.error(graph)                         # runs a graph that must fail, returns its message

ComfyUI's cache is on; `comfy.forget()` empties it. The pack is loaded under ComfyUI's name for it, not as
`instructbrush`. Take its classes from `comfy.pack("core.instruction.file")`: isinstance against
`instructbrush...` fails.

The device is the CPU, or the GPU with INSTRUCTBRUSH_TEST_DEVICE=cuda. On the GPU, ComfyUI uses single
precision and deterministic algorithms, so that the same tests pass with the same tolerances.
"""

import asyncio
import importlib
import logging
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from instructbrush.tools.get_comfyui import comfyui_root, make_base_directory

DEVICE = torch.device(os.environ.get("INSTRUCTBRUSH_TEST_DEVICE", "cpu"))
if DEVICE.type == "cuda":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@dataclass
class Run:
    """One execution.

    outputs: as in ComfyUI's history.
    error: ComfyUI's dict, or None.
    events: messages to the client, progress and previews, in order.
    values: Python values that reached the requested links.
    """

    outputs: dict[str, dict[str, Any]]
    error: dict[str, Any] | None
    events: list[tuple[str, Any]]
    values: list[Any] = field(default_factory=list)

    def data(self, kind: str) -> list[Any]:
        """Returns the payloads of one kind of message: "progress", "instructbrush.learn" and so on."""
        return [payload for name, payload in self.events if name == kind]


class AnyType(str):
    """A socket type that fits all others."""

    def __ne__(self, other: object) -> bool:
        return False


# Values on their way between tests and graphs.
SHELF: dict[str, Any] = {}


class Give:
    """A node that outputs a Python value, with which tests pass tensors and objects into a graph."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"key": ("STRING", {})}})
    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"

    def give(self, key: str) -> tuple[Any]:
        return (SHELF[key],)


class Take:
    """An output node that stores its input."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"key": ("STRING", {}), "value": (AnyType("*"), {})}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "take"
    # Runs every time, so that the value is that of this run. Its inputs may be cached.
    IS_CHANGED = classmethod(lambda cls, **inputs: float("nan"))

    def take(self, key: str, value: Any) -> dict[str, Any]:
        SHELF[key] = value
        return {}


class Comfy:
    """The running ComfyUI.

    base: base directory.
    nodes: id -> class.
    folder_paths, execution: ComfyUI's modules.
    device: where models run.
    """

    def __init__(self, base: Path) -> None:
        self.base = make_base_directory(base)
        root = comfyui_root()
        assert (root / "main.py").is_file(), f"no ComfyUI in {root}: run `make setup`"
        sys.path.insert(0, str(root))
        from comfy.cli_args import args

        args.base_directory = str(self.base)
        args.disable_api_nodes = True
        args.cpu = DEVICE.type == "cpu"
        args.deterministic = args.force_fp32 = args.fp32_vae = args.fp32_text_enc = not args.cpu
        import comfy.model_management
        import comfy.utils
        import execution
        import folder_paths
        import nodes
        import server

        logging.getLogger().setLevel(logging.WARNING)
        self.device = comfy.model_management.get_torch_device()
        self.execution = execution
        self.folder_paths = folder_paths
        self.nodes = nodes.NODE_CLASS_MAPPINGS
        self.events: list[tuple[str, Any]] = []
        self.server = server.PromptServer(asyncio.new_event_loop())
        self.server.last_prompt_id = ""
        self.server.send_sync = lambda event, data, sid=None: self.events.append((event, data))
        comfy.utils.set_progress_bar_global_hook(self._on_progress)
        failed = asyncio.run(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False))
        assert not failed, f"ComfyUI's own nodes failed to load: {failed}"
        self.name = str(self.base / "custom_nodes" / "instructbrush").replace(".", "_x_")
        if not any(name.startswith("InstructBrush") for name in self.nodes):
            asyncio.run(self._raise_load_error())
        self.nodes.update(TestGive=Give, TestTake=Take)
        self.forget()

    async def _raise_load_error(self) -> None:
        """Loads the pack again, because ComfyUI only logs its errors."""
        extension = await self.pack().comfy_entrypoint()
        for node in await extension.get_node_list():
            node.GET_SCHEMA()

    def _on_progress(
        self, value: int, total: int, preview: object, prompt_id: object = None, node_id: object = None
    ) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()
        self.events.append(("progress", {"value": value, "max": total, "preview": preview}))

    def pack(self, module: str = "") -> ModuleType:
        """Returns a module of the pack as ComfyUI loaded it, such as "nodes.learning"."""
        return importlib.import_module(f"{self.name}.{module}" if module else self.name)

    def graph(self) -> Any:
        """Returns ComfyUI's GraphBuilder: `.node(class_type, **inputs)` -> node, `node.out(i)` -> link."""
        from comfy_execution.graph_utils import GraphBuilder

        return GraphBuilder(prefix="")

    def give(self, graph: Any, value: Any) -> list[Any]:
        """Adds a node that outputs `value`. Returns its link."""
        key = uuid.uuid4().hex
        SHELF[key] = value
        return graph.node("TestGive", key=key).out(0)

    def values(self, graph: Any, *links: list[Any], **extra_data: Any) -> list[Any]:
        """Runs the graph. Returns the Python values of `links`."""
        return self.run(graph, *links, **extra_data).values

    def run(self, graph: Any, *links: list[Any], **extra_data: Any) -> Run:
        """Validates and executes a graph that must succeed."""
        run = self.attempt(graph, *links, **extra_data)
        if run.error is not None:
            trace = "".join(run.error.get("traceback", []))
            pytest.fail(f"{run.error['exception_type']}: {run.error['exception_message']}\n{trace}")
        return run

    def error(self, graph: Any, *links: list[Any], **extra_data: Any) -> str:
        """Runs a graph that must fail. Returns the message that the user sees."""
        run = self.attempt(graph, *links, **extra_data)
        assert run.error is not None, "the graph ran, but it should have failed"
        return run.error["exception_message"].strip()

    def attempt(self, graph: Any, *links: list[Any], **extra_data: Any) -> Run:
        """Validates and executes. A validation error is returned like any other error.

        Args:
            graph: a GraphBuilder or a dict in API format.
            links: outputs whose values the run returns.
            extra_data: passed to ComfyUI, such as extra_pnginfo.
        """
        nodes = graph if isinstance(graph, dict) else graph.finalize()
        prompt = {key: dict(node) for key, node in nodes.items()}
        keys = [uuid.uuid4().hex for _ in links]
        for key, link in zip(keys, links, strict=True):
            prompt[f"take.{key}"] = {"class_type": "TestTake", "inputs": {"key": key, "value": link}}
        prompt_id = uuid.uuid4().hex
        valid, error, outputs, node_errors = asyncio.run(
            self.execution.validate_prompt(prompt_id, prompt, None)
        )
        if not valid:
            return Run({}, validation_error(error, node_errors), [])
        self.events.clear()
        self.executor.execute(prompt, prompt_id, {"client_id": "tests", **extra_data}, outputs)
        for kind, data in self.executor.status_messages:
            if kind in ("execution_error", "execution_interrupted"):
                failure = {"exception_type": "interrupted", "exception_message": "interrupted", **data}
                return Run({}, failure, list(self.events))
        outputs = self.executor.history_result.get("outputs", {})
        return Run(outputs, None, list(self.events), [SHELF.pop(key) for key in keys])

    def forget(self) -> None:
        """Starts a new executor with an empty cache."""
        cache = {"lru": 0, "ram": 1.0, "ram_inactive": 1.0}
        self.executor = self.execution.PromptExecutor(
            self.server, cache_type=self.execution.CacheType.CLASSIC, cache_args=cache
        )


def validation_error(error: dict[str, Any], node_errors: dict[str, Any]) -> dict[str, Any]:
    """Converts ComfyUI's validation errors to the form of an execution error."""
    details = [
        f"{each['message']}: {each['details']}" for node in node_errors.values() for each in node["errors"]
    ]
    message = "\n".join([error["message"], *details])
    return {"exception_type": "validation", "exception_message": message, "node_errors": node_errors}


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """The only ComfyUI of this process."""
    before = list(sys.path)
    yield Comfy(tmp_path_factory.mktemp("comfy"))
    sys.path[:] = before
