from __future__ import annotations

import resource
import time
import warnings

import pytest
import torch
from hostile_programs import CONV, HARMLESS, LSTM, write
from torch import nn

from pruning.formats.errors import FormatError
from pruning.formats.exported_program import read_program

BATCH = ({0: torch.export.Dim("batch")},)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.dropout, self.fc = nn.Dropout(0.1), nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.dropout(torch.relu(self.bn(self.conv(x))).flatten(1)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    paths = {"conv": folder / "model.pt2", "lstm": folder / "lstm" / "model.pt2"}
    paths["lstm"].parent.mkdir()
    for path, model, shape in ((paths["conv"], Conv(), (1, 4, 4)), (paths["lstm"], Lstm(), (6, 3))):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tensor attributes .*_flat_weights")
            program = torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=BATCH)
        torch.export.save(program, path)
    read_program(paths["lstm"])  # what is imported once is not to be counted
    return paths


@pytest.mark.parametrize(("base", "name"), [*(("conv", name) for name in CONV), *(("lstm", name) for name in LSTM)])
def test_a_hostile_program_is_refused_and_nothing_runs(base, name, good, tmp_path) -> None:
    path, canary = tmp_path / "hostile.pt2", tmp_path / "canary"
    write((CONV if base == "conv" else LSTM)[name], good[base], path, canary)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(FormatError, match=r";|: ") as refused:
        read_program(path)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    assert len(str(refused.value)) < 1500
    assert not canary.exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_poison_in_what_is_not_read_does_nothing(name, good, tmp_path) -> None:
    path, canary = tmp_path / "hostile.pt2", tmp_path / "canary"
    write(HARMLESS[name], good["conv"], path, canary)
    assert read_program(path).input_shape == (1, 4, 4)
    assert not canary.exists()


def test_the_poison_is_real(good, tmp_path) -> None:
    """The same pickles do create the canary where they are loaded, so that its absence says something."""
    path, canary = tmp_path / "hostile.pt2", tmp_path / "canary"
    write(CONV["expression as the batch size"], good["conv"], path, canary)
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever torch says after it has run the code)
        torch.export.load(path)
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("static batch", r'torch\.export\.export\(model, \(x,\), dynamic_shapes=\(\{0: torch\.export\.Dim\("batch"\)'),
        ("random", r"export the evaluation instead.*model\.eval\(\)"),
        ("target os.system", r"operator 'os\.system'.*test_exported_program_hostile\.py, line \d+, in forward"),
        ("weights of an older torch", r"torch 2\.9 or later"),
        ("torchscript", r"torch\.export\.export"),
        ("half in training", r"model\.train\(\) or model\.eval\(\)"),
        ("two inputs", r"takes 2 inputs"),
        ("two outputs", r"returns 2 values"),
        ("used before defined", r"before it is defined"),
    ],
)
def test_a_refusal_says_what_and_the_remedy(name, said, good, tmp_path) -> None:
    write(CONV[name], good["conv"], tmp_path / "p.pt2", tmp_path / "canary")
    with pytest.raises(FormatError, match=said):
        read_program(tmp_path / "p.pt2")


def test_what_is_no_archive_is_refused(tmp_path) -> None:
    for content in (b"", b"PK\3\4", b"\x80\x04", b"PK\3\4" + bytes(200)):
        (tmp_path / "p.pt2").write_bytes(content)
        with pytest.raises(FormatError, match="save the program again"):
            read_program(tmp_path / "p.pt2")
