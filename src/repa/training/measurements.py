"""What is drawn and measured of the averaged weights between steps."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from repa.config import TrainOptions
from repa.data import ImageDataset
from repa.diffusion import Objective
from repa.training.analysis import Analyses
from repa.training.ema import EMA
from repa.training.evaluation import Evaluations
from repa.training.preview import Previews
from repa.training.setup import open_autoencoder
from repa.training.texts import Texts


class Measurements:
    """Previews, evaluations and analyses, at the steps at which the options want them.

    Args:
        options: of the run.
        dataset: its images.
        objective: that the model is trained for.
        texts: of a model that takes texts.
        accelerator: this process and the others.
        run: the run's folder.
        step: the last one that was measured; lines of later ones are dropped, a killed run left
            them.

    Raises:
        RepaError: if something that the options ask for cannot be had.
    """

    def __init__(
        self,
        options: TrainOptions,
        dataset: ImageDataset,
        objective: Objective,
        texts: Texts | None,
        accelerator: Accelerator,
        run: Path,
        step: int,
    ):
        self.options = options
        self.previews = self.evaluations = self.analyses = None
        autoencoder = open_autoencoder(options, dataset, accelerator)
        if options.eval_every and autoencoder is not None:
            self.evaluations = Evaluations(
                options, dataset, autoencoder, objective, texts, accelerator, run, step
            )
        if options.probe_every or options.align_every:
            self.analyses = Analyses(options, dataset, objective, accelerator, run, step)
        if accelerator.is_main_process and autoencoder is not None:
            device = accelerator.device
            self.previews = Previews(
                options, dataset, autoencoder, objective, texts, device, run / "previews"
            )

    def due(self, step: int) -> bool:
        """Whether anything is to be drawn or measured after this step, by any process."""
        options = self.options
        intervals = (
            options.sampling_steps, options.eval_every, options.probe_every, options.align_every
        )  # fmt: skip
        return any(every is not None and step % every == 0 for every in intervals)

    def take(self, ema: EMA, step: int) -> None:
        """Draws and measures what is due; all processes call it together."""
        drawing = step % self.options.sampling_steps == 0
        measures = [m for m in (self.evaluations, self.analyses) if m is not None and m.due(step)]
        if not (drawing or measures):
            return
        model = ema.whole(keep=bool(measures) or self.previews is not None)
        if model is None:
            return
        if drawing and self.previews is not None:
            self.previews.draw(model, step)
        for measure in measures:
            measure.measure(model, step)
