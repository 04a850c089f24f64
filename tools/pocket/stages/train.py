"""Run every stage in turn: `python -m tools.pocket.stages.train`. A stage that was cut off goes on from its checkpoint."""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Run the stages as processes of their own, so that each leaves its memory behind."""
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
        help="folders with the photographs' originals, see tools/pocket/world/photos.py",
    )
    options = parser.parse_args()
    common = ["--device", options.device, "--threads", str(options.threads)]
    stages = [
        ["train_vae", "--seconds", str(options.vae_seconds), *common],
        ["train_clip", "--seconds", str(options.clip_seconds), *common],
        ["cache_latents", "--shards", str(options.shards), *common],
        ["train_decoder", "--seconds", str(options.decoder_seconds), *common],
        ["train_clip", "--vision", "--seconds", str(options.clip_seconds), *common],
        ["train_unet", "--seconds", str(options.unet_seconds), *common],
        ["export"],
        ["cache_regions", "--shards", str(options.region_shards), *common],
        ["train_region", "--seconds", str(options.region_seconds), *common],
        ["train_sight", "--seconds", str(options.sight_seconds), *common],
        ["train_finder", "--seconds", str(options.finder_seconds), *common],
        ["train_reader", "--seconds", str(options.reader_seconds), *common],
        ["cache_reason", "--shards", str(options.reason_shards), *common],
        ["cache_reason", "--shards", str(options.wish_shards), "--wishes", *common],
        ["train_reason", "--seconds", str(options.reason_seconds), *common],
        ["evaluate"],
    ]
    if options.photos_from:
        stages.insert(0, ["photos", "--from", *options.photos_from])
    for stage, *arguments in stages:
        subprocess.run([sys.executable, "-m", f"tools.pocket.{stage}", *arguments], check=True)


if __name__ == "__main__":
    main()
