"""An OpenAI-compatible endpoint that the user names. Nothing else is ever contacted."""

import contextlib
import email.utils
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...errors import BuildError
from ..errors import Refused
from .cache import AnswerCache, CachedModel
from .chat_protocol import (
    Parameters,
    UnusableReply,
    complaint_of,
    lasting_error,
    may_pass,
    read_reply,
    refusal_of,
    request_body,
)
from .models import REJECTED, Answer, NoAnswer, Question, check_image
from .rate import RateLimit

logger = logging.getLogger(__name__)

_PATH = "/chat/completions"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_LONGEST_WAIT = 60.0
# An endpoint that sends nothing is noticed before the connection is closed.
_EXTRA_SECONDS = 1.0
# Seconds that an endpoint may ask to be left alone.
_LONGEST_RETRY_AFTER = 300.0
# Keys of local servers may be words such as "none", which answers may hold.
_SHORTEST_SECRET = 8
# Shows whether an endpoint answers at all when it did not answer a question.
_PROBE = Question("Answer with the word yes.", most_tokens=16)


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked. Its ``repr`` holds what determines the answers; the key is nowhere in it.

    Raises:
        BuildError: the address or a number cannot be used.
    """

    address: str
    """Address of the API without ``/chat/completions``, such as ``https://api.example.com/v1``."""
    model: str
    """The model's name at the endpoint."""
    sees_images: bool = field(default=False, repr=False)
    key_variable: str | None = field(default=None, repr=False)
    """Environment variable that holds the key; None sends none."""
    timeout: float = field(default=120.0, repr=False)
    """Seconds for one reply."""
    tries: int = field(default=7, repr=False)
    """How often a request is sent until there is a reply."""
    first_wait: float = field(default=1.0, repr=False)
    """Seconds before the second try. Each further wait is twice as long, up to a minute. ``Retry-After``
    counts if it is longer."""
    requests_per_minute: float | None = field(default=None, repr=False)
    """Shared by all processes that use the same folder of answers."""
    most_bytes: int = field(default=1_000_000, repr=False)
    """Largest reply that is read."""
    most_failures: int = field(default=10, repr=False)
    """Questions in a row without an answer that end the build."""

    def __post_init__(self) -> None:
        address = self.address.strip().rstrip("/").removesuffix(_PATH)
        object.__setattr__(self, "address", address)
        _check_address(address)
        if not self.model.strip():
            raise BuildError(
                f"Endpoint {address}: the model's name is empty. Give the name that it has there."
            )
        limits = {
            "timeout": (self.timeout, 0.01, 3600),
            "tries": (self.tries, 1, 100),
            "first wait": (self.first_wait, 0, _LONGEST_WAIT),
            "requests per minute": (
                1 if self.requests_per_minute is None else self.requests_per_minute,
                0.01,
                1_000_000,
            ),
            "most bytes": (self.most_bytes, 1000, 100_000_000),
            "most failures": (self.most_failures, 1, 1_000_000),
        }
        for name, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise BuildError(
                    f"Endpoint {address}: {name} is {value:g}; {least:g} to {most:g} is possible."
                )

    @property
    def host(self) -> tuple[str, str | None, int | None]:
        """Scheme, host and port: what a key is for."""
        parts = urlsplit(self.address)
        return parts.scheme, parts.hostname, parts.port

    def open(self, answers: Path) -> CachedModel:
        """Returns the model with its answers kept in a folder. Contacts nothing yet.

        Raises:
            BuildError: the key is missing, or a package.
        """
        digest = hashlib.sha256(f"{self.address}\n{self.model}".encode()).hexdigest()
        rate = RateLimit(self.requests_per_minute, answers / f"{digest[:16]}.rate")
        return CachedModel(Endpoint(self, rate), AnswerCache(answers))


class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        settings: how it is asked.
        rate: the limit on its requests.

    Raises:
        BuildError: the key is missing or malformed, or the package httpx.
    """

    def __init__(self, settings: EndpointSettings, rate: RateLimit | None = None) -> None:
        self._settings = settings
        self._rate = rate or RateLimit(settings.requests_per_minute)
        self._key = _key(settings)
        self._httpx = _httpx_module(settings)
        self._parameters = Parameters()
        self._failures = 0
        self._local = settings.host[1] in _LOCAL
        self._client = self._open_client()
        if self._key and not self._local and settings.address.startswith("http:"):
            logger.warning("%s: the key is sent without encryption. Use https:// if you can.", self._title)

    def _open_client(self) -> Any:
        headers = {
            "User-Agent": "instructbrush",
            # A compressed reply may be far larger than its bytes.
            "Accept-Encoding": "identity",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            return self._httpx.Client(
                headers=headers,
                timeout=self._settings.timeout,
                follow_redirects=False,
                trust_env=not self._local,  # proxies
            )
        except (ImportError, OSError, ValueError) as error:
            raise BuildError(
                f"{self._title}: a setting of the environment for proxies or certificates cannot be used "
                f"({error}). Mend or unset HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE or SSL_CERT_DIR."
            ) from error

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._settings.model

    @property
    def fingerprint(self) -> str:
        """Hash of the endpoint's address and the model's name."""
        return hashlib.sha256(repr(self._settings).encode()).hexdigest()

    @property
    def sees_images(self) -> bool:
        """Whether the user says that the model reads images."""
        return self._settings.sees_images

    @property
    def _title(self) -> str:
        return f"Endpoint {self._settings.address}, model '{self.name}'"

    def ask(self, question: Question) -> Answer:
        """Sends a question, again and again if there is no usable reply.

        Raises:
            NoAnswer: there is no usable reply after all tries, though the endpoint answers other questions.
            Refused: the endpoint rejects this question, or the model declines it.
            BuildError: the endpoint cannot be used: it is down, too busy, or rejects all questions.
        """
        check_image(self, question)
        try:
            answer = self._answer(question, self._settings.tries)
        except UnusableReply as failure:
            raise self._end(NoAnswer(detail=f"{self.name}: {failure}"), str(failure)) from failure
        except _RejectedQuestion as rejected:
            raise self._end(
                Refused(REJECTED, str(rejected)), f"it rejects the question ({rejected})"
            ) from rejected
        self._failures = 0
        return answer

    def _end(self, refused: Refused, failure: str) -> Exception:
        """Returns the error for a question without an answer: the row's, unless the endpoint is at fault."""
        continues = "Once it works, run the same command again: it continues."
        try:
            self._answer(_PROBE, min(self._settings.tries, 2))
        except (UnusableReply, _RejectedQuestion):
            return BuildError(
                f"{self._title}: {failure}. It does not answer a short question either. Check the "
                f"address, the model's name and the endpoint. {continues}"
            )
        except Refused:
            pass  # an answer, too
        self._failures += 1
        if self._failures >= self._settings.most_failures:
            return BuildError(
                f"{self._title}: {self._failures} questions in a row have no answer; the last time "
                f"{failure}. Check the endpoint, and whether the model can do this. {continues}"
            )
        return refused

    def _answer(self, question: Question, tries: int) -> Answer:
        wait = self._settings.first_wait
        while True:
            tries -= 1
            try:
                return self._reply(question)
            except UnusableReply as failure:
                logger.info("%s: %s; %d tries are left.", self._title, failure, tries)
                if tries < 1:
                    raise
            # Processes that failed together do not come back together.
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _LONGEST_WAIT)

    def _reply(self, question: Question) -> Answer:
        """Sends a request. Sends it again if the endpoint does not know a setting."""
        while True:
            status, content, wait = self._post(request_body(self.name, question, self._parameters))
            if status < 300:
                return read_reply(content)
            complaint = complaint_of(content)
            lasting = lasting_error(status, complaint, self._title)
            if lasting is not None:
                raise lasting
            if may_pass(status):
                if wait:
                    self._rate.hold(min(wait, _LONGEST_RETRY_AFTER))
                raise UnusableReply(
                    f"it replies with status {status}" + (f': "{complaint}"' if complaint else "")
                )
            refused = refusal_of(complaint)
            if refused is not None:
                raise refused
            change = self._parameters.adapt(complaint)
            if change is None:
                raise _RejectedQuestion(f"{status}: {complaint}")
            logger.warning("%s: %s.", self._title, change)

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes, float]:
        """Sends a request. Returns status, body without the key, and the seconds that the endpoint asks to
        wait.

        Raises:
            UnusableReply: there is no whole reply in time.
        """
        self._rate.wait()
        encoded = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        too_long = UnusableReply(f"its reply takes longer than {self._settings.timeout:g} seconds")
        end = time.monotonic() + self._settings.timeout
        try:
            with (
                self._closed_at_the_end(too_long),
                self._client.stream(
                    "POST", self._settings.address + _PATH, content=encoded, headers=headers
                ) as response,
            ):
                content = bytearray()
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > self._settings.most_bytes:
                        raise UnusableReply(f"its reply is larger than {self._settings.most_bytes} bytes")
                    if time.monotonic() > end:
                        raise too_long
                told = self._without_key(content.decode("latin-1")).encode("latin-1")
                return response.status_code, told, _retry_after(response.headers)
        except self._httpx.TimeoutException as error:
            what = "connect" if isinstance(error, self._httpx.ConnectTimeout) else "reply"
            raise UnusableReply(f"it does not {what} within {self._settings.timeout:g} seconds") from error
        except self._httpx.ConnectError as error:
            raise UnusableReply(f"it cannot be reached ({self._without_key(str(error))})") from error
        except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
            said = self._without_key(str(error)) or type(error).__name__
            raise UnusableReply(f"the connection ended early ({said})") from error

    @contextlib.contextmanager
    def _closed_at_the_end(self, too_long: UnusableReply) -> Iterator[None]:
        """Closes the connection soon after the time for a reply: its head may come byte by byte for ever."""
        client = self._client
        timer = threading.Timer(self._settings.timeout + _EXTRA_SECONDS, client.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            # Reading from a closed connection raises errors of many kinds.
            if client.is_closed:
                raise too_long from error
            raise
        finally:
            timer.cancel()
            if client.is_closed:
                self._client = self._open_client()

    def _without_key(self, text: str) -> str:
        if len(self._key) < _SHORTEST_SECRET:
            return text
        # Some servers write a slash in JSON as "\\/".
        return text.replace(self._key, "...").replace(self._key.replace("/", "\\/"), "...")


class _RejectedQuestion(Exception):  # noqa: N818 (may be the row's end)
    """The endpoint rejects a request for a reason that may concern one question or all."""


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        hostname, _ = parts.hostname, parts.port
    except ValueError:
        parts, hostname = urlsplit(""), None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # The address is not shown, because it may hold a key.
        raise BuildError(
            "Endpoint: the address holds a user, a password, or something after ? or #. Give the address "
            "alone. A key belongs into an environment variable, whose name you give."
        )
    if parts.scheme not in ("http", "https") or not hostname or not address.isascii() or " " in address:
        raise BuildError(
            f"Endpoint: '{address[:200]}' is no address of an API. It has the form "
            "https://api.example.com/v1 or http://127.0.0.1:8000/v1."
        )


def _key(settings: EndpointSettings) -> str:
    """The key of the endpoint, or "" if it needs none."""
    variable = settings.key_variable
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    # Neither is shown: somebody may give the key in place of the variable's name.
    if not key:
        raise BuildError(
            f"Endpoint {settings.address}: the environment variable that you name for its key is not set, or "
            "empty. Set it where the build runs, on every machine. Give the variable's name and not the key."
        )
    if not key.isascii() or not key.isprintable():
        raise BuildError(
            f"Endpoint {settings.address}: the key in the environment variable holds characters that no key "
            "has. Copy it again."
        )
    return key


def _retry_after(headers: Any) -> float:
    """The seconds in a reply's ``Retry-After``, which may be a date; 0 if there are none."""
    value = str(headers.get("retry-after", ""))
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # also for NaN


def _httpx_module(settings: EndpointSettings) -> Any:
    try:
        import httpx
    except ImportError as error:
        raise BuildError(
            f"Endpoint {settings.address}: endpoints need the package httpx, which is not installed. "
            "Run: pip install httpx"
        ) from error
    return httpx
