"""Runs a ComfyUI server as a subprocess and talks to it over HTTP and its websocket.

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

# Keeps the server off the network: dead proxies, and the offline switches of the hub clients.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "127.0.0.1,localhost",
}


class ServerError(RuntimeError):
    """The server did not start, refused a prompt, or a node failed. The message quotes ComfyUI.

    kinds: the exception's type, or the types of ComfyUI's validation errors.
    """

    def __init__(self, message: str, kinds: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)


@dataclass(frozen=True)
class PromptResult:
    """Outputs of a prompt by node id, as in the history, and its websocket messages in order."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    messages: list[dict[str, Any]] = field(repr=False)

    def images(self, node: str) -> list[dict[str, str]]:
        """Returns filename, subfolder and type of each image of a node, as `ComfyServer.view` takes them."""
        return self.outputs.get(node, {}).get("images", [])

    def data(self, kind: str) -> list[dict[str, Any]]:
        """Payloads of all messages of one kind, such as "progress" or "instructbrush.learn"."""
        return [message["data"] for message in self.messages if message["type"] == kind]


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def device_arguments() -> list[str]:
    """Returns `--cpu` if there is no NVIDIA driver."""
    return [] if shutil.which("nvidia-smi") else ["--cpu"]


class ComfyServer:
    """ComfyUI with this pack as a context manager: starts on enter, stops on exit. Logs to `base/server.log`.

    Args:
        base: ComfyUI's base directory, created if missing, with a link to the pack.
        port: TCP port; None for a free one.
        arguments: further ComfyUI options.
        start_seconds: time limit for the start.
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
            # Else it is in ComfyUI's own folder, which may be a user's.
            "--database-url",
            f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}",
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
        """Process id of the server.

        Raises:
            ServerError: the server does not run.
        """
        if self._process is None:
            raise ServerError("The server does not run.")
        return self._process.pid

    def tail(self, lines: int = 40) -> str:
        """Returns the last lines of the server's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def get(self, path: str) -> Any:
        """GETs a path and returns the parsed JSON."""
        return json.loads(self._fetch(path))

    def post(self, path: str, payload: dict[str, Any]) -> Any:
        """POSTs JSON and returns the parsed answer, None if it is empty.

        Raises:
            ServerError: HTTP error, with the server's message.
        """
        body = self._fetch(path, json.dumps(payload).encode(), "application/json")
        return json.loads(body) if body else None

    def object_info(self) -> dict[str, Any]:
        """Returns the schema of every node, as the front end gets it."""
        return self.get("/object_info")

    def view(self, image: dict[str, str]) -> bytes:
        """Returns the bytes of one of `PromptResult.images`."""
        query = {key: image[key] for key in ("filename", "subfolder", "type")}
        return self._fetch("/view?" + urllib.parse.urlencode(query))

    def run(
        self,
        prompt: dict[str, Any],
        *,
        seconds: float = 600,
        on_message: Callable[[dict[str, Any]], None] | None = None,
    ) -> PromptResult:
        """Queues a prompt in API format and waits for its end.

        Args:
            prompt: node id -> class_type and inputs.
            seconds: time limit.
            on_message: called with every websocket message of the prompt as it arrives.

        Raises:
            ServerError: invalid prompt, failed node, interrupted, or not done within `seconds`.
        """
        # ComfyUI's node replacement answers HTTP 500 for nodes without `_meta`.
        prompt = {key: {"_meta": {"title": node["class_type"]}, **node} for key, node in prompt.items()}
        connection = create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}", timeout=5)
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.client})
            if answer["node_errors"]:  # ComfyUI runs the valid outputs and drops the others
                body = json.dumps({"error": {"message": "Part of the prompt is invalid"}, **answer})
                raise ServerError(refusal(body), refusal_kinds(body))
            messages = self._listen(connection, answer["prompt_id"], time.monotonic() + seconds, on_message)
        finally:
            connection.close()
        for kind in ("execution_error", "execution_interrupted"):
            for message in messages:
                if message["type"] == kind:
                    data = message["data"]
                    reason = data.get("exception_message", "interrupted").strip()
                    raise ServerError(
                        f"{data['node_type']} ({data['node_id']}): {reason}",
                        [data.get("exception_type", kind)],
                    )
        history = self._history(answer["prompt_id"])
        return PromptResult(answer["prompt_id"], history["outputs"], messages)

    def _listen(
        self,
        connection: Any,
        prompt_id: str,
        deadline: float,
        on_message: Callable[[dict[str, Any]], None] | None,
    ) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while True:
            if time.monotonic() > deadline:
                self.post("/interrupt", {})
                raise ServerError(
                    f"prompt {prompt_id} did not end in time; it was interrupted\n{self.tail()}"
                )
            try:
                received = connection.recv()
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
        # The last message may arrive just before the history is written.
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
            answer = error.read().decode(errors="replace")
            raise ServerError(
                f"{path}: HTTP {error.code}: {refusal(answer)}", refusal_kinds(answer)
            ) from error


def refusal(body: str) -> str:
    """Formats ComfyUI's answer to an invalid prompt as text. Returns any other body unchanged."""
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
    """Returns the error types in ComfyUI's answer to an invalid prompt; an empty list for any other body."""
    try:
        return [
            error["type"] for report in json.loads(body)["node_errors"].values() for error in report["errors"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
