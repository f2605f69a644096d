//! What nobody reaches by SQL through any door, and what is left of those who go away in the middle (Q5, Q9, Q10).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use tonic::Code;

use crate::{
    flight::{Proof, of_flight},
    house::*,
};

/// Ways to a file, to a program, to a change: `{}` is a folder with a file `secret.csv`.
const ESCAPES: [&str; 40] = [
    "SELECT * FROM '{}/secret.csv'",
    "SELECT * FROM \"{}/secret.csv\"",
    "SELECT * FROM 'file://{}/secret.csv'",
    "SELECT * FROM \"file://{}/secret.csv\"",
    "TABLE \"{}/secret.csv\"",
    "SELECT * FROM read_csv('{}/secret.csv')",
    "SELECT * FROM read_json('{}/secret.csv')",
    "SELECT * FROM read_parquet('{}/*')",
    "SELECT * FROM parquet_metadata('{}/secret.csv')",
    "SELECT * FROM glob('{}/*')",
    "SELECT pg_read_file('{}/secret.csv')",
    "SELECT pg_read_binary_file('{}/secret.csv')",
    "SELECT pg_ls_dir('{}')",
    "SELECT lo_import('{}/secret.csv')",
    "SELECT lo_export(1, '{}/out.csv')",
    "SELECT * FROM dblink('host=localhost', 'SELECT 1') AS t(a int)",
    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}/secret.csv'",
    "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'http://127.0.0.1:1/x.parquet'",
    "COPY clicks FROM '{}/secret.csv'",
    "COPY clicks FROM PROGRAM 'cat {}/secret.csv'",
    "COPY (SELECT 1) TO '{}/out.csv'",
    "COPY clicks TO '{}/out.parquet' STORED AS PARQUET",
    "COPY (SELECT 1) TO PROGRAM 'touch {}/out.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{}/out.csv'",
    "EXPLAIN ANALYZE INSERT INTO clicks SELECT * FROM clicks",
    "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
    "SELECT 1; COPY (SELECT 1) TO '{}/out.csv'",
    "WITH gone AS (DELETE FROM clicks RETURNING *) SELECT * FROM gone",
    "SELECT * INTO t FROM clicks",
    "INSERT INTO clicks SELECT * FROM clicks",
    "INSERT OVERWRITE clicks SELECT * FROM clicks",
    "UPDATE clicks SET country = 'x'",
    "DELETE FROM clicks",
    "DROP TABLE clicks",
    "ALTER TABLE clicks RENAME TO t",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE c AS '{}/secret.so', 'f'",
    "LOAD '{}/secret.so'",
    "DO $$ BEGIN PERFORM pg_sleep(1); END $$",
    "CALL f('{}/secret.csv')",
    "SET datafusion.execution.listing_table_ignore_subdirectory = false",
];

#[test]
fn no_statement_leaves_the_sandbox_through_any_door() {
    let house = House::open(false, false);
    let folder = house.folder.path().join("cell");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("secret.csv"), format!("a\n{CANARY}\n")).unwrap();
    for escape in ESCAPES {
        let sql = escape.replace("{}", &folder.display().to_string());
        let printed = house.psql(HERE, "user=whoever", "", &sql);
        assert!(printed.contains("ERROR:"), "{sql}: {printed}");
        let (status, told) = house.sql("http", HERE, &sql, &[]);
        assert!((400..404).contains(&status), "{sql}: {status} {told}");
        assert!(told.contains("\"code\":\""), "{sql}: {told}");
        let fetched = house.flight_sql("http", HERE, &sql, &Proof::Nothing);
        let told = fetched.expect_err(&sql);
        let refused = [Code::InvalidArgument, Code::NotFound, Code::Unimplemented];
        assert!(refused.contains(&told.code), "{sql}: {told:?}");
        assert!(!told.message.contains(CANARY), "{sql}: {told:?}");
    }
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        house.psql(HERE, "user=whoever", "", "SELECT count(*) FROM clicks"),
        "rows 0"
    );
}

/// Rows without an end that matters.
const MANY: &str =
    "SELECT value, repeat('x', 20) AS text FROM generate_series(1, 9000000) AS t(value)";
/// No row for as long as anybody waits.
const NONE: &str = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b WHERE a.value + b.value < 0";

/// A client that says something and has heard something back.
fn heard(address: SocketAddr, said: &[u8], until: usize) -> TcpStream {
    let mut socket = TcpStream::connect((HERE, address.port())).unwrap();
    let patience = Some(Duration::from_secs(30));
    socket.set_read_timeout(patience).unwrap();
    socket.write_all(said).unwrap();
    let mut some = vec![0; until];
    socket.read_exact(&mut some).unwrap();
    socket
}

/// Long enough for a query to be at work.
const MOMENT: Duration = Duration::from_millis(50);

/// Goes away in the middle of an answer, or a moment later if it has not begun.
fn leave(socket: TcpStream, sql: &str) {
    if sql == NONE {
        std::thread::sleep(MOMENT);
    }
    drop(socket);
}

fn leave_http(house: &House, sql: &str, heard_bytes: usize) {
    let body = serde_json::json!({ "sql": sql }).to_string();
    let request = format!(
        "POST /v1/sql?format=csv HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    leave(heard(house.http, request.as_bytes(), heard_bytes), sql);
}

fn leave_postgres(house: &House, sql: &str, heard_bytes: usize) {
    let mut said = begin("whoever");
    said.push(b'Q');
    said.extend_from_slice(&u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
    said.extend_from_slice(sql.as_bytes());
    said.push(0);
    leave(heard(house.postgres, &said, heard_bytes), sql);
}

fn leave_flight(house: &House, sql: &str, heard_batches: usize) {
    house.runtime.block_on(async {
        let mut guest = house.guest("http", HERE, &Proof::Nothing).await.unwrap();
        let info = guest.announce(sql).await.unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        if heard_batches == 0 {
            // Its answer does not begin, so this client gives up.
            let asked = guest.fetch(ticket);
            let waited = tokio::time::timeout(MOMENT, asked).await;
            assert!(waited.is_err());
            return;
        }
        let mut batches = guest.fetch(ticket).await.unwrap();
        for _ in 0..heard_batches {
            batches.try_next().await.map_err(of_flight).unwrap();
        }
    });
}

/// Queries that run, without the one that asks.
fn running(house: &House) -> String {
    let sql = "SELECT count(*) - 1 FROM system.queries";
    house.psql(HERE, "user=whoever", "", sql)
}

#[test]
fn who_goes_away_in_the_middle_leaves_nothing_behind() {
    let house = House::open(false, false);
    // Each door once, so that what stays for good is there already.
    leave_http(&house, MANY, 100_000);
    leave_postgres(&house, MANY, 100_000);
    leave_flight(&house, MANY, 2);
    let idle = |house: &House| {
        let begun = Instant::now();
        while running(house) != "rows 0" {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{}",
                running(house)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    idle(&house);
    std::thread::sleep(Duration::from_secs(1));
    let tasks = || house.runtime.metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..167 {
        leave_http(&house, MANY, 100_000);
        leave_postgres(&house, MANY, 100_000);
        leave_flight(&house, MANY, 2);
    }
    for _ in 0..10 {
        leave_http(&house, NONE, 0);
        // What it hears is the welcome; the answer never begins.
        leave_postgres(&house, NONE, 50);
        leave_flight(&house, NONE, 0);
    }
    idle(&house);
    let begun = Instant::now();
    while tasks() > before {
        let late = begun.elapsed() > Duration::from_secs(30);
        assert!(!late, "{} tasks, {before} before", tasks());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_frame_that_claims_sixteen_megabytes_is_not_waited_for() {
    let house = House::open(false, false);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The most that the length field of HTTP/2 can say.
    let huge = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let said = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &huge].concat();
    let mut socket = heard(house.flight, &said, 9);
    let mut rest = Vec::new();
    let ended = socket.read_to_end(&mut rest);
    assert!(
        ended.is_ok()
            || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    );
    assert_eq!(
        house
            .flight_sql("http", HERE, "SELECT 1", &Proof::Nothing)
            .unwrap(),
        1
    );
}
