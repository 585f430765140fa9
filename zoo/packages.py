"""timm, torchvision and transformers, without a network: weights are drawn here and never downloaded."""

from __future__ import annotations

import os
from types import ModuleType

from pruning.formats.families import import_package

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def stay_offline() -> None:
    """Before any of the packages is imported, which read it then."""
    os.environ.update(OFFLINE)


def import_torchvision() -> ModuleType:
    module: ModuleType = import_package("torchvision")
    return module


def import_timm() -> ModuleType:
    """It imports torchvision."""
    import_torchvision()
    module: ModuleType = import_package("timm")
    return module


def import_transformers() -> ModuleType:
    """Where torchvision is installed, transformers imports it."""
    import_torchvision()
    module: ModuleType = import_package("transformers")
    return module
