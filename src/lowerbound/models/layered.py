"""Models with several stochastic layers: bottom-up inference, and top-down with a shared path.

Suffixes of shapes: K draws, B examples. Layers are numbered from the data: z1 to zL, the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import call_network, select_fields
from lowerbound.describe import describable
from lowerbound.distributions import Hierarchy, choose_point, outline
from lowerbound.errors import ShapeError
from lowerbound.models import checks, merging
from lowerbound.models.draw import Draw
from lowerbound.models.encoding import encode_along, read_latents
from lowerbound.models.generative import GenerativeModel, decode_in_batches
from lowerbound.models.groups import Latent, draw_with_log_q
from lowerbound.models.sampling import Gradient
from lowerbound.models.standardizing import standardize_parts
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating

Visit = Callable[[str, Distribution], Tensor]
VisitLayer = Callable[[int, Distribution, Tensor | None], Tensor]
VisitBoth = Callable[[str, Distribution, Distribution], Tensor]
Fields = Mapping[str, Tensor]
Score = Callable[..., Tensor]


@describable
class LayeredModel(GenerativeModel):
    r"""A model with several stochastic layers, from z1 next to the data to zL at the top.

    .. math:: p(x, z) = p(z_L) \, p(z_{L-1} \mid z_L) \cdots p(z_1 \mid z_2) \, p(x \mid z_1)

    *Bottom-up inference* draws the layers in the other order (Burda et al. 2016):

    .. math:: q(z \mid x) = q(z_1 \mid x) \, q(z_2 \mid z_1) \cdots q(z_L \mid z_{L-1})

    *Top-down inference* draws them in the order of the model, after deterministic networks
    ``features`` have computed :math:`d_1 = f_1(x), d_2 = f_2(d_1), \ldots` from the data. Posterior
    and prior of a layer share the path down to it: the state :math:`s_l`, which is the latents
    above, or the output of the networks ``states``,

    .. math:: s_l = g_{l+1}(s_{l+1}, z_{l+1}), \qquad p(z_l \mid s_l), \quad q(z_l \mid d_l, s_l),
        \quad p(x \mid s_0)

    With ``states`` and residual networks this is the deep hierarchy of Child 2021 and Vahdat &
    Kautz 2020. The terms of a bound include ``rate z1``, ``rate z2`` and so on, in nats. In
    top-down inference each is in closed form if torch knows one; in bottom-up inference only that
    of the top layer can be.

    Args:
        priors: p(z1|z2), ..., p(zL): conditionals of the state, and one without an input.
        posteriors: of z1, ..., zL. In bottom-up inference their inputs are x, z1, ..., z(L-1).
        likelihood: p(x|z1), or with ``states`` given the last state.
        features: the networks f1, ..., fL, one for each layer, which receive x, d1, ..., d(L-1).
            With them, inference is top-down.
        states: the networks g1, ..., gL, one for each layer, which give the states s0, ..., s(L-1).
            Each receives the state and the latents of its layer, concatenated along their first
            dimension. The last, which belongs to the top, receives only the latents zL.
        merge: how the posterior of top-down inference uses the state. ``"concatenate"``: its input
            is the features and the state, concatenated along their first dimension.
            ``"product"``: its input is the features; the resulting Gaussian is multiplied with the
            prior (Sønderby et al. 2016), except at the top. ``"residual"``: concatenated, and mean
            and scale are relative to the prior's (Vahdat & Kautz 2020), if it is a Gaussian.
        details: how many layers, from z1 on, are details. ``sample(mean=True)``, and so pictures of
            samples, show the natural points of details instead of draws.

    Raises:
        SettingsError: if numbers of parts differ, ``merge`` is unknown, or all layers are details.

    Source: Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders"; Sønderby et al.
    2016, "Ladder variational autoencoders"; Child 2021, "Very deep VAEs generalize autoregressive
    models and can outperform them on images"; Vahdat & Kautz 2020, "NVAE".

    Example:
        >>> import torch, lowerbound as lb
        >>> two_layers = lb.LayeredModel(
        ...     priors=[lb.Gaussian(lb.mlp(3, 16, 2 * 5)), lb.StandardNormal(3)],
        ...     posteriors=[lb.Gaussian(lb.mlp(8, 16, 2 * 5)), lb.Gaussian(lb.mlp(5, 16, 2 * 3))],
        ...     likelihood=lb.Bernoulli(lb.mlp(5, 16, 8)),
        ... )
        >>> x = torch.zeros(4, 8)
        >>> list(lb.ELBO().terms(two_layers.draw(x)))
        ['bound', 'rate', 'distortion', 'rate z1', 'rate z2']
        >>> {name: tuple(z.shape) for name, z in two_layers.encode(x).items()}
        {'z1': (4, 5), 'z2': (4, 3)}
        >>> two_layers.decode(torch.zeros(6, 3)).shape  # from the top
        torch.Size([6, 8])

        >>> ladder = lb.LayeredModel(
        ...     priors=[lb.Gaussian(lb.mlp(3, 16, 2 * 5)), lb.StandardNormal(3)],
        ...     posteriors=[lb.Gaussian(lb.mlp(16, 2 * 5)), lb.Gaussian(lb.mlp(16, 2 * 3))],
        ...     likelihood=lb.Bernoulli(lb.mlp(5, 16, 8)),
        ...     features=[lb.mlp(8, 16), lb.mlp(16, 16)],
        ...     merge="product",
        ... )
        >>> list(ladder.draw(x).groups), ladder.sample(2).shape
        (['z2', 'z1'], torch.Size([2, 8]))
    """

    network_dtype: torch.dtype | None = None  # see networks_in

    def __init__(
        self,
        priors: Iterable[nn.Module],
        posteriors: Iterable[nn.Module],
        likelihood: nn.Module,
        *,
        features: Iterable[nn.Module] | None = None,
        states: Iterable[nn.Module] | None = None,
        merge: merging.Merge = "concatenate",
        details: int = 0,
    ) -> None:
        super().__init__()
        self.priors = merging.list_modules("priors", priors)
        self.posteriors = merging.list_modules("posteriors", posteriors)
        self.likelihood = likelihood
        self.features = None if features is None else merging.list_modules("features", features)
        self.states = None if states is None else merging.list_modules("states", states)
        self.merge = merging.check_merge(merge, top_down=features is not None)
        self.details = merging.check_details(details, len(self.priors))
        lists = {"posteriors": self.posteriors, "features": self.features, "states": self.states}
        merging.check_counts(self.priors, lists)
        self.names = tuple(f"z{number}" for number in range(1, len(self.priors) + 1))

    def list_parts(self) -> Mapping[str, nn.Module]:
        """The parts by their roles, such as ``"prior of z1"``."""
        parts: dict[str, nn.Module] = {}
        for layer, name in enumerate(self.names):
            parts[f"prior of {name}"] = self.priors[layer]
            parts[f"posterior of {name}"] = self.posteriors[layer]
        for number, network in enumerate(self.features or (), 1):
            parts[f"features {number}"] = network
        return parts | {"likelihood": self.likelihood}

    def standardize(self, x: Tensor, **given: Any) -> None:
        """Wrap the first network and the likelihood so that both see standardised data.

        See :class:`lowerbound.conditionals.Standardized`.
        """
        encoder = self.posteriors[0]
        if self.features is not None:
            encoder = self.features[0]
        standardize_parts(self, encoder, x, given)

    # The two walks through the layers. A visitor receives the name and the distribution of each
    # layer, and returns latents, with which the walk continues.

    def visit_priors(self, given: Fields, visit: Visit) -> Tensor:
        """Visit the priors from the top to z1, and return the last state."""
        return self._descend(given, lambda layer, prior, _: visit(self.names[layer], prior))

    def _descend(self, given: Fields, visit: VisitLayer) -> Tensor:
        state: Tensor | None = None
        for layer in reversed(range(len(self.priors))):
            part = self.priors[layer]
            inputs = () if state is None else (state,)
            prior = checks.call_prior(part, select_fields(part, given), *inputs)
            checks.check_distribution(f"prior of {self.names[layer]}", prior)
            z = visit(layer, prior, state)
            state = self._update_state(layer, state, z, len(prior.event_shape))
        assert state is not None
        return state

    def _update_state(self, layer: int, state: Tensor | None, z: Tensor, event_dims: int) -> Tensor:
        if self.states is None:
            return z
        inputs = z
        if state is not None:
            inputs = merging.concatenate_events(
                state, z, event_dims, f"the state above {self.names[layer]}"
            )
        return call_network(self.states[layer], self.network_dtype, inputs)

    def _infer(self, x: Tensor, given: Fields, visit: Visit) -> None:
        """Visit the posteriors in the order in which latents are drawn."""
        if self.features is not None:
            self.visit_top_down(x, given, lambda name, q, _: visit(name, q))
            return
        inputs = x
        for layer, name in enumerate(self.names):
            inputs = visit(name, self._call_posterior(layer, inputs, given))

    def visit_top_down(self, x: Tensor, given: Fields, visit: VisitBoth) -> Tensor:
        """Visit each layer's posterior and prior from the top, and return the last state."""
        features = self._compute_features(x, given)

        def visit_layer(layer: int, prior: Distribution, state: Tensor | None) -> Tensor:
            inputs = features[layer]
            if state is not None and self.merge != "product":
                event_dims = inputs.dim() - 1
                where = f"the features of {self.names[layer]}"
                inputs = merging.concatenate_events(inputs, state, event_dims, where)
            q = self._call_posterior(layer, inputs, given)
            return visit(self.names[layer], self._combine(layer, q, prior), prior)

        return self._descend(given, visit_layer)

    def _compute_features(self, x: Tensor, given: Fields) -> list[Tensor]:
        assert self.features is not None
        features: list[Tensor] = []
        for network in self.features:
            x = call_network(network, self.network_dtype, x, **select_fields(network, given))
            features.append(x)
        return features

    def _call_posterior(self, layer: int, inputs: Tensor, given: Fields) -> Distribution:
        part = self.posteriors[layer]
        q: Distribution = part(inputs, **select_fields(part, given))
        checks.check_distribution(f"posterior of {self.names[layer]}", q)
        return q

    def _combine(self, layer: int, q: Distribution, prior: Distribution) -> Distribution:
        """The posterior, if it is relative to the prior."""
        is_top = layer == len(self.priors) - 1
        if self.merge == "concatenate" or (self.merge == "product" and is_top):
            return q
        return merging.relate_to_prior(self.merge, q, prior, self.names[layer], is_top=is_top)

    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """``samples`` draws of all layers, and the terms of the bound at them.

        Args:
            x: data, ``[B, *event]``.
            samples: K.
            gradient: how the posteriors get their gradient, see :class:`lowerbound.Objective`.
            given: the fields that the model needs, ``[B, ...]`` each.

        Raises:
            UnsupportedError: if a posterior does not allow that gradient, by name.
            ShapeError: if the parts do not fit each other or the data.
            DataError: if a field that the model needs is not given.
        """
        return self._draw(x, samples, gradient, given, None)

    def draws(
        self,
        x: Tensor,
        sizes: Iterable[int],
        gradient: Gradient = "pathwise",
        *,
        score: Score | None = None,
        **given: Any,
    ) -> Iterator[Draw]:
        """Draws as of :meth:`lowerbound.LatentModel.draws`; ``score`` is one of the last state."""
        if type(self).draw is not LayeredModel.draw:  # a subclass's own
            yield from super().draws(x, sizes, gradient, **given)
            return
        for samples in sizes:
            yield self._draw(x, samples, gradient, given, score)

    def _draw(
        self, x: Tensor, samples: int, gradient: Gradient, given: Fields, score: Score | None
    ) -> Draw:
        checks.check_layers(self, x, given)
        latents: dict[str, Latent] = {}
        if self.features is not None:

            def draw_layer(name: str, q: Distribution, prior: Distribution) -> Tensor:
                latents[name] = Latent.draw(q, prior, samples, gradient)
                return latents[name].z

            state = self.visit_top_down(x, given, draw_layer)
        else:
            state = self._draw_bottom_up(x, given, latents, samples, gradient)
        fields = select_fields(self.likelihood, given)
        if score is not None:
            return Draw.of(latents, partial(score, state, x, **fields))
        p = self.likelihood(state, **fields)
        checks.check_likelihood(p, x, samples)
        return Draw.of(latents, partial(p.log_prob, x), p=p)

    def _draw_bottom_up(
        self, x: Tensor, given: Fields, latents: dict[str, Latent], samples: int, gradient: Gradient
    ) -> Tensor:
        """Draw all layers from z1 to the top, and return the state that p(x|z) needs."""
        drawn: dict[str, tuple[Distribution, Tensor, Callable[[], Tensor]]] = {}

        def draw_layer(name: str, q: Distribution) -> Tensor:
            z, posterior_term = draw_with_log_q(q, samples, gradient)
            drawn[name] = q, z, posterior_term
            return z

        self._infer(x, given, draw_layer)
        priors: dict[str, Distribution] = {}

        def record_prior(name: str, prior: Distribution) -> Tensor:
            priors[name] = prior
            return drawn[name][1]

        state = self.visit_priors(given, record_prior)
        for name, (q, z, posterior_term) in drawn.items():
            latents[name] = Latent(z=z, q=q, prior=priors[name], posterior_term=posterior_term)
        return state

    # The joint distributions, over the vectors that concatenate the layers as in Draw.z

    def prior_given(self, given: Fields) -> Hierarchy:
        """p(z) of all layers, over vectors ``[J]``, for the fields that it needs."""
        # [B] if fields of B examples are given, and else [].
        batch_shape = next((value.shape[:1] for value in given.values()), Size())
        return self._join(partial(self.visit_priors, given), batch_shape)

    def posterior_given(self, x: Tensor, given: Fields) -> Hierarchy:
        """q(z|x) of all layers, over vectors ``[J]``."""
        return self._join(partial(self._infer, x, given), x.shape[:1])

    def likelihood_given(self, given: Fields) -> Callable[[Tensor], Distribution]:
        """p(x|z) as a function of the layers' vectors ``[K, B, J]``."""
        prior = self.prior_given(given)
        fields = select_fields(self.likelihood, given)

        def decode(z: Tensor) -> Distribution:
            pieces = prior.split(z)
            state = self.visit_priors(given, lambda name, _: pieces[name])
            p: Distribution = self.likelihood(state, **fields)
            return p

        return decode

    def _join(self, walk: Callable[[Visit], Any], batch_shape: Sequence[int]) -> Hierarchy:
        order = self.names
        if self.features is not None:  # the order of drawing
            order = order[::-1]
        return Hierarchy(walk, outline(walk, order, batch_shape, get_device(self)), batch_shape)

    def _decode_latents(self, z: Tensor, fields: Mapping[str, Tensor], mean: bool) -> Tensor:
        """Decode vectors of all layers, ``[N, J]``; for means, without the details."""
        if not mean or not self.details:
            return super()._decode_latents(z, fields, mean)
        pieces = self.prior_given(fields).split(z)
        return self.decode({name: pieces[name] for name in self.names[self.details :]}, **fields)

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor | dict[str, Tensor]:
        """The natural points of the layers' posteriors, by name, ``[N, *units]`` each.

        The posterior of a layer that depends on others is that for their natural points. So one
        pass through the layers is enough, and ``decode`` takes the points back to the data.

        Args:
            data: examples, or raw data as for :meth:`~lowerbound.Model.examples`: ``[N, *event]``.

        Returns:
            A mapping from names to points; for a single layer, its points.
        """
        return encode_along(self._infer, data, self)

    @torch.no_grad()
    def decode(self, z: Any, **given: Any) -> Tensor:
        """The mean of p(x|z), ``[N, *event]``.

        Args:
            z: the latents of the top layer, ``[N, *units]``, or a mapping from names of layers to
                latents, as ``encode`` returns it. A layer that is missing takes the natural
                point of its prior, given the layers above.
            given: the fields that priors and likelihood need by name: one value for all latents, or
                one for each.

        Raises:
            ShapeError: if latents do not have the shape of their layer.
            SettingsError: for a layer that the model does not have.
        """
        latents = read_latents(z, self.names, self)
        count = len(next(iter(latents.values())))
        fields = self.as_fields(given, count)

        def likelihood_of(part: slice) -> Distribution:
            some = {name: value[part] for name, value in fields.items()}
            size = len(range(*part.indices(count)))

            def choose(name: str, prior: Distribution) -> Tensor:
                if name not in latents:
                    point = choose_point(prior, get_device(self))
                    return point.expand(1, size, *prior.event_shape)
                piece = latents[name][None, part]
                if piece.shape[2:] != prior.event_shape:
                    raise ShapeError(
                        f"decode: the latents {name} have the shape {tuple(latents[name].shape)}; "
                        f"expected {('N', *prior.event_shape)} for N examples"
                    )
                return piece

            state = self.visit_priors(some, choose)
            p: Distribution = self.likelihood(state, **select_fields(self.likelihood, some))
            return p

        with evaluating(self):
            return decode_in_batches(likelihood_of, count, get_device(self), mean=True)
