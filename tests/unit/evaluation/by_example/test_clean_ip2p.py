"""Reading Clean-InstructPix2Pix: its tree, the drawing of directions, and malformed trees."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.by_example.datasets.clean_ip2p import read_clean_ip2p

SIDE = 16
SEEDS = (30, 4, 1000000007, 200)


def save(path: Path, value: int, width: int = SIDE) -> None:
    Image.fromarray(np.full((SIDE, width, 3), value, np.uint8)).save(path)


def write(root: Path, name: str = "0000012", seeds: tuple[int, ...] = SEEDS) -> Path:
    """Writes a direction as InstructPix2Pix does; the image of the i-th seed has the gray 10 i + side."""
    folder = root / name
    folder.mkdir(parents=True)
    prompt = {"input": "a lake", "edit": f"make it snow {name}", "output": "a lake in snow", "url": "x"}
    (folder / "prompt.json").write_text(json.dumps(prompt))
    for index, seed in enumerate(sorted(seeds)):
        for side in range(2):
            save(folder / f"{seed}_{side}.png", 10 * index + side)
    lines = [json.dumps({"seed": seed, "p2p_threshold": 0.4, "clip_sim_dir": 0.3}) for seed in seeds]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def list_seeds(root: Path, *directions: tuple[str, tuple[int, ...]]) -> None:
    content = [[name, [str(seed) for seed in seeds]] for name, seeds in directions]
    (root / "seeds.json").write_text(json.dumps(content))


@pytest.mark.parametrize("listed", [False, True])
def test_holds_out_the_last_pair_of_a_direction(tmp_path: Path, listed: bool) -> None:
    write(tmp_path, "shard-03/0000012")
    if listed:
        list_seeds(tmp_path, ("shard-03/0000012", SEEDS))
    (source,) = read_clean_ip2p(tmp_path, None)
    assert (source.name, source.scope) == ("shard-03-0000012", "global")
    assert source.words == "make it snow shard-03/0000012"
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - our own bytes
    effect = source.load()
    assert [pair.name for pair in effect.train] == ["4", "30", "200"]
    assert [pair.name for pair in effect.test] == ["1000000007"]
    assert effect.captions == (("a lake", "a lake in snow"),)
    grays = [round(float(image.mean() * 255)) for pair in effect.train for image in (pair.before, pair.after)]
    assert grays == [0, 1, 10, 11, 20, 21]
    assert torch.equal(effect.truth[0], torch.full((SIDE, SIDE, 3), 31 / 255))


@pytest.mark.parametrize("listed", [False, True])
def test_every_direction_has_a_name_of_its_own(tmp_path: Path, listed: bool) -> None:
    names = ("a/b", "a-b", "A/b", "c/d", "-".join("e" * 40), "/".join(["f" * 90] * 3))
    names = (*names, "/".join(["\N{SNOWMAN}" * 40] * 2))
    for name in names:
        write(tmp_path, name, SEEDS[:2])
    if listed:
        list_seeds(tmp_path, *((name, SEEDS[:2]) for name in names))
    sources = read_clean_ip2p(tmp_path, None)
    effects = {source.words.removeprefix("make it snow "): source.name for source in sources}
    assert len({name.casefold() for name in effects.values()}) == len(effects) == len(names)
    assert effects["c/d"] == "c-d" and effects[names[4]] == names[4]
    assert all(effects[name].startswith("a-b-") for name in names[:2])
    assert effects[names[5]].startswith("f" * 90 + "-" + "f" * 70)
    for name in effects.values():
        assert len(name.encode()) <= 180
        (tmp_path / f"{name}-visii_mse_words_fixed_noise-12.json").touch()
    # The names do not depend on what is drawn.
    for source in read_clean_ip2p(tmp_path, None, directions=3):
        assert source.name == effects[source.words.removeprefix("make it snow ")]


def test_tests_on_the_training_pairs_when_none_is_held_out(tmp_path: Path) -> None:
    write(tmp_path)
    (source,) = read_clean_ip2p(tmp_path, None, held_out=0, least=4)
    assert source.train == source.test and len(source.test) == 4
    assert len(source.captions) == 4


def test_reads_only_the_seeds_that_seeds_json_lists(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "0000013")
    list_seeds(tmp_path, ("0000012", (200, 4)))
    (source,) = read_clean_ip2p(tmp_path, None)
    assert [name for name, _, _ in (*source.train, *source.test)] == ["4", "200"]


def test_draws_the_same_directions_each_time_and_skips_those_with_too_few_pairs(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path, f"{number:07}", SEEDS[: 1 + number % 4])
    drawn = [source.name for source in read_clean_ip2p(tmp_path, None, directions=3, least=2)]
    assert drawn == [source.name for source in read_clean_ip2p(tmp_path, None, directions=3, least=2)]
    assert len(drawn) == 3 and drawn == sorted(drawn)
    assert all(int(name) % 4 >= 2 for name in drawn)
    other = [source.name for source in read_clean_ip2p(tmp_path, None, directions=3, least=2, seed=1)]
    assert other != drawn
    everything = read_clean_ip2p(tmp_path, None, directions=None)
    assert [int(source.name) for source in everything] == [number for number in range(20) if number % 4]


def test_scales_images_to_one_size(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for seed in SEEDS:
        for side in range(2):
            save(folder / f"{seed}_{side}.png", 9, 20)
    effect = read_clean_ip2p(tmp_path, 24)[0].load()
    assert {tuple(image.shape) for image in (*effect.inputs, *effect.truth)} == {(24, 24, 3)}


def prompt(text: str) -> Callable[[Path], object]:
    return lambda root: (write(root) / "prompt.json").write_text(text)


def seeds_file(text: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        write(root)
        (root / "seeds.json").write_text(text)

    return make


def metadata(text: str) -> Callable[[Path], object]:
    return lambda root: (write(root) / "metadata.jsonl").write_text(text)


def missing_direction(root: Path) -> None:
    write(root)
    list_seeds(root, ("0000012", SEEDS), ("0000099", SEEDS))


def without_prompt(root: Path) -> None:
    (write(root) / "prompt.json").unlink()
    list_seeds(root, ("0000012", SEEDS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.rmdir(), "does not exist. Unpack InstructPix2Pix's data set"),
        (lambda root: [root.rmdir(), root.write_text("x")], "is a file. Unpack InstructPix2Pix's data set"),
        (lambda root: None, "holds no folder with prompt.json and pairs such as 123_0.jpg"),
        (
            lambda root: write(root, seeds=(4,)),
            "No editing direction of 'data' has 2 pairs (1 for training, 1 for testing). Choose methods that",
        ),
        (prompt("{"), "Editing direction '0000012': prompt.json must be {"),
        (prompt("[1]"), 'prompt.json must be {"input": "...", "edit": "...", "output": "..."} (it is not a'),
        (prompt('{"input": "a", "output": "b"}'), "('edit' is missing or empty). Repair it, or remove"),
        (prompt('{"input": " ", "edit": "c", "output": "b"}'), "('input' is missing or empty)"),
        (prompt('{"input": "a", "edit": "c", "output": 7}'), "('output' is missing or empty)"),
        (lambda root: (write(root) / "prompt.json").write_bytes(b"\xff"), "prompt.json must be"),
        (without_prompt, "prompt.json is missing. Unpack the folder again, or remove it from seeds.json."),
        (missing_direction, "Editing direction '0000099': prompt.json is missing."),
        (seeds_file("{"), 'seeds.json of \'data\' must be [["folder", ["seed", ...]], ...]'),
        (seeds_file('[["0000012"]]'), "seeds.json of 'data' must be"),
        (seeds_file('[["0000012", ["x"]]]'), "('x' is not a seed). Repair it, or remove it"),
        (seeds_file(json.dumps([["1" * 5000, [4, 30]]])), "is not a folder with seeds). Repair it"),
        (seeds_file(json.dumps([["0000012", [4, "1" * 5000]]])), "is not a seed). Repair it"),
        (seeds_file('[["0000012", [4, true]]]'), "('True' is not a seed)"),
        (seeds_file('[["0000012", [4, "4"]]]'), "(a seed of '0000012' appears twice)"),
        (seeds_file('[["0000012", [4]], ["0000012", [30]]]'), "('0000012' appears twice)"),
        (seeds_file('[["../data/0000012", [4, 30]]]'), "Name '../data/0000012' cannot be used"),
        (
            seeds_file('[["0000012", [4, 5]]]'),
            "seeds.json lists the seed 5, but '5_0.jpg' and '5_1.jpg' are not there. Unpack the folder again",
        ),
        (metadata('{"seed": 4}\n{"seed": 77}\n'), "metadata.jsonl lists the seed 77, but '77_0.jpg'"),
        (metadata('{"seed": 4}\n{"seed"'), 'Each line of metadata.jsonl must be {"seed": 123, ...}'),
        (metadata('{"sead": 4}'), "(KeyError('seed')). Repair it, or remove it."),
        (
            lambda root: (write(root) / "30_1.png").unlink(),
            "Image '30_0.png' has no partner: the after image of pair '30' is missing.",
        ),
        (lambda root: (write(root) / "30_1.png").write_bytes(b""), "Image '30_1.png' is empty (0 bytes)."),
        (lambda root: (write(root) / "30_1.png").write_text("hello"), "Image '30_1.png' cannot be read"),
        (
            lambda root: save(write(root) / "30_1.png", 1, 24),
            "Pair '30': before is 16 x 16, after is 24 x 16. Crop or scale both alike.",
        ),
        (
            lambda root: [
                save(root / "0000012" / f"30_{side}.png", 1, 20) for side in range(2) if side or write(root)
            ],
            "Pair '30' is 20 x 16: sides must be multiples of 8. Give a size, such as --size 512.",
        ),
    ],
)
def test_rejects_malformed_trees(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(EvaluationError) as refused:
        read_clean_ip2p(root, None)
    assert message in str(refused.value)


@pytest.mark.parametrize("numbers", [{"directions": 0}, {"held_out": -1}, {"least": 0}])
def test_rejects_numbers_out_of_range(tmp_path: Path, numbers: dict[str, int]) -> None:
    write(tmp_path)
    (name,) = numbers
    with pytest.raises(EvaluationError, match=f"{name} is {numbers[name]}; it must be at least"):
        read_clean_ip2p(tmp_path, None, **numbers)
