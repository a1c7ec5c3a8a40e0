"""Mutations of priors that are fitted after training, and of the checks of a model's layers."""

from __future__ import annotations

from mutation import Mutation

FITTED_PRIOR = "training/fitting_prior.py"

MUTATIONS = [
    Mutation(
        FITTED_PRIOR,
        "return -evaluate(",
        "return evaluate(",
        "A prior that lowers the ELBO is accepted, and one that raises it is refused.",
    ),
    Mutation(
        FITTED_PRIOR,
        "    if not after <= before:\n",
        "    if False:\n",
        "A prior that lowers the ELBO is accepted.",
    ),
    Mutation(
        FITTED_PRIOR,
        "fitted.prior = copy.deepcopy(prior, copies)",
        "fitted.prior = copy.deepcopy(prior)",
        "A fitted prior no longer shares the encoder.",
    ),
    Mutation(
        FITTED_PRIOR,
        "fitted.prior = copy.deepcopy(prior, copies)",
        "fitted.prior = prior",
        "The given prior is trained, and not a copy of it.",
    ),
    Mutation(
        FITTED_PRIOR,
        "fitted = copy.deepcopy(model, copies)",
        "fitted = model",
        "The prior of the given model is replaced.",
    ),
    Mutation(
        FITTED_PRIOR,
        "        self.whole.posterior.eval()\n",
        "",
        "The encoder draws its dropout while the prior is fitted.",
    ),
    Mutation(
        FITTED_PRIOR,
        "            parameter.requires_grad_(True)",
        "            parameter.requires_grad_(False)",
        "Encoder and decoder stay frozen after a prior was fitted.",
    ),
    Mutation(
        FITTED_PRIOR,
        "trained = [parameter for parameter in others if parameter.requires_grad]",
        "trained = others",
        "Parameters that were frozen are no longer frozen after a prior was fitted.",
    ),
    Mutation(
        FITTED_PRIOR,
        "id(each) in own or not each.requires_grad",
        "id(each) in own",
        "A prior whose parameters are all frozen is said to be trained.",
    ),
    Mutation(
        FITTED_PRIOR,
        "    if start is not None:\n",
        "    if False:\n",
        "A mixture does not start from the latents.",
    ),
    Mutation(
        FITTED_PRIOR,
        "examples.spread(min(",
        "examples.first(min(",
        "A mixture starts from the first examples of sorted data.",
    ),
    Mutation(
        FITTED_PRIOR,
        'derived_seed(settings.get("seed", 0), "fit_prior")',
        'derived_seed(0, "fit_prior")',
        "Every seed leads to the same start of a mixture.",
    ),
    Mutation(
        FITTED_PRIOR,
        "    fitted.train(model.training)\n",
        "",
        "The fitted model is in another mode than the given one.",
    ),
    Mutation(
        FITTED_PRIOR,
        '"needs", self.whole.prior, self.whole.posterior',
        '"needs", self.whole.prior',
        "Fields that only the encoder needs are not given to it.",
    ),
    Mutation(
        FITTED_PRIOR,
        "        check_training(rates, objective, examples, settings)\n",
        "",
        "The settings of a fit are checked after the model was evaluated.",
    ),
    Mutation(
        "models/checks.py",
        "parts = (x.shape[1:], *map(id, model.priors), *map(id, model.posteriors))",
        "parts = (x.shape[1:], *map(id, model.posteriors))",
        "A prior that replaces a layer's is not checked before draws.",
    ),
    Mutation(
        "models/checks.py",
        '        check_measures(q, prior, f" of {name!r}")\n        z: Tensor',
        "        z: Tensor",
        "Layers without a density under their prior are refused after draws only.",
    ),
]
