"""The transport over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import aiohttp
import tritonclient.http.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from periscope_client._endpoint import Endpoint
from periscope_client._errors import (
    AccessDenied,
    InvalidInput,
    RequestError,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._gateway import gateway_error, tls_error, unreachable
from periscope_client._transport import Tensors, collect, datatype, server_error

_KINDS: dict[str, type[RequestError]] = {
    "400": InvalidInput,
    "401": AccessDenied,
    "403": AccessDenied,
    "404": UnknownModel,
    "413": InvalidInput,
    "429": ServerUnavailable,
    "500": ServerFault,
    "502": ServerUnavailable,
    "503": ServerUnavailable,
    "504": ServerUnavailable,
}


# tritonclient's message for an answer without a body, which is not Triton's.
_EMPTY = "client received an empty response"


class HttpTransport:
    """`Transport` over `tritonclient.http.aio`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # No limits here: how many requests are in flight, and for how long, is decided above the seam.
        self._client = triton.InferenceServerClient(
            endpoint.address + endpoint.path,
            conn_limit=0,
            conn_timeout=None,
            ssl=endpoint.tls is not None,
            ssl_context=None if endpoint.tls is None else endpoint.tls.context(),
        )
        self._client._stub.trace_configs.append(self._no_redirects())

    async def infer(
        self, model: str, inputs: Tensors, outputs: Sequence[str], request_id: str = ""
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), datatype(array))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        asked = [triton.InferRequestedOutput(name) for name in outputs]
        result = await self._guard(
            self._client.infer(model, tensors, outputs=asked, request_id=request_id, headers=self._headers())
        )
        return collect(result, [output["name"] for output in result.get_response()["outputs"]])

    async def config(self, model: str) -> dict[str, Any]:
        """See `Transport`."""
        config: dict[str, Any] = await self._guard(self._client.get_model_config(model, headers=self._headers()))
        return config

    async def models(self) -> list[str]:
        """See `Transport`."""
        index = await self._guard(self._client.get_model_repository_index(headers=self._headers()))
        return [entry["name"] for entry in index if entry.get("state") == "READY"]

    async def close(self) -> None:
        """See `Transport`."""
        await self._client.close()

    def _headers(self) -> dict[str, str]:
        # A new one each time: tritonclient writes the length of the request's JSON into it.
        return dict(self._endpoint.headers)

    async def _guard(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except aiohttp.ClientResponseError:
            raise self._not_triton("it does not speak HTTP") from None
        except (aiohttp.ClientError, OSError) as error:
            detail = str(error) or type(error).__name__
            raise tls_error(self._endpoint, detail) or unreachable(self._endpoint, detail) from None
        except InferenceServerException as error:
            raise self._translate(error) from None
        except (ValueError, LookupError) as error:
            raise self._not_triton(type(error).__name__) from None

    def _translate(self, error: InferenceServerException) -> RequestError:
        status, text = str(error.status()), error.message()
        # Details are there only when the body was not Triton's JSON: a gateway's or another server's page.
        # And Triton says so of a path that it does not have; what it says of a model names the model.
        if error.debug_details() is None and isinstance(text, str) and not text.startswith((_EMPTY, "Not Found")):
            return server_error(_KINDS.get(status, UnexpectedAnswer), text or "no details")
        return gateway_error(self._endpoint, int(status)) or self._not_triton(f"status {status}")

    def _not_triton(self, detail: str) -> UnexpectedAnswer:
        remedy = "Is the path before /v2 right?" if self._endpoint.path else "Usually that is port 8000."
        return UnexpectedAnswer(f"what answers at {self._endpoint} is not Triton's HTTP port ({detail}). {remedy}")

    def _no_redirects(self) -> aiohttp.TraceConfig:
        """End the request at a redirect: followed, a POST would become a GET, and headers would go anywhere."""

        async def refuse(
            session: aiohttp.ClientSession, context: object, redirect: aiohttp.TraceRequestRedirectParams
        ) -> None:
            redirect.response.close()
            to = redirect.response.headers.get("Location", "nowhere").partition("?")[0]
            raise UnexpectedAnswer(
                f"{self._endpoint} redirects to {to} (status {redirect.response.status}), which is not followed. "
                "Give the address that it leads to."
            )

        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(refuse)
        trace.freeze()
        return trace
