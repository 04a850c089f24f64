"""Recognizes the layout of a data set."""

from pathlib import Path

from ...errors import DataError
from ...pairs.pair_tables import table_files
from .annotations import AnnotatedImages, annotation_files
from .edit_trees import EditTree, is_tree
from .folders import images_or_pairs, listed, lists_in
from .rows import FileSource
from .tables import TableSource


def open_source(place: Path) -> FileSource:
    """Opens the rows of a data set. Reads no image.

    The first layout that is present counts:

    - ``seeds.json``, or folders with ``prompt.json``: the tree of InstructPix2Pix's data.
    - COCO's JSON in the folder or its ``annotations/``: captions, or objects as V3Det has them.
    - ``.parquet`` tables at any depth.
    - ``pairs.json``, ``metadata.jsonl`` or ``metadata.csv``: lists of pairs or of images with captions.
    - Pairs of images by their names or folders, see core/pairs/layouts.py.
    - Images at any depth, with captions in ``.txt`` files beside them.

    Args:
        place: a folder, or one of the files above.

    Raises:
        DataError: the place does not exist, no layout is recognized, a file is damaged, or there is no row.
        PairError: a list cannot be read.
    """
    if not place.exists():
        raise DataError(f"Source: '{place}' does not exist. Give the folder or file of a data set.")
    if place.is_dir() and is_tree(place):
        return EditTree(place)
    annotations = annotation_files(place)
    if len(annotations) > 1:
        names = ", ".join(file.relative_to(place).as_posix() for file in annotations)
        raise DataError(f"Source: '{place}' holds several annotation files: {names}. Give one of them.")
    if annotations:
        return AnnotatedImages(annotations[0])
    tables = table_files(place)
    if tables:
        return TableSource(place, tables)
    lists = lists_in(place)
    if lists:
        return listed(place, lists)
    if place.is_file():
        raise DataError(
            f"Source: '{place.name}' is of no known kind. Give a folder, a .parquet table, a list "
            "(.json, .jsonl, .csv), or annotations in COCO's JSON."
        )
    return images_or_pairs(place)
