"""The other commands, where their settings come from, and what a terminal is shown."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from espalier import Client, Job
from espalier.cli import charts

API_KEY = "esp_a-key-for-the-clients-tests"
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7])(?:;[0-9]+)*m")


def test_jobs_are_listed_read_and_ordered_about(espalier: Any, submit: Callable[..., Job]) -> None:
    job = submit(metadata={"sha": "1a2b"})
    listed = espalier("jobs", "ls", "--label", "sha=1a2b", "--limit", "1")
    head, row = listed.stdout.splitlines()
    assert head.split("\t") == ["job", "state", "strategy", "created"]
    assert row.split("\t")[:3] == [job["id"], "queued", "lottery_ticket_reset"]
    for verb, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled, canceled")):
        assert espalier("jobs", verb, job["id"]).stdout == f"{job['id']}: {state}\n"
    retried = json.loads(espalier("jobs", "retry", job["id"], "--output", "json").stdout)
    assert (retried["retried_from"], retried["status"]) == (job["id"], "queued")
    read = espalier("jobs", "get", job["id"], "--output", "json")
    assert (json.loads(read.stdout)["status"], json.loads(read.stdout)["rounds"]) == ("canceled", [])


def test_a_job_is_shown_with_its_rounds_and_downloaded(
    espalier: Any, worker: Any, submit: Callable[..., Job], tmp_path: Path
) -> None:
    job = submit()
    claimed = worker.claim(job)
    for position in range(2):
        worker.store_round(claimed, position, [b"round %d" % position])
    rows = [line.split("\t") for line in espalier("jobs", "get", job["id"]).stdout.splitlines()[1:]]
    assert [row[:4] for row in rows] == [
        ["round", "sparsity", "accuracy", "- dense"], ["0", "0.0%", "0.9000", "+0.0000"],
        ["1", "20.0%", "0.9000", "+0.0000"],
    ]  # fmt: skip
    got = espalier("download", job["id"], "--round", "1", "--kind", "model", "--out", "one")
    assert got.stdout == "one/model.safetensors\n"
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == b"round 1"
    worker.complete(claimed)
    assert len(espalier("download", job["id"], "--out", "all").stdout.splitlines()) == 4
    assert (tmp_path / "all" / "model.safetensors").read_bytes() == b"round 0"
    wrong = espalier("download", job["id"], "--kind", "masks")
    assert (wrong.returncode, "of these kinds it has some: model" in wrong.stderr) == (2, True)


def test_models_and_datasets(espalier: Any, worker: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", **{"train.inputs": np.zeros((4, 3)), "train.targets": np.zeros(4)})
    dataset = espalier("datasets", "upload", "digits.npz", "--name", "tiny").stdout.strip()
    model = espalier("models", "upload", "lenet5", "--num-classes", "7").stdout.strip()
    for kind, given in (("datasets", dataset), ("models", model)):
        rows = [line.split("\t") for line in espalier(kind, "ls", "--limit", "1").stdout.splitlines()]
        assert (rows[0][0], rows[1][0]) == ("id", given)
        assert given in espalier(kind, "get", given).stdout
    assert "fc1" in espalier("models", "get", model).stdout
    assert any(line.startswith("snip\t") for line in espalier("strategies").stdout.splitlines())


def test_dataset_files_are_made(espalier: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 3, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.array([0, 1, 0, 1]))
    (tmp_path / "table.csv").write_text("length,species\n1.5,iris\n2.5,ash\n")
    made = espalier("dataset", "arrays", "--train", "x.npy", "y.npy", "--test", "x.npy", "y.npy", "-o", "a.npz")
    assert made.stdout == "a.npz: train 4, test 4\n"
    assert espalier("dataset", "table", "table.csv", "--target", "species", "-o", "t.npz").stdout == "t.npz: train 2\n"
    (tmp_path / "x.npy").write_bytes(b"\x80\x04")
    refused = espalier("dataset", "arrays", "--train", "x.npy", "y.npy", "-o", "b.npz")
    assert (refused.returncode, "x.npy is no .npy file of numbers" in refused.stderr) == (2, True)
    refused = espalier("dataset", "idx", ".", "-o", "b.npz")
    assert (refused.returncode, "train-images-idx3-ubyte" in refused.stderr) == (2, True)


def test_flags_go_before_the_environment_and_that_before_the_file(espalier: Any, api: Any, tmp_path: Path) -> None:
    nowhere: dict[str, Any] = {"ESPALIER_URL": None, "ESPALIER_API_KEY": None}
    assert "espalier login" in espalier("jobs", "ls", **nowhere).stderr
    refused = espalier("login", "--url", api.url, "--api-key", "esp_wrong", **nowhere)
    assert (refused.returncode, list(tmp_path.rglob("*.toml"))) == (6, [])
    assert espalier("login", "--url", api.url, "--api-key", API_KEY, **nowhere).returncode == 0
    file = tmp_path / "config" / "espalier" / "config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert espalier("jobs", "ls", **nowhere).returncode == 0
    assert espalier("jobs", "ls", ESPALIER_URL=None, ESPALIER_API_KEY="esp_wrong").returncode == 6
    assert espalier("jobs", "ls", "--api-key", API_KEY, ESPALIER_URL=None, ESPALIER_API_KEY="esp_wrong").returncode == 0
    file.write_text("not toml")
    assert "run `espalier login`" in espalier("jobs", "ls", **nowhere).stderr


def test_a_key_may_come_on_stdin(espalier: Any, api: Any, tmp_path: Path) -> None:
    process = espalier.start("login", "--url", api.url, stdin=subprocess.PIPE)
    process.communicate(API_KEY + "\n")
    assert process.returncode == 0
    assert API_KEY in (tmp_path / "config" / "espalier" / "config.toml").read_text()


def shown(espalier: Any, *arguments: str, meanwhile: Callable[[str], None] = lambda _so_far: None) -> str:
    """What a terminal of 100 x 40 is sent; `meanwhile` is called with all of it, as it grows."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = espalier.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # all that had it open have gone
            break
        if not piece:
            break
        text += piece
        meanwhile(text.decode(errors="replace"))
    os.close(ours)
    process.wait()
    return text.decode()


@pytest.mark.parametrize("no_colour", [False, True])
def test_a_terminal_sees_the_curves_grow(
    espalier: Any, worker: Any, submit: Callable[..., Job], no_colour: bool
) -> None:
    job = submit()
    claimed = worker.claim(job)
    worker.store_round(claimed, 0, [b"weights"])
    espalier.environment |= {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_colour else {})
    done: list[str] = []

    def go_on(so_far: str) -> None:
        if "running" in so_far and "█" in so_far and not done:
            done.append("stored")
            worker.store_round(claimed, 1, [b"weights"])
            worker.complete(claimed)

    seen = shown(espalier, "watch", job["id"], meanwhile=go_on)
    assert done
    assert "accuracy (validation)" in seen
    assert "100% │" in seen
    assert "succeeded, passed" in seen
    assert "\x1b[" in seen
    assert (COLOUR.search(seen) is None) == no_colour


def test_names_give_a_terminal_no_orders(espalier: Any, client: Client, worker: Any) -> None:
    model = client.upload_model(b"", architecture="lenet5", format="architecture", name="\x1b]0;owned\x07\x1b[2J")
    for text in (shown(espalier, "models", "get", model["id"]), espalier("models", "ls").stdout):
        assert "?]0;owned?" in text
        assert "\x1b]0" not in text


def test_posting_a_job_needs_no_torch(python: str, espalier: Any, references: dict[str, str]) -> None:
    program = (
        "import sys; from espalier.cli import main; code = main(sys.argv[1:]);"
        "print(code, *{'torch', 'numpy'} & set(sys.modules))"
    )
    arguments = ["prune", references["model"], references["dataset"], "--strategy", "snip", "--detach", "--pool", "x"]
    ended = subprocess.run(
        [python, "-c", program, *arguments], env=espalier.environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(espalier: Any, shell: str) -> None:
    assert "_ESPALIER_COMPLETE" in espalier("completion", shell).stdout


def test_the_shell_is_told_the_latest_jobs(espalier: Any, submit: Callable[..., Job]) -> None:
    job = submit()
    words = {"_ESPALIER_COMPLETE": "bash_complete", "COMP_WORDS": "espalier watch job_", "COMP_CWORD": "2"}
    assert f"plain,{job['id']}" in espalier(**words).stdout.splitlines()
    assert espalier(**words, ESPALIER_URL="http://127.0.0.1:9").stdout.strip() == ""


@pytest.mark.timeout(300)
def test_serve_runs_the_servers_own_entry_point_until_it_is_told_to_stop(espalier: Any, tmp_path: Path) -> None:
    """The server prints on stdout and stderr alike: both are one pipe here."""
    with espalier.start(
        "serve", "--port", "0", "--data-dir", str(tmp_path / "var"), stderr=subprocess.STDOUT
    ) as process:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "listens on http://127.0.0.1:" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0, "".join(lines)
    assert any("stopping" in line for line in lines), "".join(lines)


def test_where_the_server_is_not_installed_it_says_how(espalier: Any, python: str) -> None:
    program = (
        "import sys, importlib.metadata; import espalier.cli.local as local; local.entry_points = lambda **_: ();"
        "from espalier.cli import main; sys.exit(main(['serve']))"
    )
    ended = subprocess.run(
        [python, "-c", program], env=espalier.environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "docs/deploy.md" in ended.stderr


def test_a_chart_has_its_scale_and_its_gaps() -> None:
    lines = charts.chart([0.0, None, 0.5, 1.0], 2, 0.0, 1.0, ".1f")
    assert lines == ["    1.0 │         ██", "    0.0 │▁▁    ██ ██"]
    low, high = charts.bounds([0.9, None, 0.95])
    assert low < 0.9
    assert high > 0.95
    assert charts.bounds([None])[0] < charts.bounds([None])[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_client_installs_alone_and_works(api: Any, references: dict[str, str], tmp_path: Path) -> None:
    """In an environment of its own, from the package as it is built."""
    client = tmp_path / "client"  # a copy: building leaves files behind
    shutil.copytree(Path(__file__).parents[2] / "client" / "espalier", client / "espalier")
    shutil.copy(Path(__file__).parents[2] / "client" / "pyproject.toml", client)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "alone"], check=True)
    binary = tmp_path / "alone" / "bin"
    subprocess.run([binary / "python", "-m", "pip", "install", "--quiet", client], check=True)
    names = subprocess.run([binary / "python", "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "espalier " in names
    assert not {"torch", "numpy", "espalier-server"} & set(names.split())
    arguments = ["prune", references["model"], references["dataset"], "--strategy", "snip", "--detach", "--pool", "x"]
    environment = {"ESPALIER_URL": api.url, "ESPALIER_API_KEY": API_KEY, "PATH": os.environ["PATH"]}
    ended = subprocess.run(
        [binary / "espalier", *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("job_")
