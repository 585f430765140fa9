"""The supervisor treats what a child says and leaves as data from a stranger."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import pytest

from store.blobs import BlobStore
from worker import children
from worker.children import Child
from worker.folder import BadFile, Folder
from worker.messages import BadMessage, Failed, RoundDone, parse, printable


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
        b'{"type": "progress", "round": null, "step": 1' + b"0" * 400 + b', "steps": 1}',
        b'{"type": "progress", "round": 1' + b"0" * 400 + b', "step": 1, "steps": 1}',
        b'{"type": "round", "position": 0, "number": 0, "sparsity": 0, "report": {"metrics": {}},'
        b' "files": {"model": "../../etc/passwd"}}',
        b'{"type": "round", "position": 0, "number": 0, "sparsity": 0, "files": {},'
        b' "report": {"metrics": {"validation": {"accuracy": NaN}}}}',
        b'{"type": "round", "position": 0, "number": 0, "sparsity": 2, "report": {"metrics": {}}, "files": {}}',
        b"[" * 100_000,
        b'{"type": "failed", "code": "x", "message": "\\u0000"}',
        b'{"type": "failed", "code": "x", "message": "\\ud800"}',
        b'{"type": "failed", "code": "x", "message": "\xed\xa0\x80"}',
        b'{"type": "validated", "report": {"num_bytes": 1e999}}',
        b'{"type": "started", "determinism": {"device": "' + b"x" * 1000 + b'"}}',
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
        b' "report": {"metrics": {"validation": {"accuracy": 0.5}}, "seconds": {"train": 1.5}, "steps": 5}}'
    )
    assert isinstance(done, RoundDone)
    said = {"metrics": {"validation": {"accuracy": 0.5}}, "seconds": {"train": 1.5}, "steps": 5}
    assert done.report.model_dump() == said


def test_words_about_escapes_are_words() -> None:
    said = parse(b'{"type": "failed", "code": "x", "message": "\\\\u0000"}')
    assert isinstance(said, Failed)
    assert said.message == "\\u0000"
    assert printable("a\0\x1b[31m\ud800\u00e9\n") == "a\ufffd\ufffd[31m\ufffd\u00e9\n"


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_file_without_a_name_counts(tmp_path: Path) -> None:
    """Removed but held open, it fills the disk as before."""
    child = Child.__new__(Child)
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * 1000)
        file.flush()
        child.process = subprocess.Popen(["/bin/sleep", "60"], stdin=file)
    assert child.unlinked_bytes() == 0
    (tmp_path / "file").unlink()
    assert child.unlinked_bytes() == 1000
    child.process.kill()
    child.process.wait()
    assert child.unlinked_bytes() == 0


def test_a_child_that_closes_its_pipe_and_lives_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could hold its slot for ever."""
    monkeypatch.setattr(children, "LAST_SECONDS", 0.3)
    child = children.Child.__new__(children.Child)
    child.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    child._stderr = deque(["still here"])
    child._readers = [threading.Thread(target=int), threading.Thread(target=int)]
    for reader in child._readers:
        reader.start()
    assert "SIGKILL" in child.last_words()
    assert child.process.poll() is not None


def test_an_attempt_clears_what_earlier_ones_left(tmp_path: Path) -> None:
    for name in ("job_1-1", "job_1-2", "job_2-1"):
        (tmp_path / name / "out").mkdir(parents=True)
    with Folder(tmp_path / "job_1-3", 1000):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["job_1-3", "job_2-1"]
    assert [path.name for path in tmp_path.iterdir()] == ["job_2-1"]
