"""Mutations of penalised objectives: disentangling, discrepancies, codebooks, adversaries."""

from __future__ import annotations

from mutation import Mutation

TOTAL, PENALISED = "objectives/total_correlation.py", "objectives/penalised.py"
DIP, DISCREPANCY = "objectives/dip.py", "objectives/discrepancy.py"
REGULARISED, ADVERSARIAL = "objectives/regularised.py", "objectives/adversarial.py"
QUANTIZED, SUPERVISED = "objectives/quantized.py", "objectives/supervised.py"

MUTATIONS = [
    Mutation(
        TOTAL,
        "others = math.log((size - 1) / (size * (batch - 1)))",
        "others = math.log(1 / size)",
        "The weights of other examples are those of a sample with replacement.",
    ),
    Mutation(
        TOTAL,
        "return weights.fill_diagonal_(-math.log(size))",
        "return weights",
        "An example's own posterior has the weight of any other.",
    ),
    Mutation(
        TOTAL,
        "log_product = (log_weight_BB[..., None] + log_q_KBBJ).logsumexp(2).sum(-1)",
        "log_product = (log_weight_BB[..., None] + log_q_KBBJ).logsumexp(1).sum(-1)",
        "The product of marginals is summed over the wrong examples.",
    ),
    Mutation(
        TOTAL,
        "log_aggregate = (log_weight_BB + log_q_KBB).logsumexp(2)",
        "log_aggregate = log_q_KBB.logsumexp(2)",
        "The aggregate posterior is not weighted.",
    ),
    Mutation(
        TOTAL,
        '"mutual information": log_q_KBB.diagonal(dim1=1, dim2=2) - log_aggregate,',
        '"mutual information": log_aggregate - log_q_KBB.diagonal(dim1=1, dim2=2),',
        "The mutual information has the wrong sign.",
    ),
    Mutation(
        TOTAL,
        "return sum(weighted[1:], weighted[0]) - self.rate(draw)",
        "return sum(weighted[1:], weighted[0])",
        "The KL is subtracted twice, once by its parts.",
    ),
    Mutation(
        TOTAL,
        "weights = (self.alpha, self.beta, self.gamma)",
        "weights = (self.alpha, self.gamma, self.beta)",
        "Beta weights the dimension-wise KL instead of the total correlation.",
    ),
    Mutation(
        TOTAL,
        "return replace(self, size=count)",
        "return replace(self, size=count + 1)",
        "The weights are those of one example more than there are.",
    ),
    Mutation(
        TOTAL,
        "latent.z.double().unsqueeze(2)",
        "latent.z.double().unsqueeze(1)",
        "The latents and the posteriors of all pairs are exchanged.",
    ),
    Mutation(
        PENALISED,
        'terms["elbo"] = self._elbo.bound(draw)',
        'terms["elbo"] = self.bound(draw)',
        "The ELBO beside an objective is the objective itself.",
    ),
    Mutation(
        DIP,
        "covariance: Tensor = centred.T @ centred / max(len(means) - 1, 1)",
        "covariance: Tensor = centred.T @ centred / len(means)",
        "The covariance of the means is biased.",
    ),
    Mutation(
        DIP,
        "off_diagonal = covariance.square().sum() - variances.square().sum()",
        "off_diagonal = covariance.square().sum()",
        "The diagonal is penalised as if it were off it.",
    ),
    Mutation(
        DIP,
        "return covariance + own",
        "return own",
        "DIP II ignores the covariance of the means.",
    ),
    Mutation(
        DIP,
        "return q.variance.flatten(1).mean(0).diag()",
        "return q.variance.flatten(1).sqrt().mean(0).diag()",
        "DIP II adds the standard deviations of the posteriors.",
    ),
    Mutation(
        DIP,
        "(variances - 1).square().sum()",
        "variances.square().sum()",
        "DIP draws variances to 0 instead of 1.",
    ),
    Mutation(
        DISCREPANCY,
        "pairs_KBB = compare(z, z) + compare(y, y) - crossed_KBB - crossed_KBB.mT",
        "pairs_KBB = compare(z, z) + compare(y, y) - crossed_KBB",
        "The discrepancy subtracts the crossed kernel once.",
    ),
    Mutation(
        DISCREPANCY,
        "of_pairs = 1 - torch.eye(batch, dtype=z.dtype, device=z.device)",
        "of_pairs = torch.ones(batch, batch, dtype=z.dtype, device=z.device)",
        "The discrepancy compares each draw with itself.",
    ),
    Mutation(
        DISCREPANCY,
        "return (pairs_KBB * of_pairs).sum(2).mean(0) / (batch - 1)",
        "return (pairs_KBB * of_pairs).sum(2).mean(0) / batch",
        "The discrepancy divides by one pair too many.",
    ),
    Mutation(
        DISCREPANCY,
        "values = [(distance / -width).exp() for width in widths]",
        "values = [(distance / width).exp().reciprocal().sqrt() for width in widths]",
        "The Gaussian kernel is too wide.",
    ),
    Mutation(
        DISCREPANCY,
        "[2 * z.shape[2] * scale for scale in scales]",
        "[2 * scale for scale in scales]",
        "The widths of kernels do not grow with the dimensions.",
    ),
    Mutation(
        DISCREPANCY,
        "penalty = (alpha + weight - 1) * self.discrepancy(draw)",
        "penalty = weight * self.discrepancy(draw)",
        "InfoVAE weights the discrepancy as if alpha were 1.",
    ),
    Mutation(
        DISCREPANCY,
        "return penalty + (1 - alpha) * self.rate(draw)",
        "return penalty + alpha * self.rate(draw)",
        "InfoVAE weights the KL with alpha instead of its rest.",
    ),
    Mutation(
        REGULARISED,
        "return 0.5 * get_value(self.weight) * _compute_squared_norm(draw)",
        "return get_value(self.weight) * _compute_squared_norm(draw)",
        "The norm of the latents is penalised twice.",
    ),
    Mutation(
        REGULARISED,
        "projected = (mean * torch.randn_like(mean)).sum()",
        "projected = mean.sum()",
        "The Jacobian of the decoder is projected on one direction.",
    ),
    Mutation(
        REGULARISED,
        "norms = [g.flatten(2).square().sum(2).mean(0) for g in gradients if g is not None]",
        "norms = [g.flatten(2).norm(dim=2).mean(0) for g in gradients if g is not None]",
        "The gradient penalty is the norm instead of its square.",
    ),
    Mutation(
        ADVERSARIAL,
        "softplus(self._logits(draw.z)).mean(0)",
        "softplus(-self._logits(draw.z)).mean(0)",
        "The encoder of an adversarial auto-encoder helps the critic.",
    ),
    Mutation(
        ADVERSARIAL,
        'return {"critic": compute_cross_entropy(of_posterior, of_prior)}',
        'return {"critic": compute_cross_entropy(of_prior, of_posterior)}',
        "The critic exchanges posterior and prior.",
    ),
    Mutation(
        ADVERSARIAL,
        "of_posterior = self._logits(draw.z.detach())",
        "of_posterior = self._logits(draw.z)",
        "The critic's loss reaches the encoder.",
    ),
    Mutation(
        QUANTIZED,
        "penalty = get_value(self.commitment) * commitment + get_value(self.codebook) * codebook",
        "penalty = get_value(self.codebook) * commitment + get_value(self.commitment) * codebook",
        "The weights of commitment and codebook are exchanged.",
    ),
    Mutation(
        QUANTIZED,
        "return self.bound(draw) - penalty",
        "return self.bound(draw) + penalty",
        "The errors of a codebook are rewarded.",
    ),
    Mutation(
        QUANTIZED,
        "error.reshape(-1, error.shape[-1]).mean(0) for error in errors",
        "error.reshape(-1, error.shape[-1]).sum(0) for error in errors",
        "The errors of codes of several draws are summed.",
    ),
    Mutation(
        SUPERVISED,
        "return self.bound(draw) + get_value(self.alpha) * _get_log_q(draw)",
        "return self.bound(draw) - get_value(self.alpha) * _get_log_q(draw)",
        "The classifier is trained to be wrong.",
    ),
    Mutation(
        SUPERVISED,
        '{"classification": -_get_log_q(draw).detach()}',
        '{"classification": _get_log_q(draw).detach()}',
        "The cross-entropy of the classifier is reported with the wrong sign.",
    ),
]
