"""Training a connector with the built-in editor: which text a pair is shown with, states that are made once, exact continuation, several processes, what it
leaves."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.sampler import edit_latents
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.mllm import STATES_TASK, Mllm, load_mllm
from instructbrush.core.errors import LearningError, PairError
from instructbrush.core.finetuning.dataset import Row, StoredImage, find_blocks
from instructbrush.core.finetuning.objective import DenoisingError, EditInputs
from instructbrush.core.finetuning.pair_states import INDEX, PairStates, Texts, states_of_pairs
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.core.finetuning.trainer import make_accelerator
from instructbrush.core.finetuning.with_connector import (
    ReasonedError,
    ReasonedInputs,
    ReasonedSample,
    ReasonedStream,
)
from instructbrush.core.reasoning.connector import (
    Connector,
    config_for,
    load_connector,
    new_connector,
    save_connector,
    text_fingerprint,
)
from instructbrush.tests.support import tiny_edits, tiny_mllms, tuning

ROWS = 6


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from tuning.on_the_cpu(monkeypatch)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mllms.llava(tmp_path_factory.mktemp("mllm") / "tiny-llava")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of pairs with several, one or no indirect instructions; the first has images that are wider than high."""
    folder, content = tmp_path_factory.mktemp("pairs"), tiny_edits.with_reasoning(tiny_edits.rows(ROWS))
    before, after, _ = (tiny_edits.png(image) for image in tiny_edits.images(0, 64, 96))
    content[0].update(source_image=before, edited_image=after, mask_image=None)
    tiny_edits.write_table(folder / "a.parquet", content[:4])
    tiny_edits.write_table(folder / "b.parquet", content[4:])
    return folder


def read_all(folder: Path, reader: Path, data: Path, share: float = 0.5) -> PairStates:
    alone, blocks = make_accelerator("no", 1), find_blocks([data])
    return states_of_pairs(
        folder,
        lambda: load_mllm(reader, lazily=True),
        reader.name,
        STATES_TASK,
        Texts(share),
        blocks,
        [],
        3,
        alone,
    )


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, reader: Path, data: Path) -> PairStates:
    """Those of all pairs."""
    patch = pytest.MonkeyPatch()
    running = tuning.on_the_cpu(patch)
    next(running)
    made = read_all(tmp_path_factory.mktemp("states"), reader, data)
    next(running, None)
    patch.undo()
    return made


@pytest.fixture
def stream(data: Path, states: PairStates) -> ReasonedStream:
    return ReasonedStream(find_blocks([data]), 64, 0, Texts(0.5), states)


def samples_of(stream: ReasonedStream, count: int) -> list[ReasonedSample]:
    return [stream.sample(index, stream.row(index)) for index in range(count)]


class TestTexts:
    nothing = StoredImage(b"", "x")
    both = Row("x", " direct ", nothing, nothing, None, ("one", "two"))

    def drawn(self, share: float, row: Row) -> dict[str, int]:
        rng = np.random.default_rng(0)
        return dict(Counter(Texts(share).draw(row, rng) for _ in range(2000)))

    def test_shares(self) -> None:
        found = self.drawn(0.4, self.both)
        assert found.keys() == {"direct", "one", "two"} == set(Texts(0.4).of(self.both))
        assert abs(found["direct"] - 1200) < 100 and abs(found["one"] - 400) < 60
        assert self.drawn(0.0, self.both) == {"direct": 2000} and Texts(0.0).of(self.both) == ("direct",)
        assert self.drawn(1.0, self.both).keys() == {"one", "two"} == set(Texts(1.0).of(self.both))

    def test_where_there_is_one_kind_it_is_used(self) -> None:
        for share in (0.0, 0.5, 1.0):
            assert self.drawn(share, replace(self.both, reasoning=())) == {"direct": 2000}
            assert self.drawn(share, replace(self.both, words=" ")).keys() == {"one", "two"}
        assert Texts(0.5).of(replace(self.both, words="", reasoning=())) == () and self.drawn(
            0.5, replace(self.both, words="", reasoning=())
        ) == {"": 2000}


class TestStates:
    def test_they_are_the_whole_image_s_whatever_the_crop(
        self, reader: Path, data: Path, stream: ReasonedStream
    ) -> None:
        mllm, wide = load_mllm(reader), find_blocks([data])[0].rows()[0]
        for words in Texts(0.5).of(wide):
            hidden, mask = mllm.states([wide.read().before], [words])
            assert mask.all()
            torch.testing.assert_close(stream._states.of(wide, words).float(), hidden[0], rtol=0, atol=1e-5)
        seen = [sample for sample in samples_of(stream, 12 * ROWS) if stream.place(sample.index) == (0, 0)]
        assert len({sample.words for sample in seen}) == 3, "every text has its turn"
        for sample in seen:
            assert sample.before.shape == (64, 64, 3)
            assert torch.equal(sample.states, stream._states.of(wide, sample.words))
        assert len({sample.before.numpy().tobytes() for sample in seen}) > 3, "crops differ"

    def test_a_place_always_gives_the_same_text(
        self, data: Path, states: PairStates, stream: ReasonedStream
    ) -> None:
        again = ReasonedStream(find_blocks([data]), 64, 0, Texts(0.5), states)
        batches = again.batches(0, 2, 1, 2)
        shared = [sample for _, batch in zip(range(4), batches, strict=False) for sample in batch]
        batches.close()
        for sample, other in zip(shared, samples_of(stream, 16)[1::2], strict=True):
            assert (sample.index, sample.words) == (other.index, other.words) and torch.equal(
                sample.before, other.before
            )

    def test_the_model_is_loaded_only_while_some_are_missing(
        self, reader: Path, data: Path, states: PairStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = Path(shutil.copytree(states.folder, tmp_path / "states"))
        loads: list[str] = []
        load = Mllm._load
        monkeypatch.setattr(Mllm, "_load", lambda mllm: loads.append(mllm.name) or load(mllm))
        assert read_all(folder, reader, data).keys == states.keys and loads == []
        (folder / INDEX).unlink()  # as if it had been stopped on the way
        assert read_all(folder, reader, data).keys == states.keys and loads == []
        next(folder.glob("*.safetensors")).unlink()
        found = read_all(folder, reader, data)
        assert found.keys == states.keys and loads == ["tiny-llava"]
        assert {file.name for file in folder.iterdir()} == {file.name for file in states.folder.iterdir()}
        more = tiny_edits.write_folder(tmp_path / "more", 2)
        both = read_all(folder, reader, more)
        # The second of its pairs is among the others too.
        assert len(both.keys) == len(states.keys) + 1 and both.data == (
            *states.data,
            Texts(0.5).digest(find_blocks([more])),
        )
        assert read_all(folder, reader, data).keys == both.keys and len(loads) == 2

    def test_a_list_of_another_version_or_a_damaged_one_is_made_again(
        self, reader: Path, data: Path, states: PairStates, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(states.folder, tmp_path / "states"))
        whole = json.loads((folder / INDEX).read_text())
        for content in (
            json.dumps({**whole, "version": "0"}),
            "{",
            "[]",
            json.dumps({**whole, "reader": {"name": "x"}}),
        ):
            (folder / INDEX).write_text(content)
            assert PairStates.read(folder) is None
            assert read_all(folder, reader, data).keys == states.keys
        assert json.loads((folder / INDEX).read_text()) == whole

    def test_another_model_s_states_are_refused(self, data: Path, states: PairStates, tmp_path: Path) -> None:
        other = tiny_mllms.llava(tmp_path / "other", seed=1)
        message = r"are those of 'tiny-llava' in float32 \(asked '.*'\), not of 'other' in float32 .*a connector reads one MLLM. Give --mllm and"
        with pytest.raises(LearningError, match=message):
            read_all(states.folder, other, data)

    def test_a_image_that_changed_is_named(self, states: PairStates, data: Path) -> None:
        row = find_blocks([data])[0].rows()[0]
        changed = replace(
            row, before=replace(row.before, content=tiny_edits.png(tiny_edits.images(9)[0])["bytes"])
        )
        with pytest.raises(
            LearningError,
            match="^Pair 'a.parquet row 0': its states are not in '.*' any more, or its image has changed. Delete .*states.json",
        ):
            states.of(changed, row.words)

    def test_a_folder_that_cannot_be_written_to(self, reader: Path, data: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(
            LearningError, match="^States of the MLLM could not be kept in '.*file'. See that there is room"
        ):
            read_all(tmp_path / "file", reader, data)


@pytest.fixture(scope="module")
def trained(editor: DiffusersEditor, reader: Path) -> Connector:
    """A connector whose last layer does something."""
    mllm = load_mllm(reader, lazily=True)
    config = config_for(
        editor.description.family, mllm.width, mllm_name=mllm.name, mllm_fingerprint=mllm.fingerprint
    )
    connector = new_connector(config)
    torch.nn.init.normal_(connector.project_out.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return connector


@pytest.mark.slow
class TestLoss:
    @pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
    def test_at_the_beginning_it_is_the_editor_s_own(
        self, editor: DiffusersEditor, trained: Connector, stream: ReasonedStream, precision: torch.dtype
    ) -> None:
        samples, unet = samples_of(stream, 4), editor.denoiser.unet
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            plain = DenoisingError(unet)(**EditInputs(editor, 0, 0.05)(samples))
            inputs = ReasonedInputs(editor, 0, 0.05)(samples)
            assert torch.equal(ReasonedError(unet, new_connector(trained.config))(**inputs), plain)
            assert not torch.equal(ReasonedError(unet, trained)(**inputs), plain)

    def test_without_text_the_connector_is_passed_by(
        self, editor: DiffusersEditor, trained: Connector, stream: ReasonedStream
    ) -> None:
        samples, unet = samples_of(stream, 8), editor.denoiser.unet
        inputs = ReasonedInputs(editor, 0, 1 / 3)(samples)
        without = inputs["without_text"]
        assert without.any() and not without.all()
        null = editor.encode_text([""])[0]
        assert all(
            torch.equal(context, null) == bool(dropped)
            for context, dropped in zip(inputs["context"], without, strict=True)
        )
        assert any((condition == 0).all() for condition in inputs["condition"][~without]), (
            "some have text and no image"
        )
        lengths = torch.tensor([len(sample.states) for sample in samples])
        assert torch.equal(inputs["mask"].sum(1), lengths), "and their states all the same"
        with torch.no_grad():
            reasoned, plain = (
                ReasonedError(unet, trained)(**inputs),
                DenoisingError(unet)(**EditInputs(editor, 0, 1 / 3)(samples)),
            )
        assert torch.equal(reasoned[without], plain[without]) and (reasoned != plain)[~without].all()
        alone = {name: tensor[without] for name, tensor in inputs.items()}
        ReasonedError(unet, trained.requires_grad_(True))(**alone).sum().backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in trained.parameters())
        trained.zero_grad()
        ReasonedError(unet, trained)(**inputs).sum().backward()
        assert all(
            parameter.grad.any()
            for name, parameter in trained.named_parameters()
            if not name.endswith("to_k.bias")
        )
        trained.zero_grad()
        trained.requires_grad_(False)


def command(data: Path, reader: Path, out: Path, *more: object) -> list[str]:
    fixed = (
        "--resolution",
        64,
        "--batch",
        2,
        "--precision",
        "no",
        "--rate",
        1e-3,
        "--average",
        0.5,
        "--pictures-every",
        0,
    )
    return [
        str(part)
        for part in (
            "reason",
            "train",
            "--model",
            "pocket",
            "--mllm",
            reader,
            "--data",
            data,
            "--out",
            out,
            *fixed,
            *more,
        )
    ]


@pytest.mark.slow
class TestCommand:
    def test_stopped_and_resumed_without_the_model_equals_uninterrupted(
        self, reader: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mllm = Path(shutil.copytree(reader, tmp_path / reader.name))
        watch = ("--pictures-every", 2, "--save-every", 2)
        assert main(command(data, mllm, tmp_path / "whole", "--steps", 3, *watch)) == 0
        assert main(command(data, mllm, tmp_path / "parts", "--steps", 2, *watch)) == 0
        halfway = load_file(tmp_path / "parts" / "connector.safetensors")
        for file in mllm.glob("*.safetensors"):
            file.unlink()
        assert main(command(data, mllm, tmp_path / "parts", "--steps", 3, *watch)) == 1
        assert "is a run already: add --resume to go on" in capsys.readouterr().err
        assert main(command(data, mllm, tmp_path / "parts", "--steps", 3, "--resume", *watch)) == 0
        assert "from step 2" in capsys.readouterr().err
        for name in (
            "checkpoint.safetensors",
            "connector.safetensors",
            "model/unet/diffusion_pytorch_model.safetensors",
        ):
            tuning.assert_equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))
        state = load_file(tmp_path / "whole" / "checkpoint.safetensors")
        kept = load_file(tmp_path / "whole" / "connector.safetensors")
        assert all(
            torch.equal(tensor, state[f"average.connector.{name}"]) for name, tensor in kept.items()
        ), "what is kept is the average"
        assert (
            not torch.equal(kept["project_out.weight"], halfway["project_out.weight"])
            and kept["project_out.weight"].any()
        )
        assert {name.split(".")[1] for name in state if name.startswith("parameter.")} == {
            "connector",
            "denoising",
        }
        assert (
            main(command(data, tmp_path / "absent", tmp_path / "parts", "--steps", 4, "--resume", *watch))
            == 1
        )
        assert "MLLM 'absent': there is no folder" in capsys.readouterr().err, (
            "another one's states are not taken for its"
        )

    def test_what_it_leaves_edits(
        self, reader: Path, data: Path, tmp_path: Path, make_image: Callable[..., Tensor]
    ) -> None:
        out = tmp_path / "run"
        more = (
            "--steps",
            2,
            "--pictures-every",
            2,
            "--log-every",
            1,
            "--precision",
            "bf16",
            "--checkpointing",
            "--validation",
            data / "b.parquet",
        )
        assert main(command(data, reader, out, *more)) == 0
        assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [1, 2]
        assert Image.open(out / "pictures" / "000002.png").size == (3 * 64, 2 * 64)
        assert not [
            path for path in out.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".pth", ".part")
        ]
        tuned, connector, mllm = (
            load_editor(out / "model"),
            load_connector(out / "connector.safetensors"),
            load_mllm(reader),
        )
        assert tuned.description.family.name == "pocket" and not tuned.description.reads_mask
        own = text_fingerprint(tuned.text_encoder.state_dict())
        assert (
            own == connector.config.text_fingerprint
            and connector.config.mllm_fingerprint == mllm.fingerprint
            and connector.config.mllm_name == "tiny-llava"
        )
        assert (
            connector.check_fits(mllm.width, mllm.name, mllm.fingerprint, 128, own) == []
            and connector.config.task == STATES_TASK
        )
        images, words, null = (
            make_image(2, 64, 64)[None],
            tuned.encode_text(["one corner looks wrong"]),
            tuned.encode_text([""])[0],
        )
        reasoned = connector.encode(words, *mllm.states(list(images), ["one corner looks wrong"]))
        assert not torch.equal(reasoned, words)
        results = [
            edit_latents(tuned.denoiser, tuned.condition(images), context, null, settings=SamplingSettings(2))
            for context in (words, reasoned)
        ]
        assert all(result.isfinite().all() for result in results) and not torch.equal(*results)

    def test_a_trained_connector_can_be_gone_on_with(
        self,
        reader: Path,
        data: Path,
        states: PairStates,
        trained: Connector,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        file = save_connector(trained, tmp_path / "trained.safetensors")
        begun = ("--steps", 1, "--rate", 1e-9, "--states", states.folder, "--connector", file)
        assert main(command(data, reader, tmp_path / "run", *begun)) == 0
        for name, tensor in load_file(tmp_path / "run" / "connector.safetensors").items():
            torch.testing.assert_close(tensor, trained.state_dict()[name], rtol=0, atol=1e-6, msg=name)
        assert (
            main(
                command(
                    data,
                    reader,
                    tmp_path / "run",
                    "--resume",
                    "--steps",
                    2,
                    "--rate",
                    1e-9,
                    "--states",
                    states.folder,
                )
            )
            == 1
        )
        assert "belongs to another run" in capsys.readouterr().err
        trained.config, usual = (
            replace(trained.config, mllm_fingerprint="00", mllm_name="another"),
            trained.config,
        )
        save_connector(trained, file)
        trained.config = usual
        assert main(command(data, reader, tmp_path / "other", *begun)) == 1
        assert (
            "Connector: it was trained with another MLLM (another, 32 wide) than 'tiny-llava' (32 wide). Give that one"
            in capsys.readouterr().err
        )

    def test_two_processes_do_what_one_does_with_twice_the_batch(
        self, reader: Path, data: Path, states: PairStates, trained: Connector, tmp_path: Path
    ) -> None:
        file = save_connector(trained, tmp_path / "trained.safetensors")
        shared = ("--steps", 2, "--average", 0, "--connector", file)
        assert main(command(data, reader, tmp_path / "one", *shared, "--states", states.folder)) == 0
        tuning.run_in_two_processes(command(data, reader, tmp_path / "two", *shared, "--batch", 1))
        made = PairStates.read(tmp_path / "two" / "states")
        assert made is not None and made.keys == states.keys, "each process read its share"
        one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
        assert int(two["steps_done"]) == 2 and any(
            name.startswith("optimiser.exp_avg.connector.layers") for name in one
        )
        tuning.assert_same_gradients(one, two)


def write_pairs(folder: Path, **changes: Any) -> Path:
    path = tiny_edits.write_folder(folder, 1)
    listed = json.loads((path / "pairs.json").read_text())
    (path / "pairs.json").write_text(json.dumps([{**listed[0], **changes}]))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "nowhere"), "nowhere: there is no such file or folder"),
        (
            ("--mllm", "nowhere"),
            "MLLM 'nowhere': there is no folder nowhere. Put llava-hf/llava-1.5-7b-hf, or another vision-language model, into nowhere",
        ),
        (
            ("--data", "nowhere"),
            "Data: 'nowhere' does not exist. Give a folder with .parquet files or with pairs.json.",
        ),
        (("--data", "none"), "Data: 'none' holds neither .parquet files nor pairs"),
        (("--data", "wordless"), "Data: 'wordless' holds 1 pairs without words."),
        (
            ("--data", "numbers"),
            "Pair '0 of numbers': its reasoning is 3; a text or a list of texts is needed.",
        ),
        (("--data", "long"), "image and words are 4"),
        (("--data", "cut"), "Data: none of the pairs can be used. Image '0_after.png' cannot be read"),
        (("--validation", "wordless"), "Data: 'wordless' holds 1 pairs without words."),
        (("--resolution", 60), "--resolution 60 is no multiple of 8, the pixels of a latent"),
        (("--resume",), "is no checkpoint to go on from: leave --resume away"),
        (("--indirect", 1.5), "--indirect is 1.5; it is a chance, 0 to 1"),
        (("--mllm-batch", 0), "--mllm-batch is 0; it must be 1 or more"),
        (("--precision", "fp16"), "the CPU does not train in fp16. Choose --precision bf16 or no."),
        (("--connector", "nothing.safetensors"), "nothing.safetensors"),
        (
            ("--connector", "narrow.safetensors"),
            "Connector: it gives 6 text states 16 wide for pocket; pocket editor takes 32 of 128. Give the model it",
        ),
        (("--states", "states", "--mllm-precision", "bf16"), "are those of 'tiny-llava' in float32"),
    ],
)
def test_mistakes_are_one_line(
    data: Path,
    reader: Path,
    states: PairStates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[Any, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (
        write_pairs(tmp_path / "wordless", words=" ", reasoning=[""]),
        write_pairs(tmp_path / "numbers", reasoning=3),
    )
    write_pairs(tmp_path / "long", words="darker " * 700)
    (write_pairs(tmp_path / "cut") / "0_after.png").write_bytes(b"\x89PNG")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "pairs.json").write_text("[]")
    narrow = replace(
        config_for(load_editor().description.family, 24), text_width=16, queries=6, feedforward=8
    )
    save_connector(new_connector(narrow), tmp_path / "narrow.safetensors")
    shutil.copytree(states.folder, tmp_path / "states")
    assert main(command(data, reader, tmp_path / "run", "--pictures-every", 9, *more)) == 1
    printed = capsys.readouterr().err
    # Beside bars of progress.
    shown = [line for line in printed.splitlines() if line.startswith("instructbrush: ")]
    assert len(shown) == 1 and message in shown[0] and "Traceback" not in printed, printed


def test_other_streams_are_as_they_were(data: Path) -> None:
    """Indirect instructions are nothing to who tunes without them."""
    stream = EditStream(find_blocks([data]), 64)
    assert {stream.sample(index, stream.row(index)).words for index in range(ROWS)} == {
        f"invert part {number}" for number in range(ROWS)
    }
    with pytest.raises(PairError, match="has no words"):
        replace(stream.row(0), words="").read()


def test_a_reasoning_command_needs_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reason"])
    assert "the following arguments are required: what" in capsys.readouterr().err
