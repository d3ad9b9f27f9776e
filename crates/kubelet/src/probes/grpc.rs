//! The gRPC probe: `grpc.health.v1.Health/Check`. The two messages have one field each and are written by hand.

use std::time::Duration;

use bytes::{Buf, BufMut};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use super::run::{Ended, join_host_port};

const PATH: &str = "/grpc.health.v1.Health/Check";
const NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

pub async fn probe(host: &str, port: i32, service: &str, timeout: Duration) -> Ended {
    let address = join_host_port(host, u16::try_from(port).unwrap_or(0));
    let late = || {
        Ended::Failure(format!(
            "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
            timeout.as_secs()
        ))
    };
    match tokio::time::timeout(timeout, check(&address, service)).await {
        Err(_) => late(),
        Ok(Err(Failed::Connect(text))) => {
            Ended::Failure(format!("error: failed to connect service at {address:?}: {text}"))
        }
        Ok(Err(Failed::Call(status))) => Ended::Failure(match status.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            Code::DeadlineExceeded => format!(
                "timeout: health rpc did not complete within {}s",
                timeout.as_secs()
            ),
            code => format!(
                "error: health rpc probe failed: rpc error: code = {code:?} desc = {}",
                status.message()
            ),
        }),
        Ok(Ok(SERVING)) => Ended::Success,
        Ok(Ok(other)) => {
            let name = usize::try_from(other)
                .ok()
                .and_then(|i| NAMES.get(i))
                .copied()
                .unwrap_or("UNKNOWN");
            Ended::Failure(format!("service unhealthy (responded with {name:?})"))
        }
    }
}

enum Failed {
    Connect(String),
    Call(Box<Status>),
}

async fn check(address: &str, service: &str) -> Result<u64, Failed> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|e| e.user_agent("kube-probe/1.36"))
        .map_err(|e| Failed::Connect(e.to_string()))?;
    let channel = endpoint.connect().await.map_err(|e| {
        let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
        Failed::Connect(cause)
    })?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| Failed::Connect(e.to_string()))?;
    let path = ::http::uri::PathAndQuery::from_static(PATH);
    let answer = client
        .unary(Request::new(service.to_owned()), path, HealthCodec)
        .await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| Failed::Call(Box::new(status)))
}

/// Service name out, status in.
#[derive(Clone, Copy, Default)]
struct HealthCodec;

impl Codec for HealthCodec {
    type Encode = String;
    type Decode = u64;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for HealthCodec {
    type Item = String;
    type Error = Status;
    fn encode(&mut self, service: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if !service.is_empty() {
            // Field 1, length-delimited.
            buffer.put_u8(0x0a);
            put_varint(buffer, service.len() as u64);
            buffer.put_slice(service.as_bytes());
        }
        Ok(())
    }
}

impl Decoder for HealthCodec {
    type Item = u64;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(status_of(&bytes)))
    }
}

fn put_varint(buffer: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        // The lowest seven bits and the mark that more follow.
        buffer.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Field 1, a varint; absent means zero. Other fields do not exist in this message.
fn status_of(bytes: &[u8]) -> u64 {
    match bytes.split_first() {
        Some((0x08, rest)) => rest
            .iter()
            .take(10)
            .scan(false, |over, byte| {
                (!*over).then(|| {
                    *over = byte & 0x80 == 0;
                    byte
                })
            })
            .enumerate()
            .fold(0, |value, (i, byte)| value | u64::from(byte & 0x7f) << (7 * i)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(status_of(&[0x08, 0x01]), SERVING);
        assert_eq!(status_of(&[0x08, 0x02]), 2);
        assert_eq!(status_of(&[]), 0);
        let mut buffer = Vec::new();
        put_varint(&mut buffer, 300);
        assert_eq!(buffer, [0xac, 0x02]);
    }

    #[tokio::test]
    async fn nobody_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let ended = probe("127.0.0.1", i32::from(port), "", Duration::from_secs(5)).await;
        let Ended::Failure(text) = ended else {
            panic!("{ended:?}")
        };
        assert!(
            text.starts_with(&format!(
                "error: failed to connect service at \"127.0.0.1:{port}\""
            )),
            "{text}"
        );
    }
}
