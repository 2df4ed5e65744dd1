"""Texts as vectors: the same everywhere, words apart, order seen; a pretrained encoder comes from a folder alone."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drivedit.models.text_encoder import HunyuanTextEncoder, words_of


@pytest.fixture
def encoder() -> HunyuanTextEncoder:
    return HunyuanTextEncoder(width=256)


def test_shapes_and_the_mask(encoder):
    words, mask = encoder.encode(["A cat, playing.", "rain"], max_sequence_length=7)
    assert words.shape == (2, 7, 256) and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [5, 1] and words_of("A cat, playing.") == ["a", "cat", ",", "playing", "."]
    assert words[~mask].abs().max() == 0 and words[mask].std() == pytest.approx(1.25**0.5, abs=0.05)
    assert encoder.encode("rain")[0].shape == (1, 256, 256)


def test_the_negative_prompt_goes_first(encoder):
    both, _ = encoder.encode("night rain", "blur")
    assert torch.equal(both, torch.cat([encoder.encode("blur")[0], encoder.encode("night rain")[0]]))


def test_it_is_the_same_everywhere(encoder):
    words, _ = encoder.encode("night rain", max_sequence_length=2)
    again, _ = HunyuanTextEncoder(width=256).encode("NIGHT rain", max_sequence_length=3)
    assert torch.equal(words, again[:, :2])
    known = [-1.2302, 0.0250, 0.7616, -0.3557]
    assert words[0, 0, :4].tolist() == pytest.approx(known, abs=1e-3)  # drawn by blake2b and torch's generator


def test_equal_words_are_near_others_far_and_order_counts(encoder):
    night, day = (encoder.encode(word, max_sequence_length=1)[0][0, 0] for word in ("night", "day"))
    one, other = (encoder.encode(text, max_sequence_length=2)[0][0] for text in ("night rain", "rain night"))

    def alike(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.cosine_similarity(a, b, 0))

    assert alike(one[0], other[1]) > 0.7 and abs(alike(one[0], one[1])) < 0.25  # four standard deviations
    assert abs(alike(night, day)) < 0.5  # they share their place
    assert not torch.equal(one[0], other[1])
    assert torch.allclose(encoder.pool("night"), night[None])
    assert encoder.pool(["", "rain night"]).shape == (2, 256) and encoder.pool("").abs().max() == 0


def test_texts_lose_their_end(encoder):
    assert torch.equal(
        encoder.encode("a b c", max_sequence_length=2)[0], encoder.encode("a b", max_sequence_length=2)[0]
    )
    for given in ("rain", 0), (["rain", 3], 5), ([], 5):
        with pytest.raises(ValueError, match="needed are texts"):
            encoder.encode(given[0], max_sequence_length=given[1])


def test_a_pretrained_encoder_comes_from_a_folder_alone(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        HunyuanTextEncoder(tmp_path / "none")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pretrained text encoder needs transformers.*\[text\]"):
        HunyuanTextEncoder(tmp_path)
    asked: list[Any] = []

    def load(made: Any) -> Any:
        return SimpleNamespace(from_pretrained=lambda path, **how: asked.append((path, how)) or made)

    class Model(torch.nn.Module):
        config = SimpleNamespace(hidden_size=3)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 3) * input_ids[..., None])

    def tokenizer(texts: list[str], max_length: int, **how: Any) -> dict[str, torch.Tensor]:
        assert how == {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = torch.tensor([[7] * max_length] * len(texts))
        return {"input_ids": ids, "attention_mask": (torch.arange(max_length) < 2).long().expand(len(texts), -1)}

    fake = SimpleNamespace(AutoTokenizer=load(tokenizer), AutoModel=load(Model()))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    encoder = HunyuanTextEncoder(tmp_path)
    words, mask = encoder.encode("night rain", max_sequence_length=4)
    assert encoder.width == 3 and words[0].tolist() == [[7] * 3, [7] * 3, [0] * 3, [0] * 3] and mask.sum() == 2
    local = {"local_files_only": True}
    assert asked == [(tmp_path, local), (tmp_path, local | {"use_safetensors": True})], "weights are never unpickled"
