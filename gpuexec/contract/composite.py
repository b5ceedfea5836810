"""Stages that stand for several others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from gpuexec.contract.input_spec import InputSpecs
from gpuexec.contract.stage import ProcessingStage, X, Y
from gpuexec.errors import CompositeNotDecomposed, ConfigurationError


class CompositeStage(ProcessingStage[X, Y]):
    """A stage that ``Pipeline.build`` replaces with the stages that ``decompose`` returns. It never runs itself."""

    def __init__(self) -> None:
        self._with_operations: list[Mapping[str, Mapping[str, Any]]] = []

    @abstractmethod
    def decompose(self) -> list[ProcessingStage[Any, Any]]:
        """Return the stages to run, in order."""

    def with_(  # type: ignore[override]  # the contract's own signature for composites
        self, stage_with_dict: Mapping[str, Mapping[str, Any]]
    ) -> CompositeStage[X, Y]:
        """Record ``{stage name: arguments of its with_}``, to be applied by decomposition; return self."""
        self._operations().append(stage_with_dict)
        return self

    def decompose_and_apply_with(self) -> list[ProcessingStage[Any, Any]]:
        """Decompose, and apply the changes that ``with_`` recorded.

        Raises ``ConfigurationError`` for a change to an unknown stage, or where two stages have the same name.
        """
        stages = self.decompose()
        for changes in self._operations():
            names = [stage.name for stage in stages]
            if len(set(names)) != len(names):
                raise ConfigurationError(
                    f"composite stage {self.name}: with_() needs stages with unique names, but decompose() "
                    f"returned {names}"
                )
            for name in changes:
                if name not in names:
                    raise ConfigurationError(
                        f"Stage {name} not found in composite stage {self.name}, which has {names}"
                    )
            stages = [stage.with_(**changes[stage.name]) if stage.name in changes else stage for stage in stages]
        return stages

    def inputs(self) -> InputSpecs:
        """Return the first stage's inputs."""
        return self.decompose()[0].inputs()

    def outputs(self) -> tuple[list[str], list[str]]:
        """Return the last stage's outputs."""
        return self.decompose()[-1].outputs()

    def process(self, task: X) -> Y | list[Y] | None:  # noqa: ARG002
        """Raise ``CompositeNotDecomposed``: only the decomposed stages run."""
        raise CompositeNotDecomposed(
            f"composite stage {self.name!r} should not be executed directly: run it in a Pipeline, which decomposes it"
        )

    def get_description(self) -> str:
        """Return what the stage does, as text; meant to be overridden."""
        return f"Composite stage: {self.name}"

    def _operations(self) -> list[Mapping[str, Mapping[str, Any]]]:
        # A dataclass subclass that does not call super().__init__() has no list yet.
        operations: list[Mapping[str, Mapping[str, Any]]] = self.__dict__.setdefault("_with_operations", [])
        return operations
