"""The API's numbers for the domain's enums. They are matched by name, so that a new value cannot be forgotten."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from skilder.keys.v1 import (
    activity_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    catalog_service_pb2,
    common_pb2,
    key_pb2,
    key_service_pb2,
    workspace_pb2,
)
from skilder_keys.domain.access import Ability
from skilder_keys.domain.activity import UsageGroup, Verdict
from skilder_keys.domain.audit_events import AuditAction
from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.difference import Action, Part
from skilder_keys.domain.explanations import HatReach
from skilder_keys.domain.key_filter import KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyAction, KeyLimit, KeyState, PreviousKeys, RevokeScope
from skilder_keys.domain.principal import PrincipalKind
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.tool_sets import ToolSetView
from skilder_keys.domain.workspace import HatAudience, MemberRole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import Enum

    from google.protobuf.descriptor import EnumDescriptor, FileDescriptor

Value = TypeVar("Value", bound="Enum")


def numbers(values: type[Value], api: EnumDescriptor) -> Mapping[Value, Any]:
    """Return the API's number of each value, e.g. that of KEY_TYPE_USER for KeyType.USER.

    Raises:
        ValueError: A value exists on one side only. The API's zero, which means no value, does not count.
    """
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", api.name).upper()
    matches = {value: api.values_by_name.get(f"{prefix}_{value.name}") for value in values}
    numbers = {value: each.number for value, each in matches.items() if each is not None}
    if set(numbers.values()) != {each.number for each in api.values if each.number} or len(numbers) != len(matches):
        raise ValueError(f"{values.__name__} and the API's {api.name} have different values")
    return numbers


def _enum(file: FileDescriptor, name: str) -> EnumDescriptor:
    return file.enum_types_by_name[name]


ABILITIES = numbers(Ability, _enum(common_pb2.DESCRIPTOR, "Ability"))
KEY_TYPES = numbers(KeyType, _enum(key_pb2.DESCRIPTOR, "KeyType"))
KEY_STATES = numbers(KeyState, _enum(key_pb2.DESCRIPTOR, "KeyState"))
POLICY_RULES = numbers(PolicyRule, _enum(key_pb2.DESCRIPTOR, "PolicyRule"))
KEY_ACTIONS = numbers(KeyAction, _enum(key_pb2.DESCRIPTOR, "KeyAction"))
KEY_LIMITS = numbers(KeyLimit, _enum(key_pb2.DESCRIPTOR, "KeyLimit"))
KEY_ORDERS = numbers(KeyOrder, _enum(key_service_pb2.DESCRIPTOR, "KeyOrder"))
PREVIOUS_KEYS = numbers(PreviousKeys, _enum(key_service_pb2.DESCRIPTOR, "PreviousKeys"))
REVOKE_SCOPES = numbers(RevokeScope, _enum(key_service_pb2.DESCRIPTOR, "RevokeScope"))
PRINCIPAL_KINDS = numbers(PrincipalKind, _enum(common_pb2.DESCRIPTOR, "PrincipalKind"))
MEMBER_ROLES = numbers(MemberRole, _enum(workspace_pb2.DESCRIPTOR, "MemberRole"))
HAT_AUDIENCES = numbers(HatAudience, _enum(workspace_pb2.DESCRIPTOR, "HatAudience"))
WORKSPACE_PARTS = numbers(Part, _enum(catalog_service_pb2.DESCRIPTOR, "WorkspacePart"))
CHANGE_ACTIONS = numbers(Action, _enum(catalog_service_pb2.DESCRIPTOR, "ChangeAction"))
HAT_REACHES = numbers(HatReach, _enum(key_service_pb2.DESCRIPTOR, "HatReach"))
TOOL_SET_VIEWS = numbers(ToolSetView, _enum(authorization_service_pb2.DESCRIPTOR, "ToolSetView"))
DENIAL_REASONS = numbers(DenialReason, _enum(authorization_service_pb2.DESCRIPTOR, "DenialReason"))
VERDICTS = numbers(Verdict, _enum(activity_service_pb2.DESCRIPTOR, "Verdict"))
USAGE_GROUPS = numbers(UsageGroup, _enum(activity_service_pb2.DESCRIPTOR, "UsageGroup"))
AUDIT_ACTIONS = numbers(AuditAction, _enum(audit_service_pb2.DESCRIPTOR, "AuditAction"))
