//! Between the store's words and etcd's messages.

use super::pb::{self, compare, event, request_op, response_op};
use super::unavailable;
use crate::{
    Compare, DeleteResponse, Error, Event, EventKind, KeyRange, KeyValue, Lease, LeaseId, Op, OpResponse,
    RangeRequest, RangeResponse, Select, Target, Txn, TxnResponse,
};
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Code;

/// What etcd says no to.
pub(super) enum Refusal {
    Compacted,
    Future,
    TooLarge,
    Other(Error),
}

pub(super) fn refusal(status: &tonic::Status) -> Refusal {
    // etcd tells its errors apart by their text alone.
    let text = status.message();
    let says = |part: &str| text.contains(part);
    Refusal::Other(match status.code() {
        Code::OutOfRange if says("has been compacted") => return Refusal::Compacted,
        Code::OutOfRange if says("future revision") => return Refusal::Future,
        Code::InvalidArgument if says("request is too large") => return Refusal::TooLarge,
        Code::InvalidArgument if says("duplicate key") => Error::DuplicateKey { key: Bytes::new() },
        Code::InvalidArgument if says("key is not provided") => Error::Invalid("key is empty"),
        Code::InvalidArgument if says("too many operations") => {
            Error::Invalid("too many operations in a transaction")
        }
        Code::ResourceExhausted if says("database space exceeded") => Error::NoSpace {
            path: PathBuf::from("etcd"),
        },
        Code::NotFound if says("lease not found") => Error::LeaseNotFound(0),
        _ => unavailable("etcd", status.clone()),
    })
}

/// The error for a status of a call that names no revision.
pub(super) fn error(status: tonic::Status) -> Error {
    match refusal(&status) {
        Refusal::Other(error) => error,
        Refusal::Compacted | Refusal::Future | Refusal::TooLarge => unavailable("etcd", status),
    }
}

/// A range as etcd writes it: without an end one key, with the end `\0` everything from the key on.
pub(super) fn bounds(range: &KeyRange) -> (Bytes, Bytes) {
    const FIRST: Bytes = Bytes::from_static(b"\0");
    if range.is_empty() {
        // One key that nobody has.
        return (FIRST, Bytes::new());
    }
    let start = if range.start.is_empty() {
        FIRST
    } else {
        range.start.clone()
    };
    match (&range.end, range.single()) {
        (_, Some(_)) => (start, Bytes::new()),
        (Some(end), None) => (start, end.clone()),
        (None, None) => (start, FIRST),
    }
}

pub(super) fn range(request: &RangeRequest) -> pb::RangeRequest {
    let (key, range_end) = bounds(&request.range);
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(request.limit).unwrap_or(i64::MAX),
        revision: request.revision,
        keys_only: request.select == Select::KeysOnly,
        count_only: request.select == Select::CountOnly,
    }
}

pub(super) fn range_response(response: pb::RangeResponse) -> RangeResponse {
    RangeResponse {
        revision: revision(response.header.as_ref()),
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: response.count,
    }
}

pub(super) fn txn(txn: Txn) -> pb::TxnRequest {
    let ops = |ops: Vec<Op>| ops.into_iter().map(op).collect();
    pb::TxnRequest {
        compare: txn.compare.into_iter().map(comparison).collect(),
        success: ops(txn.then),
        failure: ops(txn.otherwise),
    }
}

fn comparison(compare: Compare) -> pb::Compare {
    use compare::{CompareTarget, TargetUnion};
    let (target, union) = match compare.target {
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(version)),
        Target::CreateRevision(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(revision)),
        Target::ModRevision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value)),
    };
    pb::Compare {
        result: compare::CompareResult::Equal.into(),
        target: target.into(),
        key: compare.key,
        target_union: Some(union),
    }
}

fn op(op: Op) -> pb::RequestOp {
    let request = match op {
        Op::Put { key, value, lease } => {
            request_op::Request::RequestPut(pb::PutRequest { key, value, lease })
        }
        Op::Delete(range) => {
            let (key, range_end) = bounds(&range);
            request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                range_end,
                prev_kv: true,
            })
        }
        Op::Range(request) => request_op::Request::RequestRange(range(&request)),
    };
    pb::RequestOp {
        request: Some(request),
    }
}

pub(super) fn txn_response(response: pb::TxnResponse) -> TxnResponse {
    TxnResponse {
        succeeded: response.succeeded,
        revision: revision(response.header.as_ref()),
        responses: response
            .responses
            .into_iter()
            .filter_map(|op| op.response)
            .map(op_response)
            .collect(),
    }
}

fn op_response(response: response_op::Response) -> OpResponse {
    match response {
        response_op::Response::ResponsePut(_) => OpResponse::Put,
        response_op::Response::ResponseRange(response) => OpResponse::Range(range_response(response)),
        response_op::Response::ResponseDeleteRange(response) => {
            let deleted = response.prev_kvs.into_iter().map(key_value).collect();
            OpResponse::Delete(DeleteResponse { deleted })
        }
    }
}

pub(super) fn event(event: pb::Event) -> Event {
    let kind = if event.r#type() == event::EventType::Delete {
        EventKind::Delete
    } else {
        EventKind::Put
    };
    Event {
        kind,
        kv: event.kv.map(key_value).unwrap_or_default(),
        prev: event.prev_kv.map(key_value),
    }
}

fn key_value(kv: pb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub(super) fn lease(id: LeaseId, seconds: i64) -> Lease {
    Lease {
        id,
        ttl: Duration::from_secs(seconds.unsigned_abs()),
    }
}

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
