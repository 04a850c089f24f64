"""Options that all builds share."""

import argparse
from pathlib import Path

import pytest

from instructbrush.cli.build.options import add_shared_options, language_model, source_of, vision_model
from instructbrush.core.errors import BuildError
from instructbrush.core.generation.language.endpoint import EndpointSettings
from instructbrush.tests.unit.generation.sources.data_sets import put, write_tree

LLM = ("--llm", "https://a.example/v1", "--llm-model", "m", "--llm-key-env", "KEY_A")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_shared_options(parser)
    return parser.parse_args(["--source", "rows", "--out", "build", *arguments])


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((*LLM, "--vlm", "https://a.example/eyes/v1"), "KEY_A"),
        ((*LLM, "--vlm", "https://b.example/v1"), None),
        ((*LLM, "--vlm", "http://a.example/v1"), None),
        ((*LLM, "--vlm", "https://a.example:8443/v1"), None),
        ((*LLM, "--vlm", "https://b.example/v1", "--vlm-key-env", "KEY_B"), "KEY_B"),
        (("--llm", "pocket", "--llm-key-env", "KEY_A", "--vlm", "https://b.example/v1"), "KEY_A"),
    ],
)
def test_sends_no_key_to_another_host(arguments: tuple[str, ...], key: str | None) -> None:
    options = parsed(*arguments, "--vlm-model", "eye")
    seeing = vision_model(options)
    assert isinstance(seeing, EndpointSettings)
    assert seeing.sees_images and seeing.key_variable == key
    llm = language_model(options)
    assert not isinstance(llm, EndpointSettings) or (llm.key_variable, llm.sees_images) == ("KEY_A", False)


def test_missing_name_of_a_model_shows_no_address() -> None:
    with pytest.raises(BuildError, match="Give its name there, too: --llm-model") as caught:
        language_model(parsed("--llm", "https://me:secret@a.example/v1"))
    assert "secret" not in str(caught.value)


def test_refuses_a_build_within_its_own_source(tmp_path: Path) -> None:
    put(tmp_path / "data", {"a.png": 10})
    options = parsed("--source", str(tmp_path / "data"), "--out", str(tmp_path / "data" / "build"))
    with pytest.raises(BuildError, match="is inside of --source, so that its images would count"):
        source_of(options)
    write_tree(tmp_path / "tree")
    options = parsed("--source", str(tmp_path / "tree"), "--out", str(tmp_path / "tree" / "build"))
    assert source_of(options).count == 3
