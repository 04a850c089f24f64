"""Asking an OpenAI-compatible endpoint: a real server on this machine, which fails on purpose."""

import contextlib
import io
import json
import socketserver
import threading
import time

import pytest
from PIL import Image

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language import endpoint as endpoint_module
from instructbrush.core.generation.language.models import Answer, NoAnswer, Question, ask_for
from instructbrush.core.generation.language.parsing import json_object
from instructbrush.tools.build_demo.scripted_endpoint import PASSING, Faults, Reply, completion


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, kind)
    return stream.getvalue()


def test_asks_and_reads_an_answer(serve, model):
    endpoint = serve(lambda request: "It is red.")
    answer = model(endpoint).ask(Question("What is it, please?", most_tokens=77, temperature=0.5))
    assert answer == Answer("It is red.", False, 4, 3)
    (request,) = endpoint.requests
    seed = Question("What is it, please?", most_tokens=77, temperature=0.5).seed
    assert request.body == {
        "model": "scripted",
        "messages": [{"role": "user", "content": "What is it, please?"}],
        "max_tokens": 77,
        "temperature": 0.5,
        "seed": seed,
    }
    assert "Authorization" not in endpoint.headers[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_sends_the_image_as_it_is(serve, model, kind):
    endpoint = serve()
    model(endpoint, sees_images=True).ask(Question("what is it?", encoded(kind)))
    (request,) = endpoint.requests
    assert request.images == (encoded(kind),) and request.text == "what is it?"
    url = request.body["messages"][0]["content"][1]["image_url"]["url"]
    assert url.startswith(f"data:image/{kind.lower()};base64,")


def test_refuses_other_kinds_of_images(serve, model):
    endpoint = serve()
    with pytest.raises(Refused, match="the image is of a format that endpoints do not read"):
        model(endpoint, sees_images=True).ask(Question("what is it?", encoded("BMP")))
    with pytest.raises(BuildError, match="reads no images"):
        model(endpoint).ask(Question("what is it?", encoded("PNG")))
    assert endpoint.requests == []


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_takes_the_address_in_every_form(serve, model, ending):
    endpoint = serve()
    assert model(endpoint.address + ending).ask(Question("a")).text == "answer to a"


def test_the_address_and_the_models_name_tell_models_apart(serve, model):
    endpoint = serve()
    opened = [model(endpoint), model(serve()), model(endpoint, model="b"), model(endpoint, timeout=3.0)]
    assert len({each.fingerprint for each in opened}) == 3
    assert opened[0].fingerprint == opened[3].fingerprint


@pytest.mark.parametrize("fault", PASSING)
def test_sends_the_question_again_after_a_fault_of_the_endpoint(serve, model, fault):
    endpoint = serve(faults=Faults({fault: 1.0}, passes_after=2, seconds=3.0))
    answer = model(endpoint, timeout=1.5 if fault == "times out" else 20.0).ask(Question("a long question"))
    assert answer.text == "answer to a long question"
    assert endpoint.met == {fault: 2} and len(endpoint.requests) == 3
    assert len({request.digest for request in endpoint.requests}) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("times out", "it does not reply within 1.5 seconds"),
        ("fails", "it replies with status 500"),
        ("closes", "the connection ended early"),
        ("huge", "its reply is larger than 1000000 bytes"),
        ("no JSON", "its reply is no JSON"),
        ("no choices", "its reply holds no choice with a message"),
        ("no text", "its reply holds a message without text"),
    ],
)
def test_gives_no_answer_after_all_tries(serve, model, fault, said):
    endpoint = serve(faults=Faults({fault: 1.0}, passes_after=99, seconds=3.0))
    asked = model(endpoint, timeout=1.5 if fault == "times out" else 20.0, tries=2)
    with pytest.raises(NoAnswer) as caught:
        asked.ask(Question("a long question"))
    assert caught.value.reason == "the model gave no answer"
    assert caught.value.detail.startswith("scripted: ") and said in caught.value.detail
    # Two tries, and a short question that shows that the endpoint works.
    assert [request.body["max_tokens"] for request in endpoint.requests] == [512, 512, 16]


def test_asks_a_question_without_an_answer_anew(serve, model, tmp_path):
    endpoint = serve(faults=Faults({"fails": 1.0}, passes_after=2))
    with pytest.raises(NoAnswer):
        model(endpoint, tries=2).ask(Question("a long question"))
    assert model(endpoint, tries=2).ask(Question("a long question")).text == "answer to a long question"


def test_ends_the_build_when_many_questions_in_a_row_have_no_answer(serve, model):
    endpoint = serve(faults=Faults({"fails": 1.0}, passes_after=99))
    asked = model(endpoint, tries=1, most_failures=3)
    for number in range(2):
        with pytest.raises(NoAnswer):
            asked.ask(Question(f"a long question {number}"))
    with pytest.raises(
        BuildError, match="3 questions in a row have no answer; the last time it replies with status 500"
    ):
        asked.ask(Question("a long question"))


def test_an_answer_ends_the_row_of_failures(serve, model):
    endpoint = serve(lambda request: Reply(500) if "bad" in request.text else "fine")
    asked = model(endpoint, tries=1, most_failures=2)
    for number in range(3):
        with pytest.raises(NoAnswer):
            asked.ask(Question(f"bad {number}"))
        assert asked.ask(Question(f"good {number}")).text == "fine"


def test_ends_the_build_and_no_row_when_the_endpoint_is_down(serve, model):
    endpoint = serve(lambda request: Reply(503, {"error": "overloaded"}))
    with pytest.raises(
        BuildError, match=r'status 503: "overloaded". It does not answer a short question either'
    ):
        model(endpoint, tries=2).ask(Question("a"))
    with pytest.raises(
        BuildError,
        match=r"Endpoint http://127.0.0.1:9/v1, model 'scripted': it cannot be reached .* it continues",
    ):
        model("http://127.0.0.1:9/v1", tries=1).ask(Question("a"))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            Reply(401, {"error": {"message": "bad key"}}),
            r'does not accept the key \(401\). It says: "bad key"',
        ),
        (Reply(403, {}), r"forbids the request \(403\)"),
        (
            Reply(404, {"detail": "Not Found"}),
            r'does not know the model or the path \(404\). It says: "Not Found"',
        ),
        (Reply(302, {}, {"Location": "http://127.0.0.1:9/"}), r"redirects to another address \(302\)"),
        (Reply(402, {}), r"the quota is used up \(402\)"),
        (
            Reply(429, {"error": {"message": "m", "code": "insufficient_quota"}}),
            r"the quota is used up \(429\)",
        ),
        (
            Reply(400, {"error": "bad request"}),
            r"rejects the question \(400: bad request\). It does not answer a short",
        ),
    ],
)
def test_ends_the_build_at_once_for_errors_of_the_settings(serve, model, reply, said):
    endpoint = serve(lambda request: reply)
    with pytest.raises(BuildError, match=said):
        model(endpoint).ask(Question("a"))
    assert len(endpoint.requests) <= 2


def test_names_a_wrong_model_and_a_wrong_path(serve, model):
    endpoint = serve(models=("other",))
    with pytest.raises(BuildError, match="The model 'scripted' does not exist"):
        model(endpoint).ask(Question("a"))
    with pytest.raises(BuildError, match="mostly ends in /v1"):
        model(endpoint.address.removesuffix("/v1")).ask(Question("a"))


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (
            400,
            "This model's maximum context length is 4096 tokens.",
            "the question is too long for the model",
        ),
        (413, "Request too long", "the question is too long for the model"),
        (400, "The content management policy: content_filter", "the model declines the question"),
        (400, "Invalid image", "the endpoint rejects the question"),
    ],
)
def test_refuses_the_row_for_errors_of_the_question(serve, model, status, message, reason):
    endpoint = serve(
        lambda request: Reply(status, {"error": {"message": message}}) if "bad" in request.text else "yes"
    )
    with pytest.raises(Refused) as caught:
        model(endpoint).ask(Question("bad"))
    assert caught.value.reason == reason and message in caught.value.detail


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"},
        {"message": {"content": "half an"}, "finish_reason": "content_filter"},
    ],
)
def test_refuses_the_row_when_the_model_declines(serve, model, choice):
    with pytest.raises(Refused, match="the model declines the question"):
        model(serve(lambda request: Reply(body={"choices": [choice]}))).ask(Question("a"))


def test_reads_the_variants_of_a_reply(serve, model):
    replies = {
        "parts": {
            "choices": [
                {"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}
            ]
        },
        "thinks": {"choices": [{"message": {"content": None}, "finish_reason": "length"}]},
        "usage": {
            "choices": [{"message": {"content": "c"}}],
            "usage": {"prompt_tokens": -1, "completion_tokens": True},
        },
        "characters": {"choices": [{"message": {"content": "a\ud800\x00b"}}]},
    }
    asked = model(serve(lambda request: Reply(body=replies[request.text])))
    answers = {name: asked.ask(Question(name)) for name in replies}
    assert answers == {
        "parts": Answer("ab"),
        "thinks": Answer("", cut_off=True),
        "usage": Answer("c"),
        "characters": Answer("a  b"),
    }
    assert {name: asked.ask(Question(name)) for name in replies} == answers


def test_an_error_with_status_200_is_no_answer(serve, model):
    reply = Reply(body={"error": {"message": "upstream is down"}})
    with pytest.raises(BuildError, match='its reply is an error: "upstream is down"'):
        model(serve(lambda request: reply), tries=1).ask(Question("a"))


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens"),
        ("Unsupported value: 'temperature' does not support 0.", "temperature"),
        ('[{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]', "seed"),
    ],
)
def test_leaves_out_settings_that_the_endpoint_does_not_know(serve, model, message, missing):
    def answer(request):
        return Reply(422, {"detail": message}) if missing in request.body else "fine"

    endpoint = serve(answer)
    asked = model(endpoint)
    assert [asked.ask(Question(text)).text for text in ("a", "b")] == ["fine", "fine"]
    assert len(endpoint.requests) == 3
    assert ("max_completion_tokens" in endpoint.requests[2].body) == (missing == "max_tokens")


def test_waits_as_long_as_a_busy_endpoint_asks(serve, model):
    endpoint = serve(faults=Faults({"busy": 1.0}, retry_after=0.5))
    model(endpoint).ask(Question("a long question"))
    first, second = endpoint.arrivals
    assert 0.5 <= second - first < 10.0


def test_a_slow_drip_of_bytes_is_a_timeout(serve, model):
    def drip(request):
        if "slow" in request.text:
            time.sleep(0.15)
        return "yes"

    # Each byte comes in time, and the whole does not.
    endpoint = serve(drip)
    handler = endpoint._server.RequestHandlerClass

    class Dripping(handler):
        def _send(self, reply):
            content = json.dumps(reply.body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 5):
                self.wfile.write(content[start : start + 5])
                time.sleep(0.2)

    endpoint._server.RequestHandlerClass = Dripping
    with pytest.raises(BuildError, match=r"its reply takes longer than 3 seconds"):
        model(endpoint, timeout=3.0, tries=1).ask(Question("slow"))


@pytest.mark.parametrize("head", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X-More: yes\r\n"])
def test_a_head_that_never_ends_is_a_timeout(model, monkeypatch, head):
    monkeypatch.setattr(endpoint_module, "_EXTRA_SECONDS", 0.1)

    class Endless(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"" if b"100" in head else b"HTTP/1.1 200 OK\r\n")
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(head)
                    time.sleep(0.02)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Endless) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        with pytest.raises(BuildError, match=r"its reply takes longer than 1 seconds"):
            model(address, timeout=1.0, tries=1).ask(Question("a"))
        server.shutdown()


def test_a_question_asked_again_meets_other_faults(serve, model):
    """The model's faults belong to a request, and each attempt is another request."""
    shares = {"garbage": 0.15, "cut off": 0.15, "repeats": 0.15, "declines": 0.15}
    endpoint = serve(lambda request: json.dumps({"text": request.text}), Faults(shares))
    asked, results = model(endpoint), {}
    for number in range(60):
        try:
            results[number] = ask_for(asked, Question(f"question {number}"), json_object, tries=4)["text"]
        except Refused as refused:
            results[number] = refused.reason
    assert set(endpoint.met) == set(shares)
    used = [number for number, text in results.items() if text == f"question {number}"]
    assert 45 < len(used) < 60
    assert {results[number] for number in results if number not in used} == {"the answer cannot be used"}
    # The same answers come from the disk, and from another endpoint with the same schedule.
    count = len(endpoint.requests)
    again = [ask_for(asked, Question(f"question {number}"), json_object, tries=4) for number in used]
    assert [each["text"] for each in again] == [f"question {number}" for number in used]
    assert len(endpoint.requests) == count


def test_a_cut_off_answer_says_so(serve, model):
    assert model(serve(lambda request: completion("half", "length"))).ask(Question("a")).cut_off
