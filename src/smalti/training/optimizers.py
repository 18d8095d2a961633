"""What moves the weights: AdamW, or Muon for hidden matrices with AdamW for the rest. One optimizer object either way.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) replaces a matrix's averaged gradient U S V^T by about
U V^T: all directions move equally far. Scaled as in "Muon is Scalable for LLM Training" (Liu et al., 2025, section
2.2), its steps are as large as AdamW's, so one learning rate serves both.

Our own and not `torch.optim.Muon`, because that one needs torch 2.9, takes 2-D parameters only (kernels of convolutions
are no leaves when seen as matrices), works on one matrix at a time, and always in bfloat16, which many CPUs emulate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from smalti.prior import fastest_dtype

OptimizerName = Literal["adamw", "muon"]

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: steepest at 0; maps 0.01..1 into about 0.7..1.2 in five rounds
_ROUNDS = 5


def build_optimizer(
    network: nn.Module, name: OptimizerName = "adamw", *, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The optimizer of `network`'s trainable parameters; its learning rate is 0 until a loop sets that of each group.

    name: "muon" moves `hidden_matrices` by Muon and everything else by AdamW. weight_decay: of matrices and kernels;
    embeddings, tables, norms and biases do not decay. betas: AdamW's.
    """
    groups = parameter_groups(network, weight_decay, muon=name == "muon")
    if name == "muon":
        return Muon(groups, betas=betas)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of linear layers and convolutions that lie between features: no embeddings, heads or quantisers."""
    return [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and module.weight.requires_grad
        and not {"head", "quantizer"} & set(name.split("."))
    ]


def parameter_groups(network: nn.Module, weight_decay: float, *, muon: bool = False) -> list[dict[str, Any]]:
    """Groups of parameters: first the hidden matrices if `muon`, then what else decays, then what does not."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decaying = [p for name, p in named if p.dim() in (2, 4) and "embedding" not in name]
    hidden = hidden_matrices(network) if muon else []
    groups = [
        {"params": hidden, "weight_decay": weight_decay, "muon": True},
        {"params": _without(decaying, hidden), "weight_decay": weight_decay, "muon": False},
        {"params": _without([p for _, p in named], decaying), "weight_decay": 0.0, "muon": False},
    ]
    return groups if muon else [{key: group[key] for key in ("params", "weight_decay")} for group in groups[1:]]


def _without(parameters: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    known = {id(p) for p in others}
    return [p for p in parameters if id(p) not in known]


@final
class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for the groups marked `muon`, AdamW for the others."""

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float = 0.0, betas: tuple[float, float], momentum: float = 0.95
    ) -> None:
        # AdamW works on the same groups and the same state: one object to save, to schedule and to distribute.
        others = [group for group in groups if not group["muon"]]
        self._adamw = torch.optim.AdamW(others, lr=lr, betas=betas, fused=True)
        super().__init__(groups, {**self._adamw.defaults, "momentum": momentum, "muon": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients as they are."""
        assert closure is None, "a closure would be evaluated twice"
        for group in self.param_groups:
            if group["muon"]:
                self._move(group)
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adamw.state = self.state
        self._adamw.step()

    def _move(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                alike[weight.shape[0], weight[0].numel()].append(weight)
        for (rows, columns), weights in alike.items():
            pushes = torch.stack([self._push(weight, group["momentum"]).flatten(1) for weight in weights])
            scale = -group["lr"] * 0.2 * math.sqrt(max(rows, columns))  # AdamW's steps have an RMS of 0.2 to 0.4
            for weight, direction in zip(weights, orthogonalised(pushes), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction.view(weight.shape).to(weight.dtype), alpha=scale)

    def _push(self, weight: Tensor, momentum: float) -> Tensor:
        """The averaged gradient, looking one step ahead (Nesterov)."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        average: Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonalised(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About U V^T of each of `matrices` `(m, rows, columns)` = U S V^T, by a quintic Newton-Schulz iteration.

    Exactly U p(S / |S|) V^T, |S| the Frobenius norm and p five rounds of x -> a x + b x^3 + c x^5, which brings
    singular values from 0.01 |S| upwards into about 0.7..1.2. dtype: of the products; None = the device's fastest.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the smaller product of the two
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    x = x.to(dtype or fastest_dtype(x.device))
    for _ in range(_ROUNDS):
        gram = x @ x.mT  # (m, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
