"""`periscope-healthcheck` finds something to send to every ensemble that the client speaks to."""

from __future__ import annotations

import re
from collections.abc import Mapping

from periscope_serve import health, healthcheck
from periscope_serve.server import Server


def test_every_ensemble_is_asked_and_answers(server: Server) -> None:
    host, port = server.http_url.split(":")
    ensembles = {name for name in server.models if "_embed_" in name or re.fullmatch("[a-z]+_rerank", name)}
    assert {"rich_embed_video", "rich_rerank", "judge_rerank"} <= ensembles
    before = answered(server)
    assert set(healthcheck.check(healthcheck.Server(host, int(port), {}, 20))) == ensembles
    after = answered(server)
    assert all(after[name] > before[name] for name in ensembles)


def answered(server: Server) -> Mapping[str, int]:
    host, port = server.metrics_url.split(":")
    load = health.load(host, int(port))
    assert load is not None
    return load.ended
