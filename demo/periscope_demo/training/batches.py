"""Batches of pages and queries for training, each made from its number alone, so that training resumes anywhere.

B pages, P patches, V visual tokens, T tokens, Q queries, Z letters, Y classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from periscope_demo.pages.generator import make_page
from periscope_demo.pages.page import Page
from periscope_demo.pages.vocabulary import WORDS
from periscope_demo.queries import Query, make_query
from periscope_demo.training.stage import Stage
from periscope_demo.training.targets import (
    letter_targets,
    page_targets,
    term_targets,
    terms_vector,
    token_class,
)
from periscope_runtime.collate import collate
from periscope_runtime.prepare import Preparer, Row
from periscope_runtime.recipe import Buckets

Batch = dict[str, Tensor]

# No padding but to the longest of a batch.
_EXACT = Buckets(patches=1, page_tokens=1, text_tokens=1)


class Batches(IterableDataset[Batch]):
    """The batches of a stage from `start` on."""

    def __init__(self, preparation: Path, stage: Stage, seed: tuple[int, ...], start: int) -> None:
        super().__init__()
        self.preparation, self.stage, self.seed, self.start = preparation, stage, seed, start

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        maker = BatchMaker(self.preparation)
        for number in range(self.start, self.stage.steps):
            yield maker.make(np.random.default_rng((*self.seed, number)), self.stage)


class BatchMaker:
    """Draws pages, asks queries about them, and turns both into tensors as the server would."""

    def __init__(self, preparation: Path) -> None:
        self.preparer = Preparer(preparation)
        tokenizer = self.preparer._prompts._tokenizer
        self.tokens = {number: token for token, number in tokenizer.get_vocab().items()}
        augmentation = self.preparer.preparation.augmentation
        self.augmentation = tokenizer.token_to_id(augmentation.token) if augmentation else -1

    def make(self, generator: np.random.Generator, stage: Stage) -> Batch:
        """Return one batch; all its pages have one format, so nothing is padded but queries."""
        size = stage.formats[int(generator.integers(len(stage.formats)))]
        pool = [str(word) for word in generator.choice(WORDS, stage.pool, replace=False)]
        pages = [make_page(generator, pool, size, stage.look) for _ in range(stage.pages)]
        queries = [
            make_query(generator, page) for page in pages for _ in range(stage.queries_per_page) if len(page.words) > 1
        ]
        batch = {**self.page_tensors(pages), **self.query_tensors([query.text for query in queries])}
        relevant_QB = np.array([[query.fits(page) for page in pages] for query in queries], dtype=np.float32)
        return {
            **batch,
            **self._targets(pages, batch),
            **self._query_targets(queries, batch),
            "relevant_QB": torch.from_numpy(relevant_QB),
        }

    def page_tensors(self, pages: list[Page]) -> Batch:
        """Return what the towers read of pages: patches, their positions, ids and positions of tokens."""
        tensors = _tensors([self.preparer.image(page.file()) for page in pages])
        return {
            # A page is one image, which has one row of patches.
            "patches_BPC": tensors["patches"].squeeze(1),
            "patch_positions_BP2": tensors["patch_positions"].squeeze(1),
            "page_ids_BT": tensors["input_ids"],
            "page_positions_B3T": tensors["position_ids"],
        }

    def query_tensors(self, texts: list[str]) -> Batch:
        """Return ids, positions and mask of queries, padded on the right."""
        tensors = _tensors([self.preparer.text(text.encode()) for text in texts])
        return {
            "query_ids_QT": tensors["input_ids"],
            "query_positions_Q3T": tensors["position_ids"],
            "query_mask_QT": tensors["late_mask"],
        }

    def _targets(self, pages: list[Page], batch: Batch) -> Batch:
        policy = self.preparer.preparation.page_policy
        positions_P2 = batch["patch_positions_BP2"][0].numpy()
        rows, columns = (positions_P2.max(0) + 1) // policy.merge_size
        return {
            "letters_BPZ": _stacked([letter_targets(page, positions_P2, policy.patch_size) for page in pages]),
            "terms_BVY": _stacked([term_targets(page, (int(rows), int(columns)), policy.factor) for page in pages]),
            "page_terms_BY": _stacked([page_targets(page) for page in pages]),
        }

    def _query_targets(self, queries: list[Query], batch: Batch) -> Batch:
        ids_QT, mask_QT = batch["query_ids_QT"], batch["query_mask_QT"]
        classes_QT = torch.tensor([[token_class(self.tokens[int(token)]) for token in row] for row in ids_QT])
        # The augmentation may learn to say what it likes: only the loss of the whole query trains it.
        unsupervised_QT = (ids_QT == self.augmentation) | (mask_QT == 0)
        return {
            "query_classes_QT": classes_QT.masked_fill(unsupervised_QT, -100),
            "query_terms_QY": _stacked([terms_vector(query.terms) for query in queries]),
        }


def _tensors(rows: list[Row]) -> Batch:
    return {name: torch.from_numpy(array) for name, array in collate(rows, _EXACT).items()}


def _stacked(arrays: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
