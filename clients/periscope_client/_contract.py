"""The names a served retriever is known by: models, tensors and parameters.

This is the contract between the model repository and every client, in any language. A test freezes it: renaming
anything here breaks clients that are already deployed.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

# Models of a retriever R: R_embed_text and R_embed_image take one item a row, R_maxsim takes blocks of vectors.
EMBED_TEXT = "{retriever}_embed_text"
EMBED_IMAGE = "{retriever}_embed_image"
MAXSIM = "{retriever}_maxsim"

# Inputs of the two embedding models, BYTES [B, 1].
TEXT = "TEXT"
IMAGE = "IMAGE"
ROLE = "ROLE"

# Outputs of the two embedding models. A retriever has late vectors, a dense vector, or both.
LATE = "late"  # FP32 [B, T, K]
LATE_MASK = "late_mask"  # INT32 [B, T], 1 = a real token; rows with 0 are padding and zero
DENSE = "dense"  # FP32 [B, D]

# A kind of vectors, and the tensors that carry it.
Output: TypeAlias = Literal["late", "dense"]
TENSORS: dict[Output, tuple[str, ...]] = {"late": (LATE, LATE_MASK), "dense": (DENSE,)}

# Further outputs, one of each model, that similarity maps need; everybody else leaves them out of the request.
TOKEN_SPANS = "token_spans"  # of texts, INT32 [B, T, 2], begin and end in code points of TEXT; 0, 0: not of the text
VISUAL_GRID = "visual_grid"  # of pages, INT32 [B, 3], index of the first visual token in the row, rows, columns

# Inputs and output of the scoring model.
QUERY_LATE = "query_late"  # FP32 [Q, T, K]
QUERY_MASK = "query_mask"  # INT32 [Q, T]
DOCUMENT_LATE = "document_late"  # FP32 [N, S, K]
DOCUMENT_MASK = "document_mask"  # INT32 [N, S]
SCORE = "score"  # FP32 [Q, N]

# String parameters in the configuration of the embedding models.
FINGERPRINT = "fingerprint"  # of weights, recipe and precision: vectors are comparable only when it is equal
RECIPE = "recipe"  # name of the recipe that the retriever was exported with

EMBEDDING_MODELS = (EMBED_TEXT, EMBED_IMAGE)


def retriever_names(models: list[str]) -> list[str]:
    """Sorted names of the retrievers among the names of a server's models.

    >>> retriever_names(["colqwen2_embed_text", "colqwen2_embed_image", "colqwen2_vision_encoder"])
    ['colqwen2']
    """
    suffixes = [pattern.format(retriever="") for pattern in EMBEDDING_MODELS]
    return sorted({name.removesuffix(suffix) for name in models for suffix in suffixes if name.endswith(suffix)})
