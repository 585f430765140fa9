"""Architectures of timm, torchvision and transformers, by name, without a download: `timm:resnet18`.

They are built here, of numbers alone, and recorded as an exported program, which is read as any upload is: what cannot
be trained or pruned is known when the model comes in, and a job needs none of these packages.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.formats.errors import FormatError
from pruning.formats.exported_program.writing import write_trainable
from pruning.formats.names import (
    ARGUMENTS,
    TRANSFORMERS,
    Family,
    argument_refused,
    family_of,
    installed_families,
    is_well_formed,
)
from pruning.formats.weights import load_into, read_state_dict
from pruning.randomness import global_stream

Shape = tuple[int, ...]
BYTES_PER_PARAMETER = 24
"""Its float32, the file's copy, the program's, that of the trial with its gradient, and room."""
TOKENS = 128
"""Of an example of tokens, where no input_shape is given."""


def record_family(
    path: Path,
    architecture: str,
    weights: Path | None,
    *,
    most_bytes: int,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Write the named network to `path` as a program with the package's own parameter names.

    Args:
        weights: a safetensors file of its state dict; None: the package's own initialisation, from the seed.
        most_bytes: memory of this process: a larger network is refused before it is allocated.

    Returns:
        built_with (packages and versions), recorded (training, or evaluation where training draws at random otherwise
        than by dropout: stochastic depth is then left out).

    Raises:
        FormatError: the package is not here, has no such name, or cannot build or run it so.
    """
    family = family_of(architecture)
    if family is None or not is_well_formed(architecture):
        raise FormatError("architecture", f"{architecture[:100]!r} is no name of a package's own list")
    if family not in installed_families():
        raise FormatError(
            "architecture",
            f"{family} is not installed on this worker; pip install 'espalier-server[{family}]' there, or export the "
            "model where it is installed: espalier.export_model",
        )
    if refused := argument_refused(architecture, arguments or {}):
        raise FormatError("arguments", refused)
    name = architecture.partition(":")[2]
    make, shape = _PLANS[family](name, input_shape and tuple(input_shape), num_classes, dict(arguments or {}))
    _check_size(architecture, make, most_bytes)
    with global_stream(seed or 0, "initialisation"):
        model = _made(architecture, make)
    for part in model.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.inplace = False  # the same numbers, and an operator that is read
    if weights is not None:
        load_into(model, read_state_dict(weights))
    if family == "transformers":
        model.forward = partial(_logits, model.forward)
    dtype = torch.int64 if family == "transformers" and TRANSFORMERS[name] != "image" else torch.float32
    try:
        recorded = write_trainable(path, model, torch.zeros(2, *shape, dtype=dtype))
    except Exception as error:  # whatever the network raises at these sizes, or torch.export of it
        first = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
        raise FormatError(
            "architecture", f"{architecture} cannot be recorded for examples of shape {list(shape)}: {first}"
        ) from error
    packages = {"timm": ("timm", "torchvision"), "torchvision": ("torchvision",), "transformers": ("transformers",)}
    return {
        "built_with": ", ".join(f"{package} {version(package)}" for package in (*packages[family], "torch")),
        "recorded": recorded,
    }


def _logits(forward: Callable[..., Any], x: Tensor) -> Tensor:
    """The one tensor of transformers' output that is trained on."""
    logits: Tensor = forward(x).logits
    return logits


def _made(architecture: str, make: Callable[[], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks to whoever calls the package, who is not here
        try:
            return make()
        except FormatError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # whatever the package raises at these arguments
            first = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
            raise FormatError(
                "arguments", f"{architecture} cannot be built so: {type(error).__name__}: {first}"
            ) from error


def _check_size(architecture: str, make: Callable[[], nn.Module], most_bytes: int) -> None:
    model = _made(architecture, partial(_without_weights, make))
    count, most = sum(tensor.numel() for tensor in model.state_dict().values()), most_bytes // BYTES_PER_PARAMETER
    if count > most:
        raise FormatError(
            "architecture",
            f"{architecture} has {count:,} parameters, and this worker has memory for {most:,}; name a smaller one, "
            "set smaller sizes, or raise ESPALIER_CHILD_MEMORY_BYTES on the worker",
        )


def _without_weights(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with parameters that take no memory. Some compute their widths by tensors, and some their first
    weights, so that neither of two ways is good for all."""
    try:
        with _parameters_on_meta():
            return make()
    except (NotImplementedError, RuntimeError):
        with torch.device("meta"):
            return make()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters go to the meta device as they are registered, so that none of them is ever written."""
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = registered  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _timm(name: str, shape: Shape | None, classes: int | None, arguments: dict[str, Any]) -> tuple[Any, Shape]:
    import_package("torchvision")
    timm = import_package("timm")
    _check_listed("timm", name, timm.list_models())
    if shape is None:
        sample: Any = _without_weights(partial(timm.create_model, name, pretrained=False))
        usual: Shape = tuple(sample.pretrained_cfg["input_size"])
    else:
        usual = shape
    _check_image("timm", usual)
    known: dict[str, Any] = {"num_classes": classes} if classes else {}
    make = partial(timm.create_model, name, pretrained=False, in_chans=usual[0], **known, **arguments)
    if shape is None:
        return make, usual
    try:
        _without_weights(partial(make, img_size=usual[1:]))
    except (TypeError, AssertionError):  # convolutions take any size
        return make, usual
    return partial(make, img_size=usual[1:]), usual


def _torchvision(name: str, shape: Shape | None, classes: int | None, arguments: dict[str, Any]) -> tuple[Any, Shape]:
    models = import_package("torchvision.models")
    _check_listed("torchvision", name, models.list_models(module=models))  # classification alone
    usual = shape or (3, 299 if name == "inception_v3" else 224, 299 if name == "inception_v3" else 224)
    _check_image("torchvision", usual)
    if usual[0] != 3:
        raise FormatError("input_shape", f"torchvision's networks take 3 channels, not {usual[0]}; repeat the channel")
    known: dict[str, Any] = {"num_classes": classes} if classes else {}
    if name in ("googlenet", "inception_v3"):
        known |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        known["image_size"] = usual[1]
    return partial(models.get_model, name, weights=None, **known, **arguments), usual


def _transformers(name: str, shape: Shape | None, classes: int | None, arguments: dict[str, Any]) -> tuple[Any, Shape]:
    _check_listed("transformers", name, TRANSFORMERS)
    if "torchvision" in installed_families():
        import_package("torchvision")  # which transformers imports where it is there
    transformers = import_package("transformers")
    kind = TRANSFORMERS[name]
    if kind == "image":
        usual = shape or (3, 224, 224)
        _check_image("transformers", usual)
        arguments |= {"num_channels": usual[0]} | ({"image_size": usual[1]} if name in ("vit", "beit") else {})
    else:
        usual = shape or (TOKENS,)
        if len(usual) != 1:
            raise FormatError("input_shape", f"transformers:{name} takes tokens: give their number, not {list(usual)}")
    if kind == "tokens" and classes is not None:
        raise FormatError("num_classes", f"transformers:{name} continues its tokens: leave it out, and set vocab_size")
    config_class = transformers.CONFIG_MAPPING[name]
    accepted = config_class().to_dict() | dict(getattr(config_class, "attribute_map", {}))
    if unknown := [argument for argument in arguments if argument not in accepted]:
        usable = sorted(argument for argument in ARGUMENTS["transformers"] if argument in accepted)
        raise FormatError("arguments", f"transformers:{name} has no {unknown[0]}; it has {', '.join(usable)}")
    auto = {
        "sequence": transformers.AutoModelForSequenceClassification,
        "tokens": transformers.AutoModelForCausalLM,
        "image": transformers.AutoModelForImageClassification,
    }[kind]

    def make() -> nn.Module:
        config = config_class(**arguments)
        if classes:
            config.num_labels = classes
        config.use_cache = False
        model: nn.Module = auto.from_config(config)
        return model

    return make, usual


_PLANS: dict[Family, Callable[..., tuple[Callable[[], nn.Module], Shape]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}
"""(how to make it, the shape of one example) by name, shape, number of classes, arguments."""


def _check_listed(family: Family, name: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    if name in names:
        return
    few = len(names) <= 20
    near = sorted(names) if few else difflib.get_close_matches(name, list(names), n=5, cutoff=0.4)
    nearest = f"; {'use one of' if few else 'the nearest are'} {', '.join(near)}" if near else ""
    raise FormatError("architecture", f"of {family} {version(family)} no {name!r} is taken{nearest}")


def _check_image(family: Family, shape: Shape) -> None:
    if len(shape) != 3:
        raise FormatError("input_shape", f"{family} takes (channels, height, width), not {list(shape)}")
    if max(shape[1:]) > 1024 or shape[0] > 64:
        raise FormatError("input_shape", f"{list(shape)} is more than 64 channels of 1024x1024; make it smaller")


def import_package(name: str) -> Any:
    """torchvision's compiled operators may not load beside this build of torch: its networks need none of them, only
    the schemas of two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "torchvision"]:
            del sys.modules[loaded]
        for operator in ("nms", "qnms"):
            _SCHEMAS.define(  # type: ignore[no-untyped-call]
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        return importlib.import_module(name)


_SCHEMAS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
"""What is defined is gone with it."""
