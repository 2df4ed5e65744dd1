"""Networks that stand alone: one safetensors file holds the weights and says how the network was built."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from torch import nn

from drivedit.config import BaseConfig
from drivedit.utils import Undrawn, check_tensors, read_tensors, write_tensors


class SavedNetwork(nn.Module):
    """Saving and loading.

    Attributes:
        file_format: Name of the format of its files.
        config_type: Class of its configuration, whose fields are its arguments.
        config: How it was built.
    """

    file_format: ClassVar[str]
    config_type: ClassVar[type[BaseConfig]]
    config: BaseConfig

    @classmethod
    def from_config(cls, config: BaseConfig) -> Self:
        """Builds the network that a configuration describes."""
        return cls(**config.to_dict())

    def save(self, path: str | Path) -> None:
        """Writes the network to one safetensors file, whole or not at all."""
        write_tensors(path, self.state_dict(), self.file_format, self.config.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a network that `save` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or holds something else.
        """
        weights, spec = read_tensors(path, cls.file_format)
        try:
            config = cls.config_type.from_dict(spec)
            check_tensors(lambda: cls.from_config(config), weights)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); copy it again") from error
        with Undrawn():
            network = cls.from_config(config)
        network.load_state_dict(weights)
        return network.eval()
