"""`torch.export` programs (.pt2) in and out. A program is read as data: nothing in it is unpickled, evaluated or run.

In the order in which an upload goes through them: `archive` (zip), `schema` (JSON), `tensors` (raw bytes), `operators`
and `arguments` (what may be called, with what), `layers` and `recurrent` (torch's own layers instead of bare
operators), `state` (parameters under the user's names), `rebuild` (all of it together), `dry_run` (shapes only).
"""

from pruning.formats.exported_program.program import Program
from pruning.formats.exported_program.reading import read_program
from pruning.formats.exported_program.writing import write_program

__all__ = ["Program", "read_program", "write_program"]
