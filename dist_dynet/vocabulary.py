"""Vocabulary: names (words, characters, tags) and their numbers, which are rows of a table.

This module knows files of text and of word vectors, but neither collections nor graphs.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._derived import requires_init
from ._file_names import FileName, file_path, is_text
from ._hints import OF_VOCABULARIES, explain
from ._integers import integer_argument, is_one, number_argument
from .io.files import atomic_write, unreadable

__all__ = ["Vocabulary"]


def _check(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"Vocabulary: names must be texts; got {name!r:.60}."
            + " For sentences: a flat list of their words." * isinstance(name, list | tuple)
        )


def _counted(names: Any) -> Counter[str]:
    try:
        counts = Counter(names)
    except TypeError as error:  # of what cannot be hashed, or iterated over
        for name in _listed(names, "Vocabulary", "names"):
            _check(name)
        raise TypeError(f"Vocabulary: names must be texts in a list; {error}.") from None
    if isinstance(names, Mapping):
        often = "how often a name occurs"
        counts = Counter(
            {name: integer_argument(n, "Vocabulary", often) for name, n in counts.items()}
        )
    return counts


def _listed(names: Any, what: str, which: str) -> list[Any]:
    if is_one(names):
        raise TypeError(f"{what}: {which} must be texts in a list; got {names!r:.60}.")
    return [*names]


class Vocabulary:
    """Names and their numbers from 0 on: the unknown name, special names, then the others by
    decreasing frequency; equally frequent ones in order of first occurrence.

    Args:
        names: as often as they occur, or a Counter of them.
        min_count: names that occur less often are unknown.
        max_size: at most so many numbers, the unknown and special names included; None: no limit.
        unknown: the name that stands for all that are not there; None: asking for those is an
            error.
        special: names that are there whether they occur or not, such as that of the end.

    Raises:
        TypeError: a name is not a text, or a number not an integer.
        ValueError: a special name is there twice, or max_size leaves no place for special names.

    >>> import dist_dynet as dy
    >>> words = dy.Vocabulary("the cat saw the cat and the dog".split(), min_count=2)
    >>> words.names, len(words)
    (['<unk>', 'the', 'cat'], 3)
    >>> words["cat"], words["horse"], words.ids("the dog".split()), words.name(1)
    (2, 0, [1, 0], 'the')
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        min_count: int = 1,
        *,
        max_size: int | None = None,
        unknown: str | None = "<unk>",
        special: Sequence[str] = (),
    ) -> None:
        min_count = integer_argument(min_count, "Vocabulary", "min_count")
        if max_size is not None:
            max_size = integer_argument(max_size, "Vocabulary", "max_size")
        counts = _counted(names)
        if isinstance(special, str):
            raise TypeError(f"Vocabulary: special names come in a list; got {special!r:.60}.")
        first = [
            *(() if unknown is None else (unknown,)),
            *_listed(special, "Vocabulary", "special names"),
        ]
        for name in (*counts, *first):
            _check(name)
        if len(set(first)) < len(first):
            raise ValueError(f"Vocabulary: special names must differ; got {first!r:.200}.")
        if max_size is not None and max_size < len(first):
            raise ValueError(
                f"Vocabulary: max_size must leave room for {first!r:.200}; got {max_size}."
            )
        frequent = [n for n, count in counts.most_common() if count >= min_count and n not in first]
        self._set(unknown, [*first, *frequent][:max_size], counts)

    def _set(self, unknown: str | None, names: list[str], counts: Counter[str]) -> None:
        self.unknown = unknown
        """The name that stands for all others, number 0; None if there is none."""
        self.names = names
        """In the order of their numbers."""
        self.counts = Counter({name: counts[name] for name in names})
        """How often each occurred, including the unknown name."""
        self._numbers = {name: number for number, name in enumerate(names)}
        if unknown is not None:
            known = sum(self.counts.values()) - self.counts[unknown]
            self.counts[unknown] = counts.total() - known

    def __getitem__(self, name: str) -> int:
        """The number of a name.

        Raises:
            KeyError: it is not there, and there is no unknown name.
            TypeError: it is no text.
        """
        _check(name)
        number = self._numbers.get(name)
        if number is None:
            if self.unknown is None:
                raise KeyError(f"Vocabulary: {name!r:.60} is not one of {len(self)} names.")
            return 0
        return number

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self)} names, {self.names[:4]!r:.60}, ..."

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.spec == other.spec

    __hash__ = None  # type: ignore[assignment] # counts may be changed

    def ids(self, names: Iterable[str]) -> list[int]:
        """The numbers of names.

        Raises:
            KeyError: one is not there, and there is no unknown name.
            TypeError: they are no texts in a list.

        >>> import dist_dynet as dy
        >>> words = dy.Vocabulary("the cat saw the dog".split(), min_count=2)
        >>> words.ids(["the", "cat"])
        [1, 0]
        """
        return [self[name] for name in _listed(names, "Vocabulary.ids", "names")]

    def name(self, number: int) -> str:
        """The name of a number.

        Raises:
            IndexError: there is none.

        >>> import dist_dynet as dy
        >>> dy.Vocabulary(["the", "cat", "the"]).name(1)
        'the'
        """
        number = integer_argument(number, "Vocabulary.name", "number")
        if not 0 <= number < len(self):
            raise IndexError(f"Vocabulary: numbers run from 0 to {len(self) - 1}; got {number}.")
        return self.names[number]

    def ids_with_unknown(
        self, names: Iterable[str], rng: np.random.Generator, alpha: float = 0.25
    ) -> list[int]:
        """The numbers of names, with some replaced by the unknown name so that it is trained: a
        name that occurred c times with probability alpha / (alpha + c) (Kiperwasser and Goldberg
        2016).

        Raises:
            ValueError: there is no unknown name, or alpha is below 0 or infinite.
            TypeError: names are no texts in a list, rng is no generator, or alpha no number.

        >>> import numpy as np
        >>> import dist_dynet as dy
        >>> words = dy.Vocabulary(["a"] * 1000 + ["b"])
        >>> words.ids_with_unknown(["a", "b", "c"], np.random.default_rng(1), alpha=1.0)
        [1, 2, 0]
        """
        what = "Vocabulary.ids_with_unknown"
        if self.unknown is None:
            raise ValueError(f"{what}: there is no unknown name.")
        if not isinstance(rng, np.random.Generator | np.random.RandomState):
            raise TypeError(
                f"{what}: rng must be a generator such as numpy.random.default_rng(1); got"
                f" {type(rng).__name__}."
            )
        alpha = number_argument(alpha, f"{what}: alpha")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"{what}: alpha must be a number from 0 on; got {alpha}.")
        chosen = _listed(names, what, "names")
        known = self.ids(chosen)
        draws = rng.random(len(chosen))
        return [
            0 if alpha and draw < alpha / (alpha + self.counts[name]) else number
            for name, number, draw in zip(chosen, known, draws, strict=True)
        ]

    # ---- files -------------------------------------------------------------------------

    @property
    def spec(self) -> tuple[Any, ...]:
        """Plain data from which from_spec() makes an equal vocabulary, for specs of networks."""
        return self.unknown, self.names, [self.counts[name] for name in self.names]

    @classmethod
    def from_spec(cls, spec: Sequence[Any]) -> Vocabulary:
        """A vocabulary from its spec.

        Raises:
            ValueError: it is not the spec of one.
        """
        made = cls.__new__(cls)
        try:
            unknown, names, counts = spec
            made._set(
                unknown, list(names), Counter(dict(zip(names, map(int, counts), strict=True)))
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"Vocabulary: this is not the spec of one: {error}") from None
        if not all(isinstance(name, str) for name in made.names) or (
            unknown is not None and made.names[:1] != [unknown]
        ):
            raise ValueError("Vocabulary: this is not the spec of one.")
        if len(made._numbers) < len(made.names):
            raise ValueError("Vocabulary: this is not the spec of one: a name is there twice.")
        return made

    def save(self, name: FileName) -> None:
        """Writes it as JSON, as a whole or not at all; with several ranks, on rank 0.

        Raises:
            RuntimeError: the file cannot be written.

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dy.Vocabulary(["the", "cat", "the"]).save(f"{folder}/words.json")
        ...     text = pathlib.Path(folder, "words.json").read_text()
        >>> "".join(text.split())
        '{"unknown":"<unk>","names":["<unk>","the","cat"],"counts":[0,2,1]}'
        """
        unknown, names, counts = self.spec
        content = {"unknown": unknown, "names": names, "counts": counts}
        text = json.dumps(content, ensure_ascii=False, indent=0)
        if not is_text(text):  # of bytes that were no UTF-8
            text = json.dumps(content, indent=0)
        with atomic_write(name, what="Vocabulary.save") as file:
            file.write(text.encode() + b"\n")

    @classmethod
    def load(cls, name: FileName) -> Vocabulary:
        """Reads a file written by save().

        Raises:
            RuntimeError: there is no such file, or it cannot be read.
            ValueError: it holds no vocabulary.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dy.Vocabulary(["the", "cat", "the"]).save(f"{folder}/words.json")
        ...     words = dy.Vocabulary.load(f"{folder}/words.json")
        >>> words.names, words["cat"]
        (['<unk>', 'the', 'cat'], 2)
        """
        path = file_path(name, "Vocabulary.load")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls.from_spec([content[key] for key in ("unknown", "names", "counts")])
        except OSError as error:
            raise unreadable(name, error, "vocabulary") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Vocabulary.load: {name} holds no vocabulary: {error}") from None

    def vectors(self, name: FileName, seed: int = 0) -> NDArray[np.float32]:
        r"""Word vectors from a text file, a row for each name: for `add_lookup_parameters(init=)`.

        A line has a name and its numbers, divided by spaces, as GloVe, word2vec and fastText write
        them; a first line with two numbers, how many there are and their size, may be there. Names
        are looked for as they are, then in lower case. Rows of names that the file does not have
        are drawn from a normal distribution with the mean and spread of the others.

        Args:
            name: of the file; one that ends in .gz is gzipped.
            seed: of what is drawn.

        Raises:
            RuntimeError: there is no such file, or it cannot be read.
            ValueError: a line has another number of numbers, or no name is there; the seed is below
                0.

        >>> import tempfile
        >>> from pathlib import Path
        >>> import dist_dynet as dy
        >>> words = dy.Vocabulary("the cat saw the cat".split())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "vectors.txt")
        ...     _ = file.write_text("the 0.5 1\ncat -0.5 2\n")
        ...     vectors = words.vectors(file)
        >>> vectors.shape, vectors[words["cat"]]
        ((4, 2), array([-0.5,  2. ], dtype=float32))
        >>> m = dy.ParameterCollection()
        >>> table = m.add_lookup_parameters(vectors.shape, init=vectors)
        """
        seed = integer_argument(seed, "Vocabulary.vectors", "seed")
        if seed < 0:
            raise ValueError(f"Vocabulary.vectors: seed must be 0 or more; got {seed}.")
        wanted = {*self.names} | {n.lower() for n in self.names}
        found: dict[str, NDArray[np.float32]] = {}
        size: int | None = None
        path = file_path(name, "Vocabulary.vectors")
        try:
            with _open_text(path) as lines:
                for number, line in enumerate(lines, 1):
                    word, *numbers = line.rstrip().split(" ")
                    if number == 1 and len(numbers) == 1 and word.isdecimal():
                        # word2vec's: how many words of which size
                        size = int(numbers[0]) if numbers[0].isdecimal() else None
                        continue
                    size = size or len(numbers)
                    if len(numbers) > size:  # a name with spaces
                        word, numbers = " ".join([word, *numbers[:-size]]), numbers[-size:]
                    if word in wanted:
                        found[word] = _as_vector(numbers, size, f"{name}, line {number}")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise unreadable(name, error, "vectors") from error
        rows = {
            n: found[n] if n in found else found[n.lower()]
            for n in self.names
            if n in found or n.lower() in found
        }
        if not rows:
            raise ValueError(f"Vocabulary.vectors: {name} has none of the {len(self)} names.")
        table = np.stack(list(rows.values()))
        rng = np.random.default_rng(seed)
        drawn = rng.normal(table.mean(axis=0), table.std(axis=0), (len(self), table.shape[1]))
        result: NDArray[np.float32] = drawn.astype(np.float32)
        for n, row in rows.items():
            result[self._numbers[n]] = row
        return result


def _open_text(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def _as_vector(numbers: Sequence[str], size: int, where: str) -> NDArray[np.float32]:
    try:
        vector = np.array(numbers, np.float32)
    except ValueError as error:
        raise ValueError(f"Vocabulary.vectors: {where}: {error}") from None
    if len(vector) != size:
        raise ValueError(
            f"Vocabulary.vectors: {where}: {size} numbers are wanted; got {len(vector)}."
        )
    return vector


requires_init(Vocabulary, "names")
explain(Vocabulary, OF_VOCABULARIES)
