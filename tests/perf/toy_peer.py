"""A peer that embeds nothing: what it does wrong is told by TOY_PEER, and how long it takes by TOY_SECONDS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np


def main() -> None:
    fault = os.environ.get("TOY_PEER", "")
    seconds = float(os.environ.get("TOY_SECONDS", "0.01"))
    for line in sys.stdin:
        request = json.loads(line)
        op = request["op"]
        print(f"toy peer: {op}", file=sys.stderr, flush=True)
        items = request.get("files") or request.get("texts") or []
        if op == "load":
            answer = {"seconds": 0.5, "versions": {"toy": "1.0", "checkpoint": request["checkpoint"]}}
        elif fault == "dies":
            print("toy peer: out of toys", file=sys.stderr, flush=True)
            sys.exit(3)
        elif fault == "hangs":
            # With a child that ignores the end of its parent's input.
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(f"child {child.pid}", file=sys.stderr, flush=True)
            time.sleep(600)
        elif fault == "garbage":
            print("Loading weights: 100%", flush=True)
            continue
        elif fault == "number":
            print("12", flush=True)
            continue
        elif fault == "raises":
            answer = {"error": "ValueError: no such page"}
        elif fault == "no vectors":
            answer = {"seconds": 0.1, "vectors": "/nowhere/vectors.npz"}
        else:
            count = len(items) - (fault == "loses one")
            time.sleep(seconds * len(items))
            rng = np.random.default_rng(len(items))
            np.savez(request["vectors"], *[rng.normal(size=(item + 2, 4)) for item in range(count)])
            answer = {"seconds": seconds * len(items), "vectors": request["vectors"]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
