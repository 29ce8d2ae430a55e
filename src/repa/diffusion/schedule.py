"""The steps of DDPM's process, all 1,000 or some of them, and what each does to a sample."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, repeat

import torch
from torch import Tensor

NUM_STEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02


@dataclass(frozen=True)
class Schedule:
    """`x_i = sqrt(a_i) x + sqrt(1 - a_i) e` for steps i = 0 to n - 1 (Ho et al., NeurIPS 2020).

    Attributes:
        steps: what the model calls these steps (n,), int64, ascending in 0 to 999.
        alphas_cumprod: a_i (n,), float64, falling from nearly 1 (data) to nearly 0 (noise).
    """

    steps: Tensor
    alphas_cumprod: Tensor

    @classmethod
    def linear(cls) -> Schedule:
        """The 1,000 steps of DDPM, with variances beta_i from 1e-4 to 0.02 in equal distances."""
        betas = torch.linspace(BETA_START, BETA_END, NUM_STEPS, dtype=torch.float64)
        return cls(torch.arange(NUM_STEPS), (1 - betas).cumprod(0))

    def respaced(self, num_steps: int) -> Schedule:
        """The same process in fewer steps, the first and the last of these among them.

        Raises:
            ValueError: if it has not so many steps.
        """
        count = len(self.steps)
        if not 2 <= num_steps <= count:
            raise ValueError(f"{num_steps} steps: expected 2 to {count}")
        # Added up as in ADM's code: on which step a half is rounded to depends on it.
        places = accumulate(repeat((count - 1) / (num_steps - 1), num_steps - 1), initial=0.0)
        chosen = torch.tensor([round(place) for place in places])
        return Schedule(self.steps[chosen], self.alphas_cumprod[chosen])

    @property
    def alphas_cumprod_before(self) -> Tensor:
        """a_(i-1) (n,), and 1 before the first step."""
        return torch.cat([torch.ones_like(self.alphas_cumprod[:1]), self.alphas_cumprod[:-1]])

    @property
    def betas(self) -> Tensor:
        """Variance (n,) of the noise that step i adds: 1 - a_i / a_(i-1)."""
        return 1 - self.alphas_cumprod / self.alphas_cumprod_before

    @property
    def posterior_variances(self) -> Tensor:
        """Variance (n,) of q(x_(i-1) | x_i, x); that of the first step, 0, as of the second."""
        variances = self.betas * (1 - self.alphas_cumprod_before) / (1 - self.alphas_cumprod)
        return torch.cat([variances[1:2], variances[1:]])

    @property
    def mean_scales(self) -> tuple[Tensor, Tensor]:
        """r_i and k_i (n,) of the mean of q(x_(i-1) | x_i, x), which is `r_i x_i - k_i e`."""
        alphas = 1 - self.betas
        return alphas.rsqrt(), self.betas / (alphas * (1 - self.alphas_cumprod)).sqrt()


def log_variance(output: Tensor, log_beta: Tensor, log_posterior: Tensor) -> Tensor:
    """What a model's output says of the log variance (improved DDPM, Eq. 15).

    Args:
        output: (N, C, ...); -1 is the posterior's variance, 1 is beta.
        log_beta, log_posterior: of the step, to be multiplied with it.
    """
    share = (output + 1) / 2
    return share * log_beta + (1 - share) * log_posterior
