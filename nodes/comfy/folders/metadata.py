"""ComfyUI's setting for metadata in files."""

from comfy.cli_args import args


def disabled() -> bool:
    """Whether the server was started with ``--disable-metadata``."""
    return bool(args.disable_metadata)
