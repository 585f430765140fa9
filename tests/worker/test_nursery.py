"""Children that are forked: as fresh as started ones, their ends told, none outliving whom it must not."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.processes import children_of, descendants_of, is_alive
from worker import forked
from worker.children import Child, Children, Exited


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    children = Children()
    pid_of(child := children.take())  # torch is imported
    child.kill()
    yield children
    children.close()


def nursery_of(child: Child) -> int:
    status = Path(f"/proc/{pid_of(child)}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def open_files(pid: int) -> list[str]:
    """stdin, stdout, stderr and messages it should be; a socket would be a sibling's control."""
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(path.readlink()).partition(":")[0])
    return sorted(names)


def pid_of(child: Child) -> int:
    eventually(lambda: child.process.pid is not None)
    assert child.process.pid is not None
    return child.process.pid


def eventually(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_starts_in_milliseconds_in_a_session_of_its_own_with_nothing_of_its_siblings(children: Children) -> None:
    with children.lent():
        started = time.perf_counter()
        with children.lent() as child:
            pid = pid_of(child)
            print(f"a child after {1000 * (time.perf_counter() - started):.0f} ms")
            eventually(lambda: open_files(pid) == ["/dev/null", "pipe", "pipe", "pipe"])
            assert os.getsid(pid) == pid
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        assert not is_alive(pid)


def test_how_it_ended_is_told(children: Children) -> None:
    with children.lent() as child:
        child.order({"no": "order"})
        assert isinstance(child.next_message(20), Exited)
        assert child.last_words().startswith("the training process ended with exit code 1: ")
        assert "KeyError" in child.last_words()
        assert child.process.wait(0) == 1
    with children.lent() as child:
        os.kill(pid_of(child), signal.SIGSEGV)
        assert isinstance(child.next_message(20), Exited)
        assert child.last_words() == "the training process ended with killed by SIGSEGV"
        child.ask_to_stop()  # its number may be another's: nothing is sent
    with children.lent() as child:
        os.kill(pid_of(child), signal.SIGKILL)  # as the kernel does
        assert isinstance(child.next_message(20), Exited)
        assert re.search(r"SIGKILL, as the kernel does .* \(peak: \d{2,4} MiB resident\)", child.last_words())


def test_what_is_dropped_is_killed(children: Children) -> None:
    """Also where it ignores its stdin's end: its control is closed with its owner."""
    child = children.take()
    os.kill(pid := pid_of(child), signal.SIGSTOP)
    child.process._control.close()
    eventually(lambda: not is_alive(pid))
    child.process.returncode = -signal.SIGKILL
    child.kill()  # its pipes


def test_a_nursery_that_dies_takes_its_children_with_it_and_is_replaced(children: Children) -> None:
    with children.lent() as child:
        pid, nursery = pid_of(child), nursery_of(child)
        os.kill(nursery, signal.SIGKILL)
        assert isinstance(child.next_message(20), Exited)
        assert "SIGKILL" in child.last_words()
        eventually(lambda: not is_alive(pid))
        with children.lent() as another:
            assert nursery_of(another) != nursery


def test_nothing_is_left_at_the_end() -> None:
    before = descendants_of(os.getpid())
    children = Children()
    children.warm_up()
    child = children.take()
    pid = pid_of(child)
    left = [one for one in descendants_of(os.getpid()) if one not in before]
    assert pid in left
    children.close()
    eventually(lambda: not any(map(is_alive, left)))
    assert len(children_of(os.getpid())) <= len(before)
    child.kill()


def test_what_is_asked_of_a_nursery_that_still_starts_is_not_waited_for() -> None:
    """An attempt has begun by then, and keeps its lease while it waits."""
    children = Children()
    started = time.perf_counter()
    child = children.take()
    assert time.perf_counter() - started < 1
    assert child.process.pid is None
    assert child.unlinked_bytes() == 0
    child.order({"no": "order"})
    assert isinstance(child.next_message(60), Exited)
    assert "KeyError" in child.last_words()
    child.kill()
    doomed = children.take()
    children.close()
    assert isinstance(doomed.next_message(20), Exited)
    assert "could not be started" in doomed.last_words() or "SIGKILL" in doomed.last_words()
    doomed.kill()


def test_a_child_is_killed_though_the_nursery_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "ANSWER_SECONDS", 0.2)
    children = Children()
    child, pid = (child := children.take()), pid_of(child)
    os.kill(nursery := nursery_of(child), signal.SIGSTOP)
    child.kill()
    assert not is_alive(pid)
    waiting = children.take()
    waiting.kill()
    assert not waiting.has_begun
    children.start_over()
    with children.lent() as another:
        assert nursery_of(another) != nursery
    assert not is_alive(nursery)
    children.close()


def test_an_order_to_all_processes_stops_children_between_two_steps_not_the_nursery(children: Children) -> None:
    with children.lent() as child:
        nursery = nursery_of(child)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(nursery, number)
        os.kill(child.process.pid or 0, signal.SIGTERM)
        assert isinstance(child.next_message(20), Exited)
        assert "SIGTERM" in child.last_words()
        with children.lent() as another:
            assert nursery_of(another) == nursery


def test_many_open_files_are_no_hindrance(children: Children) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"no more than {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    taken = [os.dup(0) for _ in range(1100)]
    try:
        with children.lent() as child:
            assert is_alive(pid_of(child))
            assert child.unlinked_bytes() == 0
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
