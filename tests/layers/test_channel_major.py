from __future__ import annotations

import paddle

from ppcls_ext.layers.channel_major import elementwise, from_channel_major, is_channel_major, to_channel_major
from ppcls_ext.layers.squeeze_excite import SqueezeExcite


def test_there_and_back_without_a_copy():
    x = paddle.randn([2, 3, 4, 5])
    major = to_channel_major(x)
    view = from_channel_major(major)
    assert major.shape == [3, 2, 4, 5]
    assert major.is_contiguous()
    assert bool((view == x).all())
    assert is_channel_major(view)
    assert not is_channel_major(x)
    assert to_channel_major(view).data_ptr() == major.data_ptr()


def test_elementwise_keeps_the_order_of_memory():
    view = from_channel_major(paddle.randn([3, 2, 4, 5]))
    gate = paddle.rand([2, 3, 1, 1])
    result = elementwise(paddle.multiply, view, gate)
    assert is_channel_major(result)
    assert bool((result == view.contiguous() * gate).all())
    assert not is_channel_major(elementwise(paddle.nn.functional.relu, view.contiguous()))


def test_squeeze_excite_gives_one_result_in_both_orders():
    paddle.seed(0)
    layer = SqueezeExcite(8, 2, ("reduce", "expand"))
    major = paddle.randn([8, 2, 3, 4])
    results = []
    for contiguous in (False, True):
        x = major.clone().detach()
        x.stop_gradient = False
        view = from_channel_major(x)
        y = layer(view.contiguous() if contiguous else view)
        (y**2).sum().backward()
        results.append((y.contiguous(), x.grad))
    for one, other in zip(*results):
        assert float((one - other).abs().max()) < 1e-6
