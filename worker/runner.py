"""The child: waits for its one order, does it, announces what it made. Forked by the nursery (`nursery.py`).

It knows neither database nor network. It reads `in/` and writes `out/` of its own folder and speaks JSON lines on the
descriptor that it was given. Before it reads, it locks itself in (`sandbox.py`).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from pruning.checkpoints import Checkpoint, Misfit
from pruning.data import Dataset
from pruning.formats import families
from pruning.formats.architectures import Network, build
from pruning.formats.checkpoints import read_checkpoint
from pruning.formats.dataset_report import describe
from pruning.formats.datasets import read_dataset
from pruning.formats.errors import FormatError
from pruning.formats.exported_program import Program, read_program
from pruning.formats.models import read_model
from pruning.formats.names import family_of
from pruning.formats.results import read_masks, write_masks, write_sparse, write_state
from pruning.formats.weights import read_state_dict
from pruning.intake import inspect_model
from pruning.iterative import Resume, Round, Stored, prune_iteratively
from pruning.masks import MaskError
from pruning.recipe import Recipe
from pruning.reports import round_report
from pruning.schedules import RecipeRefused
from pruning.selection import Gate, RoundRecord, select_round
from pruning.training import Diverged
from worker import limits, machine, sandbox
from worker.exports import FILES, Exports, missing_extra
from worker.messages import (
    MAX_LINE_BYTES,
    Exported,
    ExportKind,
    Failed,
    Finished,
    Message,
    Metrics,
    NotExported,
    NotResumed,
    Progress,
    Resumed,
    RoundDone,
    Started,
    Validated,
    printable,
)
from worker.saver import Saver

STOPPED = 75
"""Exit code after an order to stop."""
ORPHANED = 77
PROGRESS_SECONDS = 0.2


class Stopped(BaseException):
    """Ordered to stop; raised between two steps, so that nothing is half-written."""


class Runner:
    def __init__(self, descriptor: int, order: dict[str, Any]) -> None:
        self._pipe = os.fdopen(descriptor, "wb")
        self._order = order
        self._device = machine.start_device(order["cuda_device"], order["gpu_memory_fraction"])
        self.inputs, self.outputs = Path(order["folder"]) / "in", Path(order["folder"]) / "out"
        self._stopping, self._saving, self._quiet_until = False, True, 0.0
        self._has_checkpoint = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def run(self) -> None:
        try:
            {
                "prune": self._prune,
                "validate_model": self._validate_model,
                "validate_dataset": self._validate_dataset,
                "try_device": self._try_device,
            }[self._order["work"]]()
        except FormatError as error:
            self._fail("invalid_content", str(error))
        except RecipeRefused as error:
            self._fail("recipe_refused", f"{'.'.join(error.field)}: {error}")
        except MaskError as error:
            self._fail("disconnected", str(error))
        except Diverged as error:
            self._fail("diverged", str(error))
        except IndexError as error:
            # Torch's words for a token, or a label, that a table or a loss does not know; others are faults of ours.
            if not any(words in str(error) for words in ("index out of range in self", "out of bounds")):
                raise
            remedy = (
                "its inputs hold a number that the model has no embedding for, or its labels one it has no output for"
            )
            self._fail("dataset_mismatch", f"{remedy} ({error}); number both from 0, below the sizes of the model")
        except limits.OverLimit as error:
            self._fail(error.code, str(error))
        except (MemoryError, RuntimeError) as error:
            explained = machine.explain(error, self._device, self._order["memory_bytes"])
            if explained is None:
                raise
            self._fail(*explained)
        except (OSError, SafetensorError) as error:
            if "File too large" not in str(error):
                raise
            left = sum(path.lstat().st_size for path in self.outputs.iterdir())
            over = limits.file_too_large(left, self._order["file_bytes"])
            self._fail(over.code, str(over))

    def _prune(self) -> None:
        order = self._order
        recipe = Recipe.model_validate(order["recipe"])
        gates = [Gate.model_validate(gate) for gate in order["gates"]]
        self._say(Started(determinism=machine.determinism_class(self._device)))
        if (extra := missing_extra(order["artifacts"])) is not None:
            remedy = f"pip install 'espalier-server[worker,{extra}]' there, or ask for other artifacts"
            self._fail("extra_missing", f"this worker has not the packages of the extra {extra}; {remedy}")
            return
        model = read_model(self.inputs / "model", order["format"], order["model"])
        dataset = read_dataset(self.inputs / "dataset", order["dataset_format"])
        rounds = [RoundRecord(**record) for record in order["rounds"]]
        kept: Stored | None = None  # the round selected so far; null: one that was stored before this attempt
        for round_ in self._rounds(model, dataset, recipe, list(rounds)):
            self._announce(round_, model)
            rounds.append(round_.record)
            selected, _ = select_round(rounds, gates, recipe.stop.accuracy_floor, order["select"])
            kept = Stored(round_.state, round_.masks) if selected.position == round_.position else kept
        if wanted := [kind for kind in FILES if kind in order["artifacts"]]:
            selected, _ = select_round(rounds, gates, recipe.stop.accuracy_floor, order["select"])
            round_to = recipe.materialize.round_to if recipe.materialize else 1
            self._export(wanted, selected.position, Exports(model, kept or self._load(selected.position), round_to))
        self._say(Finished())

    def _rounds(
        self, model: torch.nn.Module, dataset: Dataset, recipe: Recipe, stored: list[RoundRecord]
    ) -> Iterator[Round]:
        """From the checkpoint on, where there is one that can be taken up; else from the last stored round."""
        order, resume = self._order, Resume(stored, self._load)
        saver = Saver(self.outputs, order["checkpoint_seconds"], order["file_bytes"], self._say)

        def rounds(checkpoint: Checkpoint | None) -> Iterator[Round]:
            return prune_iteratively(
                model,
                dataset,
                recipe,
                resume=resume,
                checkpoint=checkpoint,
                progress=self._progress,
                offer=partial(self._offer, saver),
                device=self._device,
            )

        self._has_checkpoint = order["has_checkpoint"]
        if self._has_checkpoint:
            try:
                yield from rounds(read_checkpoint(self.inputs / "checkpoint"))
            except (FormatError, Misfit, MemoryError, RuntimeError) as error:
                if not self._has_checkpoint:
                    raise  # it was taken up, and training went on from it
                self._has_checkpoint = False
                self._say(NotResumed(reason=printable(f"{error}")[:400]))
            else:
                return
        yield from rounds(None)

    def _offer(self, saver: Saver, make: Callable[[], Checkpoint]) -> None:
        """Between any two steps."""
        if self._has_checkpoint:
            self._has_checkpoint = False
            self._say(Resumed())
        if not self._stopping or self._saving:
            saver.offer(make, at_once=self._stopping)
        if self._stopping:
            raise Stopped

    def _export(self, kinds: list[ExportKind], position: int, exports: Exports) -> None:
        """Once, at the end: an export takes as long as many rounds of a small network."""
        for kind in kinds:
            if self._stopping:
                raise Stopped
            try:
                verified = exports.write(kind, self.outputs / FILES[kind])
            except Exception as error:  # a result that cannot be written in one form of several is not a lost job
                self._say(NotExported(kind=kind, reason=printable(f"{type(error).__name__}: {error}")[:2000]))
            else:
                self._say(Exported(kind=kind, position=position, file=FILES[kind], verified=verified))

    def _load(self, position: int) -> Stored:
        ticket, optimizer = (
            read_state_dict(path) if (path := self.inputs / f"{position}.{kind}").exists() else None
            for kind in ("ticket", "optimizer")
        )
        state, masks = (self.inputs / f"{position}.{kind}" for kind in ("model", "masks"))
        return Stored(read_state_dict(state), read_masks(masks), ticket, optimizer)

    def _announce(self, round_: Round, model: torch.nn.Module) -> None:
        names = {kind: f"{round_.position}.{kind}" for kind in ("model", "masks", "ticket", "sparse")}
        paths = {kind: self.outputs / name for kind, name in names.items()}
        write_state(paths["model"], round_.state)
        write_masks(paths["masks"], round_.masks)
        write_state(paths["ticket"], round_.ticket)
        write_sparse(paths["sparse"], round_.state, round_.masks)
        if round_.optimizer is not None:
            names["optimizer"] = f"{round_.position}.optimizer"
            write_state(self.outputs / names["optimizer"], round_.optimizer)
        report = round_report(round_, model)
        report["size_bytes"] = {"dense": paths["model"].stat().st_size, "sparse": paths["sparse"].stat().st_size}
        self._say(
            RoundDone(
                position=round_.position,
                number=round_.number,
                sparsity=round_.sparsity_actual,
                report=Metrics.model_validate(report),
                files=names,
            )
        )

    def _validate_model(self) -> None:
        format, spec = self._order["format"], self._order["model"]
        weights = None
        source = None
        if family_of(spec.get("architecture")) is not None:
            model: Network | Program
            weights = "weights.pt2"
            model, source = self._recorded(self.outputs / weights, format, spec)
        elif format == "architecture":
            model = build(**spec)
            weights = "weights"
            write_state(self.outputs / weights, model.state_dict())
        else:
            model = read_model(self.inputs / "upload", format, spec)
        report = inspect_model(model, model.input_shape)
        self._say(Validated(report=report if source is None else report | {"source": source}, weights=weights))

    def _recorded(self, path: Path, format: str, spec: dict[str, Any]) -> tuple[Program, dict[str, Any]]:
        """Another package's network, as the program that jobs will read; and what it was made with."""
        upload = None if format == "architecture" else self.inputs / "upload"
        source = families.record_family(path, weights=upload, most_bytes=self._order["memory_bytes"], **spec)
        try:
            return read_program(path), source
        except FormatError as error:
            raise FormatError("architecture", f"{spec['architecture']} is of no use here: {error}") from error

    def _validate_dataset(self) -> None:
        dataset = read_dataset(self.inputs / "upload", self._order["format"])
        splits = [split for split in (dataset.train, dataset.validation, dataset.test) if split is not None]
        num_bytes = sum(split.inputs.nbytes + split.targets.nbytes for split in splits)
        self._say(Validated(report=describe(dataset) | {"num_bytes": num_bytes}))

    def _try_device(self) -> None:
        machine.try_out(self._device)
        self._say(Started(determinism=machine.determinism_class(self._device)))

    def _progress(self, number: int | None, step: int, steps: int) -> None:
        if time.monotonic() < self._quiet_until and step < steps:
            return
        self._quiet_until = time.monotonic() + PROGRESS_SECONDS
        self._say(Progress(round=number, step=step, steps=steps))

    def _fail(self, code: str, message: str) -> None:
        self._say(Failed(code=code, message=printable(message)[:20_000]))

    def _say(self, message: Message) -> None:
        line = message.model_dump_json().encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise limits.message_too_long(len(line))
        self._pipe.write(line)
        self._pipe.flush()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """SIGTERM: with a checkpoint; SIGINT: without, also if the other came before."""
        self._stopping, self._saving = True, self._saving and number == signal.SIGTERM


def _end_with_stdin() -> None:
    """With its parent, where the kernel does not see to it (`nursery.py`)."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock, held by this thread, would abort Python's own exit
            pass
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def prepare() -> None:
    """What all children share, done once before they are forked. Nothing here may compute, start a thread or ask for
    devices."""
    importlib.import_module("torch._dynamo")  # seconds, which the first optimiser would take
    torch.use_deterministic_algorithms(True)


def main(messages: int) -> None:
    torch.seed()  # what forgets its own seed must not draw what its siblings draw
    np.random.seed()
    torch.set_flush_denormal(True)  # masked weights leave denormal moments behind, which cost a tenth of a step
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    with_cuda = order["cuda_device"] is not None
    # Before CUDA starts, which is after the lock: its threads must be locked in as well.
    os.environ["CUDA_VISIBLE_DEVICES"] = order["cuda_device"] if with_cuda else ""
    sandbox.limit(order["memory_bytes"], order["file_bytes"], with_cuda)
    if order["sandbox"]:
        sandbox.lock(Path(order["folder"]), with_cuda)
    _end_with_stdin()
    torch.set_num_threads(order["threads"])
    try:
        Runner(messages, order).run()
    except Stopped:
        sys.exit(STOPPED)
