"""``fit``: the one function that trains. Its signature is the schema of a run's settings and of the command's flags."""

# The annotations of settings are read at run time, by the command before torch is imported: hence the quoted types, and
# no import of torch at the top.
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lowerbound.errors import SettingsError
from lowerbound.settings import checked, has_settings, settings_of

if TYPE_CHECKING:
    import torch

    from lowerbound.data import Examples
    from lowerbound.models import Model
    from lowerbound.objectives import Objective
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.run import Run
    from lowerbound.training.loop import Loop, Observer

_DEFAULT_EPOCHS = 10
_BATCH_SIZE = 100

# Steps after which a training that stops by itself stops all the same.
_MOST_STEPS = 100_000

# Steps of an epoch where the model holds its data itself.
_REPETITIONS = 100


@has_settings
def fit(
    model: "Model",
    objective: "Objective",
    data: Any = None,
    *,
    epochs: Annotated[
        int | None,
        Field(ge=1, description="passes over the training data (10 if --steps is not given)"),
    ] = None,
    steps: Annotated[
        int | None, Field(ge=1, description="optimiser steps, instead of epochs")
    ] = None,
    batch_size: Annotated[
        int, Field(ge=1, description="examples in a step; the last batch of an epoch may be short")
    ] = _BATCH_SIZE,
    optimizer: Annotated[
        str | Any, Field(description="any optimiser of torch.optim, by name")
    ] = "adam",
    learning_rate: Annotated[
        float | None,
        Field(
            gt=0, allow_inf_nan=False, description="the optimiser's step size (0.001 if not given)"
        ),
    ] = None,
    schedule: Annotated[
        str | Any,
        Field(description="of the learning rate: constant, linear, cosine or exponential"),
    ] = "constant",
    warmup_steps: Annotated[
        int, Field(ge=0, description="over which the learning rate rises from 0")
    ] = 0,
    weight_decay: Annotated[
        float | None, Field(ge=0, description="as the optimiser understands it")
    ] = None,
    clip_norm: Annotated[
        float | None, Field(gt=0, description="scale gradients down to this total norm")
    ] = None,
    ema: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="keep an exponential moving average of the weights, with this decay",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        Field(ge=1, description="stop after so many epochs without a better validation bound"),
    ] = None,
    tolerance: Annotated[
        float | None,
        Field(
            gt=0,
            description="average the weights, halve the learning rate, and stop once neither gains so many nats",
        ),
    ] = None,
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="of the order of the examples and of all noise")
    ] = 0,
    device: Annotated[
        str, Field(description="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    ] = "auto",
    compile: Annotated[
        Literal["auto", "always", "never"],
        Field(
            description="compile the steps; auto where the training is long enough to gain by it"
        ),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(
            description="of the networks' matrix products; auto: the quicker, where there are units for bfloat16"
        ),
    ] = "float32",
    profile: Annotated[
        bool, Field(description="show where the time of a step goes, and write it to the run")
    ] = False,
    pictures_every: Annotated[
        int, Field(ge=0, description="epochs between pictures; 0 for none")
    ] = 1,
    validation: Any = None,
    directory: "str | os.PathLike[str] | None" = None,
    resume: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
    observers: "Sequence[Observer]" = (),
) -> "Run":
    """Train a model: maximise an objective over some data.

    The figure that is shown, recorded and used for selection is the true bound in nats per example, averaged over
    examples. With ``validation`` the weights that are kept are those with the best validation bound; without, the last
    ones. The random state of torch is left as it was.

    Args:
        model: is trained in place and moved to ``device``.
        objective: such as ``lb.ELBO(samples=7)``.
        data: examples, an array or a tensor, ``[N, *event]``; none for a :class:`lowerbound.LogJoint` that holds its data itself, of which
            an epoch is 100 steps.
        epochs: passes over the data; 10 where ``steps`` is not given either, with ``tolerance`` as many as come to 100,000 steps.
        steps: optimiser steps, instead of epochs.
        batch_size: examples in a step; the last batch of an epoch may be short. Nothing to set where the model holds its data.
        optimizer: a name of ``torch.optim`` in any case, a class, a function of (parameters, lr), or an instance.
        learning_rate: the optimiser's step size; by default 1e-3, and 0.05 for a :class:`lowerbound.LogJoint`; an instance has its own.
        schedule: of the learning rate: a name, or a function from progress in [0, 1] to a factor.
        warmup_steps: over which the learning rate rises from near 0.
        weight_decay: as the optimiser understands it; the reported bound does not contain it.
        clip_norm: gradients whose total norm is larger are scaled down to it.
        ema: the decay of an exponential moving average of the weights, which is then what is validated and kept.
        patience: early stopping: how many epochs without a better validation bound to wait.
        tolerance: stop by itself, unattended: train at one learning rate until the average of the weights over a window of
            steps gains no more than so many nats on the best one before; then halve the rate, double the window, and go on from the best average;
            stop when three windows in a row have not gained. See :mod:`lowerbound.training.autostop`.
        seed: of the order of the examples and of all noise.
        device: where to train; ``"auto"`` is a GPU if there is one, but the model's own device if the model holds its data.
        compile: ``"always"``: the steps are compiled by torch's compiler. ``"never"``. ``"auto"``: if the steps left, timed by
            the first ones, take a minute and a half, and compiled ones prove quicker. The two agree to rounding.
        precision: in which the networks multiply matrices. ``"bfloat16"`` is several times quicker where there are matrix units
            for it (AMX, AVX-512 BF16, tensor cores), and rounds their factors to three digits; parameters, the optimiser, the
            terms of the bound and every evaluation stay in float32. ``"auto"``: bfloat16 where a machine has such units
            and a few timed steps are quicker in it.
        profile: whether to take some steps apart, once it is decided how they are taken, and say where their time goes: to
            matrix products, elementwise operations, the optimiser, data, and Python. Written to ``profile.md`` in
            ``directory``.
        pictures_every: how many epochs lie between two pictures; 0 for none.
        validation: examples, or the fraction of ``data`` to hold out at random.
        directory: where to write the run: configuration, metrics, checkpoints and pictures.
        resume: go on with the run in ``directory`` from its newest checkpoint, as if it had never stopped.
        progress: show the course on standard error: live on a terminal, else a line for each epoch.
        config: entries to add to ``config.yaml``, such as where the data came from.
        observers: who else watches the training, see ``lowerbound.training.loop.Observer``.

    Returns:
        A :class:`lowerbound.Run`.

    Raises:
        SettingsError: for a setting that is unknown, out of range or in conflict with another.
        DataError, ShapeError: if the model cannot take the data.
        NonFiniteError: if the bound or a gradient stops being a number; the model keeps its last finite parameters.
        StorageError: if the directory holds a run already, or there is nothing to resume.

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
    given = locals()
    from lowerbound.objectives.base import refuse_other_types

    refuse_other_types("fit", model, objective)
    settings = checked(fit, {name: given[name] for name in settings_of(fit).model_fields})
    from lowerbound.objectives import ELBO
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.run import Run
    from lowerbound.runtime.devices import device_of
    from lowerbound.runtime.memory import keeping_freed_memory
    from lowerbound.runtime.modes import seeded
    from lowerbound.runtime.noise import derived_seed
    from lowerbound.training.players import modules_of_players
    from lowerbound.training.resuming import amend_config, config_of, restore

    if model.repeats:
        _refuse_batches(settings["batch_size"], validation)
        settings["batch_size"] = 1
    if model.in_batches and validation is not None:
        raise SettingsError(
            f"fit: validation is given, but this log joint was made for all data (size={len(model.examples(data))}), and a bound of others is another's; "
            "train on all, and judge the posterior by lb.posterior_health"
        )
    if model.in_batches and not isinstance(objective, ELBO):
        raise SettingsError(
            f"fit: {type(objective).__name__} of batches is no bound of all data, since it is not linear in log weights; use lb.ELBO, or a log "
            "joint that holds its data itself"
        )
    train, held_out = _hold_out(
        model.examples(data, name="training data", count=_REPETITIONS), validation, seed
    )
    _refuse_conflicts(settings, held_out, directory, resume)
    if not (model.repeats and settings["device"] == "auto"):  # data that it holds would stay behind
        model.to(_device(settings["device"]))
    modules_of_players(model, objective).to(device_of(model))
    for part in (train, held_out):
        if part is not None:
            model.check_data(part)
    _refuse_impossible(model, objective, train)
    files = None if directory is None else RunDirectory(Path(directory))
    loop = _make_loop(model, objective, train, held_out, settings)
    with seeded(derived_seed(seed, "training"), loop.device):
        if files is not None and resume:
            restore(loop, files)
            amend_config(loop, files, settings)
        elif files is not None:
            files.create(config_of(loop, settings, config or {}))
        loop.observers += [*observers, *_observers(files, settings, progress)]
        with _stopping_between_steps(loop), _threads_for(loop), keeping_freed_memory():
            loop.run()
    state = loop.progress
    path = files.path if files else None
    return Run(
        model,
        objective,
        state.history,
        path,
        state.best_epoch,
        state.stopped_early,
        tuple(loop.unfinished()),
        state.settled,
    )


def _refuse_batches(batch_size: int, validation: Any) -> None:
    """A model that holds its data has neither batches nor anything to hold out."""
    if batch_size != _BATCH_SIZE:
        raise SettingsError(
            f"fit: batch_size={batch_size}, but this log joint holds its data itself; how many draws a step averages is the objective's samples, "
            "and LogJoint(..., size=N) takes data in batches"
        )
    if validation is not None:
        raise SettingsError(
            "fit: validation is given, but this log joint holds its data itself, of which none can be held out"
        )


def _refuse_impossible(model: "Model", objective: "Objective", train: "Examples") -> None:
    """A gradient that the model does not have is refused before anything is written."""
    import torch

    from lowerbound.models.passes import batches
    from lowerbound.runtime.devices import device_of
    from lowerbound.runtime.modes import evaluating, seeded
    from lowerbound.training.players import losses_of_players, modules_of_players

    players = modules_of_players(model, objective)
    with evaluating(model, players), seeded(0, device_of(model)):
        for _, x, given in batches(train.first(2), model, seed=0):
            with torch.enable_grad():
                draw = model.draw(x, objective.samples, objective.gradient, **given)
                objective(draw)
                losses_of_players(objective, tuple(players), draw)
                by_path = objective.gradient != "score-function" and model.shares_draws
                if by_path and not draw.log_likelihood.requires_grad:
                    raise SettingsError(
                        "fit: the log joint has no gradient with respect to its variables, so nothing could be learned of them; compute it by torch from "
                        "them, without numpy and .detach(), or take lb.ELBO(samples=K, gradient='score-function')"
                    )


def _hold_out(
    examples: "Examples", validation: Any, seed: int
) -> "tuple[Examples, Examples | None]":
    from lowerbound.data import Examples

    if validation is None:
        return examples, None
    if isinstance(validation, Real) and not isinstance(validation, bool):
        return examples.split(float(validation), seed=seed, setting="validation")
    held_out = Examples.of(validation, name="validation data")
    if held_out.shape != examples.shape:
        raise SettingsError(
            f"fit: validation has examples of shape {held_out.shape}, the training data {examples.shape}"
        )
    return examples, held_out


def _refuse_conflicts(
    settings: Mapping[str, Any], held_out: Any, directory: Any, resume: bool
) -> None:
    if settings["epochs"] is not None and settings["steps"] is not None:
        raise SettingsError(
            "fit: epochs and steps are both given; give the length of the training once"
        )
    if settings["patience"] is not None and held_out is None:
        raise SettingsError(
            "fit: patience is about the validation bound, but there is no validation; pass validation=0.1 (--validation 0.1)"
        )
    if settings["tolerance"] is not None:
        own = {
            "schedule": settings["schedule"] != "constant",
            "ema": settings["ema"],
            "patience": settings["patience"],
        }
        for name in (name for name, asked in own.items() if asked):
            raise SettingsError(
                f"fit: tolerance and {name} are both given; with tolerance the learning rate falls, weights are averaged and the "
                "training stops by a rule of its own"
            )
    if resume and directory is None:
        raise SettingsError("fit: resume=True needs the directory of the run to go on with")


def _device(name: str) -> "torch.device":
    import torch

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


def _make_loop(
    model: "Model",
    objective: "Objective",
    train: "Examples",
    held_out: "Examples | None",
    settings: Mapping[str, Any],
) -> "Loop":
    from torch.optim import Optimizer

    from lowerbound.training.loop import Loop
    from lowerbound.training.optim import averaged, make_optimizer, make_schedule
    from lowerbound.training.autostop import AutoStop

    steps_per_epoch = -(-len(train) // settings["batch_size"])
    autostop = (
        None
        if settings["tolerance"] is None
        else AutoStop(model, settings["tolerance"], settings["warmup_steps"])
    )
    epochs = settings["epochs"] or (
        -(-_MOST_STEPS // steps_per_epoch) if autostop else _DEFAULT_EPOCHS
    )
    total_steps = settings["steps"] or epochs * steps_per_epoch
    rate = settings["learning_rate"]
    if rate is None and not isinstance(settings["optimizer"], Optimizer):
        rate = model.step_size
    return Loop(
        model=model,
        objective=objective,
        train=train,
        validation=held_out,
        optimizer=make_optimizer(
            model, settings["optimizer"], rate, settings["weight_decay"], objective
        ),
        factor=make_schedule(settings["schedule"], settings["warmup_steps"], total_steps),
        total_steps=total_steps,
        batch_size=settings["batch_size"],
        clip_norm=settings["clip_norm"],
        ema=autostop.average
        if autostop
        else None
        if settings["ema"] is None
        else averaged(model, settings["ema"]),
        patience=settings["patience"],
        autostop=autostop,
        seed=settings["seed"],
        observers=[],
        compile=settings["compile"],
        precision=settings["precision"],
        profiled=settings["profile"],
    )


def _observers(
    files: "RunDirectory | None", settings: Mapping[str, Any], progress: bool
) -> list[Any]:
    from lowerbound.training.observers import Display, Painter, Recorder
    from lowerbound.training.profiling import Profiler

    watching: list[Any] = [Display()] if progress else []
    if settings["profile"]:
        watching.append(Profiler(None if files is None else files.path / "profile.md"))
    if files is not None:
        watching += [Recorder(files), Painter(files, settings["pictures_every"], settings["seed"])]
    return watching


# Multiplications in a step below which threads wait for each other longer than they work; where other programs share the
# cores, by a factor of ten and more.
_WORTH_THREADS = 3e7


@contextmanager
def _threads_for(loop: "Loop") -> Iterator[None]:
    """One thread for a small fully connected model on a CPU, decided by its size alone so that a run can be repeated."""
    import torch

    own = [
        (module, sum(p.numel() for p in module.parameters(recurse=False)))
        for module in loop.model.modules()
    ]
    fully_connected = all(isinstance(module, torch.nn.Linear) for module, size in own if size > 1)
    work = sum(size for _, size in own) * loop.batch_size * loop.objective.samples
    before = torch.get_num_threads()
    if loop.device.type == "cpu" and fully_connected and work < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _stopping_between_steps(loop: "Loop") -> Iterator[None]:
    """The first interrupt or request to end lets the step under way finish; a second one does not wait."""

    def request(number: int, frame: Any) -> None:
        if loop.stop_requested:
            raise KeyboardInterrupt
        loop.stop_requested = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
