//! Many sockets that say nothing, or a byte now and then, and those that announce more than they may: nobody else is harmed, and
//! they are closed. What the Postgres door says to the same is asked of a whole server, among its clients' tests.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{flight::Proof, house::*};

const CROWD: usize = 1_000;
/// Both doors give a client ten seconds to begin; the rest is for a busy machine.
const CLOSED_BY: Duration = Duration::from_secs(40);

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect((HERE, address.port())).unwrap();
    socket.set_read_timeout(Some(CLOSED_BY)).unwrap();
    socket
}

/// Waits until the other end closes.
fn closes(mut socket: TcpStream, what: &str) {
    let mut rest = Vec::new();
    // It may be told why or not, and the end may be abrupt; what counts is that there is one.
    if let Err(error) = socket.read_to_end(&mut rest) {
        let still_open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!still_open, "{what} is still open");
    }
}

/// Sends a byte every half second; the last one that could be sent says how long that went on.
fn drip(address: SocketAddr, text: &'static [u8]) -> thread::JoinHandle<Duration> {
    let mut socket = connect(address);
    thread::spawn(move || {
        let begun = Instant::now();
        for byte in text.iter().cycle() {
            if begun.elapsed() > CLOSED_BY || socket.write_all(&[*byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(500));
        }
        begun.elapsed()
    })
}

fn asks_in_time(house: &House, what: &str) {
    let begun = Instant::now();
    let (status, text) = house.sql("http", HERE, "SELECT 1 AS one", &[]);
    assert_eq!(status, 200, "{what}: {text}");
    let rows = house.flight_sql("http", HERE, "SELECT 1 AS one", &Proof::Nothing);
    assert_eq!(rows.unwrap(), 1, "{what}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{what}: slow");
}

#[test]
fn a_crowd_that_says_nothing_harms_nobody_and_is_let_go() {
    let house = House::open(false, false);
    asks_in_time(&house, "alone");
    for address in [house.http, house.flight] {
        let crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(address)).collect();
        asks_in_time(&house, "beside a crowd");
        for socket in crowd {
            closes(socket, "a socket that says nothing");
        }
    }
    asks_in_time(&house, "after the crowds");
}

#[test]
fn whoever_sends_a_byte_now_and_then_is_let_go() {
    let house = House::open(false, false);
    let head = b"POST /v1/sql HTTP/1.1\r\nhost: x\r\nx-y: ";
    let slow = [
        drip(house.http, head),
        drip(house.http, b"a"),
        drip(house.flight, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"),
    ];
    asks_in_time(&house, "beside those who are slow");
    for slow in slow {
        let lasted = slow.join().unwrap();
        assert!(lasted < CLOSED_BY, "it could send for {lasted:?}");
    }
}

#[test]
fn of_a_gigabyte_that_is_announced_little_is_taken() {
    let house = House::open(false, false);
    asks_in_time(&house, "before");
    let flood = vec![b'x'; 64 << 10];
    let head = "POST /v1/sql HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
    let endless = "POST /v1/sql HTTP/1.1\r\nhost: x\r\nx-long: ";
    for (address, begin) in [
        (house.http, head.as_bytes().to_vec()),
        (house.http, endless.as_bytes().to_vec()),
        (house.flight, gigabyte_over_http_2()),
        (house.flight, frame_of_16_mib()),
    ] {
        let mut socket = connect(address);
        socket.set_write_timeout(Some(CLOSED_BY)).unwrap();
        socket.write_all(&begin).unwrap();
        let mut sent = 0;
        // It may be hung up on while it writes, or told to stop by nobody reading.
        while sent < 1 << 30 && socket.write_all(&flood).is_ok() {
            sent += flood.len();
        }
        assert!(sent < 64 << 20, "{} MiB were taken", sent >> 20);
        closes(socket, "a gigabyte");
    }
    asks_in_time(&house, "after a gigabyte");
}

/// A request of Flight whose message says that it has a gigabyte.
fn gigabyte_over_http_2() -> Vec<u8> {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &[]));
    // Headers without the table of names: literal, never indexed.
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (
            ":path",
            "/arrow.flight.protocol.FlightService/GetFlightInfo",
        ),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        headers.push(0x10);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend_from_slice(text.as_bytes());
        }
    }
    said.extend(frame(1, 4, 1, &headers));
    said.extend(frame(0, 0, 1, &[0, 0x40, 0, 0, 0]));
    said
}

/// A frame that is announced with 16 MiB, of which HTTP/2 allows 16 KiB.
fn frame_of_16_mib() -> Vec<u8> {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &[]));
    said.extend([0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]);
    said
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), body].concat()
}
