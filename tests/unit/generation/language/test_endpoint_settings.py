"""How an endpoint is named: address, limits, and the key that is nowhere to be found."""

import logging
import pickle
import sys

import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language.endpoint import Endpoint, EndpointSettings
from instructbrush.core.generation.language.models import Question
from instructbrush.tools.build_demo.scripted_endpoint import Reply

KEY = "sk-very-secret-0123456789"


NO_ADDRESS = (
    "", "api.example.com/v1", "ftp://a.b/v1", "file:///etc/passwd", "http://", "http://[::1", "http://a b/v1",
    "http://a:x/v1", "http://ä.de/v1",
)  # fmt: skip


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_rejects_what_is_no_address(address):
    with pytest.raises(BuildError, match="is no address of an API. It has the form https://"):
        EndpointSettings(address, "m")


@pytest.mark.parametrize(
    "form", ["https://me:{}@a.b/v1", "https://{}@a.b", "https://a.b?key={}", "https://a.b#{}"]
)
def test_rejects_an_address_with_a_key_and_does_not_show_it(form):
    address = form.format(KEY)
    with pytest.raises(BuildError, match="A key belongs into an environment variable") as caught:
        EndpointSettings(address, "m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"tries": 0}, "tries is 0"),
        ({"first_wait": -1}, "first wait is -1"),
        ({"requests_per_minute": -5}, "requests per minute is -5"),
        ({"requests_per_minute": 0}, "requests per minute is 0"),
        ({"most_bytes": 1}, "most bytes is 1"),
        ({"most_failures": 0}, "most failures is 0"),
        ({"model": " "}, "the model's name is empty"),
    ],
)
def test_rejects_settings_out_of_range(wrong, said):
    with pytest.raises(BuildError, match=f"Endpoint http://127.0.0.1:9/v1: {said}"):
        EndpointSettings(**{"address": "http://127.0.0.1:9/v1", "model": "m", **wrong})


def test_settings_go_to_other_processes_and_say_what_determines_answers():
    settings = EndpointSettings("http://127.0.0.1:9/v1/", "m", timeout=3, key_variable="KEY")
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 (our own)
    assert repr(settings) == "EndpointSettings(address='http://127.0.0.1:9/v1', model='m')"


def test_opening_contacts_nothing(serve, model):
    endpoint = serve()
    opened = model(endpoint)
    assert (opened.name, opened.sees_images) == ("scripted", False) and endpoint.requests == []


def test_says_which_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(
        BuildError, match="need the package httpx, which is not installed. Run: pip install httpx"
    ):
        Endpoint(EndpointSettings("http://127.0.0.1:9/v1", "m"))


def test_sends_the_key_of_the_variable(serve, model, monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    endpoint = serve(key=KEY)
    assert model(endpoint, key_variable="MY_KEY").ask(Question("a")).text == "answer to a"
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is not set, or empty"),
        (" ", "is not set, or empty"),
        ("ä" + KEY, "characters that no key has"),
        (KEY + "\n" + KEY, "characters that no key has"),
    ],
)
def test_says_what_is_wrong_with_the_key_and_does_not_show_it(monkeypatch, model, value, said):
    monkeypatch.delenv(KEY, raising=False)
    variable = KEY if value is None else "MY_KEY"  # somebody gives the key in place of the name
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(BuildError, match=said) as caught:
        model("http://127.0.0.1:9/v1", key_variable=variable)
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_file_message_or_log(serve, model, monkeypatch, tmp_path, caplog):
    """Not even if the endpoint repeats it."""
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def answer(request):
        if "fail" in request.text:
            return Reply(500, {"error": f"Bearer {KEY} failed"})
        return f"your key is {KEY}" if "tell" in request.text else Reply(401, {"error": f"bad key {KEY}"})

    asked = model(serve(answer), key_variable="MY_KEY", tries=2)
    assert asked.ask(Question("tell me")).text == "your key is ..."
    said = [str(asked), repr(asked), repr(asked.__dict__), caplog.text]
    for text in ("fail", "reject"):
        with pytest.raises(BuildError) as caught:
            asked.ask(Question(text))
        said.append(str(caught.value))
    said.append(caplog.text)
    assert "bad key ..." in said[-2] and "..." in said[-1]
    assert not [text for text in said if KEY in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 2 and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": f"bad key {KEY}"}},
        {"choices": [{"message": {"content": None, "refusal": f"no, {KEY}"}}]},
        {"choices": [{"message": {"content": f"{KEY[:3]}/{KEY[4:]}"}}]},
    ],
)
def test_replies_of_every_kind_are_read_without_the_key(serve, model, monkeypatch, body):
    key = f"{KEY[:3]}/{KEY[4:]}" if "/" in str(body) else KEY
    monkeypatch.setenv("MY_KEY", key)
    endpoint = serve(lambda request: Reply(body=body))
    try:
        said = model(endpoint, key_variable="MY_KEY", tries=1).ask(Question("a")).text
    except (BuildError, Refused) as error:
        said = str(error)
    assert "..." in said and key not in said


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "ftp://127.0.0.1:9"), ("SSL_CERT_FILE", "/nowhere/at/all.pem")]
)
def test_names_an_environment_that_cannot_be_used(model, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=f"for proxies or certificates cannot be used .* unset .*{name}"):
        model("https://a.example/v1")


def test_warns_of_a_key_without_encryption(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    for address in ("http://a.example/v1", "https://a.example/v1", "http://127.0.0.1:9/v1"):
        Endpoint(EndpointSettings(address, "m", key_variable="MY_KEY"))
    warnings = [
        record.getMessage() for record in caplog.records if "without encryption" in record.getMessage()
    ]
    assert len(warnings) == 1 and "http://a.example/v1" in warnings[0]


def test_proxies_are_not_asked_for_this_machine(serve, model, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert model(serve()).ask(Question("a")).text == "answer to a"
