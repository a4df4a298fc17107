"""The training loop: one optimizer step per effective batch, saved so that any kill loses minutes and no result.

Everything a step depends on is a function of (seed, step): the order of the images, their augmentation and the
learning rate. Model, optimizer and curves are in the checkpoint. So a resumed run takes exactly the steps that the
uninterrupted one would have taken.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from solo import memory
from solo.artifacts import write_json
from solo.batches import Collate, MicroBatches, TrainingBatch
from solo.checkpoint import load, save
from solo.config import Config
from solo.dataset import CocoSplit, TrainingSet
from solo.device import autocast
from solo.distributed import Group
from solo.errors import UserError
from solo.evaluate import NAMES, evaluate
from solo.gradients import Scaling, unscaled
from solo.journal import Journal, last_step
from solo.losses import detection_losses
from solo.model.detector import Detector
from solo.predict import predict_split
from solo.progress import Progress, say
from solo.schedule import learning_rate
from solo.stop import Interrupted, StopSignal, helpers_unharmed
from solo.window import LossWindow

KIND = "SOLO checkpoint"


class TrainingStep(nn.Module):
    """From a batch to its losses; what DistributedDataParallel wraps.

    Args:
        detector: in training mode.
        config: loss and layout.
        scaling: of half-precision gradients.
    """

    def __init__(self, detector: Detector, config: Config, scaling: Scaling = unscaled) -> None:
        super().__init__()
        self.detector, self.config, self.scaling = detector, config, scaling

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """loss_mask and loss_category of one micro-batch, float32 scalars."""
        images = self.detector.normalize(batch.pixels, batch.sizes)
        if self.config.runtime.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.detector.features(images)
        return detection_losses(self.detector.head, features, batch.targets, self.config.loss, self.scaling)


class Training:
    """One run: what it is made of, and where it stands.

    Args:
        config: complete configuration, with the data set's number of categories.
        detector: initialized; trained in place.
        training_split, validation_split: parsed annotations.
        seed: of order and augmentation.
        out: run directory.
        label: of the progress bar.
        identity: digests that a checkpoint must share to be resumed.
        device: of this process.
        group: the processes that take part.

    Raises:
        UserError: batch_size cannot be divided among the processes.
    """

    def __init__(
        self, config: Config, detector: Detector, training_split: CocoSplit, validation_split: CocoSplit, seed: int,
        out: Path, label: str, identity: dict[str, Any], device: torch.device, group: Group,
    ) -> None:  # fmt: skip
        self.config, self.schedule, self.seed, self.out = config, config.schedule, seed, out
        self.training_split, self.validation_split = training_split, validation_split
        self.label, self.identity, self.device, self.group = label, identity, device, group
        virtual = self.schedule.batch_size // self.schedule.images_per_device
        if virtual % group.world:
            raise UserError(
                f"{group.world} processes cannot share {virtual} micro-batches (schedule.batch_size "
                f"{self.schedule.batch_size} / schedule.images_per_device {self.schedule.images_per_device}) evenly; "
                f"valid numbers of processes: {', '.join(str(n) for n in range(1, virtual + 1) if virtual % n == 0)}"
            )
        self.accumulation = virtual // group.world
        self.data = TrainingSet(training_split, config.input, seed)
        self.batches = MicroBatches(
            self.data.is_wide(), self.schedule.images_per_device, virtual, group.rank, group.world, seed,
            self.schedule.epochs,
        )  # fmt: skip
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.steps = self.schedule.epochs * self.steps_per_epoch
        self.detector = detector.to(device).train()
        if config.runtime.channels_last:
            self.detector = self.detector.to(memory_format=torch.channels_last)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.schedule.precision == "fp16")
        self.step_module: nn.Module = TrainingStep(self.detector, config, self.scaler.scale)
        if group.world > 1:
            self.step_module = DistributedDataParallel(
                self.step_module, [device.index] if device.type == "cuda" else None, broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )  # fmt: skip
        if config.runtime.compile:
            detector.backbone.compile(dynamic=True)
            detector.neck.compile(dynamic=True)
        self.optimizer = torch.optim.SGD(
            [p for p in detector.parameters() if p.requires_grad], lr=self.schedule.lr,
            momentum=self.schedule.momentum, weight_decay=self.schedule.weight_decay, fused=True,
        )  # fmt: skip
        self.step, self.seconds, self.resumes, self.trained_images, self.lost_steps = 0, 0.0, 0, 0, 0
        self.window = LossWindow(device, group)
        self.checkpoint = out / "checkpoints" / "last.pth"
        self.journal = self._resume()

    def fit(self, stop: StopSignal) -> None:
        """Take every step that is left, evaluating and saving on the way.

        Raises:
            Interrupted: `stop` was set; the checkpoint holds the last finished step.
            UserError: the loss was not finite.
        """
        memory.reset_peak(self.device)
        self._evaluate_if_due()
        started, saved = time.monotonic(), time.monotonic()
        self.batches.start = self.step
        workers = min(self.config.runtime.workers, len(self.data))
        loader = DataLoader(
            self.data, batch_sampler=self.batches, collate_fn=Collate(self.config.head), num_workers=workers,
            pin_memory=self.device.type == "cuda", multiprocessing_context="forkserver" if workers else None,
        )  # fmt: skip
        with helpers_unharmed():
            feed = iter(loader)
        with Progress(self.label, self.steps, "steps", self.step, quiet=not self.group.first) as progress:
            while self.step < self.steps:
                waited = self._take_step(feed)
                self.seconds += time.monotonic() - started
                started = time.monotonic()
                if self.step % self.schedule.log_every == 0 or self.step == self.steps:
                    self._log(waited)
                epoch_done = self.step % self.steps_per_epoch == 0
                due = time.monotonic() - saved > 60 * self.config.runtime.checkpoint_minutes
                stopping = self.group.any(bool(stop))
                if epoch_done or stopping or self.group.any(due):
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted(f"{stop.name()} after step {self.step} of {self.steps}")
                progress.update(1, self._note())
                if epoch_done:
                    self._evaluate_if_due()
                    started = time.monotonic()

    def _take_step(self, feed: Any) -> float:
        """One optimizer step; returns the seconds spent waiting for data."""
        waited = 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, self.step, self.steps_per_epoch)
        self.optimizer.zero_grad()
        for micro in range(self.accumulation):
            asked = time.monotonic()
            batch: TrainingBatch = next(feed)
            waited += time.monotonic() - asked
            with self._no_sync(micro), autocast(self.device, self.schedule.precision):
                losses = self.step_module(batch.to(self.device))
            loss = losses["loss_mask"] + losses["loss_category"]
            with self._no_sync(micro):
                self.scaler.scale(loss / self.accumulation).backward()
            positives = sum(map(sum, batch.targets.counts))
            self.window.add(self.step + 1, batch.image_ids, losses, positives, 1 / self.accumulation)
            self.trained_images += len(batch.image_ids) * self.group.world
        if self.schedule.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return waited

    def _no_sync(self, micro: int) -> AbstractContextManager[None]:
        """Gradients are reduced with the last micro-batch only."""
        last = micro == self.accumulation - 1
        return nullcontext() if last or self.group.world == 1 else self.step_module.no_sync()  # type: ignore[operator]

    def _log(self, waited: float) -> None:
        self.window.check()
        previous = (self.step - 1) // self.schedule.log_every * self.schedule.log_every
        sums = [sum(values) for values in zip(*self.window.everyone(), strict=True)]
        self.window.sums.zero_()
        if not self.group.first:
            return
        mask, category, positives = (value / (self.step - previous) / self.group.world for value in sums)
        self.journal.add("metrics.jsonl", {
            "kind": "train", "step": self.step, "epoch": (self.step - 1) // self.steps_per_epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"], "loss": mask + category, "loss_mask": mask,
            "loss_category": category, "positive_cells": positives,
        })  # fmt: skip
        self.last_loss = mask + category
        self.journal.add("throughput.jsonl", {
            "step": self.step, "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second(), 3),
            "data_wait_seconds": round(waited, 4), "memory": memory.in_use(self.device),
        })  # fmt: skip

    last_loss: float | None = None

    def _note(self) -> str:
        loss = "" if self.last_loss is None else f", loss {self.last_loss:.3f}"
        return f"epoch {(self.step - 1) // self.steps_per_epoch + 1}{loss}"

    def images_per_second(self) -> float:
        """Images trained per second of stepping, evaluations left out."""
        return self.trained_images / self.seconds if self.seconds else 0.0

    def peak_memory(self) -> dict[str, int | None]:
        """Bytes at the highest: allocated and reserved on the device, resident on the host."""
        return memory.peak(self.device)

    def _evaluate_if_due(self) -> None:
        """Validate at the end of an epoch where the schedule says so and the journal has no figures yet."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        every = self.schedule.eval_every
        last = epoch == self.schedule.epochs
        if rest or not epoch or not (last or (every and epoch % every == 0)) or self.journal.evaluated(epoch):
            return
        share = (self.group.rank, self.group.world)
        mine = list(predict_split(
            self.detector, self.validation_split, self.config, self.device, self.schedule.precision,
            workers=0, label="validate" if self.group.first else None, share=share,
        ))  # fmt: skip
        parts, windows = self.group.gather(mine), self.window.everyone()
        if self.group.first:
            predictions = self.out / "checkpoints" / "predictions.json"
            write_json(predictions, [result for part in parts for result in part], indent=None)
            figures = evaluate(predictions, self.validation_split.annotation_file)["metrics"]
            self.journal.add("metrics.jsonl", {
                "kind": "val", "step": self.step, "epoch": epoch, **{name: figures[name] for name in NAMES[:6]},
            })  # fmt: skip
            say(f"epoch {epoch}: mask AP {figures['AP'] or 0:.1f}")
            self._write(windows)
        self.group.barrier()

    def _save(self) -> None:
        """Write the checkpoint of this step."""
        self.window.check()
        windows = self.window.everyone()
        if self.group.first:
            self._write(windows)
        self.group.barrier()

    def _write(self, windows: list[list[float]]) -> None:
        save(
            {
                "kind": KIND, "identity": self.identity, "step": self.step, "seconds": self.seconds,
                "resumes": self.resumes, "lost_steps": self.lost_steps, "trained_images": self.trained_images,
                "windows": windows, "journal": self.journal.text,
                "detector": self.detector.state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
            self.checkpoint,
        )  # fmt: skip

    def _resume(self) -> Journal:
        """Take up the checkpoint where there is one of this very run."""
        if not self.checkpoint.exists():
            return self._journal({})
        state = load(self.checkpoint, KIND)
        different = [key for key, value in self.identity.items() if state["identity"].get(key) != value]
        if different:
            say(
                f"{self.checkpoint} is of another {', '.join(different)}; it is kept as stale.pth, training starts anew"
            )
            if self.group.first:
                self.checkpoint.rename(self.checkpoint.with_name("stale.pth"))
            self.group.barrier()
            return self._journal({})
        self.detector.load_state_dict(state["detector"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.trained_images = state["step"], state["seconds"], state["trained_images"]
        self.resumes, lost = state["resumes"] + 1, max(0, last_step(self.out) - self.step)
        self.lost_steps = state["lost_steps"] + lost
        self.window.restore(state["windows"])
        if self.group.first:
            say(f"resuming from {self.checkpoint}: {self.step} of {self.steps} steps are done, {lost} later ones lost")
        return self._journal(state["journal"])

    def _journal(self, earlier: dict[str, str]) -> Journal:
        """Only the first process writes; the others keep the text to know what is evaluated."""
        return Journal(self.out, earlier, write=self.group.first)
