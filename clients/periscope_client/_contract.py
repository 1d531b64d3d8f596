"""The names a served retriever is known by: models, tensors and parameters.

This is the contract between the model repository and every client, in any language. A test freezes it: renaming
anything here breaks clients that are already deployed.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

# Models of a retriever R, of which it has one at least: R_embed_text, R_embed_image and R_embed_video take one item a
# row, R_maxsim takes blocks of vectors, R_rerank takes one query and its candidates.
EMBED_TEXT = "{retriever}_embed_text"
EMBED_IMAGE = "{retriever}_embed_image"
EMBED_VIDEO = "{retriever}_embed_video"
MAXSIM = "{retriever}_maxsim"
RERANK = "{retriever}_rerank"

# Inputs of the embedding models, one of each model: BYTES [B, 1], of a video [B, frames]; of images [B, N] where an
# item may have several, with empty strings at the end of a row that has fewer.
TEXT = "TEXT"  # beside IMAGE or VIDEO too, where the retriever takes both together
IMAGE = "IMAGE"  # an image file
VIDEO = "VIDEO"  # an image file a frame

# Further inputs of the embedding models, all optional; those of `R_rerank` are BYTES [1].
ROLE = "ROLE"  # BYTES [B, 1]; not of R_rerank
INSTRUCTION = "INSTRUCTION"  # BYTES [B, 1], where the recipe has instructions
TASK = "TASK"  # BYTES [B, 1], the name of a task of the recipe (an instruction, an adapter, or both), where it has any
DIMENSIONS = "DIMENSIONS"  # INT32 [B, 1], where dense vectors may be cut; not of R_rerank

# Outputs of the embedding models. A retriever has late vectors, a dense vector, or both.
LATE = "late"  # FP32 [B, T, K]
LATE_MASK = "late_mask"  # INT32 [B, T], 1 = a real token; rows with 0 are padding and zero
DENSE = "dense"  # FP32 [B, D]; the model says -1 where D may be asked for

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
SCORE = "score"  # FP32 [Q, N]; of R_rerank [N, 1]

# Further inputs and an output of R_rerank, which has no batch axis: one query and N candidates. TEXT and IMAGE are
# BYTES [N], an empty string where a candidate has none; VIDEO holds the frames of all candidates, one after the other.
QUERY_TEXT = "QUERY_TEXT"  # BYTES [1]
QUERY_IMAGE = "QUERY_IMAGE"  # BYTES [1]
QUERY_VIDEO = "QUERY_VIDEO"  # BYTES [frames]
VIDEO_FRAMES = "VIDEO_FRAMES"  # INT32 [N], how many frames of VIDEO are each candidate's
STATUS = "status"  # BYTES [N], empty where there is a score, else why there is none

# String parameters in the configuration of the models above.
FINGERPRINT = "fingerprint"  # of weights, recipe and precision: vectors are comparable only when it is equal
RECIPE = "recipe"  # name of the recipe that the retriever was exported with
DENSE_WIDTH = "dense_width"  # D of a whole dense vector
DENSE_SMALLEST = "dense_smallest"  # the least that DIMENSIONS may say, where there is that input
MAX_CANDIDATES = "max_candidates"  # of R_rerank: the largest C
IMAGE_BYTES = "image_bytes"  # the most bytes of an image file
IMAGE_PIXELS = "image_pixels"  # the most pixels of an image
TEXT_BYTES = "text_bytes"  # the most bytes of a text

EMBEDDING_MODELS = {"text": EMBED_TEXT, "image": EMBED_IMAGE, "video": EMBED_VIDEO}
