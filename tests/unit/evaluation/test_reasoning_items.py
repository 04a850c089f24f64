"""Direct and reasoning instructions: both layouts, what is malformed, methods with a vision-language model, Table 3's layout, and studies of preference."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.mllm import Mllm
from instructbrush.core.errors import DataError, EvaluationError, ModelError
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.evaluation.by_instruction.items import Turn
from instructbrush.core.evaluation.by_instruction.methods import ITEM_METHODS, ItemEditor
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.by_instruction.run import ItemRunSettings
from instructbrush.core.evaluation.by_instruction.studies import begin_studies
from instructbrush.core.evaluation.by_instruction.tables import REASON, method_figures, summary, text_table
from instructbrush.core.evaluation.preference.ratings import Study
from instructbrush.core.evaluation.runner import run
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.core.models.families import POCKET
from instructbrush.core.reasoning.connector import config_for, new_connector, save_connector
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support import tiny_mllms
from instructbrush.tests.support.tiny_benchmarks import pixels, png, write_parquet, write_shards
from instructbrush.tools.benchmarks import reason_bench

COUNT = 4
KNOWN, REST = "night falls", '{"instruction": "make it night", "reason": "the day ends"}'
"""The one wish that the tiny model was taught, of the first image, and its answer."""


def entries() -> list[dict[str, Any]]:
    """Four images; the second one has no caption."""
    wishes = {
        "night": KNOWN,
        "red": "it should be warmer there",
        "grey": "let hours go by",
        "sharp": "find the glasses",
    }
    found: list[dict[str, Any]] = [
        {"words": f"make it {word}", "reasoning": wish} for word, wish in wishes.items()
    ]
    for number in (0, 2, 3):
        found[number]["caption"] = f" wall {number} "
    return found


def write_folder(folder: Path, change: Callable[[list[dict[str, Any]]], Any] = lambda listed: None) -> Path:
    """reason.json with images in a folder below it."""
    (folder / "images").mkdir(parents=True)
    listed = entries()
    for number, entry in enumerate(listed):
        for state, side in enumerate(("before", "after")):
            entry[side] = f"images/{number}_{side}.png"
            pixels(str(number), state).save(folder / entry[side])
    change(listed)
    (folder / "reason.json").write_text(json.dumps(listed))
    return folder


def rows() -> list[dict[str, Any]]:
    """The same as rows of a table."""
    sides = [
        {"before": png(pixels(str(number), 0)), "after": png(pixels(str(number), 1))}
        for number in range(COUNT)
    ]
    return [{"caption": None, **entry, **side} for entry, side in zip(entries(), sides, strict=True)]


def test_both_layouts_give_the_same_items(tmp_path: Path) -> None:
    folder, tables = (
        read_reason(write_folder(tmp_path / "folder")),
        read_reason(write_shards(tmp_path / "hub", rows(), "test")),
    )
    names = [f"000{number}-{scope}" for number in range(COUNT) for scope in ("direct", "reasoning")]
    for found in (folder, tables):
        assert [item.name for item in found.items] == names and [item.scope for item in found.items[:2]] == [
            "direct",
            "reasoning",
        ]
        assert found.remarks == (
            "4 images, each with a direct and a reasoning instruction.",
            "CLIP-T leaves out 1 images without a caption.",
        )
        assert [item.words for item in found.items[:2]] == ["make it night", KNOWN]
        assert [item.turns[0].caption for item in found.items[::2]] == ["wall 0", None, "wall 2", "wall 3"]
        direct, reasoning = (item.load().turns[0] for item in found.items[4:6])
        assert torch.equal(direct.source, from_image(pixels("2", 0))) and torch.equal(
            direct.reference, from_image(pixels("2", 1))
        )
        assert torch.equal(direct.source, reasoning.source) and torch.equal(
            direct.reference, reasoning.reference
        )
    bare = [{name: value for name, value in row.items() if name != "caption"} for row in rows()]
    found = read_reason(write_parquet(tmp_path / "bare.parquet", bare))
    assert (
        found.remarks[1] == "CLIP-T was not measured: there are no captions."
        and len(found.items) == 2 * COUNT
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda listed: listed[1].pop("reasoning"),
            "entry 1: 'reasoning' is missing. An item has a direct instruction (words) and one that only",
        ),
        (lambda listed: listed[0].update(words="  "), "entry 0: 'words' is missing."),
        (lambda listed: listed[2].update(words=["a", "b"]), "entry 2: 'words' is missing."),
        (lambda listed: listed[2].update(caption=3), "entry 2: 'caption' is not a text."),
        (lambda listed: listed[0].pop("before"), "entry 0: 'before' is missing. Name the image's file."),
        (
            lambda listed: listed[1].update(after="../1.png"),
            "entry 1: 'after', '../1.png', is not a file in this folder. Put the images beside reason.json",
        ),
        (
            lambda listed: listed[1].update(after="/etc/passwd"),
            "entry 1: 'after', '/etc/passwd', is not a file in this folder.",
        ),
        (lambda listed: listed[1].update(after="a\0.png"), "is not a file in this folder."),
        (lambda listed: listed[1].update(after="images/9.png"), "Image '9.png' is missing in"),
        (lambda listed: listed[1].update(after="reason.json"), "Image 'reason.json' cannot be read"),
        (
            lambda listed: listed[1].update(after="small.png"),
            "entry 1: before is 64 x 64, after is 32 x 32. Both must have one size: crop or scale them",
        ),
        (lambda listed: listed.append("more"), "'reason.json' must be a list of {\"before\": file"),
        (lambda listed: listed.clear(), "holds no items. Get its files again."),
    ],
)
def test_malformed_lists_are_refused(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], message: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    pixels("1", 1).save(tmp_path / "elsewhere" / "1.png")
    folder = write_folder(tmp_path / "data", change)
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    pixels("1", 1, 32).save(folder / "small.png")
    with pytest.raises(EvaluationError, match=re.escape(message)):
        read_reason(folder, strict=True)


@pytest.mark.parametrize(
    "change", [{"words": None}, {"reasoning": " "}, {"after": "images/9.png"}, {"before": "reason.json"}]
)
def test_an_entry_that_cannot_be_used_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    def damage(listed: list[dict[str, Any]]) -> None:
        listed[1].update(change)

    found = read_reason(write_folder(tmp_path / "data", damage))
    assert [item.name for item in found.items[::2]] == ["0000-direct", "0002-direct", "0003-direct"] and len(
        found.items
    ) == 6
    assert found.remarks[1].startswith("Left out: ") and found.remarks[2] == "1 image left out."


def test_rows_keep_their_names_whatever_is_left_out(tmp_path: Path) -> None:
    content = rows()
    content[0].update(before={"bytes": b"GIF89a??", "path": None})
    content[2].update(words=None)
    found = read_reason(write_parquet(tmp_path / "test.parquet", content))
    assert [item.name for item in found.items] == [
        "0001-direct",
        "0001-reasoning",
        "0003-direct",
        "0003-reasoning",
    ]
    assert found.remarks[3] == "2 images left out."


def test_malformed_tables_and_missing_files_are_refused(tmp_path: Path) -> None:
    def table(change: Callable[[list[dict[str, Any]]], Any]) -> Path:
        content = rows()
        change(content)
        return write_parquet(tmp_path / "test.parquet", content)

    with pytest.raises(DataError, match="has no column 'reasoning'; its columns are"):
        read_reason(table(lambda content: [row.pop("reasoning") for row in content]))
    with pytest.raises(EvaluationError, match="test.parquet row 1: 'words' is missing."):
        read_reason(table(lambda content: content[1].update(words=None)), strict=True)
    with pytest.raises(DataError, match="row 2 after' is missing: the cell holds no bytes"):
        read_reason(
            table(lambda content: content[2].update(after={"bytes": None, "path": "2.png"})), strict=True
        )
    with pytest.raises(EvaluationError, match="row 0: before is 64 x 64, after is 32 x 32."):
        read_reason(table(lambda content: content[0].update(after=png(pixels("0", 1, 32)))), strict=True)
    with pytest.raises(EvaluationError, match="has no part 'dev': its .parquet files are test.parquet"):
        read_reason(tmp_path, "dev")
    with pytest.raises(
        EvaluationError, match="'.*none' does not exist. Give a folder with reason.json or .parquet files."
    ):
        read_reason(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        EvaluationError,
        match=r"holds neither reason.json nor .parquet files. Write reason.json, a list of \{\"before\": file",
    ):
        read_reason(tmp_path / "empty")
    (tmp_path / "empty" / "reason.json").write_text("[{")
    with pytest.raises(EvaluationError, match="'reason.json' cannot be read"):
        read_reason(tmp_path / "empty")


def score(
    item: str, scope: str, method: str, l1: float, caption: float | None = 0.25, dino: bool = True
) -> Score:
    return Score(
        item, scope, method, 0, 1, (l1,), (l1 / 2,), (0.9,), (0.8,) if dino else None, (caption,), (None,)
    )


def test_the_table_is_laid_out_as_the_papers() -> None:
    scores = [
        score("0000-direct", "direct", "words", 0.1),
        score("0001-direct", "direct", "words", 0.2, None),
        score("0000-reasoning", "reasoning", "words", 0.4),
        score("0001-reasoning", "reasoning", "words", 0.5, None),
        score("0000-direct", "direct", "encode", 0.05, 0.5),
    ]
    lines = text_table(scores, REASON, ["A remark."]).splitlines()
    assert lines[0] == "Results on direct and reasoning instructions"
    assert [half.strip() for half in lines[1].split("|")] == ["Direct instruction", "Reasoning instruction"]
    assert (
        lines[2].split()
        == "Datasets Method L1 ↓ L2 ↓ CLIP-I ↑ DINO ↑ CLIP-T ↑ | L1 ↓ L2 ↓ CLIP-I ↑ DINO ↑ CLIP-T ↑".split()
    )
    assert (
        lines[3].split()
        == "Reasoning IP2P 0.1500 0.0750 0.9000 0.8000 0.2500 | 0.4500 0.2250 0.9000 0.8000 0.2500".split()
    )
    assert lines[4].split() == "Encode 0.0500 0.0250 0.9000 0.8000 0.5000 | - - - - -".split()
    assert (
        lines[5].split()
        == "As published Null-text 0.0931 0.0354 0.8542 0.8036 0.2479 | 0.2637 0.1165 0.6326 0.5249 0.1706".split()
    )
    assert (
        lines[6].split()
        == "InstructPix2Pix 0.1265 0.0423 0.8042 0.7256 0.2465 | 0.2984 0.1385 0.6034 0.5142 0.1629".split()
    )
    assert (
        lines[10].split()
        == "ReasonPix2Pix 0.0646 0.0203 0.9246 0.8920 0.2553 | 0.1347 0.0476 0.7824 0.7216 0.2350".split()
    )
    assert len({line.index("|") for line in lines[1:11]}) == 1
    assert lines[12:] == ["Means over 2 items, 1 seed.", "A remark."]
    found = summary(scores, REASON)
    assert (
        found["reasoning"]["words"]["l1"] == 0.45
        and set(found["reasoning"]) == {"words"}
        and found["direct"]["encode"]["l1"] == 0.05
    )
    assert method_figures(scores, REASON, "encode", "reasoning") is None
    assert "DINO was not measured" in text_table([score("a", "direct", "words", 0.1, dino=False)], REASON)


def test_pocketreasons_own_figures_print_as_that_table() -> None:
    values = {
        "l1": torch.tensor([0.1, 0.3]),
        "l2": torch.tensor([0.0, 0.1]),
        "clip_i": torch.tensor([0.5, 0.6]),
        "clip_t": torch.tensor([0.2, 0.3]),
    }
    scores = {
        row: {"direct": values, "indirect": {**values, "l1": values["l1"] * 2}}
        for row in reason_bench.METHODS
    }
    lines = text_table(reason_bench.records(scores), reason_bench.BENCHMARK).splitlines()
    assert (
        lines[3].split()
        == "PocketReason IP2P 0.2000 0.0500 0.5500 - 0.2500 | 0.4000 0.0500 0.5500 - 0.2500".split()
    )
    assert [line.split("  0.")[0].strip() for line in lines[4:7]] == [
        "Explain + IP2P",
        "Encode",
        "Encode w/o image",
    ]
    assert lines[-2:] == [
        "Means over 2 items, 1 seed.",
        "DINO was not measured: no model was given (--dino).",
    ]


def test_methods_say_what_they_lack(editor: DiffusersEditor) -> None:
    bench = ItemEditor(editor, SamplingSettings(1), 64)
    turn = Turn("make it night", torch.rand(64, 64, 3))
    for name, message in (
        ("explain", "Add --mllm FOLDER."),
        ("encode", "Add --connector and --tuned-model."),
        ("encode_blind", "Add --connector and"),
    ):
        with pytest.raises(
            EvaluationError, match=f"the method '{name.removesuffix('_blind')}' needs .* {message}"
        ):
            ITEM_METHODS[name].edit(bench, turn, turn.source, 1)
    with pytest.raises(
        EvaluationError,
        match="the method 'encode' needs the editor that was tuned with the connector. Add --tuned-model.",
    ):
        ItemRunSettings(methods=("words", "encode"), model="photographs")
    assert ItemRunSettings(methods=("encode",), model="photographs", tuned_model="tuned").tuned_model == "tuned"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LLaVA that was taught one wish, a connector for it that changes something, and an editor for the tuned one."""
    home = tmp_path_factory.mktemp("models")
    tiny_mllms.train_llava(home / "taught", [(from_image(pixels("0", 0)), KNOWN, REST)], 150)
    mllm = Mllm(home / "taught")
    connector = new_connector(
        config_for(POCKET, mllm.width, mllm_name=mllm.name, mllm_fingerprint=mllm.fingerprint)
    )
    torch.nn.init.normal_(connector.project_out.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    save_connector(connector, home / "connector.safetensors")
    return {
        "mllm": str(home / "taught"),
        "connector": str(home / "connector.safetensors"),
        "tuned_model": str(POCKET_FOLDER),
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that the model's own methods were called with, as they happen."""
    seen: list[str] = []
    answer, states = Mllm.answer, Mllm.states

    def answering(self: Mllm, image: torch.Tensor, words: str, *rest: Any) -> str:
        seen.append(f"answer {words}")
        return answer(self, image, words, *rest)

    def reading(self: Mllm, images: Any, texts: Any, *rest: Any) -> Any:
        seen.append(f"states {', '.join(texts)}")
        return states(self, images, texts, *rest)

    monkeypatch.setattr(Mllm, "answer", answering)
    monkeypatch.setattr(Mllm, "states", reading)
    return seen


@pytest.mark.slow
def test_what_the_model_reads_is_computed_once_and_edits(
    tmp_path: Path, models: dict[str, str], asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sources = read_reason(write_folder(tmp_path / "data")).items[:2]
    settings: dict[str, Any] = {
        "sampling": SamplingSettings(2),
        "side": 64,
        "cache": str(tmp_path / "mllm"),
        **models,
    }
    folder = ItemFolder(tmp_path / "out")
    methods = ("words", "explain", "encode", "encode_blind")
    found = {
        one.key: one
        for one in run(sources, ItemRunSettings(methods=methods, seeds=2, **settings), folder, data="test")
    }
    assert len(found) == 16
    # Two seeds and one answer: the wish that was taught at once, the other one after a second question, and then its own words.
    wish, direct = f"answer {KNOWN}", "answer make it night"
    assert [each for each in asked if each.startswith("answer")] == [direct, direct, wish]
    assert sorted(each for each in asked if each.startswith("states")) == sorted(
        [f"states {KNOWN}", "states make it night"] * 2
    )
    assert "gave no usable answer, so your own words are used" in caplog.text

    def made(method: str, item: str, seed: int = 0) -> bytes:
        return folder.image(item, method, seed, 0).read_bytes()

    explicit, indirect = "0000-direct", "0000-reasoning"
    assert (
        made("explain", indirect)
        == made("words", explicit)
        == made("explain", explicit)
        != made("words", indirect)
    )
    assert made("explain", indirect, 1) == made("words", explicit, 1) != made("words", explicit)
    for item in (explicit, indirect):
        assert len({made(method, item) for method in ("words", "encode", "encode_blind")}) == 3
    # A later run with one more seed asks nothing, and reads no weights.
    asked.clear()
    more = run(sources, ItemRunSettings(methods=methods, seeds=3, **settings), folder, data="test")
    assert len(more) == 24 and not asked and {one.key: one for one in more}.items() >= found.items()
    # A damaged answer is asked for again.
    for file in (tmp_path / "mllm").glob("*.json"):
        file.write_text('{"instruction')
    again = run(
        sources[1:],
        ItemRunSettings(methods=("explain",), **settings),
        ItemFolder(tmp_path / "again"),
        data="test",
    )
    assert asked == [wish] and again[0].l1 == found["explain", indirect, 0].l1


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_methods_come_later(tmp_path: Path, models: dict[str, str]) -> None:
    sources = read_reason(write_folder(tmp_path / "data")).items[:2]
    few: dict[str, Any] = {"sampling": SamplingSettings(1), "side": 64}

    def plain(scores: list[Score]) -> list[dict[str, Any]]:
        return [{**asdict(one), "seconds": 0} for one in scores]

    whole = run(
        sources,
        ItemRunSettings(methods=("words", "encode"), **few, **models),
        ItemFolder(tmp_path / "whole"),
        data="test",
    )
    folder = ItemFolder(tmp_path / "stopped")
    run(sources, ItemRunSettings(**few), folder, data="test")
    assert json.loads((folder.path / "run.json").read_text())["connector"] is None

    def stop(one: Score, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            sources,
            ItemRunSettings(methods=("words", "encode"), **few, **models),
            folder,
            data="test",
            on_outcome=stop,
        )
    seen: list[tuple[str, str]] = []
    resumed = run(
        sources,
        ItemRunSettings(methods=("words", "encode"), **few, **models),
        folder,
        data="test",
        on_outcome=lambda one, *_: seen.append((one.method, one.item)),
    )
    assert seen == [("encode", "0000-reasoning")] and plain(resumed) == plain(whole)
    # The words alone go on beside it; another connector does not.
    run(sources, ItemRunSettings(**few), folder, data="test")
    other = tmp_path / "other.safetensors"
    width = Mllm(models["mllm"]).width
    save_connector(new_connector(config_for(POCKET, width), seed=1), other)
    with pytest.raises(
        EvaluationError,
        match="holds results of another run: connector was '[0-9a-f]{16}', now it is '[0-9a-f]{16}'.",
    ):
        run(
            sources,
            ItemRunSettings(methods=("encode",), **few, **{**models, "connector": str(other)}),
            folder,
            data="test",
        )
    unfit = save_connector(new_connector(config_for(POCKET, width + 1)), tmp_path / "unfit.safetensors")
    with pytest.raises(
        ModelError,
        match=f"'taught' has states {width} wide, the connector was trained with an MLLM .{width + 1}.",
    ):
        run(
            sources,
            ItemRunSettings(methods=("encode",), **few, **{**models, "connector": str(unfit)}),
            ItemFolder(tmp_path / "unfit"),
            data="test",
        )


@pytest.mark.slow
def test_reasoning_on_the_command_line_and_its_studies(
    tmp_path: Path, models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, studies = write_folder(tmp_path / "data"), tmp_path / "out", tmp_path / "studies" / "table_4"
    given = [
        "bench",
        "--benchmark",
        "reason",
        "--data",
        str(data),
        "--sampling-steps",
        "1",
        "--size",
        "64",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    given += [
        "--mllm",
        models["mllm"],
        "--connector",
        models["connector"],
        "--tuned-model",
        models["tuned_model"],
    ]
    chosen = [
        "--methods",
        "words",
        "encode",
        "--effects",
        "0000-direct",
        "0000-reasoning",
        "0002-direct",
        "0002-reasoning",
    ]
    assert main([*given, *chosen, "--study", str(studies)]) == 0
    printed = capsys.readouterr().out
    assert (
        "[1/8] 0000-direct words: L1 0." in printed
        and "Means over 2 items, 1 seed." in printed
        and "Reasoning instruction" in printed
    )
    assert f"{studies / 'direct'}:\n2 comparisons to be judged in Judge Preference." in printed
    page = (out / "report.html").read_text("utf-8")
    assert (
        page.count("<img") == 4 * 4
        and "<th>direct L1 ↓</th>" in page
        and "<th>reasoning CLIP-T ↑</th>" in page
        and "td:nth-child(n+13){color" in page
    )
    content = json.loads((out / "results.json").read_text())
    assert (
        set(content["parts"]) == {"direct", "reasoning"}
        and content["about"]["connector"]
        and len(content["outcomes"]) == 8
    )
    with Image.open(out / "grid.png") as grid:
        assert grid.height > 4 * 128
    for part, wish in (("direct", "make it night"), ("reasoning", KNOWN)):
        study = Study.open(studies / part)
        assert study.methods == ("words", "encode") and {each.item for each in study.comparisons} == {
            f"0000-{part}",
            f"0002-{part}",
        }
        (first,) = [each for each in study.comparisons if each.item == f"0000-{part}"]
        assert first.instruction == wish
        shown = [Image.open(study.folder / str(name)) for name in first.images]
        kept = [
            out / "items" / first.item / f"{name}.png"
            for name in ("source-0", f"{first.left}-0-0", f"{first.right}-0-0")
        ]
        assert all(
            one.convert("RGB").tobytes() == Image.open(other).convert("RGB").tobytes()
            for one, other in zip(shown, kept, strict=True)
        )
        study.judge(0, "left")
        winner = study.comparisons[0].left
        assert main([*given, *chosen, "--study", str(studies)]) == 0
        told = capsys.readouterr().out.split(f"{studies / part}:")[1].splitlines()
        assert (
            told[1] == f"Study '{part}': 1 of 2 judged"
            and told[3].split()[0] == winner
            and told[3].split()[3:] == ["1", "0", "0"]
        )
    for more, message in [
        ([*chosen[:2], *chosen[3:], "--study", str(studies)], "A study compares two methods or more."),
        (
            [*chosen, "--study", str(studies), "--study-items", "1"],
            "was begun with other contents: it has 2 items, not 1. Give the study another name",
        ),
        (
            [*chosen, "--study", str(studies), "--study-items", "0"],
            "--study-items is 0, it must be at least 1.",
        ),
        (["--captions", "x"], "--captions does nothing with --benchmark reason. Leave it out."),
    ]:
        assert main([*given, *more]) == 1 and message in capsys.readouterr().err
    assert main(["bench", "--benchmark", "emu-edit", "--data", str(data), "--study", "x"]) == 1
    assert "--study does nothing with --benchmark emu-edit." in capsys.readouterr().err
    assert main(["bench", "--data", str(data), "--tuned-model", "x"]) == 1
    assert "--tuned-model does nothing with --benchmark top-bench." in capsys.readouterr().err


def test_studies_draw_the_same_images_of_both_kinds(tmp_path: Path) -> None:
    sources = read_reason(write_folder(tmp_path / "data")).items
    folder = ItemFolder(tmp_path / "out")
    scores = []
    for source in sources:
        item = source.load()
        folder.save_item_images(item, None)
        for index, method in enumerate(("words", "explain")):
            made = score(source.name, source.scope, method, 0.1)
            folder.write(made, [item.turns[0].source * index])
            scores.append(made)
    studies = begin_studies(folder, scores, sources, REASON, tmp_path / "studies", 2)
    direct, reasoning = ([each.item.split("-")[0] for each in study.comparisons] for study in studies)
    assert (
        len(direct) == 2
        and direct == reasoning
        and [study.folder.name for study in studies] == ["direct", "reasoning"]
    )
    shutil.rmtree(tmp_path / "studies" / "direct")
    only = begin_studies(
        folder, [one for one in scores if one.scope == "reasoning"], sources, REASON, tmp_path / "studies", 2
    )
    assert [study.key for study in only] == [studies[1].key]
