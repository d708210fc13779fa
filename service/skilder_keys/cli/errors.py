"""The messages and exit codes for failed calls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from skilder_keys.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.OUT_OF_RANGE: Exit.USAGE,
    grpc.StatusCode.UNAUTHENTICATED: Exit.FORBIDDEN,
    grpc.StatusCode.PERMISSION_DENIED: Exit.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Exit.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.CONFLICT,
    grpc.StatusCode.ABORTED: Exit.CONFLICT,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Exit.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.UNAVAILABLE,  # except for a message that is too large
    grpc.StatusCode.UNIMPLEMENTED: Exit.FAILED,
    grpc.StatusCode.INTERNAL: Exit.FAILED,
    grpc.StatusCode.DATA_LOSS: Exit.FAILED,
    grpc.StatusCode.UNKNOWN: Exit.FAILED,
}
# Fields whose command-line parameter is not named after the field.
_PARAMETERS = {
    "filter.after": "since",
    "filter.before": "until",
    "filter.caller": "caller",
    "filter.actions": "action",
    "filter.by.id": "by",
    "filter.created_after": "created_after",
    "filter.created_before": "created_before",
    "filter.created_by.id": "created_by",
    "filter.expires_after": "expires_after",
    "filter.expires_before": "expires_before",
    "filter.denial_reasons": "reason",
    "filter.family_id": "family_id",
    "filter.hint": "hint",
    "filter.key_id": "key",
    "filter.labels": "label",
    "filter.runtime_ids": "runtime",
    "filter.states": "state",
    "filter.text": "search",
    "filter.tool_id": "tool",
    "filter.types": "type_",
    "filter.unlimited": "unlimited",
    "filter.unused_since": "unused_since",
    "filter.user_id": "user",
    "filter.user_ids": "user",
    "filter.verdict": "verdict",
    "filter.violating": "violates",
    "hat_limit": "hat",
    "hat_limit.hat_ids": "hat",
    "key.description": "description",
    "key.expires_at": "expires_at",
    "key.hat_limit": "hat",
    "key.hat_limit.hat_ids": "hat",
    "key.id": "key",
    "key.labels": "label",
    "key.network_limit": "network",
    "key.network_limit.networks": "network",
    "labels": "label",
    "lifetime": "expires_in",
    "network_limit.networks": "network",
    "order_by": "sort",
    "page_size": "limit",
    "put.key_policy.max_active_keys_per_user": "max_keys_per_user",
    "put.key_policy.max_lifetime": "max_lifetime",
    "put.key_policy.revoke_unused_after": "revoke_unused_after",
    "unlimited": "all_hats",
}
# A field of the part that a command like `workspace member set` puts. There is one, so its place says nothing.
_FIELD_OF_PART = re.compile(r"(?:put\.\w+|remove)\[\d+\]\.(?P<name>\w+)(?:\[\d+\])?")
_FIELD = re.compile(r"(?P<name>[a-z_.]+)(?:\[(?P<index>\d+)\])?")
# A word in a sentence is a field name if it has an underscore and is not quoted.
_NAME_IN_SENTENCE = re.compile(r"(?<![\w.'\"`-])[a-z]+(?:_[a-z]+)+(?![\w.'\"`-])")
_CALLER = "set --token-file or --data-dir, or add the certificate of --client-cert to the callers file"
_TOO_LARGE = re.compile(r"message larger than max", re.IGNORECASE)


def flag_of(field: str, flags: Mapping[str, str]) -> str:
    """Return the flag or argument that sets a request's field, or the field's name if there is none."""
    of_part = _FIELD_OF_PART.fullmatch(field)
    if of_part is not None:
        found = flag_of(of_part["name"], flags)
        added = flags.get(f"add_{of_part['name'].removesuffix('_ids')}")
        return field if found == of_part["name"] else f"{found} or {added}" if added else found
    match = _FIELD.fullmatch(field)
    if match is None:
        return field
    name = match["name"]
    for parameter in (_PARAMETERS.get(name, name), f"{name}_", name.removesuffix("_id"), name.removesuffix("_ids")):
        if parameter in flags:
            position = f" (number {int(match['index']) + 1})" if match["index"] else ""
            return flags[parameter] + position
    return field


def message_of(error: grpc.RpcError, server: str, flags: Mapping[str, str]) -> tuple[str, Exit]:
    """Return the message for a failed call, and the exit code.

    Args:
        error: The failed call.
        server: The address that was called.
        flags: What `arguments.flags_of` returned for the command.
    """
    code: grpc.StatusCode = error.code()
    details = " ".join((error.details() or code.name).split())
    status = rpc_status.from_call(error)
    info, bad_request = ErrorInfo(), BadRequest()
    for packed in status.details if status is not None else ():
        if not packed.Unpack(info):
            packed.Unpack(bad_request)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (info.reason == "MESSAGE_TOO_LONG" or _TOO_LARGE.search(details)):
        if details.startswith("CLIENT: Received"):
            return f"the response is larger than this command accepts: {details}", Exit.FAILED
        return f"the request is larger than the service accepts: {details}", Exit.USAGE
    if bad_request.field_violations:
        faults = [f"  {flag_of(each.field, flags)} {each.description}" for each in bad_request.field_violations]
        return "\n".join(["the request is malformed:", *faults]), _BY_STATUS[code]
    if not info.reason:
        return _from_grpc(code, details, server), _BY_STATUS[code]
    if code is grpc.StatusCode.UNAUTHENTICATED:
        # The service's own message is about headers, which the command's options set.
        return f"the service at {server} does not know this caller: {_CALLER}", _BY_STATUS[code]
    return _NAME_IN_SENTENCE.sub(lambda match: flag_of(match[0], flags), details), _BY_STATUS[code]


def _from_grpc(code: grpc.StatusCode, details: str, server: str) -> str:
    """Return the message for an error that does not come from the service, but from gRPC or a proxy."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"cannot reach the service at {server}: {details}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the service at {server} did not respond in time: {details}"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"the server at {server} does not know this call; is it Skilder Keys, and new enough? {details}"
    return f"the call to {server} failed with {code.name}: {details}"
