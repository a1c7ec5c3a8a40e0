"""``fit``: the one function that trains."""

# Without an import of torch at the top, so that the command can show its flags at once.
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, cast

from lowerbound.errors import SettingsError
from lowerbound.settings import check_settings, takes_settings
from lowerbound.training.settings import FitKeywords

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


def _with_keywords(
    schema: Callable[Keywords, FitKeywords],
) -> Callable[[Callable[..., "Run"]], _Fit[Keywords]]:
    """Decorator: the keywords of :func:`fit` are those that make ``schema``."""
    decorate = takes_settings(cast(type[FitKeywords], schema))
    return lambda function: cast(_Fit[Keywords], decorate(function))


@_with_keywords(FitKeywords)
def fit(model: "Model", objective: "Objective", data: Any = None, **keywords: Any) -> "Run":
    """Train a model: maximise an objective over some data.

    The true bound in nats per example, averaged over examples, is what is shown, recorded and used to
    select weights. With ``validation`` the weights with the best validation bound are kept, and
    without it the last ones. Torch's random state is left as it was.

    Args:
        model: the model, which is trained in place and moved to ``device``.
        objective: what to maximise, such as ``lb.ELBO(samples=7)``.
        data: examples, an array or a tensor, ``[N, *event]``; nothing for a
            :class:`lowerbound.LogJoint` that stores its own data, for which an epoch is 100 steps.
        keywords: the fields of :class:`lowerbound.training.settings.FitKeywords`.

    Returns:
        A :class:`lowerbound.Run`.

    Raises:
        SettingsError: for a setting that is unknown, out of range or in conflict with another.
        DataError, ShapeError: if the model cannot take the data.
        NonFiniteError: if the bound or a gradient becomes non-finite; the model keeps its last finite
            weights.
        StorageError: if the directory holds a run already, or there is no run to resume.

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
    from lowerbound.objectives import ELBO
    from lowerbound.objectives.base import refuse_other_types
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.run import Run
    from lowerbound.runtime.memory import keeping_freed_memory
    from lowerbound.runtime.modes import seeded
    from lowerbound.runtime.noise import derived_seed
    from lowerbound.training.resuming import amend_config, config_of, restore

    refuse_other_types("fit", model, objective)
    settings = check_settings(FitKeywords, keywords, name="fit")
    if model.repeats:
        _refuse_batches(settings)
        settings = settings.model_copy(update={"batch_size": 1})
    if model.in_batches and settings.validation is not None:
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
        model.examples(data, name="training data", count=_REPETITIONS),
        settings.validation,
        settings.seed,
    )
    _refuse_conflicts(settings, held_out)
    if not (model.repeats and settings.device == "auto"):  # data that it holds would stay behind
        model.to(_device(settings.device))
    for part in (train, held_out):
        if part is not None:
            model.check_data(part)
    _refuse_impossible(model, objective, train)
    files = None if settings.directory is None else RunDirectory(Path(settings.directory))
    observers = [*settings.observers, *_observers(files, settings)]
    loop = _make_loop(model, objective, train, held_out, settings, observers)
    with seeded(derived_seed(settings.seed, "training"), loop.device):
        if files is not None and settings.resume:
            restore(loop, files)
            amend_config(loop, files, settings)
        elif files is not None:
            files.create(config_of(loop, settings))
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


def _refuse_batches(settings: FitKeywords) -> None:
    """A model that holds its data has neither batches nor anything to hold out."""
    if settings.batch_size != _BATCH_SIZE:
        raise SettingsError(
            f"fit: batch_size={settings.batch_size}, but this log joint holds its data itself; how many draws a step averages is the objective's samples, "
            "and LogJoint(..., size=N) takes data in batches"
        )
    if settings.validation is not None:
        raise SettingsError(
            "fit: validation is given, but this log joint holds its data itself, of which none can be held out"
        )


def _refuse_impossible(model: "Model", objective: "Objective", train: "Examples") -> None:
    """A gradient that the model does not have is refused before anything is written."""
    import torch

    from lowerbound.models.passes import batches
    from lowerbound.runtime.devices import device_of
    from lowerbound.runtime.modes import evaluating, seeded

    with evaluating(model), seeded(0, device_of(model)):
        for _, x, given in batches(train.first(2), model, seed=0):
            with torch.enable_grad():
                draw = model.draw(x, objective.samples, objective.gradient, **given)
                objective(draw)
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


def _refuse_conflicts(settings: FitKeywords, held_out: "Examples | None") -> None:
    if settings.epochs is not None and settings.steps is not None:
        raise SettingsError(
            "fit: epochs and steps are both given; give the length of the training once"
        )
    if settings.patience is not None and held_out is None:
        raise SettingsError(
            "fit: patience is about the validation bound, but there is no validation; pass validation=0.1 (--validation 0.1)"
        )
    if settings.tolerance is not None:
        own = {
            "schedule": settings.schedule != "constant",
            "ema": settings.ema,
            "patience": settings.patience,
        }
        for name in (name for name, asked in own.items() if asked):
            raise SettingsError(
                f"fit: tolerance and {name} are both given; with tolerance the learning rate falls, weights are averaged and the "
                "training stops by a rule of its own"
            )
    if settings.resume and settings.directory is None:
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
    settings: FitKeywords,
    observers: "list[Observer]",
) -> "Loop":
    from torch.optim import Optimizer

    from lowerbound.training.loop import Loop
    from lowerbound.training.optim import averaged, make_optimizer, make_schedule
    from lowerbound.training.settling import Settling

    steps_per_epoch = -(-len(train) // settings.batch_size)
    settling = (
        None
        if settings.tolerance is None
        else Settling(model, settings.tolerance, settings.warmup_steps)
    )
    epochs = settings.epochs or (
        -(-_MOST_STEPS // steps_per_epoch) if settling else _DEFAULT_EPOCHS
    )
    total_steps = settings.steps or epochs * steps_per_epoch
    rate = settings.learning_rate
    if rate is None and not isinstance(settings.optimizer, Optimizer):
        rate = model.step_size
    return Loop(
        model=model,
        objective=objective,
        train=train,
        validation=held_out,
        optimizer=make_optimizer(model, settings.optimizer, rate, settings.weight_decay),
        factor=make_schedule(settings.schedule, settings.warmup_steps, total_steps),
        total_steps=total_steps,
        batch_size=settings.batch_size,
        clip_norm=settings.clip_norm,
        ema=settling.average
        if settling
        else None
        if settings.ema is None
        else averaged(model, settings.ema),
        patience=settings.patience,
        settling=settling,
        seed=settings.seed,
        observers=observers,
        compile=settings.compile,
        precision=settings.precision,
        profiled=settings.profile,
    )


def _observers(files: "RunDirectory | None", settings: FitKeywords) -> "list[Observer]":
    from lowerbound.training.observers import Display, Painter, Recorder
    from lowerbound.training.profiling import Profiler

    watching: list[Observer] = [Display()] if settings.progress else []
    if settings.profile:
        watching.append(Profiler(None if files is None else files.path / "profile.md"))
    if files is not None:
        watching += [Recorder(files), Painter(files, settings.pictures_every, settings.seed)]
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
        loop.request_stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
