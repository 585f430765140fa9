"""A `.pt2` file to a module."""

from __future__ import annotations

from pathlib import Path

from pruning.formats.exported_program.archive import Archive, find_model, open_archive
from pruning.formats.exported_program.dry_run import dry_run
from pruning.formats.exported_program.program import Program
from pruning.formats.exported_program.rebuild import rebuild
from pruning.formats.exported_program.schema import ExportedProgram, parse
from pruning.formats.exported_program.tensors import read_tensors


def read_program(path: Path) -> Program:
    """The module that was exported, in training mode, with torch's own layers at the user's own paths.

    Its state dict has the user's keys; it trains and evaluates as the user's own, whichever of the two was exported.
    What an export in evaluation mode leaves out is not there: the dropout inside attention.

    Raises:
        FormatError: the file is no program of the supported kind; the message says what to do.
    """
    with open_archive(path) as file:
        archive = Archive(file)
        model = find_model(archive)
        parsed = parse(archive, f"models/{model}.json", ExportedProgram)
        weights = read_tensors(archive, model, "weights")
        constants = read_tensors(archive, model, "constants")
    program = rebuild(parsed, weights, constants)
    dry_run(program)
    return program
