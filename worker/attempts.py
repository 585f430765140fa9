"""What an attempt at a job, and one at a model or dataset, tells its child and does with what the child answers."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any, cast, get_args

from sqlalchemy.orm import Session

from pruning.formats.names import PROGRAM, family_of
from pruning.recipe import Recipe
from pruning.selection import Gate, RoundRecord, Select, last_passing, select_round
from store import counters, intake, jobs, step_times, underway
from store.blobs import BlobStore, StoredBlob, refer
from store.settings import Settings
from store.tables import Dataset, Job, Model, Round
from store.transitions import Trigger
from worker.adoption import Course, begin_next, named_entry, record_of
from worker.card import card
from worker.checkpoints import Checkpoints
from worker.folder import Folder
from worker.lease import Lease
from worker.messages import (
    AnyMessage,
    BadMessage,
    Checkpointed,
    Exported,
    ExportKind,
    Failed,
    Finished,
    NotExported,
    NotResumed,
    Resumed,
    RoundDone,
    Started,
    Validated,
)
from worker.spans import RoundSpans
from worker.storing import fetch, store_copies, store_files

log = logging.getLogger(__name__)

FORMATS = {
    "model": ("safetensors", "model.safetensors"),
    "masks": ("safetensors", "masks.safetensors"),
    "ticket": ("safetensors", "ticket.safetensors"),
    "sparse": ("safetensors.zst", "model.sparse.safetensors.zst"),
    "program": ("exported_program", "model.pt2"),
    "onnx": ("onnx", "model.onnx"),
    "reduced_program": ("exported_program", "reduced.pt2"),
    "reduced_model": ("safetensors", "reduced.safetensors"),
    "reduced_onnx": ("onnx", "reduced.onnx"),
    "plan": ("json", "plan.json"),
    "card": ("markdown", "card.md"),
    "optimizer": ("safetensors", "optimizer.safetensors"),
}
"""By artifact kind: format, and the name under which it is downloaded. The optimiser's state is for a resume alone."""


EXPORTS = frozenset(get_args(ExportKind))
"""Kinds of which only the selected round has one, made by the child."""
OF_ROUNDS = FORMATS.keys() - EXPORTS - {"card"}
"""Kinds that a child may say of any round."""


class JobAttempt:
    def __init__(self, job: Job, lease: Lease, folder: Folder, blobs: BlobStore, settings: Settings) -> None:
        self.job, self.lease, self.folder, self.blobs, self.settings = job, lease, folder, blobs, settings
        self.recipe = Recipe.model_validate(job.recipe)
        self.most_seconds: float | None = None
        """Its own `deadline_seconds` are the sweeper's."""
        self.checkpoints = Checkpoints(job, lease, folder, blobs, settings.checkpoint_seconds)
        self._has_started = False
        self._next_position = job.last_position + 1
        self._exported: set[str] = set()
        self._began_at = self._entry_began_at = time.monotonic()
        self._is_first = True
        self._spans = RoundSpans()
        self.course: Course | None = None
        """Its entries by name; null: they have none, and are neither adopted nor offered to others."""

    def order(self) -> dict[str, Any]:
        """The child's one order: inputs lie in its folder, `rounds` are the entries that are stored already."""
        model, dataset, rounds = self.lease.write(self._read_inputs)
        assert model.blob_digest is not None
        inputs = {"model": model.blob_digest, "dataset": dataset.blob_digest}
        records = [record_of(row) for row in rounds]
        if records:
            # A resume goes on from the last entry, and the final entry takes the masks of the last that passed.
            # That of the selected one may be exported at the end.
            passing = last_passing(records, self.recipe.stop.accuracy_floor)
            needed = {records[-1].position, passing.position, self._select(records)[0].position}
            if self.recipe.needs_round_0:
                needed.add(0)
            for position in needed:
                for kind, digest in self.lease.write(partial(self._digests, position)).items():
                    inputs[f"{position}.{kind}"] = digest
        for name, digest in inputs.items():
            fetch(self.lease, self.blobs, digest, self.folder.inputs / name)
        return {
            "work": "prune",
            "folder": str(self.folder.root),
            "format": _format_of(model),
            "model": model.spec,
            "dataset_format": dataset.format,
            "recipe": self.recipe.to_json(),
            "gates": self.job.gates,
            "select": self.job.select,
            "artifacts": self.job.artifacts,
            "rounds": [vars(record) for record in records],
            "has_checkpoint": self.checkpoints.fetch(len(records)),
            "checkpoint_seconds": self.settings.checkpoint_seconds,
            "threads": self.settings.worker_threads,
            "memory_bytes": self.settings.child_memory_bytes + self._num_bytes(dataset),
            "file_bytes": self.folder.max_bytes,
        }

    def take(self, message: AnyMessage) -> bool:
        """Do with a message what it asks for; True where it ended the job. Raises BadMessage out of turn."""
        self._check_turn(message)
        match message:
            case Started():
                self.lease.write(partial(self._start, dict(message.determinism)))
            case RoundDone():
                self._store_round(message)
                self._spans.stored(message)
            case Checkpointed() | Resumed() | NotResumed():
                self.checkpoints.take(message)
            case Exported():
                self._store_export(message)
            case NotExported():
                self.lease.write(
                    lambda session: jobs.remark(
                        session, self.job, "artifact.missing", {"kind": message.kind, "reason": message.reason}
                    )
                )
            case Finished():
                self.complete()
                return True
            case Failed():
                error = {"code": message.code, "message": message.message, "retryable": False}
                self.lease.write(lambda session: jobs.fail(session, self.job.id, self.job.attempt, error))
                return True
            case _:
                log.warning("%s: unexpected message %s", self.job.id, message.type)
        return False

    def passed(self, record: RoundRecord, name: str) -> None:
        """An entry that is stored without the child."""
        assert self.course is not None
        self.course = self.course.after(record, name)
        self._next_position = record.position + 1

    def _start(self, determinism: dict[str, Any], session: Session) -> None:
        jobs.record_determinism(session, self.job.id, self.job.attempt, determinism)
        if self.course is not None and self.course.determinism != determinism:
            log.warning("%s: the class of machine has changed, its rounds are not named", self.job.id)
            self.course = None
            underway.end(session, self.job.id)

    def _check_turn(self, message: AnyMessage) -> None:
        """Each of these writes rows or blobs that stay: a child that repeats itself would fill the database."""
        match message:
            case Started():
                out_of_turn, self._has_started = self._has_started, True
            case Exported() | NotExported():
                out_of_turn = message.kind in self._exported or message.kind not in self.job.artifacts
                self._exported.add(message.kind)
            case RoundDone() | Checkpointed():
                out_of_turn = bool(self._exported) or message.position != self._next_position
            case _:
                out_of_turn = False
        if out_of_turn:
            raise BadMessage(f"the message {message.type} is out of turn")

    def stopped(self, drained: bool) -> bool:
        trigger = Trigger.DRAIN if drained else Trigger.STOP
        reason = "the worker shut down" if drained else f"stopped: {self.lease.status}"
        self.lease.write(lambda session: jobs.give_back(session, self.job.id, self.job.attempt, trigger, reason))
        return drained

    def postponed(self, reason: str) -> None:
        """Given back through no fault of its own."""
        log.warning("%s attempt %d: %s", self.job.id, self.job.attempt, reason)
        trigger = Trigger.STOP if self.lease.ordered_to_stop else Trigger.DRAIN
        reason = reason[:400]
        self.lease.write(lambda session: jobs.give_back(session, self.job.id, self.job.attempt, trigger, reason))

    def lost(self, reason: str) -> bool:
        log.warning("%s attempt %d: %s", self.job.id, self.job.attempt, reason)
        changed = self.lease.write(lambda session: jobs.lose(session, self.job.id, self.job.attempt, reason))
        return not changed.status.is_terminal

    def _read_inputs(self, session: Session) -> tuple[Model, Dataset, list[Round]]:
        model = session.get_one(Model, self.job.model_id)
        dataset = session.get_one(Dataset, self.job.dataset_id)
        return model, dataset, jobs.stored_rounds(session, self.job.id)

    def _num_bytes(self, dataset: Dataset) -> int:
        """A child wrote it into the report: it had room for no more than its own address space."""
        claimed = (dataset.report or {}).get("num_bytes")
        return min(max(claimed, 0), self.settings.child_memory_bytes) if isinstance(claimed, int) else 0

    def _digests(self, position: int, session: Session) -> dict[str, str]:
        artifacts = jobs.stored_artifacts(session, self.job.id, position)
        return {a.kind: a.blob_digest for a in artifacts if a.kind in ("model", "masks", "ticket", "optimizer")}

    def _store_round(self, done: RoundDone) -> None:
        ended_at, tries, course = time.monotonic(), 0, self.course

        def record(blobs: dict[str, StoredBlob], session: Session) -> None:
            nonlocal tries, course
            tries += 1
            if tries > 1 and jobs.has_stored(session, self.job, done.position):
                return  # the connection was cut between the commit and its answer
            for blob in sorted(blobs.values(), key=lambda blob: blob.digest):
                refer(session, blob)  # in one order, so that two jobs with files in common never wait for each other
            digests = {kind: blob.digest for kind, blob in blobs.items()}
            named = named_entry(session, self.job, self.course, done.number, digests)
            jobs.record_round(
                session,
                self.job,
                position=done.position,
                number=done.number,
                sparsity=done.sparsity,
                report=done.report.model_dump(),
                artifacts=[jobs.NewArtifact(kind, *FORMATS[kind], blob) for kind, blob in blobs.items()],
                lease_seconds=self.lease.seconds,
                name=named,
            )
            course = begin_next(session, self.job, self.course, done, named)
            counters.count_round(session, self.job.pool, done.report.seconds, at_most=ended_at - self._began_at)
            step_times.record(
                session, self.job, done.report.model_dump(), ended_at - self._entry_began_at, self._is_first
            )

        files = {kind: name for kind, name in done.files.items() if kind in OF_ROUNDS}
        store_files(self.lease, self.folder, self.blobs, files, record)
        self.course = course
        self._entry_began_at, self._is_first = ended_at, False  # storing is a part of what the next one takes
        self._next_position += 1
        for name in files.values():
            self.folder.discard(name)

    def _store_export(self, exported: Exported) -> None:
        rounds = self.lease.write(lambda session: jobs.stored_rounds(session, self.job.id))
        if not rounds or self._select([record_of(row) for row in rounds])[0].position != exported.position:
            raise BadMessage(
                f"the {exported.kind} is said to be of position {exported.position}, which is not selected"
            )

        def record(blobs: dict[str, StoredBlob], session: Session) -> None:
            refer(session, blobs[exported.kind])
            verified = exported.verified.model_dump() if exported.verified else None
            artifact = jobs.NewArtifact(exported.kind, *FORMATS[exported.kind], blobs[exported.kind], verified)
            jobs.attach(session, self.job, exported.position, artifact)

        store_files(self.lease, self.folder, self.blobs, {exported.kind: exported.file}, record)

    def _select(self, records: list[RoundRecord]) -> tuple[RoundRecord, bool]:
        gates = [Gate.model_validate(gate) for gate in self.job.gates]
        return select_round(records, gates, self.recipe.stop.accuracy_floor, cast(Select, self.job.select))

    @property
    def wants_exports(self) -> bool:
        """Which need a child."""
        return not EXPORTS.isdisjoint(self.job.artifacts)

    def complete(self) -> None:
        """With nothing left to compute."""
        if "card" not in self.job.artifacts:
            self.lease.write(self._complete)
            return
        text = self.lease.write(self._card).encode()

        def record(blobs: dict[str, StoredBlob], session: Session) -> None:
            refer(session, blobs["card"])
            selected, _ = self._select([record_of(row) for row in jobs.stored_rounds(session, self.job.id)])
            jobs.attach(session, self.job, selected.position, jobs.NewArtifact("card", *FORMATS["card"], blobs["card"]))
            self._complete(session)

        store_copies(self.lease, {"card": partial(self.blobs.put, [text], len(text))}, record)

    def _card(self, session: Session) -> str:
        rounds = jobs.stored_rounds(session, self.job.id)
        selected, passed = self._select([record_of(row) for row in rounds])
        stored = jobs.stored_artifacts(session, self.job.id, selected.position)
        return card(
            self.job,
            session.get_one(Model, self.job.model_id),
            session.get_one(Dataset, self.job.dataset_id),
            rounds,
            [artifact for artifact in stored if artifact.kind in self.job.artifacts],
            selected.position,
            passed,
        )

    def _complete(self, session: Session) -> None:
        selected, passed = self._select([record_of(row) for row in jobs.stored_rounds(session, self.job.id)])
        jobs.complete(session, self.job.id, self.job.attempt, selected.position, passed)
        if not self._is_first:
            step_times.record_end(session, self.job, time.monotonic() - self._entry_began_at)


class IntakeAttempt:
    """Validation of a model or a dataset."""

    def __init__(
        self, row: Model | Dataset, lease: Lease, folder: Folder, blobs: BlobStore, settings: Settings
    ) -> None:
        self.row, self.lease, self.folder, self.blobs, self.settings = row, lease, folder, blobs, settings
        self.most_seconds: float | None = settings.validation_seconds

    def order(self) -> dict[str, Any]:
        if self.row.blob_digest is not None:
            fetch(self.lease, self.blobs, self.row.blob_digest, self.folder.inputs / "upload")
        return {
            "work": "validate_model" if isinstance(self.row, Model) else "validate_dataset",
            "folder": str(self.folder.root),
            "format": self.row.format,
            "model": self.row.spec if isinstance(self.row, Model) else None,
            "threads": self.settings.worker_threads,
            "memory_bytes": self.settings.child_memory_bytes,
            "file_bytes": self.folder.max_bytes,
        }

    def take(self, message: AnyMessage) -> bool:
        row = self.row
        match message:
            case Validated():

                def accept(blobs: dict[str, StoredBlob], session: Session) -> None:
                    report = message.report
                    if "source" in report:  # the stored file is not the one that came
                        report = report | {"source": report["source"] | {"uploaded_sha256": row.blob_digest}}
                    intake.accept(session, type(row), row.id, row.attempt, report, blobs.get("weights"))

                files = {"weights": message.weights} if message.weights else {}
                store_files(self.lease, self.folder, self.blobs, files, accept)
                return True
            case Failed():
                error = {"code": message.code, "message": message.message, "retryable": False}
                self.lease.write(lambda session: intake.refuse(session, type(row), row.id, row.attempt, error))
                return True
            case _:
                return False

    def stopped(self, drained: bool) -> bool:  # noqa: ARG002 - nobody can stop a validation but a drain
        self.lease.write(lambda session: intake.release(session, type(self.row), self.row.id, self.row.attempt))
        return True

    def postponed(self, reason: str) -> None:
        """Given back through no fault of its own."""
        log.warning("%s attempt %d: %s", self.row.id, self.row.attempt, reason)
        self.stopped(drained=True)

    def lost(self, reason: str) -> bool:
        row = self.row
        log.warning("%s attempt %d: %s", row.id, row.attempt, reason)
        self.lease.write(lambda session: intake.lose(session, type(row), row.id, row.attempt, reason))
        return True


def _format_of(model: Model) -> str:
    """Of the stored file, which validation made where the model is an architecture by name."""
    if family_of(model.spec.get("architecture")) is not None:
        return PROGRAM
    return "safetensors" if model.format == "architecture" else model.format
