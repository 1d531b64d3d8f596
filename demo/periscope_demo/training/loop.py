"""The training loop: stages of batches, one schedule over all of them, a state on disk that it resumes from."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from periscope_demo.training.batches import Batch, Batches
from periscope_demo.training.losses import accuracy, losses
from periscope_demo.training.model import TrainedRetriever
from periscope_demo.training.stage import Stage, Weights

_SAVE_SECONDS, _LOG_STEPS = 120, 25
_WARMUP = 200
_DECAY = 0.02

Say = Callable[[str], None]


def train(
    model: TrainedRetriever,
    stages: Sequence[Stage],
    *,
    folder: Path,
    preparation: Path,
    seed: int,
    rate: float,
    bf16: bool = False,
    say: Say,
) -> None:
    """Train the parameters that ask for gradients, and leave `state.pt` and `log.csv` in `folder`.

    Begins where `state.pt` says, so a second call goes on after an interruption and does nothing after the end. Batches
    depend on the seed and their number only; a resumed run sees what an uninterrupted one would have seen. `bf16`
    computes products in bfloat16: faster on processors that have it (avx512_bf16), very slow on all others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=_DECAY)
    total = sum(stage.steps for stage in stages)
    done = _resume(folder, model, optimizer)
    _forget_after(folder / "log.csv", done)
    if done:
        say(f"training: goes on after step {done} of {total}")
    saved = started = time.monotonic()
    first = done
    for stage, batch in _batches(stages, preparation, seed, done):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(done, total)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = {name: value.float() for name, value in losses(model, batch, stage.contrast).items()}
        loss = torch.stack([getattr(stage.weights, name) * value for name, value in found.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done += 1
        if done % _LOG_STEPS == 0 or done == total:
            with torch.inference_mode():
                reached = accuracy(model, batch)
            seconds = (time.monotonic() - started) / (done - first)
            _log(folder / "log.csv", done, {**{name: value.item() for name, value in found.items()}, **reached})
            say(
                f"training: step {done} of {total}, loss {loss.item():.3f}, read {reached['read']:.3f}, "
                f"late@1 {reached['late@1']:.2f}, dense@1 {reached['dense@1']:.2f}, {seconds:.2f} s a step"
            )
        if time.monotonic() - saved > _SAVE_SECONDS or done == total:
            _save(folder, model, optimizer, done)
            saved = time.monotonic()


def _batches(stages: Sequence[Stage], preparation: Path, seed: int, done: int) -> Iterator[tuple[Stage, Batch]]:
    for number, stage in enumerate(stages):
        if done < stage.steps:
            # Another process draws ahead while this one learns; a fresh one, as forking a threaded one is unsafe.
            loader = DataLoader(
                Batches(preparation, stage, (seed, number), done),
                batch_size=None,
                num_workers=1,
                prefetch_factor=8,
                multiprocessing_context="spawn",
            )
            for batch in loader:
                yield stage, batch
        done = max(0, done - stage.steps)


def _schedule(step: int, total: int) -> float:
    """A linear start, then half a cosine down to nothing."""
    warmup = min(_WARMUP, total // 4)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) + 0.01


def _save(folder: Path, model: TrainedRetriever, optimizer: torch.optim.Optimizer, done: int) -> None:
    partial = folder / "state.pt.partial"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, partial)
    partial.replace(folder / "state.pt")


def _resume(folder: Path, model: TrainedRetriever, optimizer: torch.optim.Optimizer) -> int:
    path = folder / "state.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["done"])


def _forget_after(path: Path, done: int) -> None:
    """Drop what was logged after the state was saved: those steps are made again."""
    if path.exists():
        header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if int(line.partition(",")[0]) <= done]
        path.write_text("".join([header, *kept]), encoding="utf-8")


def _log(path: Path, step: int, values: dict[str, float]) -> None:
    names = ("step", *vars(Weights()), "read", "late@1", "dense@1")
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        if new:
            writer.writeheader()
        writer.writerow({"step": step, **{name: f"{value:.5f}" for name, value in values.items()}})
