"""What builders and blocks have in common: a subcollection of their own, and a name."""

from __future__ import annotations

from ..params.collection import ParameterCollection


class Owner:
    """Has parameters in a subcollection, `_collection`."""

    _collection: ParameterCollection

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters."""
        return self._collection
