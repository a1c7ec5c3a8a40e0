"""Sequences of codes: probabilities by enumeration, teacher forcing, draws, ends, and dropout."""

import itertools
import math

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.distributions import natural_point
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError

DOUBLE = torch.float64

LENGTH, LEVELS = 4, 3
DECODERS = {
    "recurrent": lambda: lb.recurrent(2, 8, (LENGTH, LEVELS), layers=2),
    "attention": lambda: lb.attention(2, 8, (LENGTH, LEVELS), heads=2),
}
ALL = torch.tensor(list(itertools.product(range(LEVELS), repeat=LENGTH)), dtype=torch.float64)
decoder = pytest.mark.parametrize("name", DECODERS)
with_end = pytest.mark.parametrize("end", [None, 0, 2])


def make(name, **settings):
    """A likelihood with large weights, so that codes depend much on each other."""
    torch.manual_seed(1)
    likelihood = lb.Autoregressive(DECODERS[name](), **settings).double().eval()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.mul_(2.0).add_(0.3 * torch.randn_like(parameter))
    return likelihood


def some_latents(*shape):
    return torch.randn(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@decoder
@with_end
def test_the_probabilities_of_all_sequences_sum_to_one(name, end):
    p = make(name, end=end)(some_latents(5)[:, None])
    log_prob = p.log_prob(ALL)
    assert log_prob.shape == (5, len(ALL))
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(5, dtype=torch.float64))
    possible = p.support.check(ALL)
    assert torch.equal(log_prob.isfinite(), possible.expand(5, -1))
    assert int(possible.sum()) == (len(ALL) if end is None else sum(2**n for n in range(5)))


@decoder
@with_end
def test_teacher_forcing_equals_one_code_after_the_other(name, end):
    likelihood = make(name, end=end)
    z = some_latents(7)
    sequences = ALL[likelihood(z).support.check(ALL)][:: 5 if end is None else 2]
    for sequence in sequences:
        state, previous = likelihood.begin(z), None
        total, ended = torch.zeros(7, dtype=torch.float64), False
        for code in sequence.long():
            logits, state = likelihood.predict_next(state, previous)
            if not ended:
                total = total + logits.log_softmax(-1)[:, code]
            ended = ended or int(code) == end
            previous = code.expand(7)
        torch.testing.assert_close(total, likelihood(z).log_prob(sequence), rtol=0, atol=1e-12)


@decoder
def test_one_sequence_is_scored_as_within_a_batch(name):
    p = make(name)(some_latents())
    assert p.log_prob(ALL[7]).shape == p.batch_shape == ()
    torch.testing.assert_close(p.log_prob(ALL[7]), p.log_prob(ALL)[7])
    assert p.sample().shape == (LENGTH,)


@decoder
def test_no_code_sees_itself_or_later_ones(name):
    likelihood = make(name)
    codes = torch.tensor([[0, 1, 2, 1]], requires_grad=False)
    z = some_latents(1)
    before = likelihood.predict_all(z, codes)
    for position in range(LENGTH):
        other = codes.clone()
        other[0, position] = (other[0, position] + 1) % LEVELS
        after = likelihood.predict_all(z, other)
        changed = (after - before).abs().amax(-1)[0] > 1e-9
        assert changed.tolist() == [place > position for place in range(LENGTH)]


@decoder
@with_end
def test_draws_have_the_stated_probabilities(name, end):
    """A chi-squared test at 6 standard deviations: less than one false alarm in 10^6 runs."""
    p = make(name, end=end)(some_latents(1))
    torch.manual_seed(3)
    draws = p.sample((20_000,))[:, 0]
    weights = LEVELS ** torch.arange(LENGTH - 1, -1, -1, dtype=torch.float64)
    counts = torch.bincount((draws @ weights).long(), minlength=len(ALL))
    expected = 20_000 * p.log_prob(ALL).exp().detach()
    assert not counts[expected == 0].any()
    often = expected > 5
    terms = (counts - expected).square()[often] / expected[often]
    freedom = int(often.sum()) - 1
    assert freedom >= 5
    assert float(terms.sum()) < freedom + 6 * math.sqrt(2 * freedom) + 10


@decoder
def test_the_mode_is_greedy(name):
    p = make(name, end=1)(some_latents(6))
    mode = natural_point(p)
    assert torch.equal(mode, p.mode)
    sequence = torch.zeros(6, LENGTH, dtype=torch.float64)
    for position in range(LENGTH):
        scores = []
        for code in range(LEVELS):
            trial = sequence.clone()
            trial[:, position] = code
            logits = p.predictor.predict_all(p.given, trial.long())
            scores.append(logits[:, position, code])
        best = torch.stack(scores, 1).argmax(1)
        ended = (sequence[:, :position] == 1).any(1)
        sequence[:, position] = torch.where(ended, 1, best)
    assert torch.equal(mode, sequence)
    assert p.support.check(mode).all()


def test_attention_is_that_of_the_paper():
    """Each head averages the values of the codes so far, with a softmax of scaled products."""
    torch.manual_seed(0)
    network = lb.attention(3, 8, (4, 5), layers=1, heads=2).double()
    z, codes = torch.randn(6, 3, dtype=DOUBLE), torch.randint(5, (6, 4))
    (attend,), (process,) = network.attend, network.process
    h = network.table(codes) + network.from_input(z)[:, None] + network.positions
    centred = h - h.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    queries, keys, values = attend.project(normal).split(8, -1)
    seen = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = queries[..., head] @ keys[..., head].mT / 2
        later = torch.ones(4, 4, dtype=torch.bool).triu(1)
        seen.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ values[..., head])
    h = h + attend.join(torch.cat(seen, -1))
    h = h + process.branch(h)
    expected = network.to_logits(network.norm(h))
    torch.testing.assert_close(network(z, codes), expected)


def test_expansion_and_leading_dimensions():
    likelihood = make("recurrent", end=0)
    z = some_latents(5)
    p = likelihood(z).expand((3, 5))
    x = ALL[[0, 30, 80, 77, 27]]
    assert p.batch_shape == (3, 5)
    assert p.sample((2,)).shape == (2, 3, 5, LENGTH)
    torch.testing.assert_close(p.log_prob(x)[1], likelihood(z).log_prob(x))
    samples = likelihood(z).log_prob(ALL[:6, None])
    torch.testing.assert_close(samples[:, 3], likelihood(z[3]).log_prob(ALL[:6]))


def test_codes_up_to_the_end_are_counted():
    x = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 1.0]])
    p = make("recurrent", end=0)(some_latents(3))
    assert p.count_scored(x).tolist() == [3, 1, 4]
    assert make("recurrent")(some_latents(3)).count_scored(x).tolist() == [4, 4, 4]


def test_word_dropout_hides_codes_in_training_only():
    likelihood = make("recurrent", word_dropout=1.0)
    z, x = some_latents(1), torch.tensor([[0, 1, 2, 1]])
    plain = likelihood.predict_all(z, x)
    likelihood.train()
    hidden = likelihood.predict_all(z, x)
    torch.testing.assert_close(likelihood.predict_all(z, (x + 1) % LEVELS), hidden)
    assert (hidden - plain).abs().max() > 1e-3
    likelihood.word_dropout = 0.4
    wide = likelihood.predict_all(z.expand(20_000, 2), x.expand(20_000, LENGTH))
    torch.testing.assert_close(wide[:, 0], plain[:, 0].expand(20_000, LEVELS))
    kept = ((wide[:, 1] - plain[:, 1]).abs().amax(-1) < 1e-9).double().mean()
    assert abs(float(kept) - 0.6) < 6 * math.sqrt(0.24 / 20_000)


def test_training_starts_from_the_frequencies_of_codes():
    likelihood = lb.Autoregressive(lb.recurrent(2, 8, (4, 3)), end=0)
    x = torch.tensor([[1.0, 1.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    likelihood.start_from(x)
    expected = torch.tensor([3 / 9, 4 / 9, 2 / 9]).log()  # up to the end, and one more of each
    torch.testing.assert_close(likelihood.network.to_logits.bias.detach(), expected)


def test_embeddings_are_rows_of_a_table():
    layer = lb.embed(3, 5, 4)
    signal = layer(torch.tensor([[[4.0, 0.0, 4.0]]]))
    assert signal.shape == (1, 1, 4, 3)
    assert torch.equal(signal[0, 0, :, 0], layer.table.weight[4])
    with pytest.raises(ShapeError, match=r"Embedding takes events of shape \(3,\)"):
        layer(torch.zeros(2, 4))


def make_vae(name="recurrent", **settings):
    torch.manual_seed(0)
    encoder = nn.Sequential(lb.embed(LENGTH, LEVELS, 6), lb.conv((6, LENGTH), 8, 4))
    likelihood = lb.Autoregressive(DECODERS[name](), **settings)
    return lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(encoder), likelihood)


def make_words(count=200):
    """Sequences of one letter, of different lengths, padded with 0."""
    draw = torch.Generator().manual_seed(2)
    letters = torch.randint(1, LEVELS, (count, 1), generator=draw).expand(count, LENGTH)
    lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=draw)
    return lb.Examples(letters * (torch.arange(LENGTH) < lengths), kind="codes", levels=LEVELS)


@decoder
def test_a_model_of_sequences_trains_and_can_be_saved(name, tmp_path):
    vae, words = make_vae(name, end=0, word_dropout=0.2), make_words()
    before = lb.evaluate(vae, lb.ELBO(), words).mean
    lb.fit(vae, lb.ELBO(), words, epochs=30, batch_size=50, learning_rate=0.02, progress=False)
    after = lb.evaluate(vae, lb.ELBO(), words)
    assert after.mean > before + 1
    lb.save(vae, tmp_path / "vae.safetensors")
    again = lb.load(tmp_path / "vae.safetensors")
    assert torch.equal(lb.evaluate(again, lb.ELBO(), words).per_example, after.per_example)
    samples = vae.sample(50, seed=1)
    assert vae.likelihood(torch.zeros(1, 2)).support.check(samples).all()
    assert torch.equal(vae.reconstruct(words), vae.reconstruct(words))


def test_bits_are_counted_for_each_code_up_to_the_end():
    vae, words = make_vae(end=0), make_words()
    estimate = lb.evaluate(vae, lb.ELBO(), words)
    codes = vae.likelihood(torch.zeros(1, 2)).count_scored(words.values).double().mean()
    expected = -estimate.mean / (float(codes) * math.log(2))
    assert estimate.bits_per_dimension == pytest.approx(expected, rel=1e-6)


def test_results_do_not_depend_on_batches():
    vae, words = make_vae(end=0).double(), make_words(9)
    first = lb.evaluate(vae, lb.ELBO(samples=3), words, seed=5, batch_size=9).per_example
    for size in (1, 4):
        again = lb.evaluate(vae, lb.ELBO(samples=3), words, seed=5, batch_size=size).per_example
        torch.testing.assert_close(again, first, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1, 2, 0, 0], [1, 0, 2, 0]], "row 1 has 2 at position 2, but only 0 may follow"),
        ([[1, 2, 3, 0]], "row 0 has 3 at position 2, but codes are whole numbers from 0 to 2"),
    ],
)
def test_data_that_are_not_such_sequences_are_refused(codes, message):
    words = lb.Examples(torch.tensor(codes), kind="codes", levels=4)
    vae = make_vae(end=0)
    vae.posterior = lb.Gaussian(lb.mlp(LENGTH, 4))
    with pytest.raises(DataError, match=message):
        lb.evaluate(vae, lb.ELBO(), words)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: lb.Autoregressive(lb.mlp(2, 6)), UnsupportedError, "a MLP does not predict codes"),
        (lambda: lb.Autoregressive(lb.recurrent(2, 8, (4, 3)), end=3), SettingsError, "end=3"),
        (
            lambda: lb.Autoregressive(lb.recurrent(2, 8, (4, 3)), word_dropout=1.5),
            SettingsError,
            "word_dropout=1.5",
        ),
        (lambda: lb.recurrent(2, 8, (4, 3, 1)), ShapeError, r"logits \(length, levels\)"),
        (lambda: lb.attention(2, 9, (4, 3), heads=2), SettingsError, "multiple of heads=2"),
    ],
)
def test_invalid_parts_say_why(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_field_is_appended_to_the_latents():
    part = lb.Given(lb.Autoregressive(lb.recurrent(5, 8, (LENGTH, LEVELS))), "label", categories=3)
    label = torch.tensor([0, 2])
    p = part(torch.zeros(3, 2, 2), label=label)
    assert p.batch_shape == (3, 2)
    assert p.sample().shape == (3, 2, LENGTH)
