#!/usr/bin/env python3
"""Give the browser tests a Chromium: found, installed from Debian's packages when that needs no question, or named as missing."""

from __future__ import annotations

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Path of a Chromium or Chrome: $CHROMIUM, else the first on PATH."""
    return os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), None)


def main() -> None:
    """Install Chromium with apt-get when there is none, this is Debian and we are root (a container, CI)."""
    if find_browser():
        return
    may_install = shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0
    if may_install:
        print("installing chromium for the browser tests", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
        ):
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
    if not find_browser():
        print(
            "NO CHROMIUM: the browser tests will be skipped. Install it (apt-get install chromium) or set CHROMIUM=/path.",
            flush=True,
        )


if __name__ == "__main__":
    main()
