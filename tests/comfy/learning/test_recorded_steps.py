"""Learning steps recorded as CUDA graphs, compared with eager ones."""

import pytest
import torch

SIZES = {"one size": [(8, 8)] * 3, "two sizes": [(8, 8), (8, 8), (8, 12)]}


@pytest.fixture
def a_gpu(comfy, monkeypatch):
    if comfy.device.type != "cuda":
        pytest.skip("graphs are recorded on a GPU")
    monkeypatch.setattr(comfy.pack("core.learning.cuda_graph"), "_failed", False)


def run(comfy, sizes, enabled=True, steps=30, predict=None):
    """A trainer that has run, and its number of recordings at the end."""
    editor = comfy.pack("core.editing.loading").load_editor(device=comfy.device)
    if predict is not None:
        inner = editor.denoiser.predict
        editor.denoiser.predict = lambda *given: predict(inner(*given))
    generator = torch.Generator().manual_seed(3)
    before = [torch.randn(4, *size, generator=generator).to(comfy.device) for size in sizes]
    after = [torch.randn(4, *size, generator=generator).to(comfy.device) for size in sizes]
    latents = comfy.pack("core.learning.objective").PairLatents(before, after)
    settings = comfy.pack("core.learning.settings").LearningSettings(steps=steps, tokens=4)
    context, null_context = editor.encode_text(["make it snow", ""])
    requests = comfy.pack("core.learning.request")
    trainer = comfy.pack("core.learning.trainer").Trainer(
        requests.LearningRequest(
            editor.denoiser, latents, requests.InitText("make it snow", context), null_context, settings
        )
    )
    trainer.replay.enabled = enabled
    recordings = []
    trainer.run(lambda done, total: recordings.append(len(trainer.replay.recordings)))
    return trainer, recordings[-1]


@pytest.mark.parametrize(
    ("device", "backend", "advised"),
    [("cuda", "cudaMallocAsync", True), ("cuda", "native", False), ("cpu", "cudaMallocAsync", False)],
)
def test_advises_the_option_that_steps_are_recorded_with(comfy, monkeypatch, device, backend, advised):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    advice = comfy.pack("nodes.comfy.learning.progress").speed_advice(torch.device(device))
    assert ("--disable-cuda-malloc" in advice.get("text", "")) == advised


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_recorded_steps_match_eager_ones(comfy, sizes):
    recorded, count = run(comfy, sizes)
    eager, none = run(comfy, sizes, enabled=False)
    assert recorded.replay.enabled and (count == 1 if len(set(sizes)) == 1 else count > 1) and none == 0
    assert recorded.losses == pytest.approx(eager.losses, rel=1e-2)
    for name, tensor in eager.parameters.items():
        assert (recorded.parameters[name] - tensor).norm() <= 0.02 * tensor.norm(), name


@pytest.mark.usefixtures("a_gpu")
def test_runs_eagerly_when_a_model_cannot_be_recorded(comfy, caplog):
    """The model waits for the device, which a recording cannot."""

    def waits(predicted):
        assert predicted.sum().item() == predicted.sum().item()
        return predicted

    stopped, count = run(comfy, SIZES["one size"], steps=6, predict=waits)
    eager, _ = run(comfy, SIZES["one size"], enabled=False, steps=6)
    assert count == 0 and not stopped.replay.enabled and "cannot be recorded" in caplog.text
    assert stopped.losses == pytest.approx(eager.losses, rel=1e-2)


@pytest.mark.usefixtures("a_gpu")
def test_ignores_a_recording_that_differs_from_the_eager_step(comfy, caplog):
    calls = []

    def counting(predicted):
        calls.append(None)
        return predicted * (1 + 0.5 * (len(calls) > 3))  # from the fourth call, which is the recorded one

    odd, count = run(comfy, SIZES["one size"], steps=4, predict=counting)
    assert count == 0 and not odd.replay.enabled and "its first step differs" in caplog.text
