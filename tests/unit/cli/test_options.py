"""Options of all commands: help, defaults and several values."""

import argparse

import pytest

from instructbrush.cli.main import build_parser
from instructbrush.cli.options import Several


def test_the_first_values_replace_the_default_and_repetitions_add() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", action=Several, choices=["a", "b", "c"], default=["c"])
    parser.add_argument("--effects", action=Several)
    assert parser.parse_args([]) == argparse.Namespace(methods=["c"], effects=None)
    given = parser.parse_args(["--methods", "a", "--effects", "x", "y", "--methods", "b", "c"])
    assert given == argparse.Namespace(methods=["a", "b", "c"], effects=["x", "y"])
    # Parsing changes no default.
    assert parser.parse_args(["--methods", "b"]).methods == ["b"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--methods", "d"])


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All options of a parser and its commands."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += options_of(command)
    return found


def test_no_option_drops_values_when_it_is_repeated() -> None:
    several = [action for action in options_of(build_parser()) if action.nargs in ("+", "*")]
    assert len(several) > 5
    for action in several:
        assert isinstance(action, Several) or not action.option_strings, action.option_strings


def test_every_option_has_a_help_that_names_its_default() -> None:
    for action in options_of(build_parser()):
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, action
        if action.default not in (None, False, True, [], argparse.SUPPRESS) and not action.required:
            assert "default" in action.help, action.option_strings
