"""Runs inside Triton: the score of every query against every document, as the contract defines it."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [pb_utils.InferenceResponse([pb_utils.Tensor("score", self.score(request))]) for request in requests]

    def score(self, request: Any) -> Any:
        query_QTK, query_mask_QT, document_NSK, document_mask_NS = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("query_late", "query_mask", "document_late", "document_mask")
        )
        similarity_QNTS = np.einsum("qtk,nsk->qnts", query_QTK, document_NSK)
        similarity_QNTS = np.where(document_mask_NS[None, :, None, :] == 1, similarity_QNTS, -np.inf)
        best_QNT = np.where(query_mask_QT[:, None, :] == 1, similarity_QNTS.max(axis=3), 0)
        return best_QNT.sum(axis=2).astype(np.float32)
