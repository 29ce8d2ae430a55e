"""Interpolants, training objectives, guidance and samplers."""

from repa.diffusion.ddpm import DDPM
from repa.diffusion.flow_matching import FlowMatching, squared_error
from repa.diffusion.guidance import GuidedModel
from repa.diffusion.interpolant import Interpolant
from repa.diffusion.objective import Objective, create_objective
from repa.diffusion.samplers import sample_ddim, sample_ddpm, sample_ode, sample_sde
from repa.diffusion.schedule import Schedule

__all__ = [
    "DDPM",
    "FlowMatching",
    "GuidedModel",
    "Interpolant",
    "Objective",
    "Schedule",
    "create_objective",
    "sample_ddim",
    "sample_ddpm",
    "sample_ode",
    "sample_sde",
    "squared_error",
]
