"""The commands of ``instructbrush build``."""

import argparse
from typing import Any

from . import reason, tables, top_bench, ultraedit, ultraedit_examples
from .options import add_price_option
from .run import report

_KINDS = (
    ("reason", reason, "ReasonPix2Pix: indirect instructions and replaced objects."),
    ("ultraedit", ultraedit, "UltraEdit: instructions for captions, free-form and region edits."),
    ("top-bench", top_bench, "Benchmarks like TOP-Bench: 10 + 5 pairs of each effect of a list."),
    ("ultraedit-examples", ultraedit_examples, "Examples of edits that 'build ultraedit' shows its model."),
)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands."""
    commands = parser.add_subparsers(required=True, metavar="what")
    _add_kinds(commands, planned=False)
    plan = _add(commands, "plan", "Print stages, rows, calls and cost of a build; run nothing.")
    _add_kinds(plan.add_subparsers(required=True, metavar="what"), planned=True)
    shown = _add(
        commands, "report", "Write the report of a build as far as it is: counts, refusals, samples."
    )
    shown.add_argument("folder", help="folder of the build")
    add_price_option(shown)
    shown.set_defaults(command=report)
    tables.add_options(_add(commands, "tables", "Tables 5 and 6 of UltraEdit for any data set of edits."))


def _add_kinds(commands: Any, planned: bool) -> None:
    for name, module, text in _KINDS:
        sub = _add(commands, name, text)
        module.add_options(sub)
        sub.set_defaults(command=module.build, plan=planned)


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text)
