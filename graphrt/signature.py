"""The interfaces of what a front end may leave on a graph: how its programs are called, and where their parameters are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Signature(Protocol):
    """How a program is called when not by name, and what it then gives back; a front end sets it."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs that ``result`` puts together."""

    @property
    def written(self) -> Mapping[str, str]:
        """The outputs that ``result`` writes into inputs, by the input's name."""

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name. Raises InputError for arguments of another structure than the example's."""

    def result(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The outputs in the structure in which the model returned them; what the model writes into its inputs is written."""


class Memory(Protocol):
    """The memory of a model's parameters: the ``State`` on which its programs run unless they are given another."""

    def sync_to_torch(self) -> None:
        """Copies into the model what could not be shared with it."""
