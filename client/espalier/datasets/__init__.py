"""Data of the usual kinds as one dataset file: arrays, image folders, idx files, tables, Hugging Face datasets on disk.

    from espalier.datasets import from_images
    from_images("flowers", size=(32, 32)).write("flowers.safetensors")

Each `from_...` gives `Splits`; all reading is of the user's own files, on the user's side. The service is sent numbers.
"""

from espalier.datasets.idx import from_idx
from espalier.datasets.images import from_images
from espalier.datasets.saved import from_saved
from espalier.datasets.splits import DataError, Splits
from espalier.datasets.tables import from_table

__all__ = ["DataError", "Splits", "from_idx", "from_images", "from_saved", "from_table"]
