#!/usr/bin/env python3
"""Looks for a Chromium for the browser tests and installs one with apt-get where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Returns $CHROMIUM, else the first Chromium or Chrome on PATH, else None."""
    if chosen := os.environ.get("CHROMIUM"):
        return chosen
    return next((path for path in map(shutil.which, NAMES) if path), None)


def main() -> None:
    """Installs Chromium if it is missing, apt-get exists and the user is root, as in a container or CI."""
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
            "NO CHROMIUM: the browser tests will be skipped."
            " Install it (apt-get install chromium) or set CHROMIUM=/path.",
            flush=True,
        )


if __name__ == "__main__":
    main()
