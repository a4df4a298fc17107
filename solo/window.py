"""Sums of the losses since the last line of the curves, kept on the device so that no step waits for them."""

import torch
from torch import Tensor

from solo.distributed import Group
from solo.errors import UserError


class LossWindow:
    """What the steps since the last line added up to, and the first one whose loss was not finite.

    Args:
        device: of the losses.
        group: the processes that take part.
    """

    def __init__(self, device: torch.device, group: Group) -> None:
        self.group = group
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # mask loss, category loss, positive cells
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.recent: list[tuple[int, tuple[int, ...]]] = []

    def add(
        self, step: int, image_ids: tuple[int, ...], losses: dict[str, Tensor], positives: int, share: float
    ) -> None:
        """Count a micro-batch of step `step` that is `share` of its optimizer step."""
        both = torch.stack([losses["loss_mask"].detach(), losses["loss_category"].detach()])
        self.sums[:2] += share * both.double()
        self.sums[2] += share * positives
        bad = ~torch.isfinite(both).all() & (self.bad_step < 0)
        self.bad_step = torch.where(bad, step, self.bad_step)
        self.recent.append((step, image_ids))

    def check(self) -> None:
        """Forget the steps that were fine.

        Raises:
            UserError: a loss was not finite, in this process or another; the message names step and images.
        """
        step = int(self.bad_step)
        if self.group.any(step >= 0):
            images = [i for number, ids in self.recent if number == step for i in ids]
            where = f"step {step}, images {images}" if step >= 0 else "another process"
            raise UserError(
                f"the loss is not finite at {where}; the last checkpoint is from before. Lower schedule.lr, lengthen "
                "schedule.warmup_steps, set schedule.clip_norm, or use precision fp32 or bf16"
            )
        self.recent.clear()

    def everyone(self) -> list[list[float]]:
        """The sums of every process, on the first one."""
        return self.group.gather(self.sums.tolist())

    def restore(self, sums: list[list[float]]) -> None:
        """Take up the sums of a checkpoint, also when it was written by another number of processes."""
        everyone = torch.tensor(sums, dtype=torch.float64, device=self.sums.device)  # (processes, 3)
        if len(sums) == self.group.world:
            self.sums += everyone[self.group.rank]
        elif self.group.first:
            self.sums += everyone.sum(0) * self.group.world / len(sums)
