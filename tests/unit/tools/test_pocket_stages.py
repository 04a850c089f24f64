"""The command that runs every training stage of the pocket models."""

import importlib.util
import subprocess
import sys

from instructbrush.tools.pocket.stages import train


def test_train_runs_existing_modules_in_order(monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(sys, "argv", ["train", "--photos-from", "somewhere"])
    train.main()
    modules = [command[2] for command in commands]
    assert modules[0] == "tools.pocket.world.photos"
    assert modules[-1] == "tools.pocket.stages.evaluate"
    assert len(modules) == 17
    missing = [module for module in modules if importlib.util.find_spec(f"instructbrush.{module}") is None]
    assert not missing
