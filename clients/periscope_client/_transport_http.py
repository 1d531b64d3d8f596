"""The transport over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import aiohttp
import tritonclient.http.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from periscope_client._errors import (
    InvalidInput,
    RequestError,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._transport import Tensors, collect, datatype, server_error, unreachable

_KINDS: dict[str, type[RequestError]] = {
    "400": InvalidInput,
    "404": UnknownModel,
    "500": ServerFault,
    "503": ServerUnavailable,
}

# A load balancer that has lost its server says so in HTML.
_GATEWAY = {"502", "503", "504"}


class HttpTransport:
    """`Transport` over `tritonclient.http.aio`."""

    def __init__(self, address: str) -> None:
        self._address = address
        # No limits here: how many requests are in flight, and for how long, is decided above the seam.
        self._client = triton.InferenceServerClient(address, conn_limit=0, conn_timeout=None)

    async def infer(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), datatype(array))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        asked = [triton.InferRequestedOutput(name) for name in outputs]
        result = await self._guard(self._client.infer(model, tensors, outputs=asked))
        return collect(result, [output["name"] for output in result.get_response()["outputs"]])

    async def config(self, model: str) -> dict[str, Any]:
        """See `Transport`."""
        config: dict[str, Any] = await self._guard(self._client.get_model_config(model))
        return config

    async def models(self) -> list[str]:
        """See `Transport`."""
        index = await self._guard(self._client.get_model_repository_index())
        return [entry["name"] for entry in index if entry.get("state") == "READY"]

    async def close(self) -> None:
        """See `Transport`."""
        await self._client.close()

    async def _guard(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except aiohttp.ClientResponseError:
            raise self._not_triton("it does not speak HTTP") from None
        except aiohttp.ClientError as error:
            raise unreachable(self._address, "http", str(error) or type(error).__name__) from None
        except InferenceServerException as error:
            status = str(error.status())
            # Details are there only when the body was not Triton's JSON: a proxy's or another server's page.
            if error.debug_details() is None:
                raise server_error(_KINDS.get(status, UnexpectedAnswer), error.message() or "no details") from None
            if status in _GATEWAY:
                raise ServerUnavailable(f"the gateway at {self._address} answers with status {status}") from None
            raise self._not_triton(f"status {status}") from None
        except (ValueError, LookupError) as error:
            raise self._not_triton(type(error).__name__) from None

    def _not_triton(self, detail: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(
            f"what answers at {self._address} is not Triton's HTTP port ({detail}). Usually that is port 8000."
        )
