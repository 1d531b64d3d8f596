"""A peer's side of the lines that `host.py` describes: read a request, do it, answer.

Imported by the scripts beside it, which run where this package is not installed, and so from their own folder: nothing
here needs more than numpy.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any


def serve(peer: object) -> None:
    """Answer line by line until there is no more. What libraries print goes to stderr.

    A request's `op` is the name of a method of the peer. It takes the request and returns the answer, or arrays [T, K]
    or [K], one an item: those of the answer's `vectors` are written to the request's file. `seconds` is what the method
    took, unless it counts them itself.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = _answer(peer, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


def _answer(peer: object, request: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    done = getattr(peer, request["op"])(request)
    seconds = time.perf_counter() - start
    answer: dict[str, Any] = {"seconds": seconds, **(done if isinstance(done, dict) else {"vectors": done})}
    if "vectors" in answer:
        # A library may have to be told things before numpy is there.
        import numpy as np

        # Items that have one vector have [1, K].
        np.savez(request["vectors"], *[np.atleast_2d(np.asarray(one, np.float32)) for one in answer["vectors"]])
        answer["vectors"] = request["vectors"]
    return answer
