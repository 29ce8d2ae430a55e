"""What a model has learned: linear probing and the similarity of representations."""

from repa.analysis.linear_probe import ProbeResult, linear_probe, linear_probes
from repa.analysis.similarity import Representation, cka, cknna, compare, mutual_knn
from repa.analysis.spatial import spatial_structure

__all__ = [
    "ProbeResult",
    "Representation",
    "cka",
    "cknna",
    "compare",
    "linear_probe",
    "linear_probes",
    "mutual_knn",
    "spatial_structure",
]
