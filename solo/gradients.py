"""A sum whose gradient is taken term by term, so that the maps of one term are gone before the next is computed."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Scaling = Callable[[Tensor], Tensor]


def unscaled(value: Tensor) -> Tensor:
    """No scaling."""
    return value


def sum_of_terms(
    terms: Callable[[list[Tensor]], Iterable[Tensor]],
    inputs: list[Tensor],
    parameters: list[Tensor],
    scaling: Scaling = unscaled,
) -> Tensor:
    """The sum of scalar terms, with the gradient that summing them would have.

    Each term's gradient is computed as soon as the term is there and only added up, which costs no more arithmetic
    than one backward pass over the sum and needs the memory of the largest term instead of all. Every input and
    parameter gets a gradient, if only zeros, as an all-reduce expects. The result can be
    differentiated once.

    Args:
        terms: yields the terms from the inputs that it is handed, one at a time, each with a graph of its own.
        inputs: maps that the terms depend on.
        parameters: leaves that `terms` uses by itself.
        scaling: a constant factor that keeps half-precision gradients from vanishing (GradScaler.scale).

    Returns:
        A float32 scalar.
    """
    if not torch.is_grad_enabled():
        return _total(terms(inputs), inputs)
    total: Tensor = _SumOfTerms.apply(terms, scaling, len(inputs), *inputs, *parameters)
    return total


def _total(terms: Iterable[Tensor], inputs: list[Tensor]) -> Tensor:
    return sum((term.detach() for term in terms), torch.zeros((), device=inputs[0].device))


class _SumOfTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, terms: Any, scaling: Scaling, count: int, *leaves: Tensor) -> Tensor:
        inputs = [leaf.detach().requires_grad_(leaf.requires_grad) for leaf in leaves[:count]]
        wanted = [leaf for leaf in (*inputs, *leaves[count:]) if leaf.requires_grad]
        sums: list[Tensor | None] = [None] * len(wanted)
        total = torch.zeros((), device=leaves[0].device)
        with torch.enable_grad():
            for term in terms(inputs):
                total += term.detach()
                with torch.autocast(total.device.type, enabled=False):
                    gradients = torch.autograd.grad(scaling(term), wanted, allow_unused=True)
                for i, gradient in enumerate(gradients):
                    earlier = sums[i]
                    if gradient is not None:
                        sums[i] = gradient if earlier is None else earlier + gradient
        ctx.wanted = ctx.needs_input_grad[3:]
        ctx.scale = scaling(torch.ones_like(total))
        ctx.gradients = [
            torch.zeros_like(leaf) if found is None else found for found, leaf in zip(sums, wanted, strict=True)
        ]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        factor = outer[0] / ctx.scale
        # each is given away as it is scaled, so that no second set of them is alive
        return None, None, None, *(ctx.gradients.pop(0) * factor if wanted else None for wanted in ctx.wanted)
