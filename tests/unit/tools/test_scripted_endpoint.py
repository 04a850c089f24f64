"""The scripted endpoint: its faults depend on the content of the requests alone."""

import json
import urllib.error
import urllib.request
from collections import Counter

import pytest

from instructbrush.tools.build_demo.scripted_endpoint import (
    ANSWERED,
    PASSING,
    Faults,
    Request,
    ScriptedEndpoint,
)

SHARES = {"garbage": 0.1, "cut off": 0.1, "repeats": 0.1, "declines": 0.1, "fails": 0.2}


def request(number: int, **settings) -> Request:
    return Request("m", f"question {number}", (), {"text": number, "max_tokens": 100, **settings})


def post(address: str, body: object) -> tuple[int, dict]:
    asked = urllib.request.Request(f"{address}/chat/completions", json.dumps(body).encode(), method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=5) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_content_of_a_request_decides_its_fault():
    faults = Faults(SHARES, lasting=0.1)
    met = [faults.of(request(number)) for number in range(2000)]
    assert met == [Faults(SHARES, lasting=0.1).of(request(number)) for number in range(2000)]
    assert met != [Faults(SHARES, lasting=0.1, seed=1).of(request(number)) for number in range(2000)]
    counts = Counter(met)
    for fault, share in {**SHARES, "lasting": 0.1, None: 0.3}.items():
        assert abs(counts[fault] / 2000 - share) < 0.03
    assert {faults.of(request(number, max_tokens=16)) for number in range(100)} == {None}


@pytest.mark.parametrize("fault", ANSWERED)
def test_a_fault_of_the_model_stays(fault):
    with ScriptedEndpoint(lambda request: "a long answer to all", Faults({fault: 1.0})) as endpoint:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        replies = [post(endpoint.address, body) for _ in range(2)]
        assert replies[0] == replies[1] and endpoint.met == {fault: 2}
        status, reply = replies[0]
        (choice,) = reply["choices"]
        assert status == 200 and choice["message"]["content"] != "a long answer to all"
        assert choice["finish_reason"] == ("length" if fault in ("cut off", "repeats") else "stop")


def test_a_fault_of_the_endpoint_passes_and_a_lasting_one_does_not():
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}
    with ScriptedEndpoint(lambda request: request.text, Faults({"busy": 1.0}, passes_after=2)) as endpoint:
        assert [post(endpoint.address, body)[0] for _ in range(4)] == [429, 429, 200, 200]
    with ScriptedEndpoint(lambda request: request.text, Faults(lasting=1.0)) as endpoint:
        assert [post(endpoint.address, body)[0] for _ in range(4)] == [500] * 4
    assert not set(ANSWERED) & set(PASSING)


@pytest.mark.parametrize(
    "body", [[], {}, {"messages": []}, {"model": "m", "messages": [{"content": [{"type": "x"}]}]}]
)
def test_rejects_malformed_requests(body):
    with ScriptedEndpoint(lambda request: "fine") as endpoint:
        assert post(endpoint.address, body)[0] == 400
