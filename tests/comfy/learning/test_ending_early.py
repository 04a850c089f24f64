"""The learning panel: its buttons end a run early, and another continues it. The held-out pair, phases,
advice, files of single steps, and what a reloaded page gets."""

import asyncio
import contextlib
import json
import threading
import time

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from instructbrush.tests.comfy.graphs import Parts, learning, pairs
from instructbrush.tests.comfy.learning.test_learning import Cancel, same, unfinished


def node_of(comfy, **changes):
    graph = comfy.graph()
    return graph, learning(graph, comfy, Parts(graph), **changes)


@contextlib.contextmanager
def after_step(comfy, step, act):
    """Calls `act(run)` when a run has done so many steps: its id is that of the run."""
    trainer = comfy.pack("core.learning.trainer").Trainer
    active = comfy.pack("nodes.comfy.learning.active")
    original = trainer.step

    def wrapped(self):
        original(self)
        if self.steps_done == step:
            act(active.summaries()[0])

    trainer.step = wrapped
    try:
        yield
    finally:
        trainer.step = original


def press(comfy, action, step):
    """Presses a button after a step."""
    ask = comfy.pack("nodes.comfy.learning.active").ask
    return after_step(comfy, step, lambda run: ask(run["node"], run["run"], action))


def last(run):
    return run.data("instructbrush.learn")[-1]


@contextlib.asynccontextmanager
async def client(comfy):
    """A client of the panel's routes."""
    app = web.Application()
    routes = [route for route in comfy.server.routes if route.path.startswith("/instructbrush/learning")]
    app.add_routes(routes)
    async with TestClient(TestServer(app)) as asked:
        yield asked


def request(comfy, method, **body):
    """Asks the server's route. Returns status and JSON."""

    async def ask():
        async with client(comfy) as asked:
            response = await asked.request(method, "/instructbrush/learning", json=body or None)
            return response.status, await response.json()

    return asyncio.run(ask())


def test_uses_what_is_learned_until_a_run_is_stopped(comfy):
    settings = {"steps": 9, "seed": 41}
    shorter = comfy.values(*short(comfy, steps=9, seed=41, stop_at=4))[0]
    comfy.forget()
    graph, node = node_of(comfy, **settings)
    with press(comfy, "use", 4):
        run = comfy.run(graph, node.out(0))
    (instruction,) = run.values
    assert same(instruction, shorter) and instruction.info.steps == 4
    assert instruction.info.settings["steps"] == 9
    assert instruction.info.settings["ending"] == "stopped at step 4 of 9"
    assert last(run)["phase"] == "used" and (last(run)["step"], last(run)["total"]) == (4, 9)
    # A Run without changes gives the same, and says so again.
    again = comfy.run(graph, node.out(0))
    assert again.values[0] is instruction or same(again.values[0], instruction)
    assert again.data("instructbrush.learn") == []
    (shown,) = [data["output"]["learning"][0] for data in again.data("executed") if data.get("output")]
    assert shown["phase"] == "used" and shown["step"] == 4
    # Learn on continues, and ends as if nothing had stopped it.
    active = comfy.pack("nodes.comfy.learning.active")
    active.learn_on(shown["run"])
    whole = comfy.run(graph, node.out(0))
    assert whole.data("instructbrush.learn")[-1]["phase"] == "done"
    assert whole.values[0].info.steps == 9 and "ending" not in whole.values[0].info.settings
    assert unfinished(comfy) == []
    comfy.forget()
    graph, node = node_of(comfy, **settings, resume=False)
    assert same(comfy.values(graph, node.out(0))[0], whole.values[0])


def test_learn_on_in_one_workflow_leaves_the_node_of_another_alone(comfy):
    """Workflows share ids of nodes."""
    active = comfy.pack("nodes.comfy.learning.active")
    first, second = ({"init_text": text, "seed": 0} for text in ("first workflow", "second workflow"))

    def run(inputs, ends_early=False):
        progress = comfy.pack("nodes.comfy.learning.progress").LearningProgress("3", 100, 1)
        assert active.fingerprint("3", inputs) == 0
        with active.listed("3", progress):
            if ends_early:
                active.allow_learning_on("3", progress.run)
        return progress.run

    before, kept = run(first, ends_early=True), run(first, ends_early=True)
    run(second)
    active.learn_on(kept)
    assert active.fingerprint("3", first) == 1 and active.fingerprint("3", second) == 0
    with pytest.raises(comfy.pack("core.errors").LearningError, match="cannot be continued from here"):
        active.learn_on(before)


def short(comfy, stop_at, **settings):
    """A graph that loads what Cancel keeps after a step."""
    graph, node = node_of(comfy, **settings)
    with Cancel(comfy, stop_at):
        comfy.attempt(graph, node.out(0))
    folder = comfy.pack("nodes.comfy.folders.paths").unfinished()
    (kept,) = folder.glob("*.safetensors")
    instruction = comfy.pack("core.instruction.file").load_instruction(kept)
    for path in folder.iterdir():
        path.unlink()
    graph = comfy.graph()
    return graph, comfy.give(graph, instruction)


def test_stops_for_later_as_cancel_does(comfy):
    graph, node = node_of(comfy, steps=6, seed=42)
    with press(comfy, "later", 3):
        run = comfy.attempt(graph, node.out(0))
    assert run.error["exception_type"] == "interrupted"
    assert last(run)["phase"] == "stopped" and last(run)["seconds_left"] is None
    assert last(run)["state"].startswith("Kept as output/instructions/unfinished/")
    assert len(unfinished(comfy)) == 2
    graph, node = node_of(comfy, steps=6, seed=42)
    assert comfy.values(graph, node.out(0))[0].info.steps == 6
    assert unfinished(comfy) == []


def test_uses_the_best_held_out_state(comfy, monkeypatch):
    """The held-out error rises after the first measurement, so the state of step 2 is used."""
    errors = iter([0.5, 0.2, 0.3, 0.4])
    run_module = comfy.pack("core.learning.run")
    monkeypatch.setattr(run_module, "held_out_error", lambda *_: next(errors))
    monkeypatch.setattr(run_module, "_HELD_OUT_SHARE", 100.0)
    settings = {"steps": 9, "seed": 43, "preview_every": 2, "hold_out": 1}
    with press(comfy, "best", 6):
        graph, node = node_of(comfy, **settings)
        run = comfy.run(graph, node.out(0))
    (best,) = run.values
    assert best.info.steps == 2 and len(best.info.losses) == 2
    assert best.info.settings["ending"] == "least error on the held-out pair, step 2 of 6"
    assert last(run)["phase"] == "best"
    shown = [message["held_out"] for message in run.data("instructbrush.learn") if "held_out" in message]
    assert shown[-1] == [(0, 0.5), (2, 0.2), (4, 0.3), (6, 0.4)]
    # The files hold the last state, so that the run can be continued exactly.
    monkeypatch.undo()
    comfy.forget()
    graph, node = node_of(comfy, **settings)
    resumed = comfy.values(graph, node.out(0))[0]
    comfy.forget()
    graph, node = node_of(comfy, **settings, resume=False)
    assert same(resumed, comfy.values(graph, node.out(0))[0])
    with press(comfy, "use", 2):
        graph, node = node_of(comfy, **settings, resume=False)
        assert same(best, comfy.values(graph, node.out(0))[0])


def test_the_state_before_the_first_step_is_never_the_best(comfy, monkeypatch):
    """It is measured, but the button is not offered before a step was measured."""
    ask = comfy.pack("nodes.comfy.learning.active").ask
    errors = iter([0.1, 0.5])
    monkeypatch.setattr(comfy.pack("core.learning.run"), "held_out_error", lambda *_: next(errors))

    def early(run):
        with pytest.raises(comfy.pack("core.errors").LearningError, match="'best' is not possible now"):
            ask(run["node"], run["run"], "best")

    with after_step(comfy, 3, early):
        graph, node = node_of(comfy, steps=6, seed=56, preview_every=6, hold_out=1)
        run = comfy.run(graph, node.out(0))
    assert run.values[0].info.steps == 6 and "ending" not in run.values[0].info.settings
    shown = [message["held_out"] for message in run.data("instructbrush.learn") if "held_out" in message]
    assert shown[-1] == [(0, 0.1), (6, 0.5)]


def test_learns_the_same_with_a_held_out_pair_that_is_measured(comfy):
    given = pairs(comfy)
    settings = {"seed": 44, "preview_every": 1}
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), pairs=comfy.give(graph, given), hold_out=3, **settings)
    run = comfy.run(graph, node.out(0))
    shown = [message["held_out"] for message in run.data("instructbrush.learn") if "held_out" in message]
    # A measurement at every step would cost far more than a tenth of the time.
    assert [step for step, _ in shown[-1]] == [0, 6] and shown[-1][1][1] < shown[-1][0][1]
    graph = comfy.graph()
    fewer = given.without(2)
    node = learning(graph, comfy, Parts(graph), pairs=comfy.give(graph, fewer), seed=44)
    assert same(run.values[0], comfy.values(graph, node.out(0))[0])


def test_a_reloaded_page_gets_the_whole_run_and_nothing_when_it_is_over(comfy):
    found = []
    graph, node = node_of(comfy, steps=6, seed=45, preview_every=2, hold_out=2)
    with after_step(comfy, 5, lambda run: found.append(run)):
        comfy.run(graph, node.out(0))
    (shown,) = found
    assert shown["phase"] == "learning" and shown["node"] == node.id
    assert shown["first"] == 0 and len(shown["losses"]) == shown["step"] == 4
    assert [step for step, _ in shown["previews"]] == [2, 4] and len(shown["pair"]) == 2
    # At step 4 only the state before the first step was measured.
    assert shown["actions"] == ("use", "later")
    assert request(comfy, "GET") == (200, {"runs": []})


def test_a_reloaded_page_follows_the_run_to_its_end(comfy):
    """The stream begins with the whole state, and ends with the run."""
    heard = []

    async def follow(started):
        async with client(comfy) as asked:
            response = await asked.get("/instructbrush/learning/events")
            started.set()
            async for line in response.content:
                if line.startswith(b"data: "):
                    heard.append(json.loads(line[6:]))

    started = threading.Event()
    page = threading.Thread(target=lambda: asyncio.run(follow(started)))

    def reload(_run):
        page.start()
        assert started.wait(20)

    graph, node = node_of(comfy, steps=6, seed=52, preview_every=2)
    with after_step(comfy, 3, reload):
        comfy.run(graph, node.out(0))
    page.join(20)
    assert len(heard[0]["losses"]) == 2 and heard[0]["previews"]
    assert heard[-1]["phase"] == "done" and heard[-1]["step"] == 6

    async def over():
        async with client(comfy) as asked:
            return (await asked.get("/instructbrush/learning/events")).status

    assert asyncio.run(over()) == 204


def test_route_refuses_what_it_does_not_know(comfy):
    over = "This run is over. Press Run to start it again."
    assert request(comfy, "POST", node="1", run="x", action="use") == (400, {"error": over})
    status, answer = request(comfy, "POST", node="1", run="x", action="delete")
    assert status == 400 and answer["error"].startswith("'delete' is not an action.")
    for node in (1, None, "1" * 201):
        assert request(comfy, "POST", node=node, run="x", action="use")[0] == 400
    assert request(comfy, "POST")[0] == 400
    status, answer = request(comfy, "POST", node="1", run="x", action="on")
    assert status == 400 and answer["error"].startswith("This run cannot be continued from here.")


def test_ignores_buttons_that_are_not_offered(comfy):
    """There is no held-out pair, and the run of a late click is another one."""
    errors = comfy.pack("core.errors").LearningError
    ask = comfy.pack("nodes.comfy.learning.active").ask
    refused = []

    def late(run):
        for given in ((run["run"], "best"), ("another", "use")):
            with pytest.raises(errors) as error:
                ask(run["node"], *given)
            refused.append(str(error.value))

    graph, node = node_of(comfy, seed=46, steps=4)
    with after_step(comfy, 2, late):
        assert comfy.values(graph, node.out(0))[0].info.steps == 4
    assert refused[0].startswith("'best' is not possible now") and refused[1].startswith("This run is over")


def test_says_that_images_are_far_larger_than_the_model_was_made_for(comfy):
    graph = comfy.graph()
    large = comfy.give(graph, pairs(comfy, count=1, side=256))
    node = learning(graph, comfy, Parts(graph), pairs=large, steps=1, segments=1, seed=47)
    run = comfy.run(graph, node.out(0))
    (advice,) = [message["advice"] for message in run.data("instructbrush.learn") if "advice" in message]
    assert advice["size"] == 128 and "256 x 256" in advice["text"]
    graph, node = node_of(comfy, steps=1, seed=48)
    assert not any("advice" in each for each in comfy.run(graph, node.out(0)).data("instructbrush.learn"))


def test_names_its_phases_before_the_first_step(comfy):
    graph, node = node_of(comfy, steps=2, seed=49)
    messages = comfy.run(graph, node.out(0)).data("instructbrush.learn")
    phases = list(dict.fromkeys(message["phase"] for message in messages))
    assert phases == ["reading", "encoding", "first", "learning", "done"]
    assert all(message["pairs"] == 3 for message in messages)


def test_saves_the_instruction_of_every_second_step(comfy):
    graph, node = node_of(comfy, steps=5, seed=50, save_every=2, init_text="Make it / warm!")
    (whole,) = comfy.values(graph, node.out(0))
    folder = comfy.pack("nodes.comfy.folders.paths").saved_steps()
    files = sorted(folder.iterdir())
    load = comfy.pack("core.instruction.file").load_instruction
    assert [path.stem[-5:] for path in files] == ["00002", "00004"]
    assert all(path.name.startswith("make_it_warm_") for path in files)
    assert [load(path).info.steps for path in files] == [2, 4]
    kept = load(files[1]).keys
    assert any(not torch.equal(kept[site], whole.keys[site]) for site in kept)
    for path in files:
        path.unlink()


def test_learns_on_when_steps_cannot_be_saved(comfy):
    folder = comfy.pack("nodes.comfy.folders.paths").saved_steps()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        folder.rmdir()
    folder.touch()
    try:
        graph, node = node_of(comfy, steps=3, seed=51, save_every=1)
        run = comfy.run(graph, node.out(0))
        assert run.values[0].info.steps == 3 and last(run)["state"].endswith("Learning continues.")
    finally:
        folder.unlink()


def test_sends_at_most_ten_messages_a_second(comfy):
    progress = comfy.pack("nodes.comfy.learning.progress").LearningProgress("7", 2000, 1)
    progress.phase = "learning"
    comfy.events.clear()
    began = time.monotonic()
    step = 0
    while time.monotonic() < began + 1:
        step += 1
        progress.show(step, [0.1] * step)
        time.sleep(0.001)
    messages = [data for kind, data in comfy.events if kind == "instructbrush.learn"]
    assert step > len(messages) and 3 <= len(messages) <= 11
    # Nothing is lost: the messages hold every loss up to the last one.
    assert sum(len(message["losses"]) for message in messages) == messages[-1]["step"]


def test_a_warning_leaves_what_was_said(comfy):
    progress = comfy.pack("nodes.comfy.learning.progress").LearningProgress("7", 100, 1)
    progress.remark = "The direction is left out."
    progress.warn("The disk is full.")
    progress.warn("The disk is full again.")
    assert progress.summary()["state"] == "The direction is left out. The disk is full again."


def test_sends_only_numbers_that_browsers_read(comfy):
    progress = comfy.pack("nodes.comfy.learning.progress").LearningProgress("7", 100, 1)
    progress.phase = "learning"
    comfy.events.clear()
    progress.show(3, [0.1, 0.2, float("nan")])
    progress.enter("stopped", "The loss is not finite.")
    for message in (*(data for _, data in comfy.events), progress.summary()):
        json.dumps(message, allow_nan=False)
    assert progress.summary()["losses"] == [0.1, 0.2]


def test_a_page_that_goes_away_ends_its_stream_quietly(comfy, caplog):
    active = comfy.pack("nodes.comfy.learning.active")
    progress = comfy.pack("nodes.comfy.learning.progress").LearningProgress("7", 100, 1)
    progress.phase = "learning"

    async def leave():
        async with client(comfy) as asked:
            response = await asked.get("/instructbrush/learning/events")
            assert await response.content.readline()
            response.close()
            deadline = time.monotonic() + 10
            while active._listeners and time.monotonic() < deadline:
                active.publish({"phase": "learning"})
                await asyncio.sleep(0.02)

    with active.listed("7", progress):
        asyncio.run(leave())
    assert not active._listeners
    assert "Error handling request" not in caplog.text
