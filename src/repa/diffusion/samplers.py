"""From noise to data: in equal steps of time for flows, along a schedule's steps for DDPM.

The state is float64 and the field decides on its own precision. A field, the velocity of a flow or
the prediction of a DDPM, is called as `field(x, t, time)`; see `repa.diffusion.guidance`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from repa.diffusion.interpolant import Interpolant
from repa.diffusion.schedule import NUM_STEPS, Schedule, log_variance

Field = Callable[[Tensor, Tensor, Tensor], Tensor]

SDE_LAST_TIME = 0.04  # where the score's 1 / sigma^2 would blow up, noise ends


@torch.no_grad()
def sample_ode(
    velocity: Field, noise: Tensor, num_steps: int, heun: bool = False, start: float = 1.0
) -> Tensor:
    """Integrates `dx = v dt` from t = 1 (noise) to 0 with Euler's or Heun's method.

    Heun corrects every step but the last, so it evaluates the field 2 num_steps - 1 times.

    Args:
        velocity: the field.
        noise: initial state (N, ...).
        num_steps: number of equal steps.
        heun: second order.
        start: where to begin instead of at 1, near it.

    Returns:
        Samples (N, ...), float64.
    """
    times = torch.linspace(start, 0, num_steps + 1, dtype=torch.float64)
    x = noise.double()
    for step, (t, t_next) in enumerate(pairwise(times)):
        slope = velocity(x, t, t)
        x_next = x + (t_next - t) * slope
        if heun and step < num_steps - 1:
            slope = (slope + velocity(x_next, t_next, t)) / 2
            x_next = x + (t_next - t) * slope
        x = x_next
    return x


@torch.no_grad()
def sample_sde(
    velocity: Field,
    noise: Tensor,
    num_steps: int,
    interpolant: Interpolant,
    draw_noise: Callable[[int], Tensor],
    start: float = 1.0,
) -> Tensor:
    """Integrates the reverse SDE by Euler-Maruyama from t = 1 to 0.04, then a step without noise.

    `dx = (v - w s / 2) dt + sqrt(w) dW` with diffusion w(t) = 2 t and score s (SiT, Eq. 6).

    Args:
        velocity: the field.
        noise: initial state (N, ...).
        num_steps: number of steps, the last, deterministic one included; at least 2.
        interpolant: the path, which gives the score.
        draw_noise: step index -> standard normal noise (N, ...) of that step.
        start: where to begin instead of at 1, near it.

    Returns:
        Samples (N, ...), float64.
    """
    times = torch.linspace(start, SDE_LAST_TIME, num_steps, dtype=torch.float64)
    times = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    x = noise.double()
    for step, (t, t_next) in enumerate(pairwise(times)):
        diffusion = 2 * t
        v = velocity(x, t, t)
        drift = v - diffusion / 2 * interpolant.score(v, x, t)
        dt = t_next - t
        x = x + drift * dt
        if step < num_steps - 1:
            x = x + (diffusion * -dt).sqrt() * draw_noise(step).to(x)
    return x


@torch.no_grad()
def sample_ddim(predict: Field, noise: Tensor, schedule: Schedule) -> Tensor:
    """Steps along the data and noise that the model predicts (DDIM, Song et al., ICLR 2021).

    `x_(i-1) = sqrt(a_(i-1)) x + sqrt(1 - a_(i-1)) e`, the case eta = 0 of Eq. 12.

    Args:
        predict: the model, which gives the noise e in the first C channels.
        noise: initial state (N, C, ...).
        schedule: the steps to take, from the last to the first.

    Returns:
        Samples (N, C, ...), float64.
    """
    a, a_before = schedule.alphas_cumprod, schedule.alphas_cumprod_before
    x = noise.double()
    for i in reversed(range(len(schedule.steps))):
        e = _predict(predict, x, schedule, i)[:, : x.shape[1]]
        data = (x - (1 - a[i]).sqrt() * e) / a[i].sqrt()
        x = a_before[i].sqrt() * data + (1 - a_before[i]).sqrt() * e
    return x


@torch.no_grad()
def sample_ddpm(
    predict: Field, noise: Tensor, schedule: Schedule, draw_noise: Callable[[int], Tensor]
) -> Tensor:
    """Draws from p(x_(i-1) | x_i) step by step, the last step's mean at the end.

    With the model's learned variance (improved DDPM, Eq. 15), or beta where it predicts none.

    Args:
        predict: the model, which gives the noise in the first C channels, then its variances.
        noise: initial state (N, C, ...).
        schedule: the steps to take, from the last to the first.
        draw_noise: number of a step, from 0 -> standard normal noise (N, C, ...) after it.

    Returns:
        Samples (N, C, ...), float64.
    """
    r, k = schedule.mean_scales
    log_betas, log_posterior = schedule.betas.log(), schedule.posterior_variances.log()
    x = noise.double()
    channels, count = x.shape[1], len(schedule.steps)
    for step, i in enumerate(reversed(range(count))):
        prediction = _predict(predict, x, schedule, i)
        e, learned = prediction[:, :channels], prediction[:, channels:]
        x = r[i] * x - k[i] * e
        if step < count - 1:
            log = log_betas[i]
            if learned.shape[1]:
                log = log_variance(learned, log_betas[i], log_posterior[i])
            x = x + (0.5 * log).exp() * draw_noise(step).to(x)
    return x


def _predict(predict: Field, x: Tensor, schedule: Schedule, i: int) -> Tensor:
    step = schedule.steps[i]
    return predict(x, step, step.double() / (NUM_STEPS - 1))
