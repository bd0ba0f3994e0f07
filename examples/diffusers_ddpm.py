"""An unconditional diffusers pipeline with its scheduler switched, and the same network in `fd.sample`.

    python examples/diffusers_ddpm.py [--steps 20] [--out out/diffusers_ddpm.png]

The network is a small UNet2DModel as it is made: nothing is downloaded, and the pictures show what an
untrained network gives. Rows: diffusers' DDPMScheduler; FastScheduler on the same configuration (the same
pictures); DPM-Solver++ 2M on a Karras grid; `fd.sample`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import fastdiff as fd
from fastdiff.integrations.diffusers import FastScheduler

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - after the choice of a backend without a screen


def network() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out/diffusers_ddpm.png"))
    args = parser.parse_args()

    unet, n = network(), args.images
    pipe = DDPMPipeline(unet, DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    config = pipe.scheduler.config

    def images() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return pipe(n, generator, args.steps, output_type="np").images

    rows = {"DDPMScheduler": images()}
    pipe.scheduler = FastScheduler.from_config(config, peer="DDPMScheduler")
    rows["FastScheduler"] = images()
    pipe.scheduler = FastScheduler.from_config(config, peer="DDPMScheduler", solver="dpmpp-2m", grid="karras")
    rows["dpmpp-2m, karras"] = images()
    denoiser = fd.from_diffusers(unet, {**config, "_class_name": "DDPMScheduler"})
    with torch.no_grad():
        x = fd.sample(denoiser, (n, 3, 32, 32), solver="dpmpp-2m", grid="karras", steps=args.steps, seeds=0)
    rows["fd.sample"] = (x.clamp(-1, 1) / 2 + 0.5).movedim(1, -1).numpy()

    apart = float(np.abs(rows["DDPMScheduler"] - rows["FastScheduler"]).max())
    print(f"DDPMScheduler and FastScheduler: pixels apart by {apart:.1e} at most")
    figure, axes = plt.subplots(len(rows), n, figsize=(1.6 * n, 1.8 * len(rows)), squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, loc="left", fontsize=9)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.axis("off")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=100, bbox_inches="tight")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
