"""An OpenAI-compatible endpoint on this machine whose answers come from a Python function.

It fails on purpose, by a schedule that depends on the content of the requests alone: the same requests get
the same answers and faults, in any order and in every run.
"""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

ANSWERED = ("garbage", "cut off", "repeats", "declines")
"""Faults of the model. The same request always gets the same one; the next attempt is another request."""
PASSING = ("times out", "busy", "fails", "closes", "huge", "no JSON", "no choices", "no text")
"""Faults of the endpoint. They pass when the request is sent again."""

# Clients ask for few tokens to see whether an endpoint works at all.
_PROBE_TOKENS = 16


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    model: str
    text: str
    """The words of all messages."""
    images: tuple[bytes, ...]
    """The encoded images of all messages."""
    body: Mapping[str, Any]
    """The whole request."""

    @property
    def digest(self) -> str:
        """Hash of the whole request."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """A reply other than a plain answer."""

    status: int = 200
    body: Any = None
    """Sent as JSON; bytes are sent as they are."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Faults:
    """Which requests fail, and how."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """A fault of ``ANSWERED`` or ``PASSING`` -> share of the requests that it strikes."""
    lasting: float = 0.0
    """Share of the requests that always fail with status 500, however often they are sent."""
    passes_after: int = 1
    """How often a request meets its fault of ``PASSING``."""
    seconds: float = 1.0
    """How long a reply that times out takes. The client's timeout has to be shorter."""
    retry_after: float = 0.0
    """Seconds in ``Retry-After`` of a busy endpoint."""
    seed: int = 0

    def of(self, request: Request) -> str | None:
        """Returns the fault of a request, which its content decides. Requests for few tokens meet none."""
        if request.body.get("max_tokens", _PROBE_TOKENS + 1) <= _PROBE_TOKENS:
            return None
        digest = hashlib.sha256(f"{self.seed} {request.digest}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        for fault, share in (("lasting", self.lasting), *self.shares.items()):
            place -= share
            if place < 0:
                return fault
        return None


AnswerFunction = Callable[[Request], "str | Reply"]


class ScriptedEndpoint:
    """Serves ``/v1/chat/completions`` in threads of this process, as a context manager.

    Args:
        answer: returns the answer's text, or a whole reply, of a request. Called in several threads.
        faults: which requests fail.
        key: the key that clients have to send; None accepts all.
        models: the names of the models; empty accepts all.
        port: of 127.0.0.1; 0 takes a free one.
    """

    def __init__(
        self,
        answer: AnswerFunction,
        faults: Faults | None = None,
        key: str | None = None,
        models: tuple[str, ...] = (),
        port: int = 0,
    ) -> None:
        self.answer = answer
        self.faults = faults or Faults()
        self.key = key
        self.models = models
        self.requests: list[Request] = []
        """Every request, in the order of arrival."""
        self.met: Counter[str] = Counter()
        """Fault -> how many requests met it."""
        self.headers: list[Mapping[str, str]] = []
        """The headers of every request."""
        self.arrivals: list[float] = []
        """``time.monotonic()`` of every request."""
        self._sent: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.endpoint = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "ScriptedEndpoint":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def note(self, request: Request, headers: Mapping[str, str]) -> str | None:
        """Notes a request. Returns the fault that it meets now."""
        fault = self.faults.of(request)
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            self.arrivals.append(time.monotonic())
            self._sent[request.digest] += 1
            if fault in PASSING and self._sent[request.digest] > self.faults.passes_after:
                fault = None
            if fault is not None:
                self.met[fault] += 1
        return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    endpoint: ScriptedEndpoint

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: clients that hang up are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        endpoint, headers = self.server.endpoint, dict(self.headers.items())
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            return self._send(_error(404, f"Not Found: {self.path}"))
        if endpoint.key is not None and headers.get("Authorization") != f"Bearer {endpoint.key}":
            given = headers.get("Authorization", "").removeprefix("Bearer ")
            return self._send(_error(401, f"Incorrect API key provided: {given}.", "invalid_api_key"))
        try:
            request = _request(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._send(_error(400, f"The request is malformed: {error!r}"))
        if endpoint.models and request.model not in endpoint.models:
            said = f"The model '{request.model}' does not exist."
            return self._send(_error(404, said, "model_not_found"))
        fault = endpoint.note(request, headers)
        if fault == "closes":
            self.close_connection = True
            return None
        if fault == "times out":
            time.sleep(endpoint.faults.seconds)
        if fault in PASSING or fault == "lasting":
            return self._send(_failed(fault, endpoint.faults.retry_after))
        answer = endpoint.answer(request)
        return self._send(answer if isinstance(answer, Reply) else _faulty(answer, fault, request))

    def _send(self, reply: Reply) -> None:
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


def completion(text: str | None, finish: str = "stop", request: Request | None = None) -> Reply:
    """Returns the reply of a chat completion. A token is a word here."""
    usage = {
        "prompt_tokens": len(request.text.split()) if request else 0,
        "completion_tokens": len((text or "").split()),
    }
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return Reply(body={"object": "chat.completion", "choices": choices, "usage": usage})


def _faulty(answer: str, fault: str | None, request: Request) -> Reply:
    """An answer, spoilt by a fault of the model."""
    match fault:
        case "garbage":
            return completion("Sure! {{\\ %%% ]] As a model I " + request.digest[:16], "stop", request)
        case "cut off":
            return completion(answer[: len(answer) // 2], "length", request)
        case "repeats":
            start = answer[:40] or "and "
            return completion(start * 20, "length", request)
        case "declines":
            return completion("I'm sorry, but I can't help with that.", "stop", request)
    return completion(answer, "stop", request)


def _failed(fault: str, retry_after: float) -> Reply:
    """A reply without an answer."""
    match fault:
        case "busy":
            busy = _error(429, "Rate limit reached.", "rate_limit_exceeded")
            return Reply(busy.status, busy.body, {"Retry-After": f"{retry_after:g}"})
        case "huge":
            return Reply(body=b'{"choices": [' + b" " * 3_000_000)
        case "no JSON":
            return Reply(body=b"<html>502 Bad Gateway</html>")
        case "no choices":
            return Reply(body={"object": "chat.completion", "choices": []})
        case "no text":
            return completion(None)
        case "times out":
            return completion("too late")
    return _error(500, "The server had an error.")


def _error(status: int, message: str, code: str | None = None) -> Reply:
    return Reply(status, {"error": {"message": message, "type": "error", "code": code}})


def _request(body: dict[str, Any]) -> Request:
    texts: list[str] = []
    images: list[bytes] = []
    for message in body["messages"]:
        content = message["content"]
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(
                    base64.b64decode(part["image_url"]["url"].split("base64,", 1)[1], validate=True)
                )
    return Request(str(body["model"]), "\n".join(texts), tuple(images), body)
