"""ONNX files: what they compute, what they say of themselves, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from toy_networks import Inverted

from pruning.formats.extras import installed
from pruning.formats.onnx import OnnxError, write_onnx


class Words(nn.Module):
    """Tokens in; the embedding's table is the head's weight, too."""

    input_dtype = torch.int64

    def __init__(self) -> None:
        super().__init__()
        self.table, self.memory = nn.Embedding(11, 8), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.memory(self.table(tokens))[0])


def test_a_network_computes_the_same_for_any_batch(tmp_path) -> None:
    torch.manual_seed(0)
    network = Inverted().train()
    network(torch.randn(8, *Inverted.shape))  # running statistics that are not the first ones
    said = write_onnx(tmp_path / "n.onnx", network, Inverted.shape)
    assert network.training
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    [inputs], [outputs] = session.get_inputs(), session.get_outputs()
    assert (inputs.name, inputs.shape) == ("inputs", ["batch", *Inverted.shape])
    assert (outputs.name, outputs.shape) == ("outputs", ["batch", 4])
    for batch in (1, 7):
        x = torch.randn(batch, *Inverted.shape)
        with torch.no_grad():
            expected = network.eval()(x).numpy()
        assert np.allclose(session.run(None, {"inputs": x.numpy()})[0], expected, atol=1e-5)
    assert 0 <= said["max_difference"] <= said["tolerance"] * said["largest_output"]
    assert said["runtime"] == f"onnxruntime {onnxruntime.__version__}"


def test_tokens_and_tied_weights_go_out(tmp_path) -> None:
    torch.manual_seed(0)
    network = Words().eval()
    write_onnx(tmp_path / "n.onnx", network, (5,))
    tokens = torch.randint(0, 11, (4, 5))
    with torch.no_grad():
        expected = network(tokens).numpy()
    found = onnxruntime.InferenceSession(tmp_path / "n.onnx").run(None, {"inputs": tokens.numpy()})[0]
    assert np.allclose(found, expected, atol=1e-5)


def test_outputs_that_are_no_numbers_are_no_agreement(tmp_path) -> None:
    network = nn.Linear(2, 2)
    nn.init.constant_(network.bias, float("nan"))
    with pytest.raises(OnnxError, match="differ"):
        write_onnx(tmp_path / "n.onnx", network, (2,))


def test_an_extra_is_there_where_all_its_packages_are(monkeypatch) -> None:
    assert "onnx" in installed()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "onnx" not in installed()
