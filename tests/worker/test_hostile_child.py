"""The supervisor treats what a child says and leaves as data from a stranger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from store.blobs import BlobStore
from worker.folder import BadFile, Folder
from worker.messages import BadMessage, Failed, RoundDone, parse


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "attempt", 1000)


def test_only_regular_files_of_its_own_folder_are_taken(folder: Folder, blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with folder:
        (folder.outputs / "good").write_bytes(b"good")
        (folder.outputs / "link").symlink_to(tmp_path / "secret")
        os.mkfifo(folder.outputs / "fifo")
        (folder.outputs / "folder").mkdir()
        (folder.outputs / "large").write_bytes(b"x" * 1001)
        assert folder.store("good", blobs).size_bytes == 4
        for name in ("link", "fifo", "folder", "missing", "large"):
            with pytest.raises(BadFile):
                folder.store(name, blobs)
        assert folder.size_bytes() >= 1005
    assert not folder.root.exists()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json\n",
        b'{"type": "started"}',
        b'{"type": "exec", "code": "1"}',
        b'{"type": "failed", "code": "Not A Code", "message": ""}',
        b'{"type": "progress", "round": 0, "step": -1, "steps": 10}',
        b'{"type": "round", "position": 0, "number": 0, "sparsity": 0, "report": {"metrics": {}},'
        b' "files": {"model": "../../etc/passwd"}}',
        b'{"type": "round", "position": 0, "number": 0, "sparsity": 0, "files": {},'
        b' "report": {"metrics": {"validation": {"accuracy": NaN}}}}',
        b'{"type": "round", "position": 0, "number": 0, "sparsity": 2, "report": {"metrics": {}}, "files": {}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_not_a_message_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessage):
        parse(line)


def test_messages_are_read_as_they_are() -> None:
    assert parse(b'{"type": "failed", "code": "diverged", "message": "step 3"}') == Failed(
        code="diverged", message="step 3"
    )
    done = parse(
        b'{"type": "round", "position": 1, "number": null, "sparsity": 0.5, "files": {"model": "1.model"},'
        b' "report": {"metrics": {"validation": {"accuracy": 0.5}}, "steps": 5}}'
    )
    assert isinstance(done, RoundDone)
    assert done.report.model_dump() == {"metrics": {"validation": {"accuracy": 0.5}}, "steps": 5}
