//! The messages and clients made from `proto/etcd.proto`.

#![allow(clippy::all, reason = "generated")]
#![allow(unreachable_pub, reason = "generated")]

tonic::include_proto!("etcdserverpb");
