//! Cursors and portals of the Postgres door hand out rows as they are read: nothing is collected for whoever asks for many.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::house::*;

/// A client of Postgres that reads no more than it is told to.
struct Raw(TcpStream);

impl Raw {
    fn enter(house: &House) -> Self {
        let socket = TcpStream::connect((HERE, house.postgres.port())).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut raw = Self(socket);
        raw.0.write_all(&begin("ana")).unwrap();
        raw.until(b'Z');
        raw
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap();
        let message = [&[kind], &length.to_be_bytes()[..], body].concat();
        self.0.write_all(&message).unwrap();
    }

    fn ask(&mut self, sql: &str) {
        self.send(b'Q', format!("{sql}\0").as_bytes());
    }

    /// The next message: its kind and its body.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; length as usize - 4];
        self.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    /// How many rows come before the next message of this kind, and that message's text.
    fn until(&mut self, kind: u8) -> (usize, String) {
        let mut rows = 0;
        loop {
            let (next, body) = self.next();
            if next == kind {
                return (rows, String::from_utf8_lossy(&body).into_owned());
            }
            assert_ne!(next, b'E', "{}", String::from_utf8_lossy(&body));
            rows += usize::from(next == b'D');
        }
    }
}

/// Rows that the engine has handed over of the one query that runs.
fn handed_over(house: &House) -> u64 {
    let (status, text) = house.curl("http", HERE, "/v1/queries", &[]);
    assert_eq!(status, 200, "{text}");
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let listed: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    listed["queries"][0]["rows"].as_u64().unwrap()
}

const WIDE: &str =
    "SELECT value, repeat('x', 1000) AS x FROM generate_series(1, 200000) AS t(value)";
/// What may be on the way: two sockets' buffers with a few MiB each, and a few batches of 8,192 rows. All that is asked for
/// below is several times as much.
const ON_THE_WAY: u64 = 60_000;

#[test]
fn many_rows_fetched_from_a_cursor_are_not_collected() {
    let house = House::open(false, false);
    let mut client = Raw::enter(&house);
    client.ask("BEGIN");
    client.until(b'Z');
    client.ask(&format!("DECLARE c CURSOR FOR {WIDE}"));
    client.until(b'Z');
    client.ask("FETCH 150000 FROM c");
    client.until(b'D');
    // The first row is there, and nobody reads the others.
    let rows = handed_over(&house);
    assert!(rows < ON_THE_WAY, "{rows} rows were read ahead");
    let (rest, tag) = client.until(b'C');
    assert_eq!((rest, tag.as_str()), (149_999, "FETCH 150000\0"));
    client.until(b'Z');
    // What was read beyond it is not lost, and passing over rows sends none.
    client.ask("MOVE 10000 FROM c");
    assert_eq!(client.until(b'C'), (0, "MOVE 10000\0".into()));
    client.until(b'Z');
    client.ask("FETCH 1 FROM c");
    let (_, row) = client.until(b'D');
    assert!(row.contains("160001"), "{row:?}");
    client.until(b'Z');
    client.ask("FETCH ALL FROM c");
    assert_eq!(client.until(b'C'), (39_999, "FETCH 39999\0".into()));
    client.until(b'Z');
    client.ask("FETCH 5 FROM c");
    assert_eq!(client.until(b'C'), (0, "FETCH 0\0".into()));
}

#[test]
fn a_portal_reads_no_further_than_it_is_asked_to() {
    let house = House::open(false, false);
    let mut client = Raw::enter(&house);
    client.ask("BEGIN");
    client.until(b'Z');
    let parse = [b"\0", WIDE.as_bytes(), b"\0\0\0"].concat();
    client.send(b'P', &parse);
    client.send(b'B', b"p\0\0\0\0\0\0\0\0");
    client.send(b'E', b"p\0\0\0\0\x0a");
    client.send(b'H', b"");
    assert_eq!(client.until(b's').0, 10);
    assert!(handed_over(&house) < ON_THE_WAY);
    // All of the rest, of which nobody reads more than a row.
    client.send(b'E', b"p\0\0\0\0\0");
    client.send(b'S', b"");
    client.until(b'D');
    let rows = handed_over(&house);
    assert!(rows < ON_THE_WAY, "{rows} rows were read ahead");
    assert_eq!(client.until(b'C').0, 199_989);
}

#[test]
fn a_cursor_is_fetched_by_one_at_a_time() {
    let house = House::open(false, false);
    let mut client = Raw::enter(&house);
    client.ask("BEGIN");
    client.until(b'Z');
    client.ask(&format!("DECLARE c CURSOR FOR {WIDE}"));
    client.until(b'Z');
    // A portal stops in the middle of its FETCH.
    client.send(b'P', b"\0FETCH 100 FROM c\0\0\0");
    client.send(b'B', b"p\0\0\0\0\0\0\0\0");
    client.send(b'E', b"p\0\0\0\0\x0a");
    client.send(b'H', b"");
    assert_eq!(client.until(b's').0, 10);
    client.send(b'P', b"\0FETCH 1 FROM c\0\0\0");
    client.send(b'B', b"q\0\0\0\0\0\0\0\0");
    client.send(b'E', b"q\0\0\0\0\0");
    client.send(b'S', b"");
    let refused = client.until_error();
    assert!(refused.contains("55006"), "{refused}");
}

impl Raw {
    fn until_error(&mut self) -> String {
        loop {
            let (kind, body) = self.next();
            if kind == b'E' {
                return String::from_utf8_lossy(&body).into_owned();
            }
        }
    }
}
