"""A dataclass that is validated, refuses unknown keys, and round-trips through JSON (nested dataclasses included)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError


@dataclass
class BaseConfig:
    """Base of all configurations."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def check_ranges(self, **limits: tuple[float, float]) -> None:
        """Checks numbers, and those in lists and dictionaries, against a least and a greatest value; None is left out.

        Raises:
            ValueError: One lies outside, or is not finite.
        """
        for name, (least, greatest) in limits.items():
            value = getattr(self, name)
            numbers = value.values() if isinstance(value, dict) else value
            for number in numbers if isinstance(value, (dict, list, tuple)) else [value]:
                if number is not None and not least <= number <= greatest:
                    raise ValueError(f"{name} must be from {least:g} to {greatest:g}, got {number!r}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as nested plain dictionaries."""
        return asdict(self)

    def to_json(self) -> str:
        """Returns the configuration as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def save_json(self, filepath: str | Path) -> None:
        """Writes the configuration to a JSON file, whole or not at all."""
        path = Path(filepath)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self.to_json() + "\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> Self:
        """Builds the configuration from nested dictionaries.

        Raises:
            KeyError: A key is unknown.
            ValueError: A value has the wrong type.
        """
        try:
            return TypeAdapter(cls).validate_python(config_dict)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            unknown = [
                ".".join(map(str, e["loc"])) for e in error.errors() if e["type"] == "unexpected_keyword_argument"
            ]
            if unknown:
                names = ", ".join(known.name for known in fields(cls))
                raise KeyError(f"{cls.__name__}: unknown key {', '.join(unknown)}; known keys: {names}") from None
            raise ValueError(f"{cls.__name__}: " + "; ".join(lines)) from None

    @classmethod
    def from_json(cls, json_str_or_path: str | Path) -> Self:
        """Builds the configuration from a JSON string or from the path of a JSON file.

        Raises:
            FileNotFoundError: There is no such file.
            KeyError: A key is unknown.
            ValueError: It is not JSON, or a value has the wrong type.
        """
        text = str(json_str_or_path)
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text()
        return cls.from_dict(json.loads(text))
