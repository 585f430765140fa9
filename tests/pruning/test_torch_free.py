from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["recipe", "strategies", "schedules", "selection", "formats.names"])
def test_what_the_api_imports_leaves_torch_out(module) -> None:
    code = f"import sys, pruning.{module}; print(sorted({{'torch', 'numpy', 'safetensors'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
