"""Mutations of models with layers, labels or enumerated latents, and of fitting a prior."""

from __future__ import annotations

from mutation import Mutation

LAYERED, MERGING = "models/layered.py", "models/merging.py"
SEMI_SUPERVISED, LABELS = "models/semi_supervised.py", "models/label_terms.py"
ENUMERATED, FITTING_PRIOR = "models/enumerated.py", "training/fitting_prior.py"

MUTATIONS = [
    Mutation(
        LAYERED,
        "for layer in reversed(range(len(self.priors))):",
        "for layer in range(len(self.priors)):",
        "Layers are generated from the bottom to the top.",
    ),
    Mutation(
        LAYERED,
        "inputs = visit(name, self._call_posterior(layer, inputs, given))",
        "visit(name, self._call_posterior(layer, inputs, given))",
        "Each posterior of a bottom-up inference sees x instead of the layer below.",
    ),
    Mutation(
        LAYERED,
        "inputs = features[layer]\n",
        "inputs = features[-1]\n",
        "Each layer of a top-down inference sees the topmost features.",
    ),
    Mutation(
        LAYERED,
        'if state is not None and self.merge != "product":',
        'if state is not None and self.merge == "product":',
        "A top-down posterior does not see the state above.",
    ),
    Mutation(
        LAYERED,
        'if self.merge == "concatenate" or (self.merge == "product" and is_top):',
        'if self.merge == "concatenate" or is_top:',
        "The top layer's posterior is not a correction of its prior.",
    ),
    Mutation(
        LAYERED,
        'if self.merge == "concatenate" or (self.merge == "product" and is_top):',
        'if self.merge == "concatenate":',
        "The top layer's posterior is multiplied with its prior.",
    ),
    Mutation(
        LAYERED,
        "x = call_network(network, self.network_dtype, x, **select_fields(network, given))",
        "call_network(network, self.network_dtype, x, **select_fields(network, given))",
        "The features are not those of the network.",
    ),
    Mutation(
        LAYERED,
        "order = order[::-1]",
        "order = order[::1]",
        "The latents of a top-down model are joined in the wrong order.",
    ),
    Mutation(
        LAYERED,
        "return call_network(self.states[layer], self.network_dtype, inputs)",
        "return call_network(self.states[0], self.network_dtype, inputs)",
        "All layers have the state network of the first.",
    ),
    Mutation(
        LAYERED,
        "point = choose_point(prior, get_device(self))",
        "point = choose_point(prior, get_device(self)) + 1",
        "Layers that are not given to decode are not at the prior's mean.",
    ),
    Mutation(
        MERGING,
        '"product": multiply_normals,',
        '"product": shift_normal,',
        "A product of Gaussians is a shift.",
    ),
    Mutation(
        LABELS,
        "self.log_label_q = (self.shares * log_q.masked_fill(self.is_known[:, None], 0.0)).sum(-1)",
        "self.log_label_q = torch.zeros_like(self.shares[:, 0])",
        "The bound of unlabelled examples lacks the entropy of the label.",
    ),
    Mutation(
        LABELS,
        "(self.shares * log_q.masked_fill(self.is_known[:, None], 0.0)).sum(-1)",
        "(self.shares * log_q).sum(-1)",
        "The bound of a labelled example contains its classification.",
    ),
    Mutation(
        LABELS,
        "torch.stack([self.prior.log_prob(z) for z in self.z], -1) + self.label_prior",
        "torch.stack([self.prior.log_prob(z) for z in self.z], -1)",
        "The bound lacks the prior of the label.",
    ),
    Mutation(
        LABELS,
        "return log_w.masked_fill(self.excluded, -math.inf).logsumexp(-1)",
        "return log_w.logsumexp(-1)",
        "The weight of a labelled example sums over all labels.",
    ),
    Mutation(
        LABELS,
        "log_w = self.log_likelihood + self.log_prior - self.log_q\n",
        "log_w = self.log_likelihood + self.log_prior + self.log_q\n",
        "The weight of a label multiplies by q.",
    ),
    Mutation(
        LABELS,
        "self.shares = torch.where(self.is_known[:, None], is_label.to(log_q.dtype), log_q.exp())",
        "self.shares = log_q.exp()",
        "A known label is averaged over like an unknown one.",
    ),
    Mutation(
        LABELS,
        "self.log_q_label = log_q.gather(-1, chosen).squeeze(-1).where(self.is_known, 0.0)",
        "self.log_q_label = log_q.gather(-1, chosen).squeeze(-1)",
        "An unlabelled example trains the classifier towards the first category.",
    ),
    Mutation(
        LABELS,
        "return label.nan_to_num(-1.0).long()",
        "return label.nan_to_num(0.0).long()",
        "A missing label is the first category.",
    ),
    Mutation(
        SEMI_SUPERVISED,
        "return logits.log_softmax(-1)",
        "return logits.log_softmax(0)",
        "The classifier normalises over the examples.",
    ),
    Mutation(
        SEMI_SUPERVISED,
        "labels = torch.where(read_labels(known) < 0, labels, read_labels(known))",
        "labels = read_labels(known)",
        "Samples of an unknown label are of category -1.",
    ),
    Mutation(
        SEMI_SUPERVISED,
        "means = [share * self.decode(z, label=y, **given) for y, share in probabilities]",
        "means = [self.decode(z, label=y, **given) for y, share in probabilities]",
        "The average over labels is a sum.",
    ),
    Mutation(
        SEMI_SUPERVISED,
        'of_labels = derived_seed(check_seed("sample", seed), "labels")',
        "of_labels = None",
        "The labels of samples do not follow from the seed.",
    ),
    Mutation(
        ENUMERATED,
        "return (self.log_q_SB.exp() * terms).sum(0)",
        "return (self.log_q_SB.exp() * terms).mean(0)",
        "An exact expectation is divided by the number of states.",
    ),
    Mutation(
        ENUMERATED,
        "return (self.log_likelihood_SB + self.log_prior_SB).logsumexp(0)",
        "return (self.log_likelihood_SB + self.log_prior_SB - self.log_q_SB).logsumexp(0)",
        "The evidence of enumerated latents divides by q.",
    ),
    Mutation(
        ENUMERATED,
        "return self.prior.log_prob(self.states)",
        "return self.q.log_prob(self.states)",
        "The prior of enumerated latents is q.",
    ),
]
