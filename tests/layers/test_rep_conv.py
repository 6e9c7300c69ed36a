"""What `RepConv` keeps whatever is done to its branches: the result is always that of its definition."""

from __future__ import annotations

import copy

import paddle
import pytest
from paddle import nn

from ppcls_ext.layers import rep_conv
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from tests.helpers import randomise_norms, relative

NAMES = BranchNames("conv", "scale", "identity", "fused")


@pytest.fixture
def layer():
    paddle.seed(0)
    layer = RepConv(6, 6, 3, 1, 6, NAMES, conv_branches=2)
    randomise_norms(layer, 0)
    layer.train()
    return layer


@pytest.fixture
def x():
    paddle.seed(1)
    return paddle.randn([2, 6, 5, 4])


@pytest.fixture
def summed_together(monkeypatch):
    """How often the branches were summed together."""
    calls = []
    original = rep_conv.branch_sum
    monkeypatch.setattr(rep_conv, "branch_sum", lambda *arguments: calls.append(1) or original(*arguments))
    return calls


def synchronised(layer):
    layer.conv[0].bn = nn.SyncBatchNorm(6)


def subclassed(layer):
    class Doubling(nn.Conv2D):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.conv[1].conv = Doubling(6, 6, 3, padding=1, groups=6, bias_attr=False)


def replaced_branch(layer):
    layer.conv[1] = nn.Sequential(nn.Conv2D(6, 6, 3, padding=1, groups=6), nn.BatchNorm2D(6))


def weight_norm(layer):
    nn.utils.weight_norm(layer.conv[0].conv)


def hooked_input(layer):
    layer.scale.conv.register_forward_pre_hook(lambda part, inputs: (inputs[0] + 1,))


def hooked_output(layer):
    layer.conv[0].register_forward_post_hook(lambda part, inputs, output: output * 3)


def norm_in_eval_mode(layer):
    layer.conv[0].bn.eval()


def global_statistics(layer):
    layer.identity._use_global_stats = True


def another_epsilon(layer):
    layer.identity._epsilon = 0.1


def another_convolution(**arguments):
    def change(layer):
        arguments.setdefault("bias_attr", False)
        layer.conv[0].conv = nn.Conv2D(6, 6, groups=6, **arguments)
        if layer.conv[0].conv.bias is not None:
            layer.conv[0].conv.bias.set_value(paddle.randn([6]))

    return change


def norm_without_a_scale(layer):
    layer.conv[0].bn = nn.BatchNorm2D(6, weight_attr=False)


CONVOLUTIONS = [
    another_convolution(kernel_size=3, padding=1, bias_attr=None),
    another_convolution(kernel_size=3, padding=2, dilation=2),
    another_convolution(kernel_size=3, padding=1, padding_mode="reflect"),
    another_convolution(kernel_size=5, padding=2),
    another_convolution(kernel_size=(3, 1), padding=(1, 0)),
    norm_without_a_scale,
]
CHANGES = [*CONVOLUTIONS, subclassed, replaced_branch, weight_norm, hooked_input, hooked_output, norm_in_eval_mode]
CHANGES += [global_statistics, another_epsilon]


def test_untouched_branches_are_summed_together(layer, x, summed_together):
    layer(x)
    assert summed_together


@pytest.mark.parametrize("change", CHANGES)
def test_changed_branches_are_summed_one_by_one(layer, x, summed_together, change):
    change(layer)
    expected = copy.deepcopy(layer).sum_of_branches(x)
    assert relative(layer(x), expected) < 1e-6
    assert not summed_together


@pytest.mark.parametrize("change", [*CONVOLUTIONS, subclassed, hooked_input, hooked_output])
def test_changed_branches_in_eval_mode(layer, x, change):
    change(layer)
    layer.eval()
    assert relative(layer(x), layer.sum_of_branches(x)) < 1e-6


def test_synchronised_normalisation_is_left_to_itself(layer):
    synchronised(layer)
    assert not layer._branches_are_as_built(training=True)  # it runs on several GPUs only


def test_eval_mode_runs_one_equal_convolution(layer, x):
    layer.eval()
    assert relative(layer(x), layer.sum_of_branches(x)) < 1e-5


def test_a_deep_copy_trains_apart_from_its_original(layer, x):
    layer(x)
    other = copy.deepcopy(layer)
    before = {name: value.numpy() for name, value in layer.state_dict().items()}
    other(x)
    assert all((before[name] == value.numpy()).all() for name, value in layer.state_dict().items())
    assert relative(other.identity._mean, layer.identity._mean) > 0


def test_training_adds_nothing_to_the_state_dict(layer, x):
    names = set(layer.state_dict())
    layer(x).sum().backward()
    assert set(layer.state_dict()) == names
    assert all(name.split(".")[0] in NAMES for name in names)


def test_the_training_form_can_be_traced(layer, x):
    expected = copy.deepcopy(layer)(x)
    traced = paddle.jit.to_static(layer)
    y = traced(x)
    y.sum().backward()
    assert relative(y, expected) < 1e-5
    assert layer.scale.bn.weight.grad is not None


def test_a_chain_of_layers_equals_the_chain_of_definitions(x):
    # maps pass from layer to layer as views of another order in memory
    paddle.seed(0)
    first = RepConv(6, 6, 3, 2, 6, NAMES, conv_branches=2)
    chain = nn.Sequential(first, RepConv(6, 8, 1, 1, 1, NAMES, 2), RepConv(8, 4, 3, 1, 1, NAMES))
    inputs = [x.clone().detach() for _ in range(2)]
    chains = [chain, copy.deepcopy(chain)]
    for value in inputs:
        value.stop_gradient = False
    y = chains[0](inputs[0])
    expected = inputs[1]
    for part in chains[1]:
        expected = part.sum_of_branches(expected)
    for value in (y, expected):
        (value**3).sum().backward()
    assert y.shape == [2, 4, 3, 2]
    assert relative(y, expected) < 1e-4
    assert relative(inputs[0].grad, inputs[1].grad) < 1e-3
