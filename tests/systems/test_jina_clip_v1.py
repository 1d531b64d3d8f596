"""jina-clip-v1, where it is unlike the others: a centre crop, and a limit at which the published code cuts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from contract.served import Served
from contract.servers import Servers
from contract.tolerances import MISTAKE, PARITY
from e2e.pages import draw_page
from periscope_testing.reference import Item


@pytest.fixture
def jina(servers: Servers) -> Served:
    return servers.of("jina_clip_v1")


def test_another_crop_is_another_vector(jina: Served) -> None:
    """As a retriever of this kind would see a page without the crop, or with a corner in the place of the centre."""
    page = draw_page(500, 300)
    right = np.asarray(jina.embed(Item(image=page, role="document")).dense)
    assert np.abs(right - np.asarray(jina.reference.embed(Item(image=page)).dense)).max() <= PARITY
    for wrong in (page.resize((224, 224), Image.Resampling.BICUBIC), page.crop((0, 0, 300, 300))):
        other = np.asarray(jina.reference.embed(Item(image=wrong)).dense)
        assert np.abs(right - other).max() > MISTAKE


def test_a_text_that_the_published_code_would_cut_is_refused(jina: Served) -> None:
    """510 words of one token each, [CLS] and [SEP] are 512."""
    found = jina.retriever.embed_text(["x " * 510, "x " * 511], on_error="keep")
    assert set(found.errors) == {1}
    assert "preprocess: has 513 tokens, above the limit of 512. Shorten or split it." in str(found.errors[1])
