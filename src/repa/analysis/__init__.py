"""What a model has learned: linear probing and the similarity of representations."""

from repa.analysis.linear_probe import linear_probe
from repa.analysis.similarity import cka, cknna, mutual_knn

__all__ = ["cka", "cknna", "linear_probe", "mutual_knn"]
