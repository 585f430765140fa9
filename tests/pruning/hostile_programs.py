"""Hostile `.pt2` files, each made from a good one by one change. All would create the canary if anything ran.

`REFUSED` must be refused; `HARMLESS` has its poison in what the reader does not read, and must read as the good one.
"""

from __future__ import annotations

import copy
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuzz.zips import Member, pack


class Good:
    """A good program taken apart."""

    def __init__(self, path: Path, canary: Path) -> None:
        with zipfile.ZipFile(path) as file:
            self.members = [Member(name, file.read(name)) for name in file.namelist()]
        self.top = self.members[0].name.split("/")[0]
        self.canary = canary

    @property
    def code(self) -> str:
        return f"__import__('os').system('touch {self.canary}')"

    @property
    def pickle(self) -> bytes:
        return pickle.dumps(Touch(self.canary))

    def find(self, end: str) -> Member:
        return next(member for member in self.members if member.name.endswith(end))

    def add(self, name: str, content: bytes = b"") -> None:
        self.members.append(Member(f"{self.top}/{name}", content))

    def edit(self, end: str, change: Callable[[Any], None]) -> None:
        member = self.find(end)
        value = json.loads(member.content)
        change(value)
        member.content = json.dumps(value).encode()

    def edit_graph(self, change: Callable[[Any], None]) -> None:
        self.edit("models/model.json", lambda program: change(program["graph_module"]["graph"]))


class Touch:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (open, (str(self.canary), "w"))


Hostile = Callable[[Good], bytes | None]
"""Changes the good program; gives the file's bytes where it is not simply its members packed again."""


def write(hostile: Hostile, good: Path, path: Path, canary: Path) -> None:
    taken_apart = Good(good, canary)
    content = hostile(taken_apart)
    path.write_bytes(pack(taken_apart.members) if content is None else content)


def _graph(change: Callable[[Any, Good], None]) -> Hostile:
    return lambda good: good.edit_graph(lambda graph: change(graph, good))


def _weights(change: Callable[[Any, Good], None]) -> Hostile:
    return lambda good: good.edit("weights_config.json", lambda config: change(config["config"], good))


def _signature(change: Callable[[Any, Good], None]) -> Hostile:
    return lambda good: good.edit(
        "models/model.json", lambda program: change(program["graph_module"]["signature"], good)
    )


def _node(graph: Any, target: str) -> Any:
    return next(node for node in graph["nodes"] if target in node["target"])


def _target(target: str) -> Hostile:
    return _graph(lambda graph, good: _node(graph, "relu").update(target=target))


def _argument(target: str, position: int, argument: Any) -> Hostile:
    def change(graph: Any, good: Good) -> None:
        given = copy.deepcopy(argument)
        text = json.dumps(given).replace("CODE", good.code)
        _node(graph, target)["inputs"][position]["arg"] = json.loads(text)

    return _graph(change)


def _extra_argument(name: str, kind: int = 2) -> Hostile:
    def change(graph: Any, good: Good) -> None:
        given = {"name": name.replace("CODE", good.code), "arg": {"as_int": 1}, "kind": kind}
        _node(graph, "relu")["inputs"].append(given)

    return _graph(change)


def _insert(node: dict[str, Any], before: str = "relu") -> Hostile:
    """A node whose one tensor takes the place of what `before` was given."""

    def change(graph: Any, good: Good) -> None:
        at = next(i for i, n in enumerate(graph["nodes"]) if before in n["target"])
        given = graph["nodes"][at]["inputs"][0]["arg"]["as_tensor"]["name"]
        text = json.dumps(node).replace("GIVEN", given).replace("CODE", good.code)
        graph["nodes"].insert(at, {"metadata": {}, "outputs": [{"as_tensor": {"name": "new"}}], **json.loads(text)})
        graph["nodes"][at + 1]["inputs"][0]["arg"]["as_tensor"]["name"] = "new"

    return _graph(change)


def _call(target: str, **arguments: Any) -> dict[str, Any]:
    inputs = [{"name": name, "arg": argument, "kind": 1} for name, argument in arguments.items()]
    return {"target": f"torch.ops.aten.{target}", "inputs": inputs}


GIVEN = {"as_tensor": {"name": "GIVEN"}}


def _rename(kind: str, key: str, wanted: str) -> Hostile:
    """One stored tensor under another key, everywhere."""

    def change(good: Good) -> None:
        new = wanted.replace("CODE", good.code)
        good.edit("weights_config.json", lambda config: config["config"].update({new: config["config"].pop(key)}))

        def specs(program: Any) -> None:
            for spec in program["graph_module"]["signature"]["input_specs"]:
                if spec.get(kind, {}).get(f"{kind}_name") == key:
                    spec[kind][f"{kind}_name"] = new

        good.edit("models/model.json", specs)

    return change


def _shape(**meta: Any) -> Hostile:
    def change(config: Any, good: Good) -> None:
        for name, value in meta.items():
            ints = [{"as_int": item} for item in value] if isinstance(value, list) else {"as_int": value}
            config["fc.weight"]["tensor_meta"][name] = ints

    return _weights(change)


def _pickled(config_name: str, folder: str) -> Hostile:
    def change(good: Good) -> None:
        meta = {"path_name": "poison", "is_param": True, "use_pickle": True, "tensor_meta": None}
        good.edit(config_name, lambda config: config["config"].update({"fc.weight": meta}))
        good.add(f"data/{folder}/poison", good.pickle)

    return change


def _member(**told: Any) -> Hostile:
    def change(good: Good) -> None:
        good.find("weight_1").told = told

    return change


def _named(name: str) -> Hostile:
    return lambda good: good.members.append(Member(name, b"x"))


def _replaced(end: str, content: Callable[[Good], bytes]) -> Hostile:
    def change(good: Good) -> None:
        good.find(end).content = content(good)

    return change


def _bomb(good: Good) -> None:
    member = good.find("weight_0")
    member.content, member.method = bytes(32 << 20), 8


def _squared(good: Good) -> None:
    """A size multiplied by itself forty times: 2 ** 2 ** 40."""

    def change(graph: Any) -> None:
        def node(target: str, inputs: list[Any], name: str) -> Any:
            named = [{"name": "abc"[i] if i else "self", "arg": arg, "kind": 1} for i, arg in enumerate(inputs)]
            output = {"as_sym_int": {"as_name": name}}
            return {"target": target, "inputs": named, "outputs": [output], "metadata": {}}

        new = [node("torch.ops.aten.sym_size.int", [{"as_tensor": {"name": "x"}}, {"as_int": 0}], "n0")]
        new[0]["inputs"][1]["name"] = "dim"
        for power in range(40):
            operand = {"as_sym_int": {"as_name": f"n{power}"}}
            new.append(node("_operator.mul", [operand, operand], f"n{power + 1}"))
        size = {"as_sym_ints": [{"as_name": "n40"}]}
        new.append({**_call("ones.default", size=size), "outputs": [{"as_tensor": {"name": "n"}}], "metadata": {}})
        graph["nodes"] = new + graph["nodes"]
        _node(graph, "relu")["inputs"][0]["arg"] = {"as_tensor": {"name": "n"}}

    good.edit_graph(change)


def _cycle(graph: Any, good: Good) -> None:
    node = _node(graph, "relu")
    node["inputs"][0]["arg"] = {"as_tensor": {"name": node["outputs"][0]["as_tensor"]["name"]}}


def _later(graph: Any, good: Good) -> None:
    _node(graph, "conv2d")["inputs"][0]["arg"] = {"as_tensor": {"name": "relu"}}


def _state_size(size: int) -> Hostile:
    """The state that an LSTM begins with, of another hidden size than its weights."""

    def change(graph: Any, good: Good) -> None:
        for node in graph["nodes"]:
            if "zeros" in node["target"]:
                node["inputs"][0]["arg"]["as_sym_ints"][2] = {"as_int": size}

    return _graph(change)


def _swapped_weights(graph: Any, good: Good) -> None:
    names = _node(graph, "lstm")["inputs"][2]["arg"]["as_tensors"]
    names[0], names[1] = names[1], names[0]


def _one_state(graph: Any, good: Good) -> None:
    _node(graph, "lstm")["inputs"][1]["arg"]["as_tensors"].pop()


def _static_batch(graph: Any, good: Good) -> None:
    graph["tensor_values"]["x"]["sizes"][0] = {"as_int": 2}


def _expression(where: str) -> Hostile:
    def change(graph: Any, good: Good) -> None:
        poison = {"as_expr": {"expr_str": good.code, "hint": {"as_int": 2}}}
        if where == "sizes":
            graph["tensor_values"]["x"]["sizes"][0] = poison
        else:
            graph["sym_int_values"]["n"] = poison

    return _graph(change)


def _second_input(signature: Any, good: Good) -> None:
    signature["input_specs"].append({"user_input": {"arg": {"as_tensor": {"name": "y"}}}})


def _second_output(signature: Any, good: Good) -> None:
    signature["output_specs"] *= 2


def _object_input(signature: Any, good: Good) -> None:
    spec = {"arg": {"name": "obj", "class_fqn": "builtins.eval"}, "custom_obj_name": "obj"}
    signature["input_specs"].append({"custom_obj": spec})


def _two_modes(graph: Any, good: Good) -> None:
    _node(graph, "dropout")["inputs"][2]["arg"] = {"as_bool": False}


def _hidden_output(graph: Any, good: Good) -> None:
    _node(graph, "relu")["outputs"][0]["as_tensor"]["name"] = f"x; {good.code}"


def _long_number(good: Good) -> None:
    _argument("flatten", 1, {"as_int": 1234567})(good)
    member = good.find("models/model.json")
    member.content = member.content.replace(b"1234567", b"9" * 1_000_000)


def _too_many(good: Good) -> None:
    good.members += [Member(f"{good.top}/extra/{number}", b"") for number in range(20_001)]


def _truncated(good: Good) -> bytes:
    return pack(good.members)[:-7]


def _prefixed(good: Good) -> bytes:
    return b"PK\3\4" + bytes(60) + pack(good.members)


def _nested(good: Good) -> None:
    """A member's bytes hold the whole of another member, header and all."""
    name = f"{good.top}/extra/inner"
    header = struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0, 0, 0, 0, zlib.crc32(b"x"), 1, 1, len(name), 0)
    before = sum(30 + len(member.name) + len(member.content) for member in good.members)
    outer = Member(f"{good.top}/extra/outer", header + name.encode() + b"x")
    good.members += [outer, Member(name, b"x", told={"offset": before + 30 + len(outer.name)})]


def _miscounted(good: Good) -> bytes:
    return pack(good.members, count=len(good.members) - 1)


CONV: dict[str, Hostile] = {
    # what could only be unpickled
    "pickled weight": _pickled("weights_config.json", "weights"),
    "pickled constant": _pickled("constants_config.json", "constants"),
    "weights of an older torch": lambda good: good.add("data/weights/model.pt", good.pickle),
    "constants of an older torch": lambda good: good.add("data/constants/model.pt", good.pickle),
    "torchscript": lambda good: good.add("data.pkl", good.pickle),
    "program as a pickle": _replaced("models/model.json", lambda good: good.pickle),
    "configuration as a pickle": _replaced("weights_config.json", lambda good: good.pickle),
    "script object": _signature(_object_input),
    # what would be evaluated
    "expression as the batch size": _expression("sizes"),
    "expression as a number": _expression("values"),
    "code as an equation": _insert(
        _call("einsum.default", equation={"as_string": "CODE"}, tensors={"as_tensors": [{"name": "GIVEN"}]})
    ),
    "code as a word": _argument("relu", 0, {"as_string": "CODE"}),
    "code as a number": _argument("batch_norm", 7, {"as_float": "CODE"}),
    "code as a dtype": _argument("flatten", 1, {"as_scalar_type": "CODE"}),
    "code as an operator": _argument("relu", 0, {"as_operator": "CODE"}),
    "graph as an argument": _argument("relu", 0, {"as_graph": {"name": "g", "graph": {}}}),
    # what would be looked up
    **{
        f"target {target}": _target(target)
        for target in (
            "os.system",
            "builtins.eval",
            "torch.load",
            "torch.ops.aten.__class__",
            "torch.ops.higher_order.cond",
            "torch.ops.aten.relu.default.__globals__",
            "torch.ops.aten.from_file.default",
            "torch.ops.load_library",
            "_operator.attrgetter",
            "_operator.pow",
            "torch.ops.aten.as_strided.default",
            "torch.ops.aten.set_.default",
        )
    },
    "target with code": lambda good: _target(f"torch.ops.aten.relu.default({good.code})")(good),
    # names
    "keyword with code": _extra_argument("alpha=1);CODE;("),
    "keyword that is unknown": _extra_argument("out"),
    "argument given twice": _extra_argument("self", kind=1),
    "value with code": _graph(_hidden_output),
    "parameter with code": _rename("parameter", "fc.weight", "fc.CODE"),
    "parameter with a quote": _rename("parameter", "fc.weight", 'fc"].weight'),
    "parameter named forward": _rename("parameter", "fc.weight", "forward.weight"),
    "parameter named __class__": _rename("parameter", "fc.weight", "__class__.weight"),
    "parameter named _modules": _rename("parameter", "fc.weight", "_modules.weight"),
    "parameter under a keyword": _rename("parameter", "fc.weight", "class.weight"),
    "parameter in place of steps": _rename("parameter", "fc.weight", "_steps.weight"),
    # the zip
    "bomb": _bomb,
    "other name inside": _member(local_name=b"model/evil"),
    "smaller inside": _member(local_size=1),
    "larger outside": _member(size=1 << 20),
    "beyond the end": _member(offset=1 << 30),
    "on another member": _member(offset=0),
    "encrypted": lambda good: good.members.append(Member(f"{good.top}/extra/e", b"x", flags=1)),
    "overlapping": lambda good: good.members.append(
        replace(good.members[0], name=f"{good.top}/extra/again", told={"offset": 0})
    ),
    "one member inside another": _nested,
    "same member twice": lambda good: good.members.append(good.find("models/model.json")),
    "two folders": _named("other/file"),
    "no folder": _named("file"),
    "upwards": _named("model/../../../etc/passwd"),
    "absolute": _named("/etc/passwd"),
    "backslash": _named("model\\..\\file"),
    "here": _named("model/./file"),
    "nul": _named("model/a\0b"),
    "newline": _named("model/a\nb"),
    "too many members": _too_many,
    "truncated": _truncated,
    "prefixed": _prefixed,
    "miscounted": _miscounted,
    "two programs": lambda good: good.add("models/other.json", b"{}"),
    "compiled code": lambda good: good.add("data/aotinductor/model/a.so", b"x"),
    "damaged weight": _member(),  # its bytes change in `_damaged`
    "big-endian": _replaced("byteorder", lambda good: b"big"),
    # the JSON
    "deep": _replaced("models/model.json", lambda good: b"[" * 1_000_000 + b"]" * 1_000_000),
    "large": _replaced("models/model.json", lambda good: b" " * (33 << 20)),
    "list": _replaced("models/model.json", lambda good: b"[]"),
    "not JSON": _replaced("models/model.json", lambda good: b"{"),
    "number of many digits": _long_number,
    "number of 80 bits": _argument("flatten", 1, {"as_int": 1 << 80}),
    "two kinds in one argument": _argument("relu", 0, {"as_tensor": {"name": "x"}, "as_int": 1}),
    # shapes
    "expanded from four bytes": _shape(sizes=[1 << 40], strides=[0]),
    "gigantic": _shape(sizes=[1 << 20, 1 << 20], strides=[1 << 20, 1]),
    "gigantic product": _shape(sizes=[1 << 47] * 8, strides=[1] * 8),
    "gigantic and empty": _shape(sizes=[0, 1 << 47], strides=[1, 1]),
    "gigantic stride": _shape(strides=[1 << 47, 1]),
    "gigantic offset": _shape(storage_offset=1 << 40),
    "one offset": _shape(storage_offset=1),
    "negative size": _shape(sizes=[-3, 16]),
    "negative stride": _shape(strides=[-16, 1]),
    "strides amiss": _shape(strides=[1]),
    "many dimensions": _shape(sizes=[1] * 70, strides=[1] * 70),
    "other shape": _shape(sizes=[16, 3], strides=[3, 1]),
    "gigantic repeat": _insert(_call("repeat.default", self=GIVEN, repeats={"as_ints": [1 << 20, 1 << 10, 1, 1]})),
    "gigantic zeros": _insert(_call("zeros.default", size={"as_ints": [1 << 60, 4]})),
    "size beyond 64 bits": _squared,
    "static batch": _graph(_static_batch),
    # the graph
    "cycle": _graph(_cycle),
    "used before defined": _graph(_later),
    "defined twice": _insert({**_call("relu.default", self=GIVEN), "outputs": [{"as_tensor": {"name": "x"}}]}),
    "undefined": _argument("relu", 0, {"as_tensor": {"name": "nobody"}}),
    "number for a tensor": _argument("relu", 0, {"as_sym_int": {"as_name": "x"}}),
    "tensor for a number": _argument("flatten", 1, {"as_tensor": {"name": "x"}}),
    "word for a tensor": _argument("relu", 0, {"as_string": "x"}),
    "missing argument": _graph(lambda graph, good: _node(graph, "relu")["inputs"].clear()),
    "too many results": _graph(lambda graph, good: _node(graph, "relu")["outputs"].append({"as_none": True})),
    "random": _insert(_call("bernoulli.default", self=GIVEN)),
    "its own weights changed": _insert(
        _call("add_.Tensor", self={"as_tensor": {"name": "p_fc_weight"}}, other={"as_int": 1})
    ),
    "half in training": _graph(_two_modes),
    "two inputs": _signature(_second_input),
    "two outputs": _signature(_second_output),
}


def _damaged(good: Good) -> bytes:
    content = pack(good.members)
    return content.replace(good.find("weight_0").content, bytes(len(good.find("weight_0").content)))


CONV["damaged weight"] = _damaged

LSTM: dict[str, Hostile] = {
    "wide state": _state_size(4096),
    "narrow state": _state_size(1),
    "gigantic state": _state_size(1 << 40),
    "one state": _graph(_one_state),
    "weights swapped": _graph(_swapped_weights),
    "state of input": _argument("lstm", 1, {"as_tensors": [{"name": "x"}, {"name": "x"}]}),
    "more layers": _argument("lstm", 4, {"as_int": 1000}),
    "other direction": _argument("lstm", 7, {"as_bool": True}),
    "long sequence": _insert(_call("repeat.default", self=GIVEN, repeats={"as_ints": [1, 1 << 24, 1]}), before="lstm"),
}


def _metadata(graph: Any, good: Good) -> None:
    for node in graph["nodes"]:
        node["metadata"] = {"stack_trace": good.code, "nn_module_stack": f"a,{good.code},b", "torch_fn": good.code}


def _guards(good: Good) -> None:
    good.edit("models/model.json", lambda program: program.update(guards_code=[good.code], verifiers=[good.code]))


def _tree(good: Good) -> None:
    spec = json.dumps([1, {"type": "enum.Enum", "context": good.code, "children_spec": []}])
    signature = {"inputs": [], "outputs": [], "in_spec": spec, "out_spec": spec, "forward_arg_names": [good.code]}
    calls = [{"fqn": "", "signature": signature}]
    good.edit("models/model.json", lambda program: program["graph_module"].update(module_call_graph=calls))


HARMLESS: dict[str, Hostile] = {
    "unchanged": lambda good: None,
    "sample inputs": _replaced("sample_inputs/model.pt", lambda good: good.pickle),
    "guards": _guards,
    "tree of the inputs": _tree,
    "metadata": _graph(_metadata),
    "further member": lambda good: good.add("extra/poison.pt", good.pickle),
}
