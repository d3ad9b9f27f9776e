//! Which protocol a request asks for, and the answer that takes it up.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::body::Body;

use super::forward::{self, Forwards};
use super::remote::{self, Options, Streams};
use super::{BoxIo, websocket};

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
const TUNNEL_PREFIX: &str = "SPDY/3.1+";
pub(super) const PORT_FORWARD: &str = "portforward.k8s.io";

/// What the streams are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exec or attach.
    RemoteCommand,
    PortForward,
    /// An answer's body, in messages: logs.
    Body,
}

/// A protocol both sides know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    pub(super) transport: Transport,
    /// As it was asked for; empty when it was not.
    pub(super) protocol: String,
    accept_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket {
        base64: bool,
    },
    Spdy,
    /// SPDY bytes in the messages of a WebSocket.
    SpdyInWebSocket,
}

/// Why a request cannot be upgraded, in the words of upstream's servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub status: StatusCode,
    pub message: String,
    accepted: Vec<&'static str>,
}

impl Refused {
    /// The response that says so; its body is [`Refused::message`].
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(self.message.clone());
        *response.status_mut() = self.status;
        for protocol in &self.accepted {
            response
                .headers_mut()
                .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
        }
        response
    }
}

impl Upgrade {
    /// Reads what the client offers and takes the first that is known.
    pub fn negotiate(headers: &HeaderMap, kind: Kind) -> Result<Upgrade, Refused> {
        let upgrade = words(headers, header::UPGRADE.as_str());
        let asked = words(headers, header::CONNECTION.as_str());
        if !asked.iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
            return Err(bad_request(
                "unable to upgrade: missing upgrade headers in request".to_owned(),
            ));
        }
        if upgrade.iter().any(|word| word.eq_ignore_ascii_case("websocket")) {
            return over_websocket(headers, kind);
        }
        if kind != Kind::Body && upgrade.iter().any(|word| word.eq_ignore_ascii_case("SPDY/3.1")) {
            return over_spdy(headers, kind);
        }
        Err(bad_request(
            "unable to upgrade: missing upgrade headers in request".to_owned(),
        ))
    }

    /// The response after which the connection is the protocol's.
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        // The protocol came from a header, so it can go into one.
        let protocol = HeaderValue::from_str(&self.protocol)
            .ok()
            .filter(|value| !value.is_empty());
        match self.transport {
            Transport::Spdy => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                headers.extend(protocol.map(|value| (http::HeaderName::from_static(STREAM_PROTOCOL), value)));
            }
            Transport::WebSocket { .. } | Transport::SpdyInWebSocket => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                let key = self
                    .accept_key
                    .as_deref()
                    .and_then(|key| HeaderValue::from_str(key).ok());
                headers.extend(key.map(|value| (header::SEC_WEBSOCKET_ACCEPT, value)));
                headers.extend(protocol.map(|value| (header::SEC_WEBSOCKET_PROTOCOL, value)));
            }
        }
        response
    }

    /// Serves exec or attach on the upgraded connection.
    pub async fn remote_command(&self, io: BoxIo, options: Options) -> std::io::Result<Streams> {
        match self.transport {
            Transport::Spdy => remote::over_spdy(io, &self.protocol, options).await,
            Transport::WebSocket { base64 } => {
                websocket::remote_command(io, &self.protocol, base64, options).await
            }
            Transport::SpdyInWebSocket => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Serves port-forward on the upgraded connection. `ports` are those the request names; only the
    /// WebSocket form without SPDY needs them.
    pub async fn port_forward(&self, io: BoxIo, ports: &[u16]) -> std::io::Result<Forwards> {
        match self.transport {
            Transport::Spdy => Ok(forward::over_spdy(io)),
            Transport::SpdyInWebSocket => Ok(forward::over_spdy(websocket::tunnel(io).await)),
            Transport::WebSocket { base64 } => websocket::port_forward(io, base64, ports).await,
        }
    }

    /// Sends a body over the upgraded connection, until it or the client's interest ends.
    pub async fn body(&self, io: BoxIo, body: Body) -> std::io::Result<()> {
        match self.transport {
            Transport::WebSocket { base64 } => websocket::body(io, base64, body).await,
            Transport::Spdy | Transport::SpdyInWebSocket => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

fn over_websocket(headers: &HeaderMap, kind: Kind) -> Result<Upgrade, Refused> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()));
    let Some(key) = key else {
        return Err(bad_request("websocket: missing Sec-WebSocket-Key".to_owned()));
    };
    let offered = words(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str());
    let known = |protocol: &str| match (kind, protocol) {
        (Kind::RemoteCommand, "v5.channel.k8s.io" | "v4.channel.k8s.io" | "channel.k8s.io" | "") => {
            Some(Transport::WebSocket { base64: false })
        }
        (Kind::RemoteCommand, "v4.base64.channel.k8s.io" | "base64.channel.k8s.io") => {
            Some(Transport::WebSocket { base64: true })
        }
        (Kind::PortForward, "v4.channel.k8s.io" | "") => Some(Transport::WebSocket { base64: false }),
        (Kind::PortForward, "v4.base64.channel.k8s.io") => Some(Transport::WebSocket { base64: true }),
        (Kind::Body, "binary.k8s.io" | "") => Some(Transport::WebSocket { base64: false }),
        (Kind::Body, "base64.binary.k8s.io") => Some(Transport::WebSocket { base64: true }),
        (Kind::PortForward, tunnelled) if tunnelled.strip_prefix(TUNNEL_PREFIX) == Some(PORT_FORWARD) => {
            Some(Transport::SpdyInWebSocket)
        }
        _ => None,
    };
    let offered = if offered.is_empty() { vec![""] } else { offered };
    let taken = offered
        .iter()
        .find_map(|protocol| known(protocol).map(|transport| (transport, *protocol)));
    match taken {
        Some((transport, protocol)) => Ok(Upgrade {
            transport,
            protocol: protocol.to_owned(),
            accept_key: Some(key),
        }),
        None => Err(bad_request(format!(
            "websocket: none of the offered protocols is known: {}",
            offered.join(", ")
        ))),
    }
}

fn over_spdy(headers: &HeaderMap, kind: Kind) -> Result<Upgrade, Refused> {
    let accepted: &[&'static str] = match kind {
        Kind::RemoteCommand => &[
            "v4.channel.k8s.io",
            "v3.channel.k8s.io",
            "v2.channel.k8s.io",
            "channel.k8s.io",
        ],
        Kind::PortForward => &[PORT_FORWARD],
        Kind::Body => &[],
    };
    let offered = words(headers, STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(bad_request(
            "unable to upgrade: X-Stream-Protocol-Version is required".to_owned(),
        ));
    }
    match offered.iter().find(|protocol| accepted.contains(protocol)) {
        Some(protocol) => Ok(Upgrade {
            transport: Transport::Spdy,
            protocol: (*protocol).to_owned(),
            accept_key: None,
        }),
        None => Err(Refused {
            status: StatusCode::FORBIDDEN,
            message: format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                offered.join(" "),
                accepted.join(" ")
            ),
            accepted: accepted.to_vec(),
        }),
    }
}

fn bad_request(message: String) -> Refused {
    Refused {
        status: StatusCode::BAD_REQUEST,
        message,
        accepted: Vec::new(),
    }
}

/// A header's words, whether in one line or several.
fn words<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let lines = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = list.iter().map(|(name, value)| {
            (
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static(value),
            )
        });
        pairs.fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    const WS: [(&str, &str); 3] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    const SPDY: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")];

    fn ws(protocol: &'static str, kind: Kind) -> Result<Upgrade, Refused> {
        Upgrade::negotiate(
            &headers(&[&WS[..], &[("sec-websocket-protocol", protocol)]].concat()),
            kind,
        )
    }

    #[test]
    fn the_first_known_protocol_is_taken() {
        let taken = ws(
            "v9.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io",
            Kind::RemoteCommand,
        )
        .unwrap();
        assert_eq!(taken.protocol, "v5.channel.k8s.io");
        let response = taken.response();
        assert_eq!(
            response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let base64 = ws("base64.channel.k8s.io", Kind::RemoteCommand).unwrap();
        assert_eq!(base64.transport, Transport::WebSocket { base64: true });
        let tunnel = ws("SPDY/3.1+portforward.k8s.io", Kind::PortForward).unwrap();
        assert_eq!(tunnel.transport, Transport::SpdyInWebSocket);
        assert!(
            Upgrade::negotiate(&headers(&WS), Kind::RemoteCommand)
                .unwrap()
                .protocol
                .is_empty()
        );
    }

    #[test]
    fn spdy_versions_are_lines_of_a_header() {
        let offer = [
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ];
        let taken = Upgrade::negotiate(&headers(&[&SPDY[..], &offer].concat()), Kind::RemoteCommand).unwrap();
        assert_eq!(
            taken.response().headers()["x-stream-protocol-version"],
            "v4.channel.k8s.io"
        );
        let refused =
            Upgrade::negotiate(&headers(&[&SPDY[..], &offer].concat()), Kind::PortForward).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert_eq!(
            refused.response().headers()["x-accepted-stream-protocol-versions"],
            "portforward.k8s.io"
        );
    }

    #[test]
    fn what_cannot_be_upgraded_is_refused() {
        for list in [
            &[][..],
            &[("upgrade", "websocket")],
            &[("connection", "Upgrade"), ("upgrade", "h2c")],
            &SPDY,
        ] {
            let refused = Upgrade::negotiate(&headers(list), Kind::RemoteCommand).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        }
        assert!(ws("nonsense", Kind::RemoteCommand).is_err());
    }
}
