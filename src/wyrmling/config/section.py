"""What every section of the project file is, and types that several use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# TOML has arrays; strict pydantic would refuse them for a tuple.
Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
OneOrMore = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else as_tuple(value))
]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, validate_default=True
    )
