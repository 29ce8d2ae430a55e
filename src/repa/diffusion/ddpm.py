"""Denoising diffusion with learned variance: how DiT is trained (DiT, Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from repa.diffusion.flow_matching import squared_error
from repa.diffusion.samplers import Field, sample_ddim, sample_ddpm
from repa.diffusion.schedule import NUM_STEPS, Schedule, log_variance

PIXEL = 1 / 255  # half of a gray level's width, where images are in [-1, 1]
EDGE = 0.999  # beyond it lies an image's darkest or brightest level


class DDPM(nn.Module):
    """The hybrid loss of improved DDPM (Nichol & Dhariwal, ICML 2021, Eq. 16) on 1,000 steps.

    Times are the steps 0 (almost data) to 999 (almost noise), all equally likely. It is a module,
    without weights, only to have its tables where the model is.

    Attributes:
        schedule: the process, float64 on the CPU.
    """

    path_type = None
    modes = ("ddim", "ddpm")
    most_steps = NUM_STEPS
    tables: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule.linear()
        _, k = self.schedule.mean_scales
        tables = torch.stack(
            [
                self.schedule.alphas_cumprod.sqrt(),
                (1 - self.schedule.alphas_cumprod).sqrt(),
                k,
                self.schedule.betas.log(),
                self.schedule.posterior_variances.log(),
            ],
            dim=1,
        )
        self.register_buffer("tables", tables.float(), persistent=False)

    def sample_time(self, uniform: Tensor) -> Tensor:
        return (uniform.double() * NUM_STEPS).long()

    def model_time(self, time: float) -> Tensor:
        return torch.tensor(round(time * (NUM_STEPS - 1)))

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, *_ = self._tables_like(x, t)
        return alpha * x + sigma * noise

    def losses(self, prediction: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """`denoising_loss`, the sum of `mse_loss` (of the noise) and `vb_loss` (bits a value).

        The variational bound trains the variance alone: the noise in it carries no gradient. A
        prediction of C channels has no variance, and no bound.
        """
        channels = x.shape[1]
        mse = squared_error(prediction[:, :channels], noise)
        if prediction.shape[1] == channels:
            return {"denoising_loss": mse}
        error = prediction[:, :channels].detach().float() - noise.float()
        vb = self._bound(error, prediction[:, channels:].float(), x.float(), t)
        return {"denoising_loss": mse + vb, "mse_loss": mse, "vb_loss": vb}

    def sample(
        self,
        predict: Field,
        noise: Tensor,
        draw_noise: Callable[[int], Tensor],
        mode: str,
        num_steps: int,
        heun: bool = False,
    ) -> Tensor:
        schedule = self.schedule.respaced(num_steps)
        if mode == "ddim":
            return sample_ddim(predict, noise, schedule)
        return sample_ddpm(predict, noise, schedule, draw_noise)

    def _bound(self, error: Tensor, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The term of step t in the variational bound (N,), in bits a value.

        Both means are `r x_t - k e`, so they differ by k times the noise's error, which is also
        how far the last step's mean is from x.
        """
        _, _, k, log_beta, log_posterior = self._tables_like(x, t)
        predicted = log_variance(output, log_beta, log_posterior)
        distance = k * error
        kl = gaussian_kl(distance, log_posterior, predicted).flatten(1).mean(1)
        likelihood = pixel_log_likelihood(x, distance, predicted).flatten(1).mean(1)
        return torch.where(t == 0, -likelihood, kl) / math.log(2)

    def _tables_like(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """What the tables say of steps t, (N,) or a scalar, shaped to be multiplied with x."""
        rows = self.tables.to(t.device)[t]
        return tuple(rows.view(*rows.shape, *[1] * (x.dim() - 1)).unbind(t.dim()))


def gaussian_kl(distance: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(N(m, P) || N(m + distance, Q)) in nats, elementwise, of log variances log P and log Q."""
    difference = log_p - log_q
    squares = distance.square() * (-log_q).exp()
    return 0.5 * (difference.exp() - difference - 1 + squares)


def pixel_log_likelihood(x: Tensor, distance: Tensor, log_sigma2: Tensor) -> Tensor:
    """Log probability (nats) of x's gray level under N(x - distance, sigma2), elementwise.

    Levels are 2 / 255 wide, the first and the last unbounded (Ho et al., Eq. 13); DiT takes the
    same for latents. The normal distribution's function is approximated as in the published code.
    """
    scale = (-0.5 * log_sigma2).exp()
    below = _normal_cdf(scale * (distance - PIXEL))
    upto = _normal_cdf(scale * (distance + PIXEL))
    probability = torch.where(x < -EDGE, upto, torch.where(x > EDGE, 1 - below, upto - below))
    return probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
