"""Methods of collections for DyNet's text format (io/text.py): whole models, and single entries of
a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .base import FileName
    from .collection import ParameterCollection
    from .parameters import LookupParameters, Parameters


class InTextFiles:
    """The part of a collection that writes and reads text files."""

    def _collection(self) -> ParameterCollection:
        return cast("ParameterCollection", self)

    def save(self, fname: FileName, name: str = "", append: bool = False) -> None:
        """Writes all parameters to a file in DyNet's text format.

        The file is written under a temporary name, flushed to disk, then renamed: a failed save
        leaves the old file intact.

        Args:
            fname: the path.
            name: replaces this collection's own name in front of the entries; must begin with '/'.
            append: add to the entries that the file holds.

        Raises:
            ValueError: `name` does not begin with '/'.
            RuntimeError: the file cannot be written.

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> _ = m.add_parameters(2, init=0.5, name="b")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     m.save(f"{folder}/model")
        ...     text = pathlib.Path(folder, "model").read_text()
        >>> text.split()
        ['#Parameter#', '/b', '{2}', '33', 'ZERO_GRAD', '+5.00000000e-01', '+5.00000000e-01']
        """
        from ..io import text

        text.save_collection(self._collection(), fname, name, append)

    def populate(self, fname: FileName, key: str = "") -> None:
        """Reads the values of all parameters from a file in DyNet's text format. They are paired in
        order, and their dims are checked.

        Args:
            fname: the path.
            key: take only entries of the collection with this name, such as "/encoder".

        Raises:
            RuntimeError: the file is missing or damaged, or its parameters are not this model's;
                the model then is as it was.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> old, new = dy.ParameterCollection(), dy.ParameterCollection()
        >>> v, w = old.add_parameters(2, init=3), new.add_parameters(2, init=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old.save(f"{folder}/model")
        ...     new.populate(f"{folder}/model")
        >>> w.as_array().tolist()
        [3.0, 3.0]
        """
        from ..io import text

        text.populate_collection(self._collection(), fname, key)

    def load_param(self, fname: FileName, key: str) -> Parameters:
        """Adds a dense parameter with the dims, values and name of an entry of a file.

        Raises:
            RuntimeError: the file cannot be read, or has no such entry.
            ValueError: the entry is a lookup table.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> old, new = dy.ParameterCollection(), dy.ParameterCollection()
        >>> _ = old.add_parameters(2, init=3, name="b")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old.save(f"{folder}/model")
        ...     b = new.load_param(f"{folder}/model", "/b")
        >>> b.name(), b.as_array().tolist()
        ('/b', [3.0, 3.0])
        """
        from ..io import text

        return cast(
            "Parameters", text.load_parameter(self._collection(), fname, key, is_table=False)
        )

    def load_lookup_param(self, fname: FileName, key: str) -> LookupParameters:
        """Adds a lookup table with the dims, values and name of an entry of a file.

        Raises:
            RuntimeError: the file cannot be read, or has no such entry.
            ValueError: the entry is a dense parameter.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> old, new = dy.ParameterCollection(), dy.ParameterCollection()
        >>> _ = old.add_lookup_parameters((10, 2), name="E")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old.save(f"{folder}/model")
        ...     E = new.load_lookup_param(f"{folder}/model", "/E")
        >>> E.name(), E.shape()
        ('/E', (10, 2))
        """
        from ..io import text

        return cast(
            "LookupParameters", text.load_parameter(self._collection(), fname, key, is_table=True)
        )

    def write_to_textfile(self, fname: FileName, key: str = "", append: bool = False) -> None:
        """As save()."""
        self.save(fname, key, append)

    def populate_from_textfile(self, fname: FileName, key: str = "") -> None:
        """As populate()."""
        self.populate(fname, key)
