"""A real ComfyUI server as a subprocess, and a client for it: what `make serve`, the demo and the end-to-end tests stand on.

with ComfyServer(base) as server:
    result = server.run(prompt)          # prompt: API format
    image = server.view(result.images("9")[0])
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from websocket import WebSocketTimeoutException, create_connection

from .get_comfyui import VENV, comfyui_root, make_base_directory, venv_python

# The server talks to nobody: proxies that refuse are cheaper than a firewall, and the hub's clients are told to stay offline.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "127.0.0.1,localhost",
}


class ServerError(RuntimeError):
    """The server did not start, refused a prompt, or a node failed. The message carries ComfyUI's own words.

    kinds: what ComfyUI calls what went wrong: the exception's type, or those of the validation errors.
    """

    def __init__(self, message: str, kinds: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)


@dataclass(frozen=True)
class PromptResult:
    """What a prompt left behind: the history's outputs per node id, and the websocket's messages in order."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    messages: list[dict[str, Any]] = field(repr=False)

    def images(self, node: str) -> list[dict[str, str]]:
        """The images a node saved or previewed: dicts with filename, subfolder and type, for `ComfyServer.view`."""
        return self.outputs.get(node, {}).get("images", [])

    def data(self, kind: str) -> list[dict[str, Any]]:
        """The payloads of all messages of one kind, such as "progress" or "instructbrush.learn"."""
        return [message["data"] for message in self.messages if message["type"] == kind]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def device_arguments() -> list[str]:
    """`--cpu` where there is no NVIDIA driver to be seen."""
    return [] if shutil.which("nvidia-smi") else ["--cpu"]


class ComfyServer:
    """ComfyUI with this pack, in a base directory of its own. A context manager: starts on enter, ends on exit.

    base: folder for input, output, models, user settings and the link to the pack; made when missing.
    port: TCP port, None for a free one. arguments: further ComfyUI options. The server's words go to `base/server.log`.
    """

    def __init__(
        self,
        base: Path,
        *,
        port: int | None = None,
        arguments: Sequence[str] = (),
        start_seconds: float = 180,
    ) -> None:
        self.base = make_base_directory(Path(base))
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.client = uuid.uuid4().hex
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        root = comfyui_root()
        self.command = [
            str(venv_python(VENV)),
            str(root / "main.py"),
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        self.command += [
            "--base-directory",
            str(self.base),
            "--disable-api-nodes",
            "--disable-auto-launch",
            *arguments,
        ]

    def __enter__(self) -> ComfyServer:
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **OFFLINE},
                cwd=self.base,
            )
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(
                    f"ComfyUI ended while starting (exit {self._process.returncode}):\n{self.tail()}"
                )
            try:
                self.get("/system_stats")
                return self
            except (OSError, urllib.error.URLError):
                time.sleep(0.3)
        self.__exit__(None, None, None)
        raise ServerError(f"ComfyUI did not answer within {self._start_seconds:.0f} seconds:\n{self.tail()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """The server's process.

        Raises:
            ServerError: it does not run.
        """
        if self._process is None:
            raise ServerError("The server does not run.")
        return self._process.pid

    def tail(self, lines: int = 40) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def get(self, path: str) -> Any:
        """GET, the answer parsed as JSON."""
        return json.loads(self._fetch(path))

    def post(self, path: str, payload: dict[str, Any]) -> Any:
        """POST JSON, the answer parsed as JSON (None when empty). Raises ServerError with the server's words on an HTTP error."""
        body = self._fetch(path, json.dumps(payload).encode(), "application/json")
        return json.loads(body) if body else None

    def object_info(self) -> dict[str, Any]:
        """Every node's schema, as the front end gets it."""
        return self.get("/object_info")

    def view(self, image: dict[str, str]) -> bytes:
        """The file behind one of `PromptResult.images`."""
        return self._fetch(
            "/view?" + urllib.parse.urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
        )

    def run(
        self,
        prompt: dict[str, Any],
        *,
        seconds: float = 600,
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> PromptResult:
        """Queue a prompt in API format and wait for its end. `on_message` sees every websocket message of it as it comes.

        Raises ServerError when validation refuses it, a node fails, it is interrupted, or `seconds` pass.
        """
        # NodeReplace answers 500 for nodes without `_meta`.
        prompt = {key: {"_meta": {"title": node["class_type"]}, **node} for key, node in prompt.items()}
        wire = create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}", timeout=5)
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.client})
            if answer["node_errors"]:  # ComfyUI runs the outputs that are valid and drops the others
                body = json.dumps({"error": {"message": "Part of the prompt is invalid"}, **answer})
                raise ServerError(refusal(body), refusal_kinds(body))
            messages = self._listen(wire, answer["prompt_id"], time.monotonic() + seconds, on_message)
        finally:
            wire.close()
        for kind in ("execution_error", "execution_interrupted"):
            for message in messages:
                if message["type"] == kind:
                    data = message["data"]
                    told = data.get("exception_message", "interrupted").strip()
                    raise ServerError(
                        f"{data['node_type']} ({data['node_id']}): {told}", [data.get("exception_type", kind)]
                    )
        history = self._history(answer["prompt_id"])
        return PromptResult(answer["prompt_id"], history["outputs"], messages)

    def _listen(
        self, wire: Any, prompt_id: str, deadline: float, on_message: Callable[[dict[str, Any]], None] | None
    ) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while True:
            if time.monotonic() > deadline:
                self.post("/interrupt", {})
                raise ServerError(
                    f"prompt {prompt_id} did not end in time; it was interrupted\n{self.tail()}"
                )
            try:
                received = wire.recv()
            except WebSocketTimeoutException:
                continue
            if not isinstance(received, str) or not received:
                continue  # a binary preview
            message = json.loads(received)
            if message.get("data", {}).get("prompt_id", prompt_id) != prompt_id:
                continue
            messages.append(message)
            if on_message:
                on_message(message)
            ended = message["type"] in ("execution_error", "execution_interrupted", "execution_success")
            if ended or (message["type"] == "executing" and message["data"].get("node", "") is None):
                return messages

    def _history(self, prompt_id: str) -> dict[str, Any]:
        # The last message may overtake the queue's bookkeeping by a moment.
        for _ in range(100):
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.05)
        raise ServerError(f"prompt {prompt_id} ended but is not in the history\n{self.tail()}")

    def _fetch(self, path: str, body: bytes | None = None, kind: str | None = None) -> bytes:
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": kind} if kind else {}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            raise ServerError(f"{path}: HTTP {error.code}: {refusal(told)}", refusal_kinds(told)) from error


def refusal(body: str) -> str:
    """ComfyUI's answer to a bad prompt as lines a person reads; any other body as it is."""
    try:
        answer = json.loads(body)
        lines = [answer["error"]["message"]]
        for node, report in answer["node_errors"].items():
            lines += [
                f"{report['class_type']} ({node}): {error['message']}: {error['details']}"
                for error in report["errors"]
            ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return body
    return "\n".join(lines)


def refusal_kinds(body: str) -> list[str]:
    """The types of the errors in ComfyUI's answer to a bad prompt; nothing for any other body."""
    try:
        return [
            error["type"] for report in json.loads(body)["node_errors"].values() for error in report["errors"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
