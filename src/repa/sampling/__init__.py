"""From a trained model to images."""

from repa.sampling.generate import generate_images, generate_latents, save_grid

__all__ = ["generate_images", "generate_latents", "save_grid"]
