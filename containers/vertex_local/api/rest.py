"""The REST API: paths and JSON in, the method's message out."""

import inspect
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .. import messages
from ..errors import NotFoundError, ServiceError, UnimplementedError, unforeseen
from ..projects import Projects
from ..services.predictions import Predictions
from .methods import HttpRule, Method, implemented, methods_of
from .transcoding import check_query, request_message

_log = logging.getLogger(__name__)
_HTTP_METHODS = ["GET", "POST", "PATCH", "DELETE"]


class Rest:
    """The HTTP paths of some services.

    Predictions are not made into messages: their bodies, megabytes of numbers, pass as they are.
    """

    def __init__(self, services: Mapping[str, object], predictions: Predictions, projects: Projects) -> None:
        self._projects = projects
        self._answers = {(method.service, method.name): answer for method, answer in implemented(services)}
        self._bodies = {"Predict": predictions.predict_body, "RawPredict": predictions.raw_predict_body}
        # By HTTP method and by the verb after the colon, so that few patterns are tried.
        self._rules: dict[tuple[str, str], list[tuple[HttpRule, Method]]] = defaultdict(list)
        for service in services:
            for method in methods_of(service):
                for rule in method.rules:
                    self._rules[rule.http_method, rule.verb].append((rule, method))

    def routes(self) -> list[BaseRoute]:
        """``/v1`` and ``/ui``, the prefix under which Google's own clients follow operations."""
        return [Route(f"/{root}/{{path:path}}", self._answer, methods=_HTTP_METHODS) for root in ("v1", "ui")]

    async def _answer(self, request: Request) -> Response:
        try:
            rule, method, path_value = self._find(request)
            if method.name in self._bodies:
                return await self._pass_on(method, path_value, request)
            result = await self._call(rule, method, path_value, request)
        except ServiceError as error:
            return error_answer(error)
        except Exception as fault:
            _log.exception("%s %s", request.method, request.url.path)
            return error_answer(unforeseen(fault))
        enums_as_integers = "enum-encoding=int" in request.query_params.get("$alt", "")
        return Response(messages.render(result, enums_as_integers=enums_as_integers), media_type="application/json")

    def _find(self, request: Request) -> tuple[HttpRule, Method, str]:
        path: str = request.scope["path"]
        verb = path.rpartition("/")[2].rpartition(":")[2] if ":" in path.rpartition("/")[2] else ""
        for rule, method in self._rules.get((request.method, verb), []):
            match = rule.path.fullmatch(path)
            if match:
                return rule, method, match[1]
        raise NotFoundError(f"{request.method} {path} is no method of Vertex AI's services of models and pipelines")

    async def _call(self, rule: HttpRule, method: Method, path_value: str, request: Request) -> Any:
        answer = self._answers.get((method.service, method.name))
        if not answer:
            raise UnimplementedError(f"{method.service}.{method.name} is not implemented by this emulator")
        query = request.query_params.multi_items()
        message = request_message(method, rule, path_value, query, await request.body())
        self._projects.number(message)
        result = answer(message)
        return await result if inspect.isawaitable(result) else result

    async def _pass_on(self, method: Method, path_value: str, request: Request) -> Response:
        check_query(request.query_params.multi_items())
        content_type = request.headers.get("content-type", "application/json")
        answer = await self._bodies[method.name](
            self._projects.numbered(path_value), await request.body(), content_type
        )
        return Response(answer.content, headers=answer.headers, media_type=answer.content_type)


def error_answer(error: ServiceError) -> Response:
    """What Google's REST services answer in place of the resource."""
    return Response(error.body(), error.http_code, media_type="application/json")
