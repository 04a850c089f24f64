"""Fine-tuning on the built-in editor: the loss, exact continuation, several processes, and the model it leaves."""

import importlib
import json
import os
import re
import shutil
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from instructbrush.cli.main import main
from instructbrush.cli.finetuning.run import make_ready
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import POCKET_FOLDER, load_editor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import LearningError, ModelError, StorageError
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.export import save_model
from instructbrush.core.finetuning.objective import DenoisingError, EditInputs, draw, target_of
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.core.finetuning.trainer import FineTuning, FineTuningSettings, make_accelerator
from instructbrush.core.learning.checkpoint import load_checkpoint, save_checkpoint
from instructbrush.tests.support import seeded, tiny_edits, tuning
from instructbrush.tests.support.tuning import assert_equal, weights

pytestmark = pytest.mark.slow  # edits or trains for real

SMALL = FineTuningSettings(steps=4, batch=2, accumulation=2, learning_rate=3e-4, warmup=2, average_decay=0.9)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from tuning.on_the_cpu(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_edits.write_tables(tmp_path_factory.mktemp("ultra"))


@pytest.fixture(scope="module")
def wide() -> DiffusersEditor:
    """The pocket editor with zeros for a mask, never trained."""
    return load_editor(in_channels=12)


@pytest.fixture
def start(data: Path) -> Callable[..., FineTuning]:
    def make(settings: FineTuningSettings = SMALL, checkpointing: bool = False) -> FineTuning:
        editor = load_editor(in_channels=12)
        unet = editor.denoiser.unet.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        stream = EditStream(find_blocks([data]), 64, settings.seed)
        accelerator = make_accelerator("no", settings.accumulation)
        return FineTuning(
            accelerator,
            DenoisingError(unet),
            EditInputs(editor, settings.seed, settings.dropout),
            stream,
            settings,
            {"model": "pocket"},
        )

    return make


class TestBeginning:
    def test_any_mask_does_what_the_free_form_editor_does(
        self, editor: DiffusersEditor, wide: DiffusersEditor, make_image: Callable[..., Tensor]
    ) -> None:
        assert (
            wide.description.in_channels == wide.denoiser.unet.config["in_channels"] == 12
            and wide.description.fingerprint == editor.description.fingerprint
        )
        images, noisy, times = make_image(1, 64, 64)[None], torch.randn(1, 4, 8, 8), torch.tensor([400])
        mask = torch.zeros(1, 64, 64)
        mask[:, 10:30, 20:50] = 1
        context = editor.encode_text(["make it darker"])
        with torch.no_grad():
            narrow = editor.denoiser.predict(noisy, times, editor.condition(images), context)
            white = wide.denoiser.predict(noisy, times, wide.condition(images), context)
            part = wide.denoiser.predict(noisy, times, wide.condition(images, mask), context)
        assert torch.equal(white, part)
        assert torch.equal(white, narrow)

    def test_plain_stable_diffusion_ignores_image_and_mask(self, tmp_path: Path) -> None:
        folder = plain(tmp_path / "sd")
        with pytest.raises(ModelError, match="plain text-to-image model"):
            load_editor(folder)
        wide = load_editor(folder, in_channels=12)
        assert wide.description.reads_mask and wide.description.family.name == "sd15"
        noisy, context = torch.randn(1, 4, 8, 8), wide.encode_text(["x"])
        with torch.no_grad():
            zeros, ones = (
                wide.denoiser.predict(noisy, torch.tensor([10]), torch.full((1, 8, 8, 8), value), context)
                for value in (0.0, 1.0)
            )
        assert torch.equal(zeros, ones)

    @pytest.mark.parametrize(
        ("channels", "message"),
        [(9, "has 9 input channels and cannot be widened to 12. Begin with"), (16, "has 16 input channels")],
    )
    def test_other_models_are_refused(self, tmp_path: Path, channels: int, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_editor(plain(tmp_path / "sd", channels), in_channels=12)

    def test_single_files_are_refused(self, tmp_path: Path) -> None:
        file = seeded.write_hollow(
            tmp_path / "one.safetensors", seeded.native_unet(seeded.unet_shapes(seeded.SMALL_SD15))
        )
        with pytest.raises(
            ModelError,
            match="^one.safetensors: only a diffusers folder can be widened and tuned, not a single file.",
        ):
            load_editor(file, in_channels=12)


def plain(folder: Path, channels: int = 4) -> Path:
    """Stable Diffusion 1.5's layout with few channels."""
    config = {**seeded.SMALL_SD15, "in_channels": channels}
    seeded.write_folder(folder, 3, config, text={**seeded.SMALL_CLIP, "vocab_size": 49408})
    seeded.write_tokenizer(folder / "tokenizer")
    return folder


class TestLoss:
    def test_draws_follow_from_the_place_alone(self) -> None:
        shape = (4, 8, 8)
        together, apart = draw([5, 9], shape, 1, 0.05), draw([9], shape, 1, 0.05)
        assert torch.equal(together.noise[1], apart.noise[0]) and together.timesteps[1] == apart.timesteps[0]
        assert not torch.equal(apart.noise, draw([9], shape, 2, 0.05).noise)
        many = draw(range(20000), (1,), 0, 0.05)
        text, image = many.without_text.float(), many.without_image.float()
        for share in (text * (1 - image), image * (1 - text), text * image):
            assert abs(float(share.mean()) - 0.05) < 0.005
        assert (
            0 <= many.timesteps.min() < 5
            and 994 < many.timesteps.max() <= 999
            and abs(float(many.noise.mean())) < 0.03
        )

    def test_the_target_of_either_prediction(self, wide: DiffusersEditor) -> None:
        draws, abar = draw([0, 1], (4, 8, 8), 0, 0.05), wide.denoiser.alphas_cumprod
        latents = torch.randn(2, 4, 8, 8)
        assert torch.equal(target_of(latents, draws, abar, "epsilon"), draws.noise)
        alpha, sigma = (
            abar[draws.timesteps].sqrt().view(-1, 1, 1, 1),
            (1 - abar[draws.timesteps]).sqrt().view(-1, 1, 1, 1),
        )
        v = target_of(latents, draws, abar, "v_prediction")
        torch.testing.assert_close(alpha * (alpha * latents + sigma * draws.noise) - sigma * v, latents)

    def test_dropped_samples_have_no_text_or_no_image(self, wide: DiffusersEditor, data: Path) -> None:
        stream = EditStream(find_blocks([data]), 64)
        (samples,) = (batch for _, batch in zip(range(1), stream.batches(0, 4), strict=False))
        null = wide.encode_text([""])[0]
        for dropout, dropped in ((0.0, False), (1 / 3, True)):
            inputs = EditInputs(wide, 0, dropout)(samples)
            draws = draw(range(4), (4, 8, 8), 0, dropout)
            assert (draws.without_text | draws.without_image).all() == dropped
            for index in range(4):
                assert torch.equal(inputs["context"][index], null) == bool(draws.without_text[index])
                assert bool((inputs["condition"][index] == 0).all()) == bool(draws.without_image[index])
            assert inputs["condition"].shape == (4, 8, 8, 8)

    def test_it_falls(self, start: Callable[..., FineTuning]) -> None:
        run = start(replace(SMALL, steps=20, accumulation=1, batch=4, learning_rate=5e-4, average_decay=0.0))
        unseen = [run.stream.sample(index, run.stream.row(index)) for index in range(1000, 1016)]

        def error() -> float:
            with torch.no_grad():
                return float(run._objective(**run._inputs(unseen)).mean())

        before = error()
        run.run()
        assert error() < 0.85 * before
        assert run.parameters["unet.conv_in.weight"][:, 8:].any(), "the mask's channels learn"


class TestContinuing:
    def test_stopped_and_resumed_equals_uninterrupted(
        self, start: Callable[..., FineTuning], tmp_path: Path
    ) -> None:
        whole = start()
        whole.run()
        stopped = start(replace(SMALL, steps=2))
        stopped.run()
        save_checkpoint(stopped, tmp_path / "run.safetensors")
        resumed = start(replace(SMALL, batch=1, accumulation=4))
        with pytest.raises(
            LearningError,
            match=r"belongs to another run: learning_rate \(0\.0003 there, 0\.001 here\) differs",
        ):
            load_checkpoint(start(replace(SMALL, learning_rate=1e-3)), tmp_path / "run.safetensors")
        load_checkpoint(
            resumed, tmp_path / "run.safetensors"
        )  # split otherwise: the same samples make a step
        resumed = start()
        load_checkpoint(resumed, tmp_path / "run.safetensors")
        assert resumed.steps_done == 2
        resumed.run()
        assert resumed.mean_loss() > 0
        assert_equal(weights(whole), weights(resumed))

    def test_the_scale_of_fp16_losses_goes_on_too(self, start: Callable[..., FineTuning]) -> None:
        first, second = start(), start()
        for run, scale in ((first, 512.0), (second, 65536.0)):
            run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        second.load_state(first.state())
        assert second.accelerator.scaler.state_dict() == first.accelerator.scaler.state_dict()
        with pytest.raises(ValueError, match=r"tensor 'scaler\._growth_tracker' is missing"):
            second.load_state(
                {name: tensor for name, tensor in first.state().items() if not name.startswith("scaler.")}
            )

    def test_gradient_checkpointing_changes_nothing(self, start: Callable[..., FineTuning]) -> None:
        settings = replace(SMALL, steps=1, accumulation=1)
        plain, thrifty = start(settings), start(settings, checkpointing=True)
        plain.run(), thrifty.run()
        for name, tensor in plain.parameters.items():
            torch.testing.assert_close(tensor, thrifty.parameters[name], rtol=0, atol=1e-6, msg=name)

    def test_the_average_is_put_on_and_taken_off(self, start: Callable[..., FineTuning]) -> None:
        run = start()
        run.run()
        trained = weights(run)
        with run.averaged():
            name = "unet.conv_out.weight"
            assert torch.equal(run.parameters[name], trained[f"average.{name}"]) and not torch.equal(
                run.parameters[name], trained[f"parameter.{name}"]
            )
        assert_equal(weights(run), trained)

    def test_a_loss_that_is_not_finite_ends_the_run(self, start: Callable[..., FineTuning]) -> None:
        run = start(replace(SMALL, steps=2, accumulation=1, learning_rate=1e30, warmup=0, clip_norm=1e30))
        run.run()
        with pytest.raises(
            LearningError,
            match=r"^Fine-tuning: the loss was not finite before step 2. Lower --rate \(1e\+30\), or take --precision bf16.",
        ):
            run.mean_loss()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch is 0; it must be more than 0"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"average_decay": 1.0}, "average_decay is 1.0"),
        ({"dropout": 0.5}, r"dropout 0.5 \(0 to 1/3"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LearningError, match=message):
        replace(SMALL, **changes)


def command(data: Path, out: Path, *more: object, model: object = "pocket") -> list[str]:
    fixed = ("--resolution", 64, "--batch", 2, "--precision", "no", "--rate", 1e-3, "--average", 0.5)
    return [
        str(part) for part in ("train-region", "--model", model, "--data", data, "--out", out, *fixed, *more)
    ]


class TestCommand:
    def test_it_leaves_an_editor_that_reads_masks(
        self, data: Path, tmp_path: Path, make_image: Callable[..., Tensor]
    ) -> None:
        out = tmp_path / "run"
        assert (
            main(
                command(
                    data, out, "--steps", 3, "--pictures-every", 3, "--log-every", 1, "--precision", "bf16"
                )
            )
            == 0
        )
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3] and all(line["loss"] > 0 for line in lines)
        assert Image.open(out / "pictures" / "000003.png").size == (4 * 64, 4 * 64)
        assert not [
            path for path in out.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".pth", ".part")
        ]
        tuned = load_editor(out / "model")
        assert tuned.description.reads_mask and tuned.description.family.name == "pocket"
        images, context, null = (
            make_image(2, 64, 64)[None],
            tuned.encode_text(["make it darker"]),
            tuned.encode_text([""])[0],
        )
        mask = torch.zeros(1, 64, 64)
        mask[:, :32] = 1
        everywhere, above = (
            edit_latents(
                tuned.denoiser, tuned.condition(images, each), context, null, settings=SamplingSettings(2)
            )
            for each in (None, mask)
        )
        assert not torch.equal(everywhere, above)

    def test_it_goes_on_where_it_stopped(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quiet = ("--pictures-every", 0, "--save-every", 2)
        assert main(command(data, tmp_path / "whole", "--steps", 3, *quiet)) == 0
        assert main(command(data, tmp_path / "parts", "--steps", 2, *quiet)) == 0
        log = tmp_path / "parts" / "log.jsonl"
        log.write_text(log.read_text() + '{"step": 3}\n')  # as if it had been stopped after the checkpoint
        assert main(command(data, tmp_path / "parts", "--steps", 3, *quiet)) == 1
        assert "is a run already: add --resume to go on, or choose another --out" in capsys.readouterr().err
        assert main(command(data, tmp_path / "parts", "--steps", 3, "--resume", *quiet)) == 0
        assert "from step 2" in capsys.readouterr().err
        assert [sorted(json.loads(line)) for line in log.read_text().splitlines()] == [
            ["loss", "rate", "seconds", "step"]
        ] * 2
        for name in ("checkpoint.safetensors", "model/unet/diffusion_pytorch_model.safetensors"):
            assert_equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))

    def test_ctrl_c_keeps_the_step_it_comes_at(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        step = FineTuning.step

        def interrupted(run: FineTuning) -> None:
            step(run)
            if run.steps_done == 2:
                os.kill(os.getpid(), signal.SIGINT)

        quiet = ("--pictures-every", 0, "--steps", 4)
        with monkeypatch.context() as patch:
            patch.setattr(FineTuning, "step", interrupted)
            assert main(command(data, tmp_path, *quiet)) == 130
        assert "stopped at step 2; go on with --resume" in capsys.readouterr().err
        assert main(command(data, tmp_path, *quiet, "--resume")) == 0
        assert "from step 2" in capsys.readouterr().err

    def test_damaged_files_of_a_run_are_named_or_mended(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quiet = ("--pictures-every", 0, "--save-every", 1, "--log-every", 1)
        assert main(command(data, tmp_path, "--steps", 2, *quiet)) == 0
        log, checkpoint = tmp_path / "log.jsonl", tmp_path / "checkpoint.safetensors"
        log.write_bytes(log.read_bytes() + b'{"step": [\n[3]\n\xff\n{}\n{"step": null}\n')
        assert main(command(data, tmp_path, "--steps", 3, *quiet, "--resume")) == 0
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]
        state = load_file(checkpoint)
        with safe_open(checkpoint, "pt") as file:
            metadata = file.metadata()
        name = next(name for name in state if name.startswith("average."))
        save_file({**state, name: torch.zeros(1)}, checkpoint, metadata)
        assert main(command(data, tmp_path, "--steps", 4, *quiet, "--resume")) == 1
        told = r"Checkpoint 'checkpoint\.safetensors' is damaged: tensor 'average\..*' is float32 \[1\], not float32 .*\. Choose another --out to begin anew\."
        assert re.search(told, capsys.readouterr().err)

    def test_a_folder_that_vanishes_ends_no_run_and_the_model_is_kept_elsewhere(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        step, out, elsewhere = FineTuning.step, tmp_path / "run", tmp_path / "tmp"
        elsewhere.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(elsewhere))

        def vanishing(run: FineTuning) -> None:
            step(run)
            if run.steps_done == 1:
                shutil.rmtree(out)
                out.touch()

        monkeypatch.setattr(FineTuning, "step", vanishing)
        assert (
            main(command(data, out, "--steps", 2, "--pictures-every", 1, "--save-every", 1, "--log-every", 1))
            == 1
        )
        told = capsys.readouterr().err
        for name in ("checkpoint.safetensors", "000001.png", "log.jsonl"):
            assert len(re.findall(rf"{name}.* Tuning goes on\.", told)) == 1
        (kept,) = elsewhere.rglob("model_index.json")
        assert told.endswith(f"The model was kept in {kept.parent}.\n")
        assert load_editor(kept.parent).description.reads_mask

    @pytest.mark.parametrize("strict", [False, True])
    def test_pairs_that_cannot_be_used_are_skipped_and_counted(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
        strict: bool,
    ) -> None:
        data = tiny_edits.write_folder(tmp_path / "pairs")
        broken = sorted(path for path in data.rglob("*") if path.suffix in (".png", ".jpg"))[0]
        broken.write_bytes(b"no image")
        count = len(json.loads((data / "pairs.json").read_text()))
        more = ("--steps", count, "--pictures-every", 1, *(["--strict"] if strict else []))
        assert main(command(data, tmp_path / "run", *more)) == strict
        assert sum("skipped: " in record.getMessage() for record in caplog.records) == 1
        assert f"1 of {count} pairs could not be used and were skipped" in capsys.readouterr().err
        assert load_editor(tmp_path / "run" / "model").description.reads_mask

    def test_an_older_model_stays_where_a_new_one_cannot_take_its_place(
        self, wide: DiffusersEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, replace_by = tmp_path / "model", Path.replace
        out.mkdir()
        (out / "mine.txt").write_text("older")

        def refused(path: Path, target: Path) -> Path:
            if path.name == ".model.part":
                raise PermissionError(13, "Permission denied")
            return replace_by(path, target)

        monkeypatch.setattr(Path, "replace", refused)
        with pytest.raises(StorageError, match=r"^'model' cannot be written to .*: Permission denied\."):
            save_model(wide, POCKET_FOLDER, out)
        assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]

    def test_data_of_which_nothing_can_be_used_end_in_a_sentence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = tiny_edits.write_folder(tmp_path / "pairs")
        for path in data.rglob("*"):
            if path.suffix in (".png", ".jpg"):
                path.write_bytes(b"no image")
        assert main(command(data, tmp_path / "run", "--steps", 1)) == 1
        assert re.search(
            r"Data: none of the \d+ pairs can be used\. Image '.*' cannot be read", capsys.readouterr().err
        )

    def test_it_begins_with_plain_stable_diffusion_too(self, tmp_path: Path) -> None:
        folder, data = plain(tmp_path / "sd"), tiny_edits.write_folder(tmp_path / "pairs")
        unet = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        assert (
            main(
                command(
                    data,
                    tmp_path / "run",
                    "--steps",
                    1,
                    "--pictures-every",
                    0,
                    "--checkpointing",
                    model=folder,
                )
            )
            == 0
        )
        tuned = load_editor(tmp_path / "run" / "model")
        assert tuned.description.in_channels == 12 and tuned.description.family.name == "sd15"
        assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == unet

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--resume",), "is no checkpoint to go on from: leave --resume away"),
            (("--resolution", 60), "--resolution 60 is no multiple of 8, the pixels of a latent"),
            (("--flip", 2), "--flip is 2.0; it is a chance, 0 to 1"),
            (("--precision", "fp16"), "the CPU does not train in fp16. Choose --precision bf16 or no."),
            (("--free-share", -1), "--free-share is -1.0; it is a chance, 0 to 1"),
            (("--save-every", 0), "--save-every is 0; it must be 1 or more"),
            (("--model", "nowhere"), "nowhere: there is no such file or folder"),
            (("--data", "nowhere"), "Data: 'nowhere' does not exist"),
        ],
    )
    def test_mistakes_are_one_line(
        self,
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        more: tuple[Any, ...],
        message: str,
    ) -> None:
        assert main(command(data, tmp_path / "run", *more)) == 1
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1

    def test_without_accelerate_it_names_the_way_to_install_it(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "accelerate", None)
        assert main(command(data, tmp_path / "run")) == 1
        assert (
            capsys.readouterr().err
            == "instructbrush: Fine-tuning: accelerate is not installed. Run: pip install accelerate\n"
        )


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_twice_the_batch(data: Path, tmp_path: Path) -> None:
    shared = ("--steps", 2, "--pictures-every", 0, "--average", 0)
    assert main(command(data, tmp_path / "one", *shared)) == 0
    tuning.run_in_two_processes(command(data, tmp_path / "two", *shared, "--batch", 1))
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    assert int(two["steps_done"]) == 2
    tuning.assert_same_gradients(one, two)


def test_a_model_is_tuned_in_the_order_that_files_hold(tmp_path: Path) -> None:
    """On a GPU the denoiser has its convolutions in another one."""
    editor = load_editor()
    network: torch.nn.Module = editor.denoiser.unet
    network.to(memory_format=torch.channels_last)
    assert not network.conv_in.weight.is_contiguous()
    unet = make_ready(editor, make_accelerator("no", 1), False)
    assert all(parameter.is_contiguous() for parameter in unet.parameters())
    unet.save_pretrained(tmp_path, safe_serialization=True)
    assert torch.equal(
        load_file(tmp_path / "diffusion_pytorch_model.safetensors")["conv_in.weight"], unet.conv_in.weight
    )


@pytest.fixture
def together(
    start: Callable[..., FineTuning], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FineTuning]:
    """A run of several processes, as far as one can have it: it is wrapped, in a group of one."""
    monkeypatch.delitem(sys.modules, "torch.distributed.nn.functional", raising=False)
    run = start()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    vars(run.accelerator.state)["backend"] = "gloo"
    importlib.import_module("torch.distributed.nn.functional")  # as DDP does in a new process
    run._objective = DistributedDataParallel(run._objective)
    yield run
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("fails", [False, True])
def test_processes_part_in_an_order_that_cannot_hang(
    together: FineTuning, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    gone: list[str] = []
    weakref.finalize(together._objective.reducer, gone.append, "reducer")
    weakref.finalize(torch.distributed.group.WORLD, gone.append, "group")
    if fails:
        monkeypatch.setattr(DenoisingError, "forward", lambda *_, **__: [].pop())
        with pytest.raises(IndexError) as failure, together.together():
            together.step()
        assert any(frame.name == "forward" for frame in failure.traceback), "it holds the wrapper"
    else:
        with together.together():
            together.step()
    assert gone == ["reducer", "group"]
