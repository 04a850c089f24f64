"""Several processes that share one folder of answers, and processes that are killed."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter

from instructbrush.core.generation.language.cache import AnswerCache
from instructbrush.core.generation.language.models import Question
from instructbrush.tools.build_demo.scripted_endpoint import Faults

WORKER = """
import json, sys
from pathlib import Path
from instructbrush.core.generation.language.endpoint import EndpointSettings
from instructbrush.core.generation.language.models import Question

address, folder, count, prefix, rate = sys.argv[1:]
settings = EndpointSettings(address, "scripted", first_wait=0.01, requests_per_minute=float(rate) or None)
model = settings.open(Path(folder))
print("ready", flush=True)
input()
print(json.dumps([model.ask(Question(f"{prefix} {number}")).text for number in range(int(count))]))
"""


def start(endpoint, folder, count: int, prefix: str = "question", rate: float = 0) -> subprocess.Popen:
    arguments = [endpoint.address, str(folder), str(count), prefix, str(rate)]
    command = [sys.executable, "-I", "-c", WORKER, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(processes: list[subprocess.Popen]) -> list[list[str]]:
    # Together, however long each took to start.
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(processes)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(text) for text in printed]


def test_two_processes_agree_on_every_answer(serve, tmp_path):
    number = itertools.count()
    endpoint = serve(lambda request: f"{request.text}: {next(number)}")
    first, second = finish([start(endpoint, tmp_path, 25) for _ in range(2)])
    assert first == second and len(set(first)) == 25
    assert AnswerCache(tmp_path).usage()["scripted"].answers == 25


def test_a_killed_process_continues_and_pays_for_no_answer_twice(serve, model, tmp_path):
    def answer(request):
        time.sleep(0.01)
        return f"answer to {request.text}"

    endpoint = serve(answer, Faults({"fails": 0.2, "closes": 0.1}))
    killed = 0
    for wanted in (8, 17, 29):
        process = start(endpoint, tmp_path, 80)
        process.stdin.write("\n")
        process.stdin.flush()
        while len(list(tmp_path.glob("??/*.json"))) < wanted:
            assert process.poll() is None
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
    asked = model(endpoint, tmp_path)
    texts = [asked.ask(Question(f"question {number}")).text for number in range(80)]
    assert texts == [f"answer to question {number}" for number in range(80)]
    usage = AnswerCache(tmp_path).usage()["scripted"]
    assert (usage.answers, usage.output_tokens, usage.unmeasured) == (80, 80 * 4, 0)
    # Only a request that was on its way when a process died is sent again.
    sent = Counter(request.digest for request in endpoint.requests)
    assert len(sent) == 80 and sum(sent.values()) - 80 <= sum(endpoint.met.values()) + killed


def test_processes_share_the_rate_limit_fairly(serve, tmp_path):
    endpoint = serve()
    finish([start(endpoint, tmp_path, 8, prefix, 1200) for prefix in ("first", "second")])
    assert len(endpoint.requests) == 16
    assert endpoint.arrivals[-1] - endpoint.arrivals[0] >= 12 * 0.05
    early = Counter(request.text.split()[0] for request in endpoint.requests[:10])
    assert min(early["first"], early["second"]) >= 2  # a process may start late
