"""Of rows that refer, files, folders and processes: all there, as promised, and nothing beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlalchemy import ForeignKeyConstraint, and_, exists, func, select

from chaos.evidence import Evidence
from store.tables import Base, Blob, DiscardedCopy


def references_hold(evidence: Evidence) -> list[str]:
    """Every foreign key of every table, asked for and not taken on trust."""
    wrong = []
    with evidence.database.reading() as session:
        for key in (c for t in Base.metadata.tables.values() for c in t.constraints):
            if not isinstance(key, ForeignKeyConstraint):
                continue
            parent = key.referred_table.alias()
            pairs = [(element.parent, parent.c[element.column.name]) for element in key.elements]
            set_ = and_(*(column.is_not(None) for column, _ in pairs))
            found = exists().where(*(column == referred for column, referred in pairs))
            lost = session.scalar(select(func.count()).select_from(key.table).where(set_, ~found))
            if lost:
                columns = ", ".join(column.name for column, _ in pairs)
                wrong.append(f"{key.table.name} ({columns}): {lost} rows refer to none of {key.referred_table.name}")
    return wrong


def bytes_match_digests(evidence: Evidence) -> list[str]:
    """The file of every blob, read to its end."""
    wrong = []
    with evidence.database.reading() as session:
        rows = [(blob.digest, blob.size_bytes, blob.name) for blob in session.scalars(select(Blob))]
    for digest, size_bytes, name in rows:
        file = evidence.blob_dir / name[:2] / name
        if not file.exists():
            wrong.append(f"blob {digest}: a row, no file")
        elif file.stat().st_size != size_bytes or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            wrong.append(f"blob {digest}: {file.stat().st_size} bytes of another content, {size_bytes} promised")
    return wrong


def no_blob_is_without_use(evidence: Evidence) -> list[str]:
    """After a collection: neither a file that no row names, as a worker leaves that is killed between the two, nor a
    row that nothing refers to, nor a copy that is still to be removed."""
    with evidence.database.reading() as session:
        names = {blob.name: blob.digest for blob in session.scalars(select(Blob))}
        discarded = sorted(session.scalars(select(DiscardedCopy.name)))
        used: set[str] = set()
        for table in Base.metadata.tables.values():
            for column in table.columns:
                if any(key.references(Blob.__table__) for key in column.foreign_keys):  # type: ignore[arg-type]
                    used |= set(session.scalars(select(column).where(column.is_not(None))))
    files = {file.name for file in evidence.blob_dir.glob("[0-9a-f][0-9a-f]/*")}
    wrong = [f"blob {name}: a file without a row" for name in sorted(files - set(names))]
    wrong += [f"blob {digest}: a row that nothing refers to" for digest in sorted(set(names.values()) - used)]
    return wrong + [f"blob {name}: discarded, and never removed" for name in discarded]


def no_folder_is_left(evidence: Evidence) -> list[str]:
    """No folder of an attempt: those of killed workers are cleared by the next that starts, or takes the same job."""
    return [f"{folder} is left" for folder in sorted(_entries(evidence.work_dir))]


def no_process_is_left(evidence: Evidence) -> list[str]:
    return evidence.strays


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
