"""Files of embeddings: NumPy's `.npz`, or `.parquet`."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from mhc_vision.atomic_files import json_text, replaced_file

if TYPE_CHECKING:
    from mhc_vision.inference.embed import Embeddings


def check_embeddings_file(path: Path) -> None:
    """Find out before the work, and before PyTorch is imported, whether `write_embeddings` can write such a file.

    Raises:
        ValueError: For another suffix than `.npz` and `.parquet`.
        ImportError: If pyarrow is missing and needed.
    """
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(f"out: got {path}, expected a name that ends in .npz or .parquet")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ImportError("Parquet files need pyarrow: pip install pyarrow; .npz files need nothing more")


def write_embeddings(path: Path, embeddings: "Embeddings") -> None:
    """Writes features, names and record, as the suffix says.

    `.npz` has the arrays `features`, `images` and `record` (JSON text), and loads without pickle. `.parquet` has the
    columns `image` and `features` (a list of all numbers of an image, row-major), and the record in the metadata of
    its schema.

    Raises:
        ValueError, ImportError: As `check_embeddings_file`.
    """
    check_embeddings_file(path)
    import numpy as np

    record = json_text(embeddings.record)
    with replaced_file(path) as temporary:
        if path.suffix == ".npz":
            np.savez(temporary, features=embeddings.features, images=np.array(embeddings.images), record=record)
            return
        import pyarrow
        from pyarrow import parquet

        # file names may hold bytes that are no text
        names = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in embeddings.images]
        flat = embeddings.features.reshape(len(names), -1)
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.ravel()), flat.shape[1])
        table = pyarrow.table({"image": names, "features": lists}).replace_schema_metadata({"record": record})
        parquet.write_table(table, temporary)
