"""A tokenizer that cuts a comparison's texts as the published one does: into words.

How long a query takes depends on its tokens. The demonstration's tokenizer knows a few hundred pieces and makes three
times as many of a text as Qwen's, whose 151,643 hold every word that is asked for here.
"""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer

from periscope_demo.pages.vocabulary import FILLERS, TERMS
from periscope_testing.tokenizers.qwen2 import make_tokenizer

# The words of prompts, and of queries around the words of a page.
_PROMPTS = ("system", "user", "'s", "assistant", "represent", "input", "query", "describe", "image", "is", "page")


@cache
def tokenizer() -> Tokenizer:
    """Return it: each word one token, after a space and without, in lower case and capitalised."""
    words = (*TERMS, *FILLERS, *_PROMPTS)
    return make_tokenizer(words, [form for word in words for form in (word, word.capitalize())])
