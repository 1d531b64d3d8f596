"""A small tokenizer built as Gemma's is: byte-pair encoding over words with a visible space, bytes where it ends.

The order of ids is the published one: the special tokens first, PaliGemma's places and segments after the vocabulary,
the image token last.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

IMAGE_TOKEN = "<image>"

_SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
# Runs of line breaks and of spaces are tokens of their own.
_RUNS = (*("\n" * length for length in range(1, 5)), *("▁" * length for length in range(2, 5)))
_CORPUS = (
    "Describe the image. Question: revenue by region, annual report, total energy per quarter",
    "Query: The table lists the number of visitors of the museum by month and the chart shows them",
    "Wie viele Seiten hat der Bericht? 0 1 2 3 4 5 6 7 8 9 10 2024 2025",
)


def make_gemma_tokenizer() -> Tokenizer:
    """Train on a few sentences. <bos> is put before everything unless special tokens are left out, as published."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    trained.train_from_iterator(_CORPUS, trainer)
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    merges = _merges(trained)

    words = [*_SPECIAL_TOKENS, *_RUNS, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in _RUNS])
    places = [f"<loc{number:04}>" for number in range(1024)] + [f"<seg{number:03}>" for number in range(128)]
    tokenizer.add_tokens([AddedToken(place, normalized=False) for place in places])
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return the merges that training found, which only its saved form says."""
    import json

    return [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]
