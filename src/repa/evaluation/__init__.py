"""How good samples are: Frechet distances, Inception Score, precision, recall, KID, CMMD."""

from repa.evaluation.cmmd import cmmd
from repa.evaluation.frechet import Gaussian, frechet_distance
from repa.evaluation.inception_score import inception_score
from repa.evaluation.kernel_distance import kernel_distance
from repa.evaluation.precision_recall import precision_recall

__all__ = [
    "Gaussian",
    "cmmd",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
]
