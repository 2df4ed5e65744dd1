"""Text as vectors, offline: every word has a vector that its hash draws, and every place in a text has another.

Equal words have equal vectors and different words nearly orthogonal ones, on every machine; what words mean, a model
that is trained on them learns. A pretrained encoder is used only where a local folder is named.

Legend: B texts, L words, D width.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivedit.utils import extra, generator

PLACE = 0.5  # spread of a place's vector beside that of a word
MOST_WORDS = 256


class HunyuanTextEncoder:
    """Encodes prompts.

    Args:
        path: Local folder of a text encoder that `transformers` loads (extra `text`); None: the hash of words.
        width: D of the hash of words; a pretrained encoder has its own.

    Attributes:
        width: D.

    Raises:
        FileNotFoundError: There is no such folder; nothing is ever downloaded.
        ImportError: `transformers` is not installed.
    """

    def __init__(self, path: str | Path | None = None, width: int = 512) -> None:
        self._tokenizer, self._model, self.width = None, None, width
        if path is not None:
            self._tokenizer, self._model = _pretrained(Path(path))
            self.width = int(self._model.config.hidden_size)

    @torch.no_grad()
    def encode(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | None = None,
        max_sequence_length: int = MOST_WORDS,
    ) -> tuple[Tensor, Tensor]:
        """Encodes texts.

        Args:
            prompt: A text, or B of them.
            negative_prompt: What guidance leads away from; its row goes before those of the prompts. None: no row.
            max_sequence_length: L; longer texts lose their end, shorter ones are filled up with zeros.

        Returns:
            Embeddings float32 `[B, L, D]`, and which of them are words, bool `[B, L]`; B + 1 rows with a negative one.

        Raises:
            ValueError: L is less than 1, or a prompt is no text.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = texts if negative_prompt is None else [negative_prompt, *texts]
        if max_sequence_length < 1 or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"needed are texts and a length of at least 1, got {texts!r} and {max_sequence_length}")
        if self._model is not None and self._tokenizer is not None:
            given = self._tokenizer(
                texts, padding="max_length", truncation=True, max_length=max_sequence_length, return_tensors="pt"
            )
            mask = given["attention_mask"].bool()
            return self._model(**given).last_hidden_state.float() * mask[..., None], mask
        vectors = torch.zeros(len(texts), max_sequence_length, self.width)
        mask = torch.zeros(vectors.shape[:2], dtype=torch.bool)
        for row, text in enumerate(texts):
            for place, word in enumerate(words_of(text)[:max_sequence_length]):
                vectors[row, place] = self._of("word", word) + PLACE * self._of("place", str(place))
                mask[row, place] = True
        return vectors, mask

    def _of(self, kind: str, name: str) -> Tensor:
        return _vector(kind, name, self.width)

    def pool(self, prompt: str | Sequence[str]) -> Tensor:
        """One vector for a whole text `[B, D]`: the sum of those of its words, over the root of their number."""
        vectors, mask = self.encode(prompt)
        return vectors.sum(1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()


def words_of(text: str) -> list[str]:
    """The words of a text and its marks, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


@lru_cache(maxsize=65_536)
def _vector(kind: str, name: str, width: int) -> Tensor:
    """Standard normal numbers `[D]` that depend on a name alone."""
    return torch.randn(width, generator=generator(0, f"{kind}/{name}"))


def _pretrained(path: Path) -> tuple[Any, Any]:
    """Tokenizer and model of a local folder."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path} of a text encoder; nothing is downloaded")
    with extra("text", "a pretrained text encoder"):
        transformers = importlib.import_module("transformers")
    load = {"local_files_only": True}
    return (
        transformers.AutoTokenizer.from_pretrained(path, **load),
        transformers.AutoModel.from_pretrained(path, use_safetensors=True, **load).eval(),
    )
