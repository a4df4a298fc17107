"""The learning rate of every step."""

from solo.config import Schedule


def learning_rate(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step `step`, counted from 0.

    Linear warm-up from warmup_factor at step 0 to 1 at step warmup_steps - 1, times gamma for every milestone epoch
    that is complete (mmengine LinearLR and MultiStepLR together).
    """
    rate = schedule.lr
    if schedule.lr_reference_batch is not None:
        rate *= schedule.batch_size / schedule.lr_reference_batch
    if step < schedule.warmup_steps:
        progress = step / (schedule.warmup_steps - 1) if schedule.warmup_steps > 1 else 1.0
        rate *= schedule.warmup_factor + (1 - schedule.warmup_factor) * progress
    return rate * schedule.gamma ** sum(step // steps_per_epoch >= milestone for milestone in schedule.milestones)
