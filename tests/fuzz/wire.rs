//! The Postgres door: whatever bytes a client sends, its conversation ends, and the next client is served. Where the door asks for a
//! proof, nobody gets in without.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::OnceLock,
    time::Duration,
};

use alluvium_plan::{RoleLimits, ScramVerifier, User};
use alluvium_serve::{Users, postgres};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::house;

/// How long the door may say nothing to a client that has said everything. The fuzzer waits for less.
const PATIENCE: Duration = Duration::from_secs(30);
/// `user=u` in protocol 3.0.
const START_UP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0u\0\0";
/// A query, and the wish to end.
const FAREWELL: &[u8] = b"Q\0\0\0\x0dselect 1\0X\0\0\0\x04";

/// What says that somebody got in.
const ADMITTED: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// What a client sends. Where the first letter is `s`, it has said who it is before; where it is `u`, it has done so at a door that
/// asks for a password then.
///
/// # Panics
/// When anything panics, when the conversation does not end, when the next client is not answered, or when somebody gets in without
/// the password.
pub fn wire(data: &[u8]) {
    static DOORS: OnceLock<(Runtime, SocketAddr, SocketAddr)> = OnceLock::new();
    let (_, address, guarded) = DOORS.get_or_init(open);
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    match first {
        b's' => converse(*address, &[START_UP, bytes], Ending::Silence),
        b'u' => {
            let said = converse(*guarded, &[START_UP, bytes], Ending::Silence);
            let is_in = said.windows(ADMITTED.len()).any(|words| words == ADMITTED);
            assert!(!is_in, "a client without the password hears {said:?}");
            said
        }
        _ => converse(*address, &[bytes], Ending::Silence),
    };
    let said = converse(*address, &[START_UP, FAREWELL], Ending::Farewell);
    assert!(
        said.windows(8).any(|words| words == b"SELECT 1"),
        "the next client hears {said:?}"
    );
}

/// The only user of the door that asks, whose password nobody knows.
fn users() -> BTreeMap<String, User> {
    let user = User {
        password: Some(ScramVerifier {
            rounds: 4096,
            salt: vec![7; 16],
            stored_key: [7; 32],
            server_key: [9; 32],
        }),
        token: None,
        certificate: None,
        grants: BTreeSet::new(),
        limits: RoleLimits::default(),
    };
    BTreeMap::from([("u".to_owned(), user)])
}

async fn serve(users: &BTreeMap<String, User>) -> SocketAddr {
    let door = postgres::Door {
        engine: house::engine().await,
        users: Users::new(users),
        tls: None,
        clients: 4,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(postgres::serve(listener, door, std::future::pending()));
    address
}

fn open() -> (Runtime, SocketAddr, SocketAddr) {
    crate::bear_expected_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (open, guarded) =
        runtime.block_on(async { (serve(&BTreeMap::new()).await, serve(&users()).await) });
    (runtime, open, guarded)
}

/// How a client ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It has said that it will.
    Farewell,
    /// It says nothing more. Then it is gone, and its query with it.
    Silence,
}

/// Says everything, and hears until the door hangs up.
fn converse(address: SocketAddr, said: &[&[u8]], ending: Ending) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).expect("the door is open");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A door that has heard enough hangs up while its client still speaks.
    let _ = said.iter().try_for_each(|bytes| socket.write_all(bytes));
    if ending == Ending::Silence {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let mut heard = Vec::new();
    if let Err(error) = socket.read_to_end(&mut heard) {
        let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!waited, "the conversation does not end");
    }
    heard
}
