"""A sum taken term by term has the value and the gradients of the sum taken at once."""

import pytest
import torch

from solo.gradients import sum_of_terms


def problem():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 4, generator=generator).requires_grad_() for _ in range(3)]
    weights = [torch.randn(4, 4, generator=generator).requires_grad_() for _ in range(2)]

    def terms(inputs):
        for i, x in enumerate(inputs[:2]):  # the third map is not used
            yield ((x @ weights[0]).tanh() * (i + 1)).square().sum()

    return maps, weights, terms


@pytest.mark.parametrize("factor", [1.0, 1024.0])
def test_value_and_gradients_are_those_of_the_sum(factor):
    maps, weights, terms = problem()
    expected = sum(terms(maps))
    gradients = torch.autograd.grad(0.5 * expected, [*maps[:2], weights[0]])
    total = sum_of_terms(terms, maps, weights, lambda value: factor * value)
    assert total.item() == pytest.approx(expected.item())
    (0.5 * total).backward()
    for leaf, gradient in zip([*maps[:2], weights[0]], gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)
    assert not maps[2].grad.any()
    assert not weights[1].grad.any()


def test_one_terms_graph_is_gone_before_the_next_is_built():
    alive = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.clone())
            return x.sum()

        @staticmethod
        def backward(ctx, gradient):
            alive.remove(True)
            return gradient.expand(ctx.saved_tensors[0].shape)

    def terms(inputs):
        for x in inputs:
            assert not alive
            alive.append(True)
            yield Watched.apply(x)

    sum_of_terms(terms, [torch.ones(2, requires_grad=True) for _ in range(3)], []).backward()
    assert not alive


def test_without_gradients_it_is_a_plain_sum():
    maps, weights, terms = problem()
    with torch.no_grad():
        assert not sum_of_terms(terms, maps, weights).requires_grad
    assert sum_of_terms(lambda _: [], [torch.ones(2, requires_grad=True)], []).item() == 0
