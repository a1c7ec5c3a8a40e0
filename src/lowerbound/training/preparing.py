"""What :func:`lowerbound.fit` does before the first step: its checks, and making its loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lowerbound.data import Examples, Preprocessing
from lowerbound.data.fields import refuse_ignored_mask
from lowerbound.data.raw import read_raw, translate_codes
from lowerbound.errors import SettingsError
from lowerbound.models import Model, TrainingPlan
from lowerbound.objectives import Objective
from lowerbound.runs.directory import RunDirectory
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.interrupts import StopSignals
from lowerbound.runtime.modes import evaluating
from lowerbound.runtime.threads import list_candidates
from lowerbound.settings import check_settings
from lowerbound.training.autostop import AutoStop
from lowerbound.training.batches import count_batches
from lowerbound.training.compiling import StepOptions
from lowerbound.training.data_start import standardize_model
from lowerbound.training.loop import Loop
from lowerbound.training.observers import Display, Painter, Recorder
from lowerbound.training.observing import Observer
from lowerbound.training.optim import average_weights, make_optimizer, make_schedule
from lowerbound.training.players import collect_players, compute_player_losses
from lowerbound.training.profiling import Profiler
from lowerbound.training.settings import FitKeywords, TrainingSettings

_DEFAULT_EPOCHS = 10

# A step with more multiplications than this begins with all threads, until steps are timed. In a
# smaller step their synchronisation may take longer than they save, and ten times as long if other
# programs share the cores.
_WORTH_THREADS_MULTIPLICATIONS = 3e7

# Training that stops automatically ends after this many steps in any case.
_MOST_STEPS = 100_000


def make_loop(
    model: Model,
    objective: Objective,
    plan: TrainingPlan,
    settings: FitKeywords,
    observers: Sequence[Observer],
    *,
    signals: StopSignals,
) -> Loop:
    """Make the loop of training, after all checks.

    Raises:
        SettingsError: for settings in conflict with each other, with the model or the objective.
        DataError, ShapeError: if the model cannot take the data.
    """
    _refuse_conflicts(settings)
    _check_plan(plan, settings, objective)
    refuse_ignored_mask(plan.examples.all_fields, model.needs, model.accepts, plan.examples.name)
    train, validation = _split(plan.examples, settings, (*model.needs, *model.accepts))
    objective = objective.for_training_on(len(train))
    if settings.device != "auto" or not plan.stays_on_device:
        model.to(_find_device(settings.device))
    if settings.standardize:
        standardize_model(model, train, settings.seed)
    collect_players(model, objective).to(get_device(model), get_dtype(model))
    _try_draw(model, objective, train, validation)
    batch_size = plan.batch_size or settings.batch_size
    total_steps = _count_steps(settings, count_batches(len(train), batch_size))
    autostop, average = _make_averages(model, settings)
    return Loop(
        model=model,
        objective=objective,
        train=train,
        validation=validation,
        optimizer=make_optimizer(
            model,
            settings.optimizer,
            _choose_learning_rate(plan, settings),
            settings.weight_decay,
            objective,
        ),
        factor=make_schedule(settings.schedule, settings.warmup_steps, total_steps),
        total_steps=total_steps,
        batch_size=batch_size,
        clip_norm=settings.clip_norm,
        ema=average,
        patience=settings.patience,
        autostop=autostop,
        decay=settings.ema,
        seed=settings.seed,
        observers=list(observers),
        signals=signals,
        options=StepOptions(
            settings.compile,
            settings.precision,
            _list_threads(model, objective, batch_size, settings.threads),
            settings.profile,
        ),
    )


def check_training(
    model: Model, objective: Objective, examples: Examples, keywords: Mapping[str, Any]
) -> None:
    """Make all checks of :func:`lowerbound.fit`, and train nothing.

    For functions that do other work before they train.

    Raises:
        SettingsError, DataError, ShapeError, UnsupportedError: as ``fit`` does.
    """
    settings = check_settings(FitKeywords, keywords, name="fit")
    plan = model.training_plan(examples)
    observers = make_observers(plan, None, settings)
    make_loop(model, objective, plan, settings, observers, signals=StopSignals())


def find_preprocessing(examples: Examples) -> Preprocessing | None:
    """Find the preprocessing of its training examples that a model stores."""
    if examples.preprocessing is None:
        return None
    # Fields may have been given after the data were loaded.
    return replace(examples.preprocessing, fields=examples.categories_by_field)


def make_observers(
    plan: TrainingPlan, files: RunDirectory | None, settings: FitKeywords
) -> list[Observer]:
    """Return the user's observers, and make those that the settings ask for."""
    observers = list(settings.observers)
    for observer in observers:
        if isinstance(observer, type):
            name = observer.__name__
            raise SettingsError(f"fit: the observer {name} is a class; call it: {name}()")
        if not isinstance(observer, Observer):
            raise SettingsError(
                f"fit: the observer {observer!r} is not a lowerbound.Observer; subclass that, and "
                "override the methods that you need"
            )
    if settings.progress:
        observers.append(Display(plan.shown))
    if settings.profile:
        observers.append(Profiler(None if files is None else files.path / "profile.md"))
    if files is not None:
        observers.append(Recorder(files, settings.save_every))
        observers.append(Painter(files, settings.pictures_every, settings.seed))
    return observers


def _refuse_conflicts(settings: FitKeywords) -> None:
    if settings.patience is not None and settings.validation is None:
        raise SettingsError(
            "fit: patience needs a validation bound, but validation is not given; pass "
            "validation=0.1 (--validation 0.1)"
        )
    if settings.resume and settings.directory is None:
        raise SettingsError("fit: resume=True needs the directory of the run to continue")
    if settings.tolerance is None:
        return
    others = {
        "schedule": settings.schedule != "constant",
        "ema": settings.ema is not None,
        "patience": settings.patience is not None,
    }
    for name, is_given in others.items():
        if is_given:
            raise SettingsError(
                f"fit: tolerance and {name} are both given; with tolerance the learning rate is "
                "halved, the weights are averaged and the training stops automatically"
            )


def _check_plan(plan: TrainingPlan, settings: FitKeywords, objective: Objective) -> None:
    default = TrainingSettings.model_fields["batch_size"].default
    if plan.batch_size is not None and settings.batch_size not in (default, plan.batch_size):
        raise SettingsError(
            f"fit: batch_size={settings.batch_size} cannot be used: {plan.why_no_batch_size}"
        )
    if plan.why_no_validation is not None and settings.validation is not None:
        raise SettingsError(
            f"fit: {plan.why_no_validation}. Remove validation= and check the fit with "
            "lb.posterior_health"
        )
    if plan.needs_linear_objective and not objective.linear_in_log_weights:
        raise SettingsError(
            f"fit: {type(objective).__name__} is not linear in log weights, so its mean over "
            "batches is not a bound for all data; use lb.ELBO, or a log joint that stores its own "
            "data"
        )


def _split(
    examples: Examples, settings: FitKeywords, needs: Sequence[str]
) -> tuple[Examples, Examples | None]:
    """Split the examples into those to train on and those to validate with."""
    validation = settings.validation
    if validation is None:
        return examples, None
    if isinstance(validation, Real) and not isinstance(validation, bool):
        return examples.split(float(validation), seed=settings.seed, setting="validation")
    preprocessing = examples.preprocessing
    if preprocessing is None or isinstance(validation, str):  # text is a mistaken fraction
        held_out = Examples.of(validation, name="validation data")
    else:
        held_out = read_raw(validation, preprocessing, name="validation data", fields=needs)
    held_out = translate_codes(examples.categories_by_field, held_out, needs)
    if held_out.shape != examples.shape:
        raise SettingsError(
            f"fit: validation has examples of shape {held_out.shape}, but the training data has "
            f"examples of shape {examples.shape}"
        )
    return examples, held_out


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"fit: device={name!r} cannot be used here ({reason}); use 'cpu' or 'auto'"
        ) from None
    return device


def _try_draw(
    model: Model, objective: Objective, train: Examples, validation: Examples | None
) -> None:
    """Compute the objective once, so that errors appear before any file is written."""
    players = collect_players(model, objective)
    with (
        evaluating(players),
        model.trial(train, objective.samples, objective.gradient, with_gradients=True) as draw,
    ):
        model.check_support(train)
        objective(draw)
        compute_player_losses(objective, tuple(players), draw)
    if validation is not None:
        model.check_data(validation)


def _count_steps(settings: FitKeywords, steps_per_epoch: int) -> int:
    lengths = []
    if settings.steps is not None:
        lengths.append(settings.steps)
    if settings.epochs is not None:
        lengths.append(settings.epochs * steps_per_epoch)
    if lengths:
        return min(lengths)
    if settings.tolerance is not None:
        return -(-_MOST_STEPS // steps_per_epoch) * steps_per_epoch
    return _DEFAULT_EPOCHS * steps_per_epoch


def _make_averages(
    model: Model, settings: FitKeywords
) -> tuple[AutoStop | None, AveragedModel | None]:
    """Make the rule by which training stops automatically, and the average of the weights."""
    if settings.tolerance is not None:
        autostop = AutoStop(model, settings.tolerance, settings.warmup_steps)
        return autostop, autostop.average
    if settings.ema is not None:
        return None, average_weights(model, settings.ema)
    return None, None


def _choose_learning_rate(plan: TrainingPlan, settings: FitKeywords) -> float | None:
    """Choose the learning rate; ``None`` for an optimiser instance, which has its own."""
    if settings.learning_rate is None and not isinstance(settings.optimizer, Optimizer):
        return plan.learning_rate
    return settings.learning_rate


def _list_threads(
    model: Model, objective: Objective, batch_size: int, threads: int | None
) -> list[int]:
    """List the numbers of threads to choose from, beginning with the first to use.

    A small fully connected model begins with one. Its size alone decides, so that a short run,
    whose steps are not timed, can be repeated.
    """
    if threads is not None:
        return [threads]
    candidates = list_candidates(get_device(model))
    if len(candidates) == 1:
        return candidates
    own = [
        (module, sum(p.numel() for p in module.parameters(recurse=False)))
        for module in model.modules()
    ]
    fully_connected = all(isinstance(module, torch.nn.Linear) for module, size in own if size > 1)
    work = sum(size for _, size in own) * batch_size * objective.samples
    if fully_connected and work < _WORTH_THREADS_MULTIPLICATIONS:
        return candidates[::-1]
    return candidates
