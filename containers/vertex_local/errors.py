"""Errors of the service, each with its HTTP code and its canonical status.

ServiceError
  InvalidArgumentError     400  the request is wrong whatever the state of the service
  FailedPreconditionError  400  the request is right, the resource is not in the state for it
  PermissionDeniedError    403  a page of another site asks, or the project's description forbids it
  NotFoundError            404  the resource named does not exist
  AlreadyExistsError       409  the id asked for is taken
  AbortedError             409  somebody else changed the resource first
  ResourceExhaustedError   429
  CancelledError           499
  InternalError            500
  UnimplementedError       501  the real service does this, this one does not
  UnavailableError         503  the model server does not answer
  DeadlineExceededError    504

StartError            the program cannot start: one line for stderr
"""

import errno
import json
import sqlite3
from collections.abc import Mapping
from typing import Any, ClassVar

import grpc


class ServiceError(Exception):
    """A request that the service refuses; the message names the resource and what can be done."""

    http_code: ClassVar[int] = 500
    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, *details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def rpc_code(self) -> int:
        """The number of the status in google.rpc.Code."""
        number: int = self.status.value[0]
        return number

    def body(self) -> str:
        """What Google's REST services answer in place of the resource, in JSON."""
        error = {"code": self.http_code, "message": self.message, "status": self.status.name}
        return json.dumps({"error": error | ({"details": self.details} if self.details else {})})


class InvalidArgumentError(ServiceError):
    http_code = 400
    status = grpc.StatusCode.INVALID_ARGUMENT


class FailedPreconditionError(ServiceError):
    http_code = 400
    status = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDeniedError(ServiceError):
    http_code = 403
    status = grpc.StatusCode.PERMISSION_DENIED


class NotFoundError(ServiceError):
    http_code = 404
    status = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(ServiceError):
    http_code = 409
    status = grpc.StatusCode.ALREADY_EXISTS


class AbortedError(ServiceError):
    http_code = 409
    status = grpc.StatusCode.ABORTED


class ResourceExhaustedError(ServiceError):
    http_code = 429
    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class CancelledError(ServiceError):
    http_code = 499
    status = grpc.StatusCode.CANCELLED


class InternalError(ServiceError):
    http_code = 500
    status = grpc.StatusCode.INTERNAL


class UnimplementedError(ServiceError):
    http_code = 501
    status = grpc.StatusCode.UNIMPLEMENTED


class UnavailableError(ServiceError):
    http_code = 503
    status = grpc.StatusCode.UNAVAILABLE


class DeadlineExceededError(ServiceError):
    http_code = 504
    status = grpc.StatusCode.DEADLINE_EXCEEDED


_BY_STATUS = {error.status: error for error in ServiceError.__subclasses__()}


def from_grpc(code: grpc.StatusCode, message: str) -> ServiceError:
    """The HTTP error for the status that a model's gRPC server answered."""
    return _BY_STATUS.get(code, InternalError)(message)


class StartError(Exception):
    """The emulator cannot start; the text says why and what to do."""


_FULL = {errno.ENOSPC, errno.EDQUOT}


def unforeseen(fault: BaseException) -> ServiceError:
    """What a client is told of a fault that no part of the service foresaw; of a full disk what to do."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return _full(cause)
        if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return _full(cause)
        cause = cause.__cause__ or cause.__context__
    return InternalError(f"{type(fault).__name__}: {fault}")


def _full(cause: BaseException) -> ServiceError:
    return ResourceExhaustedError(
        f"the disk of the state directory is full ({cause}), so nothing was changed; make room there, or start with"
        " another --state"
    )
