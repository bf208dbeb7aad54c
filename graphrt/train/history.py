"""The history of a training run, one value an epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.errors import InputError


@dataclass
class History:
    """The history of a run: lists of one number per epoch; columns stay empty when they were not asked for.

    ``loss`` and ``accuracy`` are means over the training examples, measured before each step; ``val_loss`` and ``val_accuracy``
    over the validation data after the epoch; ``lr`` is that of the last step. ``examples_per_second`` and ``seconds`` are of
    the training steps alone. ``others`` has those of other metrics by name, ``val_`` before the name for validation.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    examples_per_second: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    others: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loss)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one epoch's values; an array, such as a confusion matrix, as lists."""
        columns = self.columns()
        for name, value in row.items():
            kept = np.asarray(value).tolist() if np.ndim(value) else float(value)
            (columns[name] if name in columns else self.others.setdefault(name, [])).append(kept)

    def columns(self) -> dict[str, list[Any]]:
        """All columns by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "others"} | self.others

    def last(self) -> dict[str, Any]:
        """The last epoch's values."""
        return {name: values[-1] for name, values in self.columns().items() if values}

    def to_json(self) -> str:
        """All columns as one JSON object."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def from_json(text: str) -> History:
        """Reads what ``to_json`` wrote. Raises InputError."""
        try:
            found = json.loads(text)
            old = found.pop("images_per_second", None)  # as checkpoints of 0.1.0 call it
            return History(**({} if old is None else {"examples_per_second": old}) | found)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"not a history: {error}") from None

    def save(self, path: str | Path) -> None:
        """Writes a JSON file."""
        Path(path).write_text(self.to_json() + "\n")
