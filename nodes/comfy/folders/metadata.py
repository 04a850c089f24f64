"""Whether files may tell how they were made."""

from comfy.cli_args import args


def disabled() -> bool:
    """The server was started with ``--disable-metadata``."""
    return bool(args.disable_metadata)
