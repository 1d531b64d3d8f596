"""Retrievers in forked and spawned processes, on several event loops, as copies, and at the end of the interpreter."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from periscope_client import AsyncRetriever, Retriever, UnusableRetriever
from periscope_client._endpoint import Protocol
from periscope_serve.server import Server

FORKS = """
import concurrent.futures, gc, json, multiprocessing, os, sys, threading, time
from periscope_client import PeriscopeError, Retriever

url, protocol = sys.argv[1:]

def use(retriever, text="a"):
    try:
        return len(retriever.embed_text([text]))
    except PeriscopeError as error:
        return f"{type(error).__name__}: {error}"

def child(work, *arguments):
    # The result of `work` in a child that ends as any program does, finalizers and all; None where it dies or hangs.
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, json.dumps(work(*arguments)).encode())
        sys.exit(0)
    os.close(theirs)
    end = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, 9)
        time.sleep(0.01)
    return json.loads(os.read(ours, 65536) or b"null")

def drop():
    global retriever
    del retriever
    gc.collect()
    return "dropped"

if __name__ == "__main__":
    retriever = Retriever(url, "toy", protocol=protocol, timeout=5)
    said = {"before its first use": child(use, retriever), "parent": use(retriever)}
    said["after it"] = child(use, retriever)
    said["new one"] = child(lambda: use(Retriever(url, "toy", protocol=protocol)))
    said["dropped"] = child(drop)
    said["closed"] = child(retriever.close)
    waiting = concurrent.futures.ThreadPoolExecutor().submit(use, retriever, "sleep: 1")
    time.sleep(0.2)
    during = [child(use, retriever) for _ in range(10)]
    said["during a call"] = during[0] if len(set(during)) == 1 else during
    said["that call"] = waiting.result()
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            said[method] = pool.submit(use, retriever).result()
    said["parent at the end"] = [use(retriever) for _ in range(3)]
    print(json.dumps(said))
"""


def run(program: str, *arguments: str, folder: Path) -> str:
    """The output of a program; it says nothing else, and ends well."""
    script = folder / "program.py"
    script.write_text(program)
    # Later Pythons warn of every fork beside threads.
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_forks(server: Server, protocol: Protocol, tmp_path: Path) -> None:
    """Over HTTP a child connects by itself; gRPC dies of signal 11 there, so it is refused. The parent is not hurt."""
    said = json.loads(run(FORKS, server.url(protocol), protocol, folder=tmp_path))
    refused = "UnusableRetriever: gRPC does not work in a process that was forked from one which had used it"
    for case in ("after it", "new one", "during a call", "fork"):
        outcome = said.pop(case)
        assert outcome == 1 if protocol == "http" else str(outcome).startswith(refused), case
    assert said == {
        "before its first use": 1,
        "parent": 1,
        "dropped": "dropped",
        "closed": None,
        "that call": 1,
        "spawn": 1,
        "parent at the end": [1, 1, 1],
    }


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(duplicate: Callable[[Any], Any], url: str, protocol: Protocol) -> None:
    """A copy has the arguments and nothing else: it connects by itself, and outlives the original."""
    options = {"headers": {"x-team": "a"}, "token": "secret", "concurrency": 3, "timeout": 7}
    with Retriever(url, "toy", protocol=protocol, **options) as retriever:  # type: ignore[arg-type]
        other = duplicate(retriever)
    assert other._async._settings == retriever._async._settings
    assert (other._async._concurrency, other._async._connection._timeout.request) == (3, 7)
    with other:
        assert len(other.embed_text(["a"])) == 1

    async def use() -> int:
        original = AsyncRetriever(url, "toy", protocol=protocol, **options)  # type: ignore[arg-type]
        async with original, duplicate(original) as other:
            return len(await other.embed_text(["a"]))

    assert asyncio.run(use()) == 1


def test_a_secret_is_not_shown() -> None:
    retriever = Retriever("localhost:1", "toy", token="secret", headers={"x-key": "hidden"})
    shown = repr((retriever, retriever._async, retriever._async._connection._open_transport))
    assert "secret" not in shown
    assert "hidden" not in shown


def test_event_loops(server: Server) -> None:
    """One after the other works, two at a time do not."""
    retriever = AsyncRetriever(server.grpc_url, "toy", timeout=10)

    async def use() -> int:
        return len(await retriever.embed_text(["a", "b"]))

    assert [asyncio.run(use()) for _ in range(3)] == [2, 2, 2]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def there(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    assert there(use()) == 2
    for work in (use, retriever.close):
        with pytest.raises(UnusableRetriever, match=r"one event loop.*Make one in each loop, or use Retriever"):
            asyncio.run(work())
    assert there(use()) == 2
    there(retriever.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    with pytest.raises(UnusableRetriever, match="closed"):
        asyncio.run(use())


def test_a_second_event_loop_over_http(server: Server, tmp_path: Path) -> None:
    program = (
        "import asyncio, logging, sys\n"
        "from periscope_client import AsyncRetriever\n"
        "logging.getLogger('asyncio').disabled = True\n"  # aiohttp says there what was left open
        "retriever = AsyncRetriever(sys.argv[1], 'toy', protocol='http')\n"
        "async def use(end):\n"
        "    count = len(await retriever.embed_text(['a', 'b']))\n"
        "    if end: await retriever.close()\n"
        "    return count\n"
        "import warnings; warnings.simplefilter('ignore', ResourceWarning)\n"
        "print([asyncio.run(use(end)) for end in (False, False, True)])\n"
    )
    assert run(program, server.http_url, folder=tmp_path) == "[2, 2, 2]\n"


def test_closing_in_the_middle_of_an_async_call(url: str, protocol: Protocol) -> None:
    async def close() -> None:
        retriever = AsyncRetriever(url, "toy", protocol=protocol, retries=0)
        await retriever.info()
        call = asyncio.ensure_future(retriever.embed_text(["sleep: 2"]))
        await asyncio.sleep(0.2)
        await retriever.close()
        with pytest.raises(UnusableRetriever, match="closed before the answer came"):
            await call

    asyncio.run(close())


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            "threading.Thread(target=later).start()",
            "UnusableRetriever: the interpreter is ending, and a",
        ),
        ("threading.Thread(target=lambda: say('sleep: 9'), daemon=True).start(); time.sleep(0.5)", "closed before the"),
        ("atexit.register(say)", "UnusableRetriever: the interpreter is ending"),
        ("holder = Holder(); holder.itself = holder", "UnusableRetriever: this retriever is closed"),
    ],
    ids=["thread", "daemon", "atexit", "del"],
)
def test_the_end_of_the_interpreter(case: str, said: str, server: Server, tmp_path: Path) -> None:
    program = (
        "import atexit, sys, threading, time\n"
        "from PIL import Image\n"
        "from periscope_client import PeriscopeError, Retriever\n"
        "retriever = Retriever(sys.argv[1], 'rich')\n"
        "def say(text='a'):\n"
        "    try:\n"
        "        retriever.embed_image([Image.new('RGB', (4, 4))], [text])\n"
        "    except PeriscopeError as error:\n"
        "        print(type(error).__name__ + ':', error, flush=True)\n"
        "def later():\n"
        "    time.sleep(0.5)\n"
        "    say()\n"
        "class Holder:\n"
        "    def __del__(self): say()\n"
        "say()\n" + case + "\n"
    )
    assert said in run(program, server.grpc_url, folder=tmp_path)
