"""Runs every training stage in order: `python -m tools.pocket.stages.train`.

A stage that was interrupted resumes from its checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Runs each stage in its own process, which frees its memory at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vae-seconds", type=float, default=1080)
    parser.add_argument("--decoder-seconds", type=float, default=1200)
    parser.add_argument("--clip-seconds", type=float, default=500)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--unet-seconds", type=float, default=10500)
    parser.add_argument("--region-shards", type=int, default=14)
    parser.add_argument("--region-seconds", type=float, default=2400)
    parser.add_argument("--sight-seconds", type=float, default=1200)
    parser.add_argument("--finder-seconds", type=float, default=900)
    parser.add_argument("--reader-seconds", type=float, default=5400)
    parser.add_argument("--reason-shards", type=int, default=32)
    parser.add_argument("--wish-shards", type=int, default=48)
    parser.add_argument("--reason-seconds", type=float, default=5400)
    parser.add_argument(
        "--photos-from",
        nargs="+",
        help="folders that contain the original photographs, see tools/pocket/world/photos.py",
    )
    options = parser.parse_args()
    common = ["--device", options.device, "--threads", str(options.threads)]
    stages = [
        ["stages.train_vae", "--seconds", str(options.vae_seconds), *common],
        ["stages.train_clip", "--seconds", str(options.clip_seconds), *common],
        ["stages.cache_latents", "--shards", str(options.shards), *common],
        ["stages.train_decoder", "--seconds", str(options.decoder_seconds), *common],
        ["stages.train_clip", "--vision", "--seconds", str(options.clip_seconds), *common],
        ["stages.train_unet", "--seconds", str(options.unet_seconds), *common],
        ["stages.export"],
        ["stages.cache_regions", "--shards", str(options.region_shards), *common],
        ["stages.train_region", "--seconds", str(options.region_seconds), *common],
        ["reasoning_stages.train_sight", "--seconds", str(options.sight_seconds), *common],
        ["reasoning_stages.train_finder", "--seconds", str(options.finder_seconds), *common],
        ["reasoning_stages.train_reader", "--seconds", str(options.reader_seconds), *common],
        ["reasoning_stages.cache_reason", "--shards", str(options.reason_shards), *common],
        ["reasoning_stages.cache_reason", "--shards", str(options.wish_shards), "--wishes", *common],
        ["reasoning_stages.train_reason", "--seconds", str(options.reason_seconds), *common],
        ["stages.evaluate"],
    ]
    if options.photos_from:
        stages.insert(0, ["world.photos", "--from", *options.photos_from])
    for stage, *arguments in stages:
        subprocess.run([sys.executable, "-m", f"tools.pocket.{stage}", *arguments], check=True)


if __name__ == "__main__":
    main()
