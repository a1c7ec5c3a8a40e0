"""JAX with optax: an epoch is one compiled ``lax.scan`` with donated parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tasks import LEARNING_RATE, Task, initial, load, scale


def run(task: Task, folder: Path, conversation: Any, precision: str = "float32") -> None:
    """Train until no more requests come."""
    values, test = (jnp.asarray(values) for values in load(task, folder))
    values, test = values.reshape(len(values), -1), test.reshape(len(test), -1)
    parameters = jax.tree.map(jnp.asarray, initial(task))
    optimizer = optax.adam(LEARNING_RATE)
    state = optimizer.init(parameters)

    def network(layers: Any, x: Any) -> Any:
        if precision == "bfloat16":
            layers, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (layers, x))
        for number, (weight, bias) in enumerate(layers):
            x = x @ weight + bias
            if number < len(layers) - 1:
                x = jnp.tanh(x)
        return x.astype(jnp.float32)

    def bounds(parameters: Any, x: Any, key: Any, samples: int, iwae: bool) -> Any:
        encoder, decoder = parameters
        loc, log_variance = jnp.split(network(encoder, x), 2, -1)
        noise = jax.random.normal(key, (samples, *loc.shape))
        z = loc + jnp.exp(0.5 * log_variance) * noise
        raw = network(decoder, z)
        if task.likelihood == "bernoulli":
            log_likelihood = (x * raw - jax.nn.softplus(raw)).sum(-1)
        else:
            mean, spread = jnp.split(raw, 2, -1)
            terms = ((x - mean) ** 2 * jnp.exp(-spread) + spread + np.log(2 * np.pi)).sum(-1)
            log_likelihood = -0.5 * terms
        if iwae:
            log_w = log_likelihood - 0.5 * (z**2).sum(-1) + 0.5 * (noise**2 + log_variance).sum(-1)
            return jax.nn.logsumexp(log_w, 0) - np.log(samples)
        rate = 0.5 * (loc**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1)
        return log_likelihood.mean(0) - rate

    def loss(parameters: Any, x: Any, key: Any) -> Any:
        return -bounds(parameters, x, key, task.samples, task.iwae).mean()

    def step(carried: Any, index: Any) -> Any:
        parameters, state, key = carried
        key, own = jax.random.split(key)
        x = values[index].astype(jnp.float32) * scale(task)
        value, gradients = jax.value_and_grad(loss)(parameters, x, own)
        updates, state = optimizer.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state, key), value

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch(parameters: Any, state: Any, key: Any) -> Any:
        key, own = jax.random.split(key)
        count = task.examples // task.batch
        order = jax.random.permutation(own, task.examples)[: count * task.batch].reshape(
            count, task.batch
        )
        (parameters, state, _), losses = jax.lax.scan(step, (parameters, state, key), order)
        return parameters, state, losses.mean()

    score = jax.jit(lambda parameters, x, key: bounds(parameters, x, key, 1, False))

    def bound() -> float:
        x = test.astype(jnp.float32) * scale(task)
        return float(score(parameters, x, jax.random.PRNGKey(0)).mean())

    for number in conversation(bound).rounds(task):
        parameters, state, value = epoch(parameters, state, jax.random.PRNGKey(number))
        value.block_until_ready()
