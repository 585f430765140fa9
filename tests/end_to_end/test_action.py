"""action.yml, step by step in a shell, with the runner's variables and files; a key by OIDC, no stored secret."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
import yaml
from espalier import Client, EspalierError
from espalier.ci import CiKey
from issuer import Issuer, running_issuer, send
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
AUDIENCE = "https://prune.example.org"
TOKENS = "/token?api-version=2.0"
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


def evaluated(text: str, context: dict[str, str]) -> str:
    """GitHub's expressions, as far as action.yml uses them: names, '', ==, != and && before ||."""

    def value(word: str) -> str:
        return word[1:-1] if word.startswith("'") else context.get(word, "")

    def holds(term: str) -> str:
        for operator, wanted in (("==", True), ("!=", False)):
            if operator in term:
                left, right = (value(side.strip()) for side in term.split(operator))
                return "true" if (left == right) == wanted else ""
        return value(term.strip())

    def expression(match: re.Match[str]) -> str:
        found = ""
        for alternative in match[1].split("||"):
            found = ""
            for term in alternative.split("&&"):
                if not (found := holds(term)):
                    break
            if found:
                break
        return found

    return re.sub(r"\$\{\{(.*?)\}\}", expression, text)


class Runner:
    """One run of the action in a folder of its own."""

    def __init__(self, folder: Path, tools: Path, issuer: Issuer) -> None:
        self.folder, self.summary, self.output = folder, folder / "summary", folder / "output"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ESPALIER_", "GITHUB_"))},
            "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_SHA": "1a2b3c",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output),
            "ACTIONS_ID_TOKEN_REQUEST_URL": issuer.url + TOKENS,
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-run",
        }

    def run(self, name: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        defaults = {key: row.get("default", "") for key, row in ACTION["inputs"].items()}
        assert inputs.keys() <= defaults.keys()
        context = {f"inputs.{key}": value for key, value in {**defaults, **inputs}.items()}
        (step,) = (step for step in ACTION["runs"]["steps"] if step["name"] == name)
        own = {key: evaluated(value, context) for key, value in step.get("env", {}).items()}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder, env=self.environment | own, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def rule(client: Client, issuer: Issuer) -> str:
    conditions = {"repository": "octo-org/network", "ref": "refs/heads/*"}
    rule = client.create_trust_rule(
        "main", issuer=issuer.url, audience=AUDIENCE, conditions=conditions, scopes=["read", "write"]
    )
    return rule["id"]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment, as a runner has one."""
    return tmp_path_factory.mktemp("tools")


@pytest.fixture
def runner(tmp_path: Path, tools: Path, issuer: Issuer) -> Runner:
    issuer.answers[f"{TOKENS}&audience={quote(AUDIENCE, safe='')}"] = lambda request: (
        send(request, {"value": issuer.token(aud=AUDIENCE)})
        if request.headers["Authorization"] == "Bearer of-the-run"
        else request.send_error(401)
    )
    (tmp_path / "net.py").write_text(NET)
    images, labels = load_digits(return_X_y=True)
    arrays = {"train.inputs": images.reshape(-1, 1, 8, 8).astype("uint8"), "train.targets": labels}
    np.savez(tmp_path / "digits.npz", **arrays)
    return Runner(tmp_path, tools, issuer)


def installed(runner: Runner, tools: Path) -> None:
    """By the first step, into an environment of the runner's own; then the torch that a user's code needs."""
    if (tools / "bin" / "espalier").exists():
        return
    venv.create(tools, with_pip=True)
    done = runner.run("Install the client")
    assert done.returncode == 0, done.stderr
    (site,) = (tools / "lib").glob("python*/site-packages")
    (site / "tests.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")


SETTINGS = "training.steps=60\ntraining.preprocessing.scale=0.0625"


@pytest.mark.timeout(600)
def test_a_run_prunes_gates_and_writes_its_summary(
    service: Any, client: Client, rule: str, runner: Runner, tools: Path
) -> None:
    installed(runner, tools)
    given = {"url": service.url, "audience": AUDIENCE, "trust-rule": rule, "model": "net.py:Net", "data": "digits.npz"}
    done = runner.run("Prune", **given, settings=SETTINGS, sparsity="0.5", **{"min-accuracy-ratio": "0.5"})
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = runner.outputs()
    assert (outputs["exit-code"], outputs["folder"]) == ("0", "pruned")
    job = client.job(outputs["job"])
    assert (job["conclusion"], job["metadata"]) == ("passed", {"sha": "1a2b3c"})
    names = {path.name for path in (runner.folder / "pruned").iterdir()}
    assert names >= {"model.safetensors", "masks.safetensors", "plot.svg", "rounds.csv", "job.json", "summary.md"}
    summary = runner.summary.read_text()
    assert summary.startswith("### ✅ Pruning: passed")
    assert f"**Round {job['selected_round']}**" in summary
    assert "```mermaid\nxychart-beta" in summary
    assert len(re.findall(r"^\| \d+ \|", summary, re.MULTILINE)) == len(client.rounds(job["id"]))


@pytest.mark.timeout(600)
def test_a_gate_that_is_missed_fails_the_step_and_the_summary_is_there(
    service: Any, rule: str, runner: Runner, tools: Path
) -> None:
    installed(runner, tools)
    given = {"url": service.url, "audience": AUDIENCE, "trust-rule": rule, "model": "net.py:Net", "data": "digits.npz"}
    recipe = runner.folder / "recipe.json"
    recipe.write_text('{"strategy": "one_shot", "training": {"steps": 20}}')
    done = runner.run("Prune", **given, recipe="recipe.json", **{"min-accuracy-ratio": "1.5"})
    assert done.returncode == 1, done.stdout + done.stderr
    assert runner.outputs()["exit-code"] == "1"
    assert runner.summary.read_text().startswith("### ❌ Pruning: gate failed")


def test_a_mistake_ends_before_there_is_a_job(service: Any, rule: str, runner: Runner, tools: Path) -> None:
    installed(runner, tools)
    done = runner.run("Prune", url=service.url, audience=AUDIENCE, model="nothing.pt2", data="digits.npz")
    assert done.returncode == 2
    assert runner.outputs()["job"] == ""
    assert "nothing.pt2" in done.stderr


def test_a_key_is_renewed_before_it_ends(
    service: Any, rule: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"):
        monkeypatch.setenv(name, runner.environment[name])
    with Client.for_ci(AUDIENCE, service.url, trust_rule=rule) as client:
        first = client.capabilities()
        source = client._twin._transport._key
        assert isinstance(source, CiKey)
        key = source._key
        assert client.capabilities() == first
        assert source._key == key
        source._until = 0.0
        client.capabilities()
        assert source._key != key
    with (
        Client.for_ci("https://elsewhere.example.org", service.url) as stranger,
        pytest.raises(EspalierError, match="404, and no JSON"),
    ):
        stranger.capabilities()


def test_nothing_that_comes_in_is_put_into_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def documented(index: int) -> Any:
    text = (ROOT / "docs" / "ci.md").read_text()
    return yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[index])


def test_the_documented_workflow_gives_the_action_what_it_takes() -> None:
    steps = documented(0)["jobs"]["prune"]["steps"]
    (step,) = (step for step in steps if "espalier" in step.get("uses", ""))
    assert step["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, row in ACTION["inputs"].items() if row["required"]} <= step["with"].keys()
    pairs = [line.split("=") for line in step["with"]["settings"].splitlines()]
    assert [pair[0] for pair in pairs] == ["training.steps", "training.preprocessing.scale"]
    assert documented(0)["permissions"]["id-token"] == "write"


def test_the_documented_pipeline_gives_the_script_what_it_takes() -> None:
    pipeline, script = documented(1)["prune"], (ROOT / "examples" / "ci.sh").read_text()
    for name in (*pipeline["variables"], *pipeline["id_tokens"]):
        assert name in script
    assert pipeline["script"][-1].endswith("examples/ci.sh")
