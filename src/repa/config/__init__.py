"""Every option of every command, once: its type, default, bounds and meaning.

A command's options are a class made of groups. The same class validates the command line and YAML
recipes (`repa.commandline`), so a recipe is any of these names with a value. Names are those of the
published command lines, with dashes there and underscores here.
"""

from repa.config.analyze import AlignOptions, ProbeOptions, SubjectOptions, WorkOptions
from repa.config.base import DeviceOptions, Options, Precision, RunOptions
from repa.config.convert import ConvertOptions
from repa.config.demo import DemoOptions
from repa.config.evaluate import EvaluateOptions
from repa.config.prepare import EncodersOptions, EncodingOptions, PrepareOptions, SourceOptions
from repa.config.report import ReportOptions
from repa.config.sample import DrawOptions, GenerateOptions, SampleOptions, SamplerOptions
from repa.config.train import (
    AlignmentOptions,
    ExperimentOptions,
    ModelOptions,
    ObjectiveOptions,
    OptimizationOptions,
    TrainingDataOptions,
    TrainOptions,
)

__all__ = [
    "AlignOptions",
    "AlignmentOptions",
    "ConvertOptions",
    "DemoOptions",
    "DeviceOptions",
    "DrawOptions",
    "EncodersOptions",
    "EncodingOptions",
    "EvaluateOptions",
    "ExperimentOptions",
    "GenerateOptions",
    "ModelOptions",
    "ObjectiveOptions",
    "OptimizationOptions",
    "Options",
    "Precision",
    "PrepareOptions",
    "ProbeOptions",
    "ReportOptions",
    "RunOptions",
    "SampleOptions",
    "SamplerOptions",
    "SourceOptions",
    "SubjectOptions",
    "TrainOptions",
    "TrainingDataOptions",
    "WorkOptions",
]
