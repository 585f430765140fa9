"""LSTM, GRU and RNN: always as torch's layers. The bare operators crash the process on a state of the wrong shape."""

from __future__ import annotations

from torch import nn

from pruning.formats.exported_program.arguments import Mismatch
from pruning.formats.exported_program.layers import META, Call, Lifted, Rule
from pruning.formats.exported_program.state import State

MAX_LAYERS = 64
_KINDS: dict[str, tuple[type[nn.LSTM | nn.GRU | nn.RNN], int, dict[str, str]]] = {
    "lstm.input": (nn.LSTM, 4, {}),
    "gru.input": (nn.GRU, 3, {}),
    "rnn_tanh.input": (nn.RNN, 1, {"nonlinearity": "tanh"}),
    "rnn_relu.input": (nn.RNN, 1, {"nonlinearity": "relu"}),
}
"""The layer, its gates (rows of weights an output), and what else it is made with."""


def recurrent(call: Call, state: State) -> Lifted:
    kind, num_gates, more = _KINDS[call.operator]
    params, hidden = call.arguments["params"], call.arguments["hx"]
    num_layers, bidirectional, bias = (call.plain(name) for name in ("num_layers", "bidirectional", "has_biases"))
    batch_first, dropout = call.plain("batch_first"), call.plain("dropout")
    if not 1 <= num_layers <= MAX_LAYERS:
        raise Mismatch(f"has {num_layers} layers; 1 to {MAX_LAYERS} are read")

    names = _names(num_layers, bidirectional, bias)
    if len(params) != len(names):
        raise Mismatch(f"has {len(params)} weights instead of {len(names)}; projections (proj_size) are not read")
    path = state.find_path(dict(zip(names, params, strict=True)), (), call.hint)
    if path is None:
        raise Mismatch("has weights under other names than the layer's own; use nn.LSTM, nn.GRU or nn.RNN as it is")
    first = state.tensor(params[0])
    if first.dim() != 2:
        raise Mismatch(f"has weights of the shape {tuple(first.shape)}")
    input_size, hidden_size = first.shape[1], first.shape[0] // num_gates
    settings = {"num_layers": num_layers, "bias": bias, "batch_first": batch_first, "dropout": dropout}
    settings |= {"bidirectional": bidirectional, **more}

    def make() -> nn.Module:
        return kind(input_size, hidden_size, **settings, device=META)

    if not state.layer(path, (kind, settings), make):
        raise Mismatch("uses one recurrent layer in two ways; use two layers")
    if kind is not nn.LSTM:
        return Lifted(path, (call.arguments["input"], hidden), ((0,), (1,)))
    if len(hidden) != 2:
        raise Mismatch(f"has {len(hidden)} states instead of 2")
    return Lifted(path, (call.arguments["input"], hidden), ((0,), (1, 0), (1, 1)))


def _names(num_layers: int, bidirectional: bool, bias: bool) -> list[str]:
    return [
        f"{part}_l{layer}{direction}"
        for layer in range(num_layers)
        for direction in ("", "_reverse")[: 1 + bidirectional]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if bias else 2]
    ]


RECURRENT: dict[str, Rule] = dict.fromkeys(_KINDS, recurrent)
