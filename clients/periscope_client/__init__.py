"""Clients of a served retriever: images, pages, videos and texts in, vectors and scores out."""

from periscope_client._client import AsyncRetriever
from periscope_client._content_warning import ContentWarning
from periscope_client._documents import PdfPage, pdf_pages
from periscope_client._embeddings import Embeddings
from periscope_client._errors import (
    AccessDenied,
    FingerprintMismatch,
    InvalidInput,
    ItemError,
    ItemsFailed,
    MissingVectors,
    NotSent,
    PeriscopeError,
    RequestError,
    RequestTimeout,
    ServerFault,
    ServerLost,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
    UnusableRetriever,
    VectorFileError,
)
from periscope_client._info import RetrieverInfo
from periscope_client._limits import Limits
from periscope_client._rerank import Reranking
from periscope_client._similarity_maps import SimilarityMaps
from periscope_client._sync import Retriever
from periscope_client._tiff import TiffPage, tiff_pages
from periscope_client._timeout import Timeout
from periscope_client._transport import Transport

__all__ = [
    "AccessDenied",
    "AsyncRetriever",
    "ContentWarning",
    "Embeddings",
    "FingerprintMismatch",
    "InvalidInput",
    "ItemError",
    "ItemsFailed",
    "Limits",
    "MissingVectors",
    "NotSent",
    "PdfPage",
    "PeriscopeError",
    "RequestError",
    "RequestTimeout",
    "Reranking",
    "Retriever",
    "RetrieverInfo",
    "ServerFault",
    "ServerLost",
    "ServerUnavailable",
    "SimilarityMaps",
    "TiffPage",
    "Timeout",
    "Transport",
    "UnexpectedAnswer",
    "UnknownModel",
    "UnusableRetriever",
    "VectorFileError",
    "pdf_pages",
    "tiff_pages",
]
