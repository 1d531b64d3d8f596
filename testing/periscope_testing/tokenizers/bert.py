"""A small tokenizer built as BERT's: lower case, WordPiece, [CLS] before and [SEP] behind, a few hundred tokens."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

# Padding is the token 0, as published.
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (
    "revenue by region annual report total energy per quarter the table lists number of visitors museum month and "
    "chart shows them a photograph red square beside blue circle on white page wie viele seiten hat der how many"
)
_ENDS = ("##s", "##ed", "##ing", "##er", "##en", "##tion", "##ch")


def make_bert_tokenizer() -> Tokenizer:
    """Words, ends of words and letters; not trained, because a trainer's vocabulary differs from run to run."""
    letters = string.ascii_lowercase + string.digits
    tokens = [
        *_SPECIAL_TOKENS,
        *string.punctuation,
        *letters,
        *(f"##{letter}" for letter in letters),
        *_ENDS,
        *_WORDS.split(),
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    begin, end = vocabulary["[CLS]"], vocabulary["[SEP]"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", begin), ("[SEP]", end)]
    )
    return tokenizer
