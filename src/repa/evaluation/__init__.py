"""How good samples are: Frechet distance, precision and recall, Inception Score."""

from repa.evaluation.frechet import Gaussian, frechet_distance
from repa.evaluation.inception_score import inception_score
from repa.evaluation.precision_recall import precision_recall

__all__ = ["Gaussian", "frechet_distance", "inception_score", "precision_recall"]
