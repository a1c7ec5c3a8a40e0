"""The table of where a step's time goes."""

from types import SimpleNamespace

import pytest
import torch

import lowerbound as lb
from lowerbound.training import profiling
from lowerbound.training.observing import Observer
from lowerbound.training.profiling import DATA, DATA_WORK, ELEMENTWISE, OPTIMISER, PRODUCTS, PYTHON

KINDS = (PRODUCTS, ELEMENTWISE, OPTIMISER, DATA_WORK, PYTHON)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(profiling, "_STEPS", 3)


def train(directory, examples, **settings):
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 16, 4)), lb.Bernoulli(lb.mlp(2, 16, 6))
    )
    data = (torch.rand(examples, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    settings = {
        "batch_size": 10,
        "compile": "never",
        "device": "cpu",
        "progress": False,
        **settings,
    }
    lb.fit(model, lb.ELBO(), data, profile=True, directory=directory, **settings)
    return model


def shares(text, first):
    rows = [
        line.strip("|").split("|")
        for line in text.splitlines()
        if line.startswith("|") and "%" in line
    ]
    found = {
        name.strip(): (float(ms), float(share.strip().rstrip("%")) / 100)
        for name, ms, share in rows
    }
    return {name: found[name] for name in first}


@pytest.mark.parametrize(
    ("examples", "settings"),
    [
        pytest.param(400, {"epochs": 1}, id="one-long-epoch"),
        pytest.param(30, {"epochs": 12}, id="short-epochs"),
        pytest.param(10, {"epochs": 12}, id="epochs-of-one-step"),
        pytest.param(400, {"steps": 25}, id="cut-short"),
        pytest.param(37, {"epochs": 12, "validation": 0.2}, id="validation"),
    ],
)
def test_the_shares_are_those_of_the_whole_step(tmp_path, examples, settings):
    train(tmp_path / "run", examples, **settings)
    text = (tmp_path / "run" / "profile.md").read_text()
    found = shares(text, KINDS)
    assert sum(share for _, share in found.values()) == pytest.approx(1, abs=0.01)
    whole = float(text.split("goes: ")[1].split(" ms")[0])
    assert sum(ms for ms, _ in found.values()) == pytest.approx(whole, rel=0.05)
    assert min(found[name][1] for name in KINDS) > 0
    assert "aten::addmm" in text


def test_profiling_changes_no_figure(tmp_path):
    torch.manual_seed(0)
    once = train(tmp_path / "a", 100, epochs=2)
    torch.manual_seed(0)
    data = (torch.rand(100, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    plain = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 16, 4)), lb.Bernoulli(lb.mlp(2, 16, 6))
    )
    lb.fit(
        plain,
        lb.ELBO(),
        data,
        epochs=2,
        batch_size=10,
        compile="never",
        device="cpu",
        progress=False,
    )
    for name, value in once.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])


def test_a_training_that_is_too_short_says_so(capsys):
    train(None, 20, epochs=2, progress=True)
    told = capsys.readouterr().err
    assert "the profile was not made: training ended before it took 6 steps" in told


def test_the_table_is_shown_with_its_file(tmp_path, capsys):
    train(tmp_path / "run", 400, epochs=1, progress=True)
    told = capsys.readouterr().err
    assert "| matrix products" in told
    assert "written to " in told


def test_an_interrupt_leaves_no_profiler_running():
    class Stop(Observer):
        def on_step(self, loop):
            if torch._C._autograd._profiler_enabled():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(None, 400, epochs=1, observers=[Stop()])
    assert not torch._C._autograd._profiler_enabled()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mm"], PRODUCTS),
        (["aten::addmm", "aten::linear"], PRODUCTS),
        (["mkldnn::_linear_pointwise"], PRODUCTS),
        (["aten::mkldnn_convolution", "aten::convolution"], PRODUCTS),
        (["aten::convolution_backward"], PRODUCTS),
        (["aten::tanh"], ELEMENTWISE),
        (["graph_0_cpp_fused_tanh_1"], ELEMENTWISE),
        (["aten::mul_", "Optimizer.step#Adam.step"], OPTIMISER),
        (["aten::_fused_adam_", "Optimizer.step#Adam.step", "lowerbound::update"], OPTIMISER),
        (["aten::index", DATA], DATA_WORK),
        (["graph_0_cpp_fused__to_copy_div_index_0"], DATA_WORK),
        (["graph_0_cpp_fused_exp_index_index_put_log_4"], ELEMENTWISE),
        (["graph_0_cpp_fused__to_copy_add_exp_gather_index_lgamma_log_3"], ELEMENTWISE),
        (["## Call CompiledFxGraph abc ##"], None),
        (["TorchDynamo Cache Lookup"], None),
    ],
)
def test_each_operation_has_its_kind(names, kind):
    event = None
    for name in reversed(names):
        event = SimpleNamespace(name=name, cpu_parent=event)
    assert profiling._find_kind(event) == kind


@pytest.mark.parametrize(("name", "kind"), [
    ("sm80_xmma_gemm_f32f32_f32f32_f32_nt_n_tilesize32x32x8_stage3", profiling.PRODUCTS),
    ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", profiling.PRODUCTS),
    ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<>", profiling.OPTIMISER),
    ("triton_poi_fused__to_copy_div_index_0", profiling.DATA_WORK),
    ("triton_per_fused_log_sub_sum_8", profiling.ELEMENTWISE),
    ("triton_poi_fused_exp_index_put_log_4", profiling.ELEMENTWISE),
    ("void at::native::index_elementwise_kernel<index_put_kernel>", profiling.ELEMENTWISE),
])  # fmt: skip
def test_the_time_of_a_kernel_counts_once_and_by_its_name(name, kind):
    def event(name, device, *, annotation=False):
        return SimpleNamespace(
            name=name,
            device_type=SimpleNamespace(name=device),
            is_user_annotation=annotation,
            self_device_time_total=30.0,
        )

    events = [event("aten::addmm", "CPU"), event("a label", "CUDA", annotation=True)]
    kernels = [one for one in [*events, event(name, "CUDA")] if profiling._is_kernel(one)]
    found = profiling.measure_shares(
        kernels, "self_device_time_total", 100.0, profiling._kind_of_kernel
    )
    assert found == ({kind: 0.3, profiling.PYTHON: 0.7}, {name: 0.3})
