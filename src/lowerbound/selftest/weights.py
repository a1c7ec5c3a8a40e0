"""Checks of the weights that training computes and keeps: steps, averages, and the best average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.selftest.known import DOUBLE, largest
from lowerbound.selftest.registry import check
from lowerbound.training.autostop import compute_comparable_bounds
from lowerbound.training.optim import AverageUpdate, average_weights

Float = NDArray[np.float64]
_GOAL = (3.0, -1.0)


@dataclass(frozen=True)
class _Parabola(lb.Objective):
    """A function of the mean of q, without any noise, whose gradient is known."""

    def bound(self, draw: lb.Draw) -> Tensor:
        assert draw.q is not None
        goal = torch.tensor(_GOAL, dtype=DOUBLE)
        return -(draw.q.mean - goal).square().sum(-1).expand(draw.z.shape[1])


def _fit_parabola(steps: int, **settings: Any) -> Float:
    """Train from 0, and return the mean of q."""
    model = lb.LogJoint(lambda z: -z.square().sum(-1), lb.mean_field, {"z": 2}).double()
    lb.fit(model, _Parabola(), steps=steps, progress=False, **settings)
    found: Float = next(model.parameters()).detach()[:2].numpy().copy()
    return found


def _descend(steps: int, clip: float, decay: float) -> Float:
    """Steps of gradient ascent with a cosine schedule, a warm-up of 3 steps and a clipped norm."""
    mean = np.zeros(2)
    for step in range(steps):
        gradient = 2 * (mean - np.array(_GOAL))
        gradient *= min(1.0, clip / float(np.linalg.norm(gradient)))
        rate = 0.2 * min(1.0, (step + 1) / 3) * 0.5 * (1 + math.cos(math.pi * step / steps))
        mean = mean - rate * (gradient + decay * mean)
    return mean


def _descend_by_adam(steps: int) -> Float:
    """Steps of Adam (Kingma & Ba 2015) with its usual settings and a linear schedule."""
    mean, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    for step in range(1, steps + 1):
        gradient = 2 * (mean - np.array(_GOAL))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.1 * (1 - (step - 1) / steps)
        corrected = first / (1 - 0.9**step)
        mean = mean - rate * corrected / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return mean


@check(
    "steps-written-out",
    "Training takes the steps of its optimiser with schedule, warm-up, clipping and weight decay, "
    "as computed explicitly in numpy",
    tolerance=1e-5,
)
def compute_steps_explicitly() -> float:
    """For 9 steps of gradient ascent and of Adam, on a parabola without noise."""
    plain = _fit_parabola(
        9,
        optimizer="sgd",
        learning_rate=0.2,
        schedule="cosine",
        warmup_steps=3,
        clip_norm=2.5,
        weight_decay=0.1,
    )
    adam = _fit_parabola(9, learning_rate=0.1, schedule="linear")
    differences = plain - _descend(9, 2.5, 0.1), adam - _descend_by_adam(9)
    return max(float(np.abs(difference).max()) for difference in differences)


@check(
    "averages-written-out",
    "An equal average of weights is their arithmetic mean, and an exponential one gives them the "
    "shares of its decay, as computed explicitly",
    tolerance=1e-7,
)
def compute_averages_explicitly() -> float:
    """For 6 values of a layer's weights; the shares of an average are rounded to float32."""
    layer = nn.Linear(3, 2).double()
    equal, moving = average_weights(layer, None), average_weights(layer, 0.7)
    seen = []
    for _ in range(6):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(2, 3, dtype=DOUBLE))
        seen.append(layer.weight.detach().clone())
        AverageUpdate(equal, layer)()
        AverageUpdate(moving, layer)()
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.7 * expected + 0.3 * value
    return max(
        largest(equal.get_parameter("module.weight") - torch.stack(seen).mean(0)),
        largest(moving.get_parameter("module.weight") - expected),
    )


@check(
    "best-average",
    "With automatic stopping, fit keeps the weights of the best window: they have the largest of "
    "the recorded bounds, and gains are differences of bounds",
    tolerance=1e-9,
)
def compare_best_average() -> float:
    """For a posterior of one variable, on the noise by which windows are compared.

    The learning rate is so high that the second and last window is worse than the first.
    """
    model = lb.LogJoint(lambda z: -0.5 * z.square() - z.cos(), lb.mean_field, {"z": ()}).double()
    objective = lb.ELBO(samples=2)
    run = lb.fit(
        model, objective, tolerance=0.01, learning_rate=0.5, epochs=4, progress=False, seed=1
    )
    windows = [record["window"] for record in run.history if "window" in record]
    bounds = [window["bound"] for window in windows]
    if len(bounds) < 2 or not bounds[-1] < max(bounds):
        return math.inf  # the last window is the best one, so that nothing is tested
    kept = compute_comparable_bounds(model, objective, model.examples(None), None, seed=1)
    gain = windows[1]["gain"] - (bounds[1] - bounds[0])
    return float(max(abs(float(kept.mean()) - max(bounds)), abs(gain)))
