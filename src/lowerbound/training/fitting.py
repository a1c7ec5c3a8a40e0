"""``fit``: the one function that trains."""

# torch is not imported at the top, so that the command can show its flags at once.
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, cast

from lowerbound.errors import TrainingInterrupted, TrainingWarning
from lowerbound.settings import check_settings, takes_settings
from lowerbound.training.settings import FitKeywords

if TYPE_CHECKING:
    from lowerbound.models import Model
    from lowerbound.objectives import Objective
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.run import Run
    from lowerbound.training.loop import Loop

Keywords = ParamSpec("Keywords")


class _Fit(Protocol[Keywords]):
    """:func:`fit` as type checkers and editors see it: each setting is a keyword of its own."""

    def __call__(
        self,
        model: "Model",
        objective: "Objective",
        data: Any = None,
        *args: Keywords.args,
        **keywords: Keywords.kwargs,
    ) -> "Run": ...


def _take_keywords(
    schema: Callable[Keywords, FitKeywords],
) -> Callable[[Callable[..., "Run"]], _Fit[Keywords]]:
    """Decorate a function so that its keywords are the fields of ``schema``."""
    decorate = takes_settings(cast(type[FitKeywords], schema))
    return lambda function: cast(_Fit[Keywords], decorate(function))


@_take_keywords(FitKeywords)
def fit(model: "Model", objective: "Objective", data: Any = None, **keywords: Any) -> "Run":
    """Train a model: maximise an objective over some data.

    The true bound in nats per example, averaged over examples, is shown, recorded and used to
    select weights. With ``validation`` the weights with the best validation bound are kept, and
    without it the last ones. Torch's random state is restored afterwards.

    Args:
        model: the model, which is trained in place and moved to ``device``.
        objective: what to maximise, such as ``lb.ELBO(samples=7)``.
        data: examples, an array or a tensor, ``[N, *event]``; raw data as for :meth:`Model.examples
            <lowerbound.Model.examples>` if the model was trained before; nothing for a
            :class:`lowerbound.LogJoint` that stores its own data, for which an epoch is 100 steps.
            A model that is trained on examples from :func:`lowerbound.load_data` takes raw data
            from then on, see :attr:`Model.preprocessing <lowerbound.Model.preprocessing>`.
        keywords: the fields of :class:`lowerbound.training.settings.FitKeywords`.

    Returns:
        A :class:`lowerbound.Run`.

    Raises:
        SettingsError: for a setting that is unknown, out of range or in conflict with another.
        DataError, ShapeError: if the model cannot take the data.
        NonFiniteError: if the bound or a gradient becomes non-finite; the model keeps its last
            finite weights.
        StorageError: if the directory contains a run already, if another process is training into
            it, or if it lacks a run to resume.
        TrainingInterrupted: a ``KeyboardInterrupt`` with the :class:`lowerbound.Run` so far, after
            Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGXCPU. The training stops after the current step,
            or undoes it if it takes more than two seconds, and the model gets the best weights so
            far. With a directory a checkpoint is written first. A signal that the program handles
            itself or ignores is left to it.

    Warns:
        TrainingWarning: before training, if the spreads of the columns differ much or are far from
            1; at its end, if the bound is not above that of independent entries.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Gaussian(lb.mlp((1, 8, 8), 64, 4, activation="tanh")),
        ...     likelihood=lb.Gaussian(lb.mlp(2, 64, (2, 8, 8), activation="tanh"), min_scale=0.01),
        ... )
        >>> run = lb.fit(vae, lb.ELBO(), digits.train, epochs=2, progress=False)
        >>> run.history[-1]["train"]["bound"] > run.history[0]["train"]["bound"]
        True
    """
    from lowerbound.objectives.base import check_types
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runtime.interrupts import StopSignals
    from lowerbound.runtime.memory import keeping_freed_memory
    from lowerbound.runtime.modes import seeded
    from lowerbound.runtime.noise import derived_seed
    from lowerbound.runtime.threads import restoring_threads, using_threads
    from lowerbound.training.data_start import examine_data
    from lowerbound.training.preparing import find_preprocessing, make_loop, make_observers
    from lowerbound.training.resuming import lock_run, open_run

    check_types("fit", model, objective)
    settings = check_settings(FitKeywords, keywords, name="fit")
    plan = model.training_plan(data)
    files = None if settings.directory is None else RunDirectory(Path(settings.directory))
    observers = make_observers(plan, files, settings)
    with StopSignals.catch() as signals:
        loop = make_loop(model, objective, plan, settings, observers, signals=signals)
        model.preprocessing = find_preprocessing(loop.train)
        seed = derived_seed(settings.seed, "training")
        with lock_run(files, settings), seeded(seed, loop.device):
            if files is not None:
                open_run(loop, files, settings)
            within_threads: Callable[[int], AbstractContextManager[None]] = restoring_threads
            if len(loop.options.threads) == 1:
                within_threads = using_threads  # so validation uses this number too
            try:
                with within_threads(loop.autotuner.threads.count), keeping_freed_memory():
                    if not loop.progress.step:
                        examine_data(loop, start=settings.start)
                    loop.run()
            except KeyboardInterrupt as error:
                signals.ignore_further()
                loop.restore_best()
                raise _make_error(loop, files, error) from None
    if loop.gain is not None and loop.gain.warning is not None:
        warnings.warn(loop.gain.warning, TrainingWarning, stacklevel=2)
    return _make_run(loop, files)


def _make_run(loop: "Loop", files: "RunDirectory | None", *messages: str) -> "Run":
    from lowerbound.runs.run import Run

    progress = loop.progress
    return Run(
        loop.model,
        loop.objective,
        progress.history,
        None if files is None else files.path,
        progress.best_epoch,
        progress.stopped_early,
        (*messages, *loop.unfinished()),
        progress.settled,
        progress.baseline,
    )


def _make_error(
    loop: "Loop", files: "RunDirectory | None", error: KeyboardInterrupt
) -> TrainingInterrupted:
    progress = loop.progress
    kept = "the last weights"
    if progress.best_bound is not None:
        kept = f"the best weights so far, those of epoch {progress.best_epoch}"
    message = f"interrupted after step {progress.step:,}, in epoch {progress.epoch + 1}"
    interrupted = TrainingInterrupted(
        f"the training was {message}; the model has {kept}, and the attribute run of this "
        "exception has the history",
        run=_make_run(loop, files, message),
    )
    for note in getattr(error, "__notes__", []):  # what could not be saved
        interrupted.add_note(note)
    return interrupted
