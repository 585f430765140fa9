"""One family, from a user's module to its weights pruned and back in it: `python -m zoo.trial NAME FOLDER [quick]`.

Prints one line of JSON. A step that fails says why, and the steps that need it are left out.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from espalier.exporting import export_model
from torch import Tensor, nn

from pruning.formats.exported_program import Program, read_program, write_program
from pruning.formats.results import write_state
from pruning.intake import inspect_model
from pruning.iterative import prune_iteratively
from pruning.removal import materialize
from pruning.rewinding import restore
from pruning.rounds import Round
from zoo.examples import draw, recipe, some_dataset
from zoo.families import FAMILIES, Family
from zoo.packages import stay_offline
from zoo.speed import speed_against

Found = dict[str, Any]


class Trial:
    """
    Args:
        quick: only export, read and inspect.

    Attributes:
        found: what comes out of it, JSON-able; see `docs/models.md`, which is made of it.
    """

    def __init__(self, family: Family, folder: Path, quick: bool = False) -> None:
        self.family, self.folder, self.quick = family, folder, quick
        self.found: Found = {"family": family.name, "member": family.member, "input_shape": list(family.input_shape)}
        self.found |= {"failed": {}, "seconds": {}}

    def run(self) -> Found:
        eager = self._step("make", self._make)
        if eager is None:
            return self.found
        programs = {
            mode: self._step(f"read, exported {mode}", functools.partial(self._read, eager, mode))
            for mode in self._modes(eager)
        }
        program = next((program for program in programs.values() if program is not None), None)
        if program is None:
            return self.found
        report = self._step("inspect", lambda: self._inspect(program))
        if report is None or self.quick:
            return self.found
        self._step("train", lambda: self._train(eager, program))
        for granularity in ["weight"] + ["unit"] * bool(self.found["unit_layers"]):
            last = self._step(granularity, functools.partial(self._prune, program, granularity))
            if last is not None:
                home = functools.partial(self._take_home, eager, program, last, granularity)
                self._step(f"{granularity}, home", home)
                if granularity == "unit":
                    self._step("reduce", functools.partial(self._reduce, program, last))
        self._step("speed", lambda: self._compare_speed(eager, program))
        return self.found

    def _step(self, name: str, do: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return do()
        except Exception as error:  # of whatever step: the table says it
            self.found["failed"][name] = _without_folders(f"{type(error).__name__}: {error}"[:600])
            return None
        finally:
            self.found["seconds"][name] = round(time.monotonic() - started, 1)

    def _make(self) -> nn.Module:
        """Drawn from a seed. What begins as zero, such as a last scale, is moved: it would hide what follows it."""
        torch.manual_seed(0)
        eager = self.family.make()
        with torch.no_grad():
            for tensor in eager.parameters():
                tensor.add_(torch.randn_like(tensor), alpha=0.02)
        self.found["num_parameters"] = sum(parameter.numel() for parameter in eager.parameters())
        return eager

    def _modes(self, eager: nn.Module) -> list[str]:
        """The modes in which the module exports; the first is what `export_model` takes of itself."""
        x = draw(self.family, 2, 0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self._step("export", lambda: export_model(eager, x, self.folder / "first.pt2"))
        if "export" in self.found["failed"]:
            return []
        draws = [str(warning.message) for warning in said if "draws at random" in str(warning.message)]
        if draws:
            self.found["draws"] = _without_folders(draws[0])[:300]
            (self.folder / "first.pt2").rename(self.folder / "evaluating.pt2")
            return ["evaluating"]
        (self.folder / "first.pt2").rename(self.folder / "training.pt2")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = self.folder / "evaluating.pt2"
            self._step("export, evaluating", lambda: export_model(eager, x, path, training=False))
        return ["training"] + ["evaluating"] * ("export, evaluating" not in self.found["failed"])

    def _read(self, eager: nn.Module, mode: str) -> Program:
        program = read_program(self.folder / f"{mode}.pt2")
        theirs, ours = eager.state_dict(), program.state_dict()
        if ours.keys() != theirs.keys() or any(not torch.equal(ours[key], theirs[key]) for key in theirs):
            raise AssertionError(f"state dicts differ: {sorted(ours.keys() ^ theirs.keys())[:5]}")
        self.found.setdefault("difference", {})[mode] = _difference(eager, program, draw(self.family, 3, 1))
        return program

    def _train(self, eager: nn.Module, program: Program) -> None:
        states = [_trained(copy.deepcopy(model), self.family) for model in (eager, program)]
        self.found["trained_difference"] = max(
            float((states[0][key].double() - value.double()).abs().max())
            for key, value in states[1].items()
            if value.numel()
        )

    def _inspect(self, program: Program) -> Found:
        report = inspect_model(program, self.family.input_shape)
        layers = [layer for layer in report["layers"] if "weight" in layer["prunable"]]
        self.found["num_prunable"] = report["num_parameters"]
        self.found["layers"] = len(layers)
        self.found["unit_layers"] = sum("unit" in layer["prunable"] for layer in layers)
        self.found["groups"] = len({layer["group"] for layer in layers if layer["group"]})
        why_not = Counter(layer["reason"] for layer in layers if "unit" not in layer["prunable"])
        self.found["why_not_unit"] = why_not.most_common()
        others: Counter[str] = Counter()
        for other in report["others"]:
            others[other["reason"]] += other["num_weights"]
        self.found["never_pruned"] = others.most_common()
        return report

    def _prune(self, program: Program, granularity: str) -> Round:
        """The last of two rounds. Every prunable layer has a mask, and as many of its weights are gone as it says."""
        *_, last = prune_iteratively(program, some_dataset(self.family), recipe(self.family, granularity))
        self.found[f"{granularity}_sparsity"] = round(last.sparsity_actual, 4)
        if any(bool((last.state[name][~mask] != 0).any()) for name, mask in last.masks.items()):
            raise AssertionError("a masked weight is not zero")
        missing = self.found["layers"] - len({id(mask) for mask in last.masks.values()})
        if granularity == "weight" and missing > 0:
            raise AssertionError(f"{missing} prunable layers have no mask")
        return last

    def _take_home(self, eager: nn.Module, program: Program, last: Round, granularity: str) -> None:
        """The weights into the user's module, and the network as a file that torch and we read."""
        write_state(self.folder / "model.safetensors", last.state)
        home, pruned = copy.deepcopy(eager), copy.deepcopy(program)
        home.load_state_dict(safetensors.torch.load_file(self.folder / "model.safetensors"))
        restore(pruned, last.state)
        x = draw(self.family, 3, 2)
        self.found[f"{granularity}_home_difference"] = _difference(home, pruned, x)
        if granularity == "weight":
            write_program(self.folder / "written.pt2", pruned, self.family.input_shape)
            loaded = torch.export.load(self.folder / "written.pt2").module()
            with torch.no_grad():
                differences = [float((loaded(x) - pruned.eval()(x)).abs().max())]
            differences.append(_difference(pruned, read_program(self.folder / "written.pt2"), x))
            self.found["written_difference"] = max(differences)

    def _reduce(self, program: Program, last: Round) -> None:
        pruned = copy.deepcopy(program)
        restore(pruned, last.state)
        module = materialize(pruned, last.masks, self.family.input_shape).module
        self.found["num_parameters_reduced"] = sum(parameter.numel() for parameter in module.parameters())

    def _compare_speed(self, eager: nn.Module, program: Program) -> None:
        self.found["speed"] = round(speed_against(eager, program, self.family), 3)


def _without_folders(message: str) -> str:
    """Where a package is installed is nobody's business."""
    return re.sub(r"/\S+/site-packages/", "", message)


def _difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Of evaluated outputs, the largest. With gradients: without, torch's own attention takes another way."""
    difference = float((one.eval()(x) - other.eval()(x)).detach().abs().max())
    one.train()
    other.train()
    return difference


def _trained(model: nn.Module, family: Family) -> dict[str, Tensor]:
    """Three steps; dropout left out, for it is the same network that is asked for, not the same draws."""
    for module in model.train().modules():
        for name in ("p", "drop_prob", "dropout", "dropout_p", "attn_drop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        logits = model(draw(family, 4, 10 + step)).flatten(0, -2)
        nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.state_dict()


def main(name: str, folder: str, how: str = "") -> None:
    stay_offline()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")
    found = Trial(FAMILIES[name], Path(folder), how == "quick").run()
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
