"""From noise to data: the probability-flow ODE and the reverse SDE, in equal steps of time.

The state is float64 and the field decides on its own precision. A field is called as
`velocity(x, t, step_time)`; see `repa.diffusion.guidance.GuidedVelocity`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from repa.diffusion.interpolant import Interpolant

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]

SDE_LAST_TIME = 0.04  # where the score's 1 / sigma^2 would blow up, noise ends


@torch.no_grad()
def sample_ode(velocity: Velocity, noise: Tensor, num_steps: int, heun: bool = False) -> Tensor:
    """Integrates `dx = v dt` from t = 1 to 0 with Euler's or Heun's method.

    Heun corrects every step but the last, so it evaluates the field 2 num_steps - 1 times.

    Args:
        velocity: the field.
        noise: initial state (N, ...).
        num_steps: number of equal steps.
        heun: second order.

    Returns:
        Samples (N, ...), float64.
    """
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
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
    velocity: Velocity,
    noise: Tensor,
    num_steps: int,
    interpolant: Interpolant,
    draw_noise: Callable[[int], Tensor],
) -> Tensor:
    """Integrates the reverse SDE by Euler-Maruyama from t = 1 to 0.04, then a step without noise.

    `dx = (v - w s / 2) dt + sqrt(w) dW` with diffusion w(t) = 2 t and score s (SiT, Eq. 6).

    Args:
        velocity: the field.
        noise: initial state (N, ...).
        num_steps: number of steps, the last, deterministic one included; at least 2.
        interpolant: the path, which gives the score.
        draw_noise: step index -> standard normal noise (N, ...) of that step.

    Returns:
        Samples (N, ...), float64.
    """
    times = torch.linspace(1, SDE_LAST_TIME, num_steps, dtype=torch.float64)
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
