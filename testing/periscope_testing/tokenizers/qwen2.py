"""A small tokenizer built as Qwen2's: its pre-tokenizer, its special tokens, a vocabulary of a few hundred."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The published pre-tokenizer of Qwen2.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = (
    "Describe the image. Query: revenue by region, annual report, total energy per quarter",
    "The table lists the number of visitors of the museum by month and the chart shows them",
    "Wie viele Seiten hat der Bericht? 0 1 2 3 4 5 6 7 8 9 10 2024 2025",
)


def make_tokenizer(words: Sequence[str] = (), answers: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer built as Qwen2's, trained on a few sentences, with its special tokens.

    Each of `words`, after a space and in lower case or capitalised, becomes one token; each of `answers` does as it is.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    corpus = [*_CORPUS, *(f" {form}" for word in words for form in (word, word.capitalize())), *answers]
    # With words: as many merges as it takes until each of them is whole.
    size = 1_000_000 if words or answers else 500
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS])
    return tokenizer
