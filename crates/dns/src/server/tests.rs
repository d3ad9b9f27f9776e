//! The server over real sockets on loopback.

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::answer::tests::index;

fn options(listen: &str) -> Options {
    Options {
        listen: vec![listen.parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/nonexistent".into(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
    }
}

async fn start(forward: Forwarder) -> (Server, SocketAddr) {
    let server = Server::start_from(Arc::new(index()), forward, options("127.0.0.1:0"))
        .await
        .unwrap();
    let address = server.addresses()[0];
    (server, address)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream
        .write_all(&(bytes.len() as u16).to_be_bytes())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

/// A name server that answers every question with one address, over UDP and TCP alike.
async fn upstream(records: usize) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let answer = move |bytes: &[u8]| {
        let asked = Message::from_vec(bytes).unwrap();
        let name = asked.queries[0].name().clone();
        let mut reply = asked.into_response();
        for n in 0..records {
            let ip = IpAddr::from([192, 0, 2, n as u8]);
            let IpAddr::V4(ip) = ip else { unreachable!() };
            reply.add_answer(Record::from_rdata(
                name.clone(),
                60,
                hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A(ip)),
            ));
        }
        reply
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut reply = answer(&buffer[..length]);
            if records > 40 {
                reply = reply.truncate();
            }
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut buffer).await.unwrap();
            let bytes = answer(&buffer).to_vec().unwrap();
            stream
                .write_all(&(bytes.len() as u16).to_be_bytes())
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn answers_over_udp_and_tcp_have_their_outer_form() {
    let (server, address) = start(Forwarder::to(Vec::new())).await;
    let found = ask_udp(address, &question("web.ns.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(
        (found.metadata.id, found.metadata.response_code),
        (77, ResponseCode::NoError)
    );
    assert!(found.metadata.authoritative && found.metadata.recursion_available);
    assert_eq!(found.answers.len(), 1);
    assert!(found.edns.is_none(), "nobody asked for it");

    let mut extended = question("nobody.ns.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    extended.set_edns(edns);
    let none = ask_tcp(address, &extended).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(none.edns.unwrap().max_payload(), 1232);

    let inside = ask_udp(address, &question("in.ns.svc.cluster.local.", RecordType::A)).await;
    let kinds: Vec<RecordType> = inside.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);

    let reverse = ask_udp(address, &question("5.0.96.10.in-addr.arpa.", RecordType::PTR)).await;
    assert_eq!(reverse.answers[0].data.to_string(), "web.ns.svc.cluster.local.");
    let lost = ask_udp(address, &question("example.org.", RecordType::A)).await;
    assert_eq!(lost.metadata.response_code, ResponseCode::NXDomain);
    server.stop().await;
}

#[tokio::test]
async fn addresses_take_turns() {
    let (server, address) = start(Forwarder::to(Vec::new())).await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let found = ask_udp(address, &question("db.ns.svc.cluster.local.", RecordType::A)).await;
        first.insert(found.answers[0].data.to_string());
    }
    assert_eq!(first.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn other_names_are_forwarded_past_a_dead_server() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let (server, address) = start(Forwarder::to(vec![gone, upstream(1).await])).await;
    let found = ask_udp(address, &question("example.org.", RecordType::A)).await;
    assert_eq!(found.answers[0].data.to_string(), "192.0.2.0");
    assert!(!found.metadata.authoritative);
    let external = ask_udp(address, &question("out.ns.svc.cluster.local.", RecordType::A)).await;
    let kinds: Vec<RecordType> = external.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_truncated_and_complete_over_tcp() {
    let (server, address) = start(Forwarder::to(vec![upstream(100).await])).await;
    let asked = question("many.example.org.", RecordType::A);
    let cut = ask_udp(address, &asked).await;
    assert!(cut.metadata.truncation, "512 bytes without EDNS");
    let whole = ask_tcp(address, &asked).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 100);
    server.stop().await;
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let outcome = Server::start_from(
        Arc::new(index()),
        Forwarder::to(Vec::new()),
        options(&address.to_string()),
    )
    .await;
    let Err(StartError::Listen { address: named, .. }) = outcome else {
        panic!("must fail")
    };
    assert_eq!(named, address);
}
