"""A small tokenizer built as BERT's: lower case, WordPiece, [CLS] before and [SEP] behind, a few hundred tokens."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# Padding is the token 0, as published.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CORPUS = (
    "revenue by region, annual report, total energy per quarter",
    "the table lists the number of visitors of the museum by month and the chart shows them",
    "a photograph of a red square beside a blue circle on a white page",
    "wie viele seiten hat der bericht? 0 1 2 3 4 5 6 7 8 9 10 2024 2025",
)


def make_bert_tokenizer() -> Tokenizer:
    """Train on a few sentences."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(SPECIAL_TOKENS), show_progress=False),
    )
    begin, end = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", begin), ("[SEP]", end)]
    )
    return tokenizer
