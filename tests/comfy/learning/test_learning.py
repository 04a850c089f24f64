"""Learn Instruction in ComfyUI: results, progress, Cancel, resuming, and what is kept."""

import contextlib
import shutil

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, instruction, learning


def learned(comfy, **changes):
    graph = comfy.graph()
    return comfy.values(graph, learning(graph, comfy, Parts(graph), **changes).out(0))[0]


def same(first, second):
    tensors = [(first.keys[site], second.keys[site]) for site in first.keys] + [
        (first.values[site], second.values[site]) for site in first.values
    ]
    return all(torch.equal(a, b) for a, b in tensors)


def unfinished(comfy):
    return sorted(path.name for path in comfy.pack("nodes.comfy.folders.paths").unfinished().glob("*"))


class Cancel:
    """Presses Cancel after a step."""

    def __init__(self, comfy, step):
        self.comfy, self.step = comfy, step

    def __enter__(self):
        import comfy.model_management as management

        self.learner = self.comfy.pack("core.learning.trainer").Trainer
        self.original = self.learner.step

        def step(trainer):
            self.original(trainer)
            if trainer.steps_done == self.step:
                management.interrupt_current_processing(True)

        self.learner.step = step

    def __exit__(self, *_):
        self.learner.step = self.original


def test_learns_an_instruction(comfy):
    result = learned(comfy)
    assert (
        result.info.tokens == 4
        and result.info.segments == 2
        and result.info.steps == 6
        and result.info.pairs == 3
    )
    assert result.info.init_text == "make it warm" and result.info.family == "pocket"
    assert result.thumbnail.size == (256, 128)
    assert len(result.info.losses) == 6 and not torch.equal(*next(iter(result.keys.values())))


def test_same_seed_learns_the_same(comfy):
    first = learned(comfy)
    comfy.forget()
    assert same(first, learned(comfy))
    assert not same(first, learned(comfy, seed=1))


def test_shows_progress_and_previews(comfy):
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), preview_every=3, hold_out=3)
    comfy.forget()
    run = comfy.run(graph, node.out(0))
    messages = run.data("instructbrush.learn")
    assert messages[-1]["step"] == messages[-1]["total"] == 6
    losses = [None] * 6
    for message in messages:
        losses[message["first"] : message["first"] + len(message["losses"])] = message["losses"]
    assert len(losses) == 6 and all(isinstance(loss, float) for loss in losses)
    previews = {message["preview_step"]: message["preview"] for message in messages if "preview" in message}
    assert list(previews) == [3, 6]
    assert all(url.startswith("data:image/jpeg;base64,") for url in previews.values())
    (pair,) = [message["pair"] for message in messages if "pair" in message]
    assert len(pair) == 2
    assert run.data("progress")[-1] == {
        "value": 6,
        "max": 6,
        "preview": None,
    }  # the image is shown once, in the panel
    assert run.values[0].info.pairs == 2  # one was held out
    outputs = [data["output"] or {} for data in run.data("executed")]
    (summary,) = [output["learning"][0] for output in outputs if "learning" in output]
    assert len(summary["losses"]) == 6


@pytest.mark.parametrize("objective", ["plain", "guided"])
@pytest.mark.parametrize("mode", ["shared", "separate"])
def test_resumes_a_cancelled_run_exactly(comfy, objective, mode):
    settings = {"objective": objective, "segment_mode": mode, "steps": 5, "seed": 11}
    whole = learned(comfy, **settings, resume=False)
    comfy.forget()
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), **settings)
    with Cancel(comfy, 3):
        run = comfy.attempt(graph, node.out(0))
    assert run.error["exception_type"] == "interrupted"
    state = run.data("instructbrush.learn")[-1]["state"]
    assert state.startswith("Kept as output/instructions/unfinished/")
    assert state.endswith("Run again with the same settings to resume.")
    kept = unfinished(comfy)
    assert len(kept) == 2 and kept[0].endswith(".checkpoint") and kept[1].endswith(".safetensors")
    partial = comfy.pack("core.instruction.file").load_instruction(
        comfy.pack("nodes.comfy.folders.paths").unfinished() / kept[1]
    )
    assert partial.info.steps == 3
    resumed = learned(comfy, **settings)
    assert same(whole, resumed) and resumed.info.losses == whole.info.losses
    assert unfinished(comfy) == []


def test_resumes_after_memory_ran_out(comfy, monkeypatch):
    """Memory is sufficient for three steps, and then no more."""
    settings = {"steps": 5, "seed": 12}
    whole = learned(comfy, **settings, resume=False)
    comfy.forget()
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser
    trainers = comfy.pack("core.learning.trainer")
    predict = denoiser.predict
    step = trainers.Trainer.step
    done = []

    def count(trainer):
        step(trainer)
        done.append(trainer.steps_done)

    def full(self, *inputs):
        if len(done) >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(self, *inputs)

    with monkeypatch.context() as patch:
        # A recorded step does not call the model.
        patch.setattr(comfy.pack("core.learning.cuda_graph"), "can_record", lambda: False)
        patch.setattr(trainers.Trainer, "step", count)
        patch.setattr(denoiser, "predict", full)
        graph = comfy.graph()
        run = comfy.attempt(graph, learning(graph, comfy, Parts(graph), **settings).out(0))
    assert run.error["exception_message"].startswith(
        "Learning: these images are too large for the device's memory"
    )
    assert run.data("instructbrush.learn")[-1]["state"].startswith("Kept as output/instructions/unfinished/")
    assert same(whole, learned(comfy, **settings)) and unfinished(comfy) == []


def test_gradient_checkpointing_learns_the_same(comfy):
    first, second = learned(comfy), learned(comfy, gradient_checkpointing=True)
    for site in first.keys:
        assert torch.allclose(first.keys[site], second.keys[site], atol=1e-5)


def test_leaves_no_gradients_and_no_changes_in_the_model(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    model = comfy.values(graph, parts.model)[0]
    before = {name: value.cpu().clone() for name, value in model.model.state_dict().items()}
    comfy.run(graph, learning(graph, comfy, parts, seed=5).out(0))
    assert all(torch.equal(value.cpu(), before[name]) for name, value in model.model.state_dict().items())
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in model.model.parameters()
    )


def test_rejects_a_run_that_is_not_finite(comfy):
    graph = comfy.graph()
    model = comfy.values(graph, Parts(graph).model)[0].clone()
    model.set_model_attn2_patch(lambda q, k, v, options: (q * float("nan"), k, v))
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), model=comfy.give(graph, model))
    assert (
        comfy.error(graph, node.out(0))
        == "Learning: the loss was not finite at step 1. Nothing is kept: lower the learning rate (0.03)."
    )
    assert unfinished(comfy) == []


@pytest.mark.parametrize("preset", ["auto", "pocket", "paper", "paper_guided"])
def test_presets_replace_the_values(comfy, preset):
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), preset=preset, seed=7)
    comfy.forget()
    with Cancel(comfy, 1):
        comfy.attempt(graph, node.out(0))
    folder = comfy.pack("nodes.comfy.folders.paths").unfinished()
    partial = comfy.pack("core.instruction.file").load_instruction(next(folder.glob("*.safetensors")))
    expected = comfy.pack("core.learning.settings").PRESETS["attention"][
        "pocket" if preset == "auto" else preset
    ]
    assert (
        partial.info.settings["learning_rate"] == expected.learning_rate
        and partial.info.settings["steps"] == expected.steps
        and partial.info.settings["objective"] == expected.objective
    )
    assert partial.info.settings["seed"] == 7
    for path in folder.glob("*"):
        path.unlink()


def test_final_rate_follows_the_rate_unless_it_is_given(comfy):
    finals = {0.0: 0.002, 0.005: 0.005, 0.3: 0.02}
    for given, expected in finals.items():
        result = learned(comfy, learning_rate=0.02, final_learning_rate=given, steps=2)
        assert result.info.settings["final_learning_rate"] == pytest.approx(expected)


def test_accepts_the_former_name_of_the_weights(comfy):
    assert learned(comfy, weighting="min_snr", steps=2).info.settings["weighting"] == "snr"
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), weighting="strong")
    assert "'strong' is not a choice for weighting. Choose one of: snr, none." in comfy.error(
        graph, node.out(0)
    )


def checkpoint_of(comfy):
    return next(comfy.pack("nodes.comfy.folders.paths").unfinished().glob("*.checkpoint"))


def cancelled(comfy, **settings):
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), **settings)
    with Cancel(comfy, 3):
        return comfy.attempt(graph, node.out(0)).data("instructbrush.learn")[-1]["state"]


def test_resumes_with_more_steps_and_other_previews(comfy):
    cancelled(comfy, steps=5, seed=2**64 - 1)
    longer = learned(comfy, steps=7, preview_every=2, hold_out=0, seed=2**64 - 1)
    assert longer.info.steps == 7 and longer.info.settings["seed"] == 2**64 - 1
    assert unfinished(comfy) == []


def test_says_that_a_resumed_run_has_more_steps_than_asked_for(comfy):
    cancelled(comfy, steps=5, seed=21)
    graph = comfy.graph()
    run = comfy.run(graph, learning(graph, comfy, Parts(graph), steps=2, seed=21).out(0))
    assert run.values[0].info.steps == 3
    assert (
        run.data("instructbrush.learn")[-1]["state"]
        == "The stopped run already has 3 steps, more than the 2 asked for. All of them are kept."
    )


def test_sets_a_damaged_checkpoint_aside(comfy):
    settings = {"steps": 5, "seed": 22}
    whole = learned(comfy, **settings, resume=False)
    comfy.forget()
    cancelled(comfy, **settings)
    checkpoint_of(comfy).write_bytes(b"nothing")
    graph = comfy.graph()
    run = comfy.run(graph, learning(graph, comfy, Parts(graph), **settings).out(0))
    assert same(whole, run.values[0])
    assert run.data("instructbrush.learn")[-1]["state"].endswith("Learning starts from the beginning.")
    assert unfinished(comfy) == []


@contextlib.contextmanager
def blocked(folder):
    """Puts a file in place of a folder, so that not even root can write there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()


def test_returns_the_instruction_when_no_checkpoint_can_be_written(comfy, monkeypatch):
    monkeypatch.setattr(
        comfy.pack("core.learning.checkpoint").CheckpointSchedule.__init__, "__defaults__", (0.0,)
    )
    with blocked(comfy.pack("nodes.comfy.folders.paths").unfinished()):
        graph = comfy.graph()
        run = comfy.run(graph, learning(graph, comfy, Parts(graph), steps=4, seed=23).out(0))
        assert run.values[0].info.steps == 4
        state = run.data("instructbrush.learn")[-1]["state"]
        assert ".checkpoint' cannot be written to" in state and state.endswith(
            "Learning continues; what it learns is only in memory for now."
        )


def test_keeps_a_cancelled_run_elsewhere(comfy, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = comfy.pack("nodes.comfy.folders.paths").unfinished()
    with blocked(folder):
        state = cancelled(comfy, steps=5, seed=24)
    (kept,) = tmp_path.rglob("*.safetensors")
    assert comfy.pack("core.instruction.file").load_instruction(kept).info.steps == 3
    assert state.endswith(
        f"It is kept in {kept.parent}; move both files to output/instructions/unfinished to resume."
    )
    kept.parent.rename(folder)
    assert learned(comfy, steps=5, seed=24).info.steps == 5
    assert unfinished(comfy) == []


def test_continues_without_a_preview_that_does_not_fit(comfy, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(comfy.pack("nodes.comfy.learning.preview").PairPreview, "render", full)
    assert learned(comfy, steps=3, seed=25, preview_every=1).info.steps == 3


def test_saves_an_instruction_elsewhere(comfy, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with blocked(comfy.pack("nodes.comfy.folders.paths").output_instructions() / "full"):
        graph = comfy.graph()
        node = graph.node(
            "InstructBrushSave",
            instruction=comfy.give(graph, instruction(comfy)),
            name="full/snow",
            if_taken="add a number",
        )
        result, path = comfy.values(graph, node.out(0), node.out(1))
    (kept,) = tmp_path.rglob("snow.safetensors")
    assert path == str(kept) and result.info.title == "snow"
    assert comfy.pack("core.instruction.file").load_instruction(kept).info.title == "snow"


def test_starts_from_the_part_of_a_long_init_text_that_fits_and_says_so(comfy):
    words = "make it night " * 20
    graph = comfy.graph()
    run = comfy.run(graph, learning(graph, comfy, Parts(graph), tokens=0, steps=2, init_text=words).out(0))
    (result,) = run.values
    assert result.info.init_text == words and result.info.tokens == 30
    assert run.data("instructbrush.learn")[-1]["state"] == (
        "The init text has 60 tokens, the text encoder reads 30. Learning starts from those; shorten the "
        "text to choose them yourself."
    )
    editor = comfy.pack("core.editing.loading").load_editor()
    assert torch.allclose(result.context, editor.encode_text([words])[0].cpu(), atol=1e-4)
