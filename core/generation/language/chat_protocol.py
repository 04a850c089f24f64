"""The chat completions protocol of OpenAI-compatible endpoints: requests, replies and complaints."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from ...errors import BuildError
from ...reasoning.answers import MOST_ANSWER, one_line, printable
from ..errors import Refused
from .models import DECLINED, TOO_LONG, Answer, Question

UNREADABLE_IMAGE = "the image is of a format that endpoints do not read"

# First bytes of the image formats that endpoints read.
_KINDS = {b"\x89PNG\r\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_MOST_TOKENS = 10**9
# Characters of a complaint that are shown.
_SHOWN = 300
# Words in complaints, in lower case.
_ABOUT_LENGTH = ("context_length", "context length", "maximum context", "context window", "too long")
_ABOUT_CONTENT = ("content_filter", "content filter", "content_policy", "content policy", "moderation")
_ABOUT_SUPPORT = ("support", "extra", "unknown", "unrecognized", "permitted")


class UnusableReply(Exception):  # noqa: N818 (asked again, not a fault)
    """An endpoint gave no reply, or none that can be used."""


class Parameters:
    """The optional settings of a request. Endpoints differ in what they accept, and say what they do not."""

    def __init__(self) -> None:
        # Our name -> the endpoint's; None leaves the setting out.
        self._names: dict[str, str | None] = {name: name for name in ("max_tokens", "temperature", "seed")}

    def of(self, question: Question) -> dict[str, Any]:
        """Returns the settings of a question under the endpoint's names."""
        values = {
            "max_tokens": question.most_tokens,
            "temperature": question.temperature,
            "seed": question.seed,
        }
        return {theirs: values[ours] for ours, theirs in self._names.items() if theirs}

    def adapt(self, complaint: str) -> str | None:
        """Changes the setting that an endpoint complains about.

        Returns:
            What changed, in words; None if the complaint names no setting that can change.
        """
        if self._names["max_tokens"] == "max_tokens" and "max_completion_tokens" in complaint:
            self._names["max_tokens"] = "max_completion_tokens"
            return "max_tokens is sent as max_completion_tokens"
        unsupported = any(word in complaint.lower() for word in _ABOUT_SUPPORT)
        for ours in ("seed", "temperature"):
            if unsupported and self._names[ours] and ours in complaint:
                self._names[ours] = None
                return f"{ours} is not sent any more"
        return None


def request_body(model: str, question: Question, parameters: Parameters) -> dict[str, Any]:
    """Returns the body of a request.

    Raises:
        Refused: the image is of a format that endpoints do not read.
    """
    content: Any = question.text
    if question.image is not None:
        content = [
            {"type": "text", "text": question.text},
            {"type": "image_url", "image_url": {"url": _data_url(question.image)}},
        ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        **parameters.of(question),
    }


def _data_url(image: bytes) -> str:
    kind = next((kind for start, kind in _KINDS.items() if image.startswith(start)), None)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise Refused(UNREADABLE_IMAGE, "use PNG, JPEG, WebP or GIF")
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def read_reply(content: bytes) -> Answer:
    """Reads the body of a successful reply.

    Raises:
        UnusableReply: it is no chat completion.
        Refused: the model declines to answer.
    """
    try:
        # Answers may end within a character, which other readers of JSON here reject.
        reply = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnusableReply(f"its reply is no JSON ({one_line(str(error))[:100]})") from error
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        if isinstance(reply, dict) and reply.get("error"):
            raise UnusableReply(f'its reply is an error: "{complaint_of(content)}"')
        raise UnusableReply("its reply holds no choice with a message")
    finish, refusal = choice.get("finish_reason"), message.get("refusal")
    if refusal or finish == "content_filter":
        raise Refused(DECLINED, one_line(str(refusal or "its content filter stopped the answer"))[:_SHOWN])
    text, cut_off = _text(message.get("content")), finish in ("length", "max_tokens")
    if text is None and not cut_off:
        raise UnusableReply("its reply holds a message without text")
    if len(text or "") > MOST_ANSWER:
        raise UnusableReply(f"its answer has more than {MOST_ANSWER} characters")
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Answer(printable(text or ""), cut_off, *tokens)


def _text(content: Any) -> str | None:
    """The text of a message, which some endpoints send in parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def complaint_of(content: bytes) -> str:
    """Returns what the body of an error says, on one line."""
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        return one_line(content.decode(errors="replace"))[:_SHOWN]
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    if isinstance(error, dict):
        told = [error.get(key) for key in ("message", "code", "param", "detail")]
        error = " · ".join(str(each) for each in told if each) or error
    return one_line(str(error))[:_SHOWN]


def lasting_error(status: int, complaint: str, name: str) -> BuildError | None:
    """Returns the error for a status that all questions would get; None for others.

    Args:
        status: HTTP status from 300 on.
        complaint: what the endpoint says.
        name: of the model and endpoint, for messages.
    """
    said = f' It says: "{complaint}".' if complaint else ""
    if status < 400:
        return BuildError(
            f"{name}: it redirects to another address ({status}), which is not followed. Give the address "
            "that answers itself."
        )
    if status == 401:
        return BuildError(
            f"{name}: it does not accept the key (401).{said} Put a valid key into an environment variable, "
            "and name the variable."
        )
    if status == 403:
        return BuildError(f"{name}: it forbids the request (403).{said} Check what the key may do.")
    if status in (404, 405):
        return BuildError(
            f"{name}: it does not know the model or the path ({status}).{said} Check the model's name. The "
            "address is the part before /chat/completions and mostly ends in /v1."
        )
    if status == 402 or (status == 429 and "insufficient_quota" in complaint):
        return BuildError(
            f"{name}: the quota is used up ({status}).{said} Once there is more, run the same command again: "
            "it continues."
        )
    return None


def may_pass(status: int) -> bool:
    """Whether the same question may succeed later in spite of this HTTP status."""
    return status in (408, 409, 425, 429) or status >= 500


def refusal_of(complaint: str) -> Refused | None:
    """Returns the refusal for a complaint that is about one question; None if it may be about all."""
    lower = complaint.lower()
    if any(word in lower for word in _ABOUT_LENGTH):
        return Refused(TOO_LONG, complaint)
    if any(word in lower for word in _ABOUT_CONTENT):
        return Refused(DECLINED, complaint)
    return None
