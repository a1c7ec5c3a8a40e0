"""The base class of observers, which watch a training."""

from __future__ import annotations

from typing import Any, ClassVar


class Observer:
    """Watches training. The loop calls all methods, which do nothing by default.

    To write your own: subclass, override the methods that you need, and pass an instance in
    ``observers`` of :func:`lowerbound.fit`. Compiled steps of a small model are a tenth faster if
    each observer that overrides :meth:`on_step` or :meth:`on_choice` has ``only_reads = True``.

    Every method receives the :class:`~lowerbound.training.loop.Loop`, which is not named as a type
    here because it is made with observers, and can read ``loop.model`` and ``loop.progress``. In
    :meth:`on_step`, ``loop.averages()`` has the terms averaged over the examples of the epoch so
    far; in :meth:`on_epoch`, ``record["train"]`` has them.

    *Gradients* can be read in :meth:`on_step` only, and only by an observer without ``only_reads``.
    There, ``parameter.grad`` is the gradient that the optimiser has just used: the gradient of the
    loss after clipping, or ``None`` if the parameter has none. In every other method it may be
    ``None`` for all parameters, because a compiled step returns gradients only for observers that
    may read them after the step. So an observer that needs gradients at the end of an epoch keeps
    what it needs of them in :meth:`on_step`.

    Example:
        >>> import lowerbound as lb
        >>> class LargestGradient(lb.Observer):
        ...     largest = 0.0
        ...
        ...     def on_step(self, loop):
        ...         found = [p.grad for p in loop.model.parameters() if p.grad is not None]
        ...         self.largest = max(float(gradient.abs().max()) for gradient in found)
        ...
        ...     def on_epoch(self, loop, record):
        ...         record["largest_gradient"] = self.largest
        >>> digits = lb.load_data("digits").test
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (2, 8, 8))),
        ... )
        >>> watching = LargestGradient()
        >>> run = lb.fit(vae, lb.ELBO(), digits, epochs=1, observers=[watching], progress=False)
        >>> run.history[0]["largest_gradient"] == watching.largest > 0
        True
    """

    only_reads: ClassVar[bool] = False
    """Whether :meth:`on_step` and :meth:`on_choice` change nothing of the training, and do not read
    gradients of parameters. A subclass that overrides one of them says so again."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "on_step" in vars(cls) or "on_choice" in vars(cls):
            cls.only_reads = vars(cls).get("only_reads", False)

    @property
    def may_interfere(self) -> bool:
        """Whether it may change the training, or read gradients, between two steps."""
        called = {getattr(each, "__func__", each) for each in (self.on_step, self.on_choice)}
        return not self.only_reads and called != {Observer.on_step, Observer.on_choice}

    def on_start(self, loop: Any) -> None:
        """Before the first step."""

    def on_note(self, loop: Any, line: str) -> None:
        """Before the first step; ``line`` is about the data, or about where the training starts."""

    def on_choice(self, loop: Any, line: str) -> None:
        """After the choice of how steps run, or after a profile; ``line`` describes it."""

    def on_step(self, loop: Any) -> None:
        """After a step."""

    def on_epoch(self, loop: Any, record: dict[str, Any]) -> None:
        """After an epoch and its validation."""

    def on_interrupt(self, loop: Any) -> None:
        """After an error or a signal ended the training, before the error is raised again."""

    def on_end(self, loop: Any) -> None:
        """After the last epoch, with the weights that are kept."""
