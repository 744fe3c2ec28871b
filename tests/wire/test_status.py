"""Faults arrive as sent; statuses from elsewhere have no reason, and no metadata can raise."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwire.v1.errors_pb2 import ERROR_REASON_BUDGET_SPENT, ERROR_REASON_QUEUE_FULL, ERROR_REASON_UNSPECIFIED, ErrorReason
from gradwire.wire.status import DETAILS_KEY, DOMAIN, Fault, fault_of

# A loaded machine is no failure.
proof = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
FAULTS = st.builds(
    Fault,
    code=st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    reason=st.sampled_from(ErrorReason.values()),
    text=TEXTS,
    field=TEXTS,
    retry_after_s=st.none() | st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000),
    quota=TEXTS,
)
DETAILS = [ErrorInfo, BadRequest, RetryInfo, QuotaFailure]


def packed(detail):
    packed = Any()
    packed.Pack(detail)
    return packed


def read(value, key=DETAILS_KEY):
    return fault_of(grpc.StatusCode.INTERNAL, "text", [(key, value)])


def read_details(*details):
    return read(Status(code=13, details=details).SerializeToString())


NO_DETAILS = Fault(grpc.StatusCode.INTERNAL, ERROR_REASON_UNSPECIFIED, "text")


@pytest.mark.parametrize("reason", ErrorReason.values(), ids=ErrorReason.Name)
def test_every_reason_arrives(reason):
    fault = Fault(grpc.StatusCode.INTERNAL, reason, "text", "x", 1.5, "rows")
    assert fault_of(fault.code, fault.text, fault.metadata()) == fault


@proof
@given(FAULTS)
def test_a_fault_arrives_as_it_was_sent(fault):
    assert fault_of(fault.code, fault.text, fault.metadata()) == fault


@proof
@given(FAULTS)
def test_the_details_are_those_that_any_grpc_library_reads(fault):
    [(key, value)] = fault.metadata()
    status = Status.FromString(value)
    assert key == "grpc-status-details-bin"
    assert (Code.Name(status.code), status.message) == (fault.code.name, fault.text)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, "ERROR_REASON_" + info.reason) == ("gradwire", ErrorReason.Name(fault.reason))
    kinds = [detail.TypeName() for detail in status.details[1:]]
    assert ("google.rpc.BadRequest" in kinds) == bool(fault.field)
    assert ("google.rpc.RetryInfo" in kinds) == (fault.retry_after_s is not None)
    assert ("google.rpc.QuotaFailure" in kinds) == bool(fault.quota)


def test_a_spent_budget_never_says_when_to_retry_and_a_full_queue_does():
    spent = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, ERROR_REASON_BUDGET_SPENT, "text", quota="rows")
    full = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, ERROR_REASON_QUEUE_FULL, "text", retry_after_s=0.0)
    assert fault_of(spent.code, "text", spent.metadata()).retry_after_s is None
    assert fault_of(full.code, "text", full.metadata()).retry_after_s == 0.0


@proof
@given(FAULTS, st.lists(st.tuples(st.sampled_from(["x-id", "grpc-status-details", "a-bin"]), TEXTS | st.binary(max_size=9))))
def test_other_metadata_beside_the_details_changes_nothing(fault, others):
    assert fault_of(fault.code, fault.text, [*others, *fault.metadata(), *others]) == fault


@pytest.mark.parametrize("metadata", [None, (), [("x-id", "1")], [("x-id", b"\xff")]], ids=repr)
def test_a_status_without_details_has_no_reason(metadata):
    assert fault_of(grpc.StatusCode.INTERNAL, "text", metadata) == NO_DETAILS


@proof
@given(st.binary(max_size=80) | TEXTS)
def test_garbage_in_place_of_details_gives_no_reason(garbage):
    assert read(garbage) == NO_DETAILS


@proof
@given(st.sampled_from(DETAILS), st.binary(max_size=30))
def test_a_detail_of_a_known_type_with_garbage_inside_gives_no_reason(kind, garbage):
    url = f"type.googleapis.com/{kind.DESCRIPTOR.full_name}"
    assert read_details(Any(type_url=url, value=garbage)).reason == ERROR_REASON_UNSPECIFIED


@proof
@given(TEXTS, st.binary(max_size=30))
def test_a_detail_of_an_unknown_type_is_passed_over(url, garbage):
    info = ErrorInfo(domain=DOMAIN, reason="QUEUE_FULL")
    assert read_details(Any(type_url=url, value=garbage), packed(info)).reason == ERROR_REASON_QUEUE_FULL


@proof
@given(FAULTS, st.data())
def test_details_with_some_bytes_changed_never_raise(fault, draw):
    [(key, value)] = fault.metadata()
    damaged = bytearray(value)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(damaged)))
        damaged[at : at + draw.draw(st.integers(0, 9))] = draw.draw(st.binary(max_size=3))
    read_back = fault_of(fault.code, fault.text, [(key, bytes(damaged))])
    assert read_back.reason in ErrorReason.values()
    assert (read_back.code, read_back.text) == (fault.code, fault.text)


@proof
@given(FAULTS)
def test_details_cut_short_never_raise(fault):
    [(_, value)] = fault.metadata()
    for end in range(len(value)):
        assert read(value[:end]).reason in (ERROR_REASON_UNSPECIFIED, fault.reason)


@pytest.mark.parametrize("reason", ["", "NO_SUCH_REASON", "queue_full", "ERROR_REASON_QUEUE_FULL"])
def test_a_reason_that_the_contract_does_not_have_is_none(reason):
    assert read_details(packed(ErrorInfo(domain=DOMAIN, reason=reason))) == NO_DETAILS


def test_the_reason_of_another_domain_is_none_of_ours():
    assert read_details(packed(ErrorInfo(domain="googleapis.com", reason="QUEUE_FULL"))) == NO_DETAILS


def test_details_that_name_nothing_say_nothing():
    assert read_details(packed(BadRequest()), packed(QuotaFailure()), packed(ErrorInfo(domain=DOMAIN))) == NO_DETAILS
