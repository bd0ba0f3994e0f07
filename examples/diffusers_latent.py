"""A latent pipeline without text: a small UNet2DModel in the latents of a small AutoencoderKL.

    python examples/diffusers_latent.py [--steps 10] [--out out/diffusers_latent.png]

Both networks are as they are made: nothing is downloaded. One picture for each of a few solvers, all from
the same latents; two requests of different step counts share the scheduler through sessions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, UNet2DModel

from fastdiff.integrations.diffusers import FastScheduler

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - after the choice of a backend without a screen

SOLVERS = ("ddim", "dpmpp-2m", "unipc", "heun", "er-sde")


def pipeline() -> LDMPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    unet = UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return LDMPipeline(vae.eval(), unet.eval(), scheduler)


@torch.no_grad()
def served(pipe: LDMPipeline, counts: tuple[int, ...]) -> list[torch.Tensor]:
    """Requests of these step counts, one step of each in turn, on one scheduler."""
    sessions = [pipe.scheduler.session() for _ in counts]
    for s, steps in zip(sessions, counts, strict=True):
        s.set_timesteps(steps)
    latents = [
        torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(len(counts))
    ]
    for i in range(max(counts)):
        for k, s in enumerate(sessions):
            if i < counts[k]:
                t = s.timesteps[i]
                out = pipe.unet(s.scale_model_input(latents[k], t), t).sample
                latents[k] = s.step(out, t, latents[k], seeds=[k]).prev_sample
    return latents


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out/diffusers_latent.png"))
    args = parser.parse_args()

    pipe = pipeline()
    pipe.set_progress_bar_config(disable=True)
    config = {**pipe.scheduler.config, "_class_name": "DDIMScheduler"}
    figure, axes = plt.subplots(1, len(SOLVERS), figsize=(2 * len(SOLVERS), 2.3))
    for axis, solver in zip(axes, SOLVERS, strict=True):
        pipe.scheduler = FastScheduler.from_config(config, solver=solver, seeds=0)
        generator = torch.Generator().manual_seed(0)
        picture = pipe(1, generator, num_inference_steps=args.steps, output_type="np").images[0]
        axis.imshow(picture)
        axis.set_title(solver, fontsize=9)
        axis.axis("off")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=100, bbox_inches="tight")
    print(f"wrote {args.out}")

    pipe.scheduler = FastScheduler.from_config(config, solver="dpmpp-2m")
    together, alone = served(pipe, (8, 13)), [served(pipe, (8,))[0]]
    print("two requests on one scheduler give what one alone gives:", torch.equal(together[0], alone[0]))


if __name__ == "__main__":
    main()
