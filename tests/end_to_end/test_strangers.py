"""Networks whose classes the service has never seen, and files that nobody exported: over HTTP, to the end."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from espalier import Client, NotReady, export_model, read_masks
from hostile_programs import CONV, write
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

BATCH = ({0: torch.export.Dim("batch")},)


class Hedge(nn.Module):
    """A residual convolution with batch-norm, and an attention over its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.scale = nn.Parameter(torch.ones(16))
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = torch.relu(x + self.branch(x)).mean(3).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0] * self.scale
        logits: Tensor = self.head(torch.relu(self.hidden(x.mean(1))))
        return logits


class Reader(nn.Module):
    """Reads the sixteen grey levels of a digit's rows as words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(17, 12), nn.LSTM(12, 24, batch_first=True)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.lstm(self.words(tokens))[0][:, -1]
        logits: Tensor = self.head(torch.relu(self.hidden(x)))
        return logits


def fresh(network: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return network()


def exported(module: nn.Module, example: Tensor, path: Path) -> Path:
    """Without the help of the client, whatever comes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=BATCH), path)
    return path


@pytest.mark.parametrize("network", [Hedge, Reader])
def test_a_stranger_is_pruned_and_comes_back(network: type[nn.Module], client: Client, tmp_path: Path) -> None:
    digits = load_digits()
    if network is Hedge:
        inputs = digits.images.astype(np.float32)[:, None] / 16
        strategy, granularity = "dropnet", {"granularity": "unit"}
    else:
        inputs = digits.data.astype(np.int64)[:, 24:40]  # the two rows in the middle
        strategy, granularity = "lottery_ticket_reset", {}
    labels = digits.target.astype(np.int64)
    splits = {"train": (inputs[:1200], labels[:1200]), "validation": (inputs[1200:], labels[1200:])}

    model = client.upload_model(export_model(fresh(network), inputs[:2], tmp_path / "stranger.pt2"))
    recipe = {"strategy": strategy, **granularity, "stop": {"rounds": 2}, "training": {"epochs": 3}}
    job = client.create_job(model=model, dataset=client.upload_dataset(splits), recipe=recipe, select="last")
    job = client.wait(job["id"], timeout_seconds=60)
    assert (job["conclusion"], job["selected_round"]) == ("passed", 2)
    [chosen] = [round_ for round_ in client.rounds(job["id"]) if round_["selected"]]
    programs = [artifact for artifact in client.artifacts(job["id"]) if artifact["kind"] == "program"]
    assert [program["round"] for program in programs] == [2]
    files = {a["kind"]: client.download(a, tmp_path / a["filename"]) for a in chosen["artifacts"]}

    mine = fresh(network)
    mine.load_state_dict(load_file(files["model"]), strict=True)
    masks = read_masks(files["masks"])
    assert any(not mask.all() for mask in masks.values())
    for name, mask in masks.items():
        assert not mine.state_dict()[name][~torch.from_numpy(mask)].any()
    given, wanted = torch.from_numpy(splits["validation"][0]), splits["validation"][1]
    theirs = torch.export.load(files["program"]).module()
    with torch.no_grad():
        logits = mine.eval()(given)
        assert torch.allclose(theirs(given), logits, atol=1e-5)
    assert np.mean(logits.argmax(1).numpy() == wanted) == pytest.approx(chosen["metrics"]["validation"]["accuracy"])

    again = client.upload_model(files["program"], name="a pruned result is a model again")
    assert again["num_parameters"] == model["num_parameters"]


def test_the_intake_report_says_what_cannot_be_pruned_and_why(client: Client, tmp_path: Path) -> None:
    model = client.upload_model(export_model(fresh(Hedge), torch.zeros(2, 1, 8, 8), tmp_path / "hedge.pt2"))
    layers = {layer["name"]: layer for layer in model["layers"]}
    others = {other["name"]: other["reason"] for other in model["others"]}
    assert (model["num_outputs"], model["output_layer"], model["input_dtype"]) == (10, "head", "float32")
    assert (layers["hidden"]["prunable"], layers["stem.0"]["prunable"]) == (["weight", "unit"], ["weight"])
    assert "cannot be followed through transpose" in layers["stem.0"]["reason"]
    assert layers["head"]["prunable"] == ["weight"]
    assert "outputs" in layers["head"]["reason"]
    assert "normalisation" in others["stem.1.weight"]
    assert "by an operation" in others["scale"]
    assert model["smoke_test"]["deterministic"] is True
    total = sum(layer["num_weights"] for layer in model["layers"])
    assert total == model["num_parameters"]


class Fixed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(2, 4))


class Unread(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.fft.fft(x).real)


class Depth(nn.Linear):
    """Stochastic depth, as its papers write it."""

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand(x.shape[0], 1) > 0.1
        return super().forward(x * kept if self.training else x)


def test_what_cannot_be_read_is_said_with_the_line_that_mends_it(client: Client, tmp_path: Path) -> None:
    static = tmp_path / "static.pt2"
    torch.export.save(torch.export.export(Fixed(4, 3), (torch.zeros(2, 4),)), static)
    here = rf"test_strangers\.py, line {Unread.forward.__code__.co_firstlineno + 1}, in forward"
    for file, words in [
        (static, r"batch of exactly 2; .*torch\.export\.export\(model, \(x,\), dynamic_shapes="),
        (exported(Unread(4, 3), torch.zeros(2, 4), tmp_path / "fft.pt2"), rf"operator '.*fft.*'.*{here}"),
        (exported(Depth(4, 3), torch.zeros(2, 4), tmp_path / "depth.pt2"), r"stochastic depth.*model\.eval\(\)"),
    ]:
        with pytest.raises(NotReady, match=words) as caught:
            client.upload_model(file)
        assert caught.value.document["error"]["code"] == "invalid_content"


class Good(nn.Module):
    """What the corpus is made from."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.dropout, self.fc = nn.Dropout(0.1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(torch.relu(self.bn(self.conv(x))).flatten(1)))
        return logits


@pytest.mark.parametrize(
    "name", ["pickled weight", "expression as the batch size", "target os.system", "keyword with code", "bomb", "cycle"]
)
def test_hostile_programs_are_refused_by_the_service(name: str, client: Client, tmp_path: Path) -> None:
    """Samples of the corpus that `tests/pruning` sends through the reader whole."""
    hostile, canary = tmp_path / "hostile.pt2", tmp_path / "canary"
    write(CONV[name], exported(Good(), torch.zeros(2, 1, 4, 4), tmp_path / "model.pt2"), hostile, canary)
    started = time.monotonic()
    with pytest.raises(NotReady, match=":") as caught:
        client.upload_model(hostile)
    assert time.monotonic() - started < 20
    assert caught.value.document["error"]["code"] == "invalid_content"
    assert not canary.exists()
