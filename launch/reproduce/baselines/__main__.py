"""Train a baseline and write random videos of it.

    python -m launch.reproduce.baselines MoCoGAN SET FILE --minutes 2 [--seed 0] [--videos 200]

FILE (safetensors) holds `videos`, uint8 (N, T, H, W, 3), and `steps`, those that were taken.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from data_shards.manifest import read_manifest
from launch.reproduce.baselines import BASELINES
from launch.reproduce.baselines.game import play, sample
from trainer.commit import replace_durable
from trainer.pictures import to_pixels


def main(argv: list[str] | None = None) -> int:
    """Train, then sample."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name", choices=list(BASELINES))
    parser.add_argument("data", help="prepared set")
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--channels", type=int, default=32, help="width of the networks (32)")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: all")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = read_manifest(args.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        game = BASELINES[args.name](frames=facts.frames, size=facts.height, channels=args.channels)
    steps = play(game, args.data, seed=args.seed, minutes=args.minutes, steps=args.steps)
    videos = torch.from_numpy(to_pixels(sample(game, args.videos, seed=args.seed)))
    args.file.parent.mkdir(parents=True, exist_ok=True)
    replace_durable(args.file, save({"videos": videos, "steps": torch.tensor([steps])}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
