"""A real ComfyUI in this process: its own nodes, validation and executor, with this pack loaded as ComfyUI loads it.

On the CPU; on the GPU with INSTRUCTBRUSH_TEST_DEVICE=cuda. There ComfyUI computes in single precision and with deterministic algorithms, so the same tests hold
with the same tolerances: what they promise to the bit is kept on a GPU with --deterministic alone.

    graph = comfy.graph()
    model = graph.node("InstructBrushLoadModel", model="...")
    latent = comfy.values(graph, model.out(0))[0]        # runs the graph, gives what reached those links
    message = comfy.error(graph)                         # runs a graph that must fail, gives its message

Every run is cached as ComfyUI caches; `comfy.forget()` empties it. The pack is loaded under ComfyUI's name for it, not as
`instructbrush`: take its classes from `comfy.pack("core.instruction.file")`, an isinstance against `instructbrush...` fails.
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
    """One execution: outputs as the history has them, error (None or ComfyUI's dict), messages sent, progress and previews."""

    outputs: dict[str, dict[str, Any]]
    error: dict[str, Any] | None
    events: list[tuple[str, Any]]
    values: list[Any] = field(default_factory=list)

    def data(self, kind: str) -> list[Any]:
        """Payloads of all messages of one kind: "progress", "execution_cached", "instructbrush.learn", ..."""
        return [payload for name, payload in self.events if name == kind]


class AnyType(str):
    """A socket type that fits every other."""

    def __ne__(self, other: object) -> bool:
        return False


SHELF: dict[str, Any] = {}


class Give:
    """A node that outputs a Python value: how tests feed tensors and objects into a graph."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"key": ("STRING", {})}})
    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"

    def give(self, key: str) -> tuple[Any]:
        return (SHELF[key],)


class Take:
    """An output node that keeps what reaches it."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"key": ("STRING", {}), "value": (AnyType("*"), {})}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "take"
    # The kept value must be this run's, so the node runs every time; what feeds it may be cached.
    IS_CHANGED = classmethod(lambda cls, **inputs: float("nan"))

    def take(self, key: str, value: Any) -> dict[str, Any]:
        SHELF[key] = value
        return {}


class Comfy:
    """The running ComfyUI. `nodes`: id -> class; `base`: its base directory; `folder_paths`, `execution`: its modules; `device`: where models run."""

    def __init__(self, base: Path) -> None:
        self.base = make_base_directory(base)
        root = comfyui_root()
        assert (root / "main.py").is_file(), f"no ComfyUI in {root}: run `make setup`"
        sys.path.insert(0, str(root))
        from comfy.cli_args import args

        args.base_directory, args.disable_api_nodes = str(self.base), True
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
        self.execution, self.folder_paths, self.nodes = execution, folder_paths, nodes.NODE_CLASS_MAPPINGS
        self.events: list[tuple[str, Any]] = []
        self.server = server.PromptServer(asyncio.new_event_loop())
        self.server.last_prompt_id = ""
        self.server.send_sync = lambda event, data, sid=None: self.events.append((event, data))
        comfy.utils.set_progress_bar_global_hook(self._on_progress)
        failed = asyncio.run(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False))
        assert not failed, f"ComfyUI's own nodes failed to load: {failed}"
        self.name = str(self.base / "custom_nodes" / "instructbrush").replace(".", "_x_")
        if not any(name.startswith("InstructBrush") for name in self.nodes):
            asyncio.run(self._raise_what_comfyui_only_logs())
        self.nodes.update(TestGive=Give, TestTake=Take)
        self.forget()

    async def _raise_what_comfyui_only_logs(self) -> None:
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
        """A module of the pack as ComfyUI loaded it, such as "nodes.learning"."""
        return importlib.import_module(f"{self.name}.{module}" if module else self.name)

    def graph(self) -> Any:
        """ComfyUI's GraphBuilder: `.node(class_type, **inputs)` -> node, `node.out(i)` -> link."""
        from comfy_execution.graph_utils import GraphBuilder

        return GraphBuilder(prefix="")

    def give(self, graph: Any, value: Any) -> list[Any]:
        """Adds a node that outputs `value`; returns its link."""
        key = uuid.uuid4().hex
        SHELF[key] = value
        return graph.node("TestGive", key=key).out(0)

    def values(self, graph: Any, *links: list[Any], **extra_data: Any) -> list[Any]:
        """Run, and return the Python values that reached `links`."""
        return self.run(graph, *links, **extra_data).values

    def run(self, graph: Any, *links: list[Any], **extra_data: Any) -> Run:
        """Validate and execute; the run must succeed."""
        run = self.attempt(graph, *links, **extra_data)
        assert run.error is None, (
            f"{run.error['exception_type']}: {run.error['exception_message']}\n{''.join(run.error.get('traceback', []))}"
        )
        return run

    def error(self, graph: Any, *links: list[Any], **extra_data: Any) -> str:
        """Run a graph that must fail, and return the message the user sees."""
        run = self.attempt(graph, *links, **extra_data)
        assert run.error is not None, "the graph ran, but it should have failed"
        return run.error["exception_message"].strip()

    def attempt(self, graph: Any, *links: list[Any], **extra_data: Any) -> Run:
        """Validate and execute. `graph`: a GraphBuilder or a dict in API format. Refusal by validation is an error like any other."""
        prompt = {
            key: dict(node) for key, node in (graph if isinstance(graph, dict) else graph.finalize()).items()
        }
        keys = [uuid.uuid4().hex for _ in links]
        for key, link in zip(keys, links, strict=True):
            prompt[f"take.{key}"] = {"class_type": "TestTake", "inputs": {"key": key, "value": link}}
        prompt_id = uuid.uuid4().hex
        valid, error, outputs, node_errors = asyncio.run(
            self.execution.validate_prompt(prompt_id, prompt, None)
        )
        if not valid:
            details = [
                f"{each['message']}: {each['details']}"
                for node in node_errors.values()
                for each in node["errors"]
            ]
            message = "\n".join([error["message"], *details])
            return Run(
                {},
                {"exception_type": "validation", "exception_message": message, "node_errors": node_errors},
                [],
            )
        self.events.clear()
        self.executor.execute(prompt, prompt_id, {"client_id": "tests", **extra_data}, outputs)
        failures = [
            data
            for name, data in self.executor.status_messages
            if name in ("execution_error", "execution_interrupted")
        ]
        failure = (
            {"exception_type": "interrupted", "exception_message": "interrupted", **failures[0]}
            if failures
            else None
        )
        values = [] if failure else [SHELF.pop(key) for key in keys]
        return Run(
            self.executor.history_result.get("outputs", {}) if not failure else {},
            failure,
            list(self.events),
            values,
        )

    def forget(self) -> None:
        """A new executor: nothing is cached."""
        cache = {"lru": 0, "ram": 1.0, "ram_inactive": 1.0}
        self.executor = self.execution.PromptExecutor(
            self.server, cache_type=self.execution.CacheType.CLASSIC, cache_args=cache
        )


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """The one ComfyUI of this process."""
    before = list(sys.path)
    yield Comfy(tmp_path_factory.mktemp("comfy"))
    sys.path[:] = before
