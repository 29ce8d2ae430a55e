"""Interpolants, training objectives, guidance and samplers."""

from repa.diffusion.flow_matching import velocity_loss
from repa.diffusion.guidance import GuidedVelocity
from repa.diffusion.interpolant import Interpolant
from repa.diffusion.samplers import sample_ode, sample_sde

__all__ = ["GuidedVelocity", "Interpolant", "sample_ode", "sample_sde", "velocity_loss"]
