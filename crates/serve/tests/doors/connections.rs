//! Connections that end halfway, that lie about TLS, and that come from elsewhere.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned};
use tonic::Code;

use crate::{flight::Proof, house::*};

const ASK_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn whoever_stops_halfway_is_let_go() {
    let house = House::open(true, true);
    let in_the_middle = |address: SocketAddr, said: &[u8]| {
        let mut socket = TcpStream::connect((HERE, address.port())).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket.write_all(said).unwrap();
        socket
    };
    let mut proof = in_the_middle(house.postgres, &begin("ana"));
    let mut asked = [0; 1];
    proof.read_exact(&mut asked).unwrap();
    assert_eq!(asked, [b'R'], "a proof is asked for");
    let begun = Instant::now();
    for mut socket in [
        proof,
        in_the_middle(house.postgres, &ASK_FOR_TLS),
        in_the_middle(house.http, &[0x16, 3, 1]),
        in_the_middle(house.http, &[]),
        in_the_middle(house.flight, &[]),
        in_the_middle(house.flight, &[0x16, 3, 1]),
        in_the_middle(house.flight, b"PRI * HTTP/2.0"),
    ] {
        let mut rest = Vec::new();
        // It may be told so or not; what counts is that it ends.
        let ended = socket.read_to_end(&mut rest);
        let timed_out = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!timed_out, "still there after {:?}", begun.elapsed());
    }
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert_eq!(house.psql(HERE, "user=ana", PASSWORD, "SELECT 1"), "rows 1");
}

/// All that ana hears who says this behind her name.
fn heard_by_ana(house: &House, said: &[u8]) -> String {
    let mut socket = TcpStream::connect((HERE, house.postgres.port())).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.write_all(&[&begin("ana"), said].concat()).unwrap();
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

/// The decoder of such a message panics. That is an answer, and nobody else hears of it.
#[test]
fn a_message_that_is_shorter_than_it_says_is_answered() {
    let house = House::open(false, false);
    let a_promise_of_parameters = b"P\0\0\0\x11\0select 1\0\0\x09\0";
    let heard = heard_by_ana(&house, a_promise_of_parameters);
    assert!(heard.contains("FATAL\0C08P01\0"), "{heard}");
    assert_eq!(house.psql(HERE, "user=ana", PASSWORD, "SELECT 1"), "rows 1");
}

/// The same where it is a password's, of somebody who has not been let in.
#[test]
fn a_proof_that_is_shorter_than_it_says_is_answered() {
    let house = House::open(true, false);
    let nothing = &b"p\0\0\0\x04"[..];
    let too_little = b"p\0\0\0\x16SCRAM-SHA-256\0\0\0\x10\0";
    for proof in [nothing, too_little] {
        let heard = heard_by_ana(&house, proof);
        assert!(heard.contains("FATAL\0C08P01\0"), "{heard}");
    }
    assert_eq!(house.psql(HERE, "user=ana", PASSWORD, "SELECT 1"), "rows 1");
}

#[test]
fn what_was_said_before_tls_does_not_count_as_said_in_it() {
    let house = House::open(true, true);
    let config = Arc::new(house.client_config(None));
    let answers = |in_the_clear: &[u8], encrypted: &[u8]| {
        let mut socket = TcpStream::connect((HERE, house.postgres.port())).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket
            .write_all(&[&ASK_FOR_TLS, in_the_clear].concat())
            .unwrap();
        let mut yes = [0; 1];
        socket.read_exact(&mut yes).unwrap();
        assert_eq!(yes, [b'S']);
        let name = "localhost".try_into().unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        let mut stream = StreamOwned::new(client, socket);
        // Where nothing more is said, an answer could only be to what came before.
        let sent = stream.write_all(encrypted).and_then(|()| stream.flush());
        let mut first = [0; 1];
        sent.and_then(|()| stream.read_exact(&mut first))
            .map(|()| first[0])
    };
    assert_eq!(answers(&[], &begin("ana")).unwrap(), b'R');
    assert!(answers(&begin("ana"), &[]).is_err());
}

#[test]
fn from_other_machines_nothing_is_said_in_the_clear() {
    let outside = outside();
    if outside.is_loopback() {
        println!("skipped: this machine has no address that others see");
        return;
    }
    let ana = format!("ana:{PASSWORD}");
    for has_users in [true, false] {
        let house = House::open(has_users, true);
        let (status, told) = house.sql("http", outside, "SELECT 1", &["-u", &ana]);
        assert_eq!(status, 403, "{told}");
        assert!(told.contains("over TLS only"), "{told}");
        assert_eq!(house.curl("http", outside, "/livez", &[]).0, 403);
        let printed = house.psql(outside, "user=ana sslmode=disable", PASSWORD, "SELECT 1");
        assert!(printed.contains("over TLS only"), "{printed}");
        let ana_at_flight = Proof::Handshake("ana", PASSWORD);
        let told = house.flight_sql("http", outside, "SELECT 1", &ana_at_flight);
        let told = told.unwrap_err();
        assert_eq!(told.code, Code::Unauthenticated, "{told:?}");
        assert!(told.message.contains("over TLS only"), "{told:?}");
        let rows = house.flight_sql("https", outside, "SELECT 1", &ana_at_flight);
        assert_eq!(rows.unwrap(), 1);
        assert_eq!(
            house.sql("https", outside, "SELECT 1", &["-u", &ana]).0,
            200
        );
        let printed = house.psql(
            outside,
            "user=ana sslmode=verify-full",
            PASSWORD,
            "SELECT 1",
        );
        assert_eq!(printed, "rows 1");
    }
    let bare = House::open(false, false);
    assert_eq!(bare.sql("http", outside, "SELECT 1", &[]).0, 403);
    let told = bare.flight_sql("http", outside, "SELECT 1", &Proof::Nothing);
    assert_eq!(told.unwrap_err().code, Code::Unauthenticated);
    let printed = bare.psql(outside, "user=ana", PASSWORD, "SELECT 1");
    assert!(printed.contains("over TLS only"), "{printed}");
}
