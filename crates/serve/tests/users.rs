//! Both doors with users: every proof, over every kind of connection, to every kind of relation, as psql and curl see them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_plan::{
    CommittedTable, DoorTls, Finish, Grant, MeasureShape, PublishedTable, Publisher, RoleLimits,
    StateKind, StateShape, StatusBoard, TableShape, TokenHash, User,
};
use alluvium_query::{Limits, QueryEngine};
use alluvium_serve::{Renewed, Tls, Users, http, new_token, postgres, verifier_of};
use alluvium_store::{Store, StoreRules};
use datafusion::arrow::datatypes::{DataType, Field};
use object_store::memory::InMemory;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{net::TcpListener, runtime::Runtime};

const PASSWORD: &str = "correct horse";
/// Must never be seen in an answer.
const CANARY: &str = "canary-7c1f";

/// An empty table.
fn table() -> PublishedTable {
    let shape = TableShape {
        group_columns: vec![Arc::new(Field::new("country", DataType::Utf8, false))],
        states: vec![StateShape {
            name: "clicks".into(),
            kind: StateKind::Count,
            data_type: DataType::Int64,
        }],
        measures: vec![MeasureShape {
            name: "clicks".into(),
            expression: "count(*)".into(),
            state: 0,
            finish: Finish::Value,
            data_type: DataType::Int64,
        }],
    };
    PublishedTable {
        committed: CommittedTable {
            shape: Arc::new(shape),
            version: 4,
            files: Arc::default(),
            offsets: Arc::default(),
            watermark: None,
        },
        memory: Vec::new(),
    }
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl makes the certificates of these tests");
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256";

/// An authority `name.pem`, `name.key`.
fn authority(folder: &Path, name: &str) {
    let config = "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN=authority\n\
                  [ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
    fs::write(folder.join("ca.cnf"), config).unwrap();
    openssl(
        folder,
        &format!("req -x509 {KEY} -config ca.cnf -days 2 -keyout {name}.key -out {name}.pem"),
    );
}

/// A certificate `name.pem` with its `name.key`, signed by `by`.
fn certificate(folder: &Path, by: &str, name: &str, common_name: &str, days: i32) {
    let config = format!("[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN={common_name}\n");
    fs::write(folder.join("leaf.cnf"), config).unwrap();
    let names = format!(
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{}\n",
        outside()
    );
    fs::write(folder.join("leaf.ext"), names).unwrap();
    openssl(
        folder,
        &format!("req {KEY} -config leaf.cnf -keyout {name}.key -out leaf.csr"),
    );
    openssl(
        folder,
        &format!(
            "x509 -req -in leaf.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -sha256 -days {days} -extfile leaf.ext -out {name}.pem"
        ),
    );
    // Clients refuse keys that others can read.
    openssl(
        folder,
        &format!("pkcs8 -topk8 -nocrypt -in {name}.key -out {name}.tmp"),
    );
    fs::rename(
        folder.join(format!("{name}.tmp")),
        folder.join(format!("{name}.key")),
    )
    .unwrap();
}

/// This machine's address as others see it; loopback where it has none.
fn outside() -> IpAddr {
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Nothing is sent: it only chooses a way.
        socket.connect("203.0.113.1:9")?;
        socket.local_addr()
    });
    asked.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// Both doors.
struct House {
    folder: tempfile::TempDir,
    http: SocketAddr,
    postgres: SocketAddr,
    tls: Option<Tls>,
    token: String,
    _runtime: Runtime,
}

impl House {
    fn open(has_users: bool, has_tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = has_tls.then(|| {
            authority(folder.path(), "ca");
            authority(folder.path(), "other");
            certificate(folder.path(), "ca", "server", "localhost", 2);
            certificate(folder.path(), "ca", "etl", "etl.internal", 2);
            certificate(folder.path(), "ca", "guest", "guest.internal", 2);
            certificate(folder.path(), "other", "forged", "etl.internal", 2);
            let file = |name: &str| folder.path().join(name);
            Tls::read(&DoorTls {
                cert: file("server.pem"),
                key: file("server.key"),
                client_ca: Some(file("ca.pem")),
            })
            .unwrap()
        });
        let (token, hash) = new_token();
        let users = match has_users {
            true => Users::new(&users(&hash)),
            false => Users::new(&BTreeMap::new()),
        };
        let runtime = Runtime::new().unwrap();
        let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&"clicks".into(), table());
        publisher.publish(&"orders".into(), table());
        let status = Arc::new(StatusBoard::default());
        let engine = QueryEngine::new(
            store,
            Some(publisher),
            Some(status.clone()),
            Limits::default(),
        )
        .unwrap();
        let http_door = http::Door {
            engine: engine.clone(),
            users: users.clone(),
            tls: tls.clone(),
            status,
            metrics: Arc::new(|| Ok("alluvium_up 1\n".into())),
            live: Arc::new(|| Ok(())),
        };
        let postgres_door = postgres::Door {
            engine,
            users,
            tls: tls.clone(),
            clients: 20,
        };
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let (http, postgres) = runtime.block_on(async {
            let http = TcpListener::bind(any).await.unwrap();
            let postgres = TcpListener::bind(any).await.unwrap();
            let addresses = (http.local_addr().unwrap(), postgres.local_addr().unwrap());
            tokio::spawn(http::serve(http, http_door, std::future::pending()));
            tokio::spawn(postgres::serve(
                postgres,
                postgres_door,
                std::future::pending(),
            ));
            addresses
        });
        Self {
            folder,
            http,
            postgres,
            tls,
            token,
            _runtime: runtime,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What psql says to a statement, or why it was not let in.
    fn psql(&self, host: IpAddr, settings: &str, password: &str, sql: &str) -> String {
        let output = Command::new("psql")
            .args([
                "-X",
                "-A",
                "-t",
                "-w",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                "VERBOSITY=verbose",
                "-c",
                sql,
            ])
            .arg(format!(
                "host={host} port={} dbname=alluvium sslrootcert={} {settings}",
                self.postgres.port(),
                self.file("ca.pem").display()
            ))
            .env("PGPASSWORD", password)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("psql is a client of these tests");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(!format!("{out}{err}").contains(CANARY), "{out}{err}");
        match output.status.success() {
            true => format!("rows {}", out.trim()),
            false => err.trim().to_owned(),
        }
    }

    /// The status and the text that curl gets.
    fn curl(&self, scheme: &str, host: IpAddr, path: &str, more: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-sS", "-i", "--max-time", "20", "--cacert"])
            .arg(self.file("ca.pem"))
            .args(more)
            .arg(format!("{scheme}://{host}:{}{path}", self.http.port()))
            .current_dir(self.folder.path())
            .output()
            .expect("curl is a client of these tests");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!format!("{out}{err}").contains(CANARY), "{out}{err}");
        let status = out.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.unwrap_or(0), out + &err)
    }

    fn sql(&self, scheme: &str, host: IpAddr, sql: &str, more: &[&str]) -> (u16, String) {
        let body = format!("{{\"sql\": \"{sql}\"}}");
        let more: Vec<&str> = more.iter().copied().chain(["-d", &body]).collect();
        self.curl(scheme, host, "/v1/sql", &more)
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn users(token: &TokenHash) -> BTreeMap<String, User> {
    let user = |grants: &[Grant]| User {
        password: None,
        token: None,
        certificate: None,
        grants: grants.iter().cloned().collect(),
        limits: RoleLimits::default(),
    };
    let analyst = [Grant::Relation("public".into(), "clicks".into())];
    let operator = [
        Grant::Schema("panes".into()),
        Grant::Schema("system".into()),
    ];
    BTreeMap::from([
        (
            "ana".into(),
            User {
                password: Some(verifier_of(PASSWORD)),
                ..user(&analyst)
            },
        ),
        (
            "ops".into(),
            User {
                password: Some(verifier_of(PASSWORD)),
                token: Some(token.clone()),
                ..user(&operator)
            },
        ),
        (
            "etl".into(),
            User {
                certificate: Some("etl.internal".into()),
                ..user(&[Grant::Everything])
            },
        ),
    ])
}

/// The relations of the matrix, and who may read them.
const RELATIONS: [(&str, [bool; 3]); 6] = [
    // ana, ops, etl
    ("clicks", [true, false, true]),
    ("orders", [false, false, true]),
    ("panes.clicks", [false, true, true]),
    ("panes.orders", [false, true, true]),
    ("system.pipelines", [false, true, true]),
    ("dead_letters.clicks", [false, false, false]),
];

#[test]
fn every_door_gives_every_user_its_relations_and_no_other() {
    let house = House::open(true, true);
    let bearer = format!("Authorization: Bearer {}", house.token);
    let ana = format!("ana:{PASSWORD}");
    let (cert, key) = (house.file("etl.pem"), house.file("etl.key"));
    let certified = format!(
        "user=etl sslcert={} sslkey={}",
        cert.display(),
        key.display()
    );
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let over_http: [&[&str]; 3] = [
        &["-u", &ana],
        &["-H", &bearer],
        &["--cert", "etl.pem", "--key", "etl.key"],
    ];
    let over_postgres = ["user=ana", "user=ops", &certified];
    for (relation, allowed) in RELATIONS {
        let sql = format!("SELECT count(*) FROM {relation}");
        for (place, may) in allowed.into_iter().enumerate() {
            let (status, told) = house.sql("https", HERE, &sql, over_http[place]);
            let settings = format!("{} sslmode=verify-full", over_postgres[place]);
            let printed = house.psql(HERE, &settings, PASSWORD, &sql);
            let everything = place == 2;
            match (may, everything) {
                (true, _) => {
                    assert_eq!(status, 200, "{relation} {place}: {told}");
                    assert!(
                        printed.starts_with("rows "),
                        "{relation} {place}: {printed}"
                    );
                }
                // Who may read everything is told that there is nothing.
                (false, true) => {
                    assert_eq!(status, 400, "{told}");
                    assert!(
                        told.contains("42P01") && printed.contains("42P01"),
                        "{told} {printed}"
                    );
                }
                (false, false) => {
                    assert_eq!(status, 403, "{relation} {place}: {told}");
                    assert!(told.contains("42501"), "{told}");
                    assert!(
                        printed.contains("42501: permission denied for table"),
                        "{printed}"
                    );
                }
            }
        }
    }
    // Operators' routes follow the same grants.
    for path in ["/metrics", "/v1/status", "/readyz?verbose"] {
        for (place, expected) in [403, 200, 200].into_iter().enumerate() {
            let (status, told) = house.curl("https", HERE, path, over_http[place]);
            assert_eq!(status, expected, "{path} {place}: {told}");
        }
        assert_eq!(house.curl("https", HERE, path, &[]).0, 401, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(house.curl("https", HERE, path, &[]).0, 200, "{path}");
    }
}

#[test]
fn whoever_proves_nothing_is_not_let_in_and_learns_nothing() {
    let house = House::open(true, true);
    let sql = "SELECT 1";
    let wrong: [&[&str]; 6] = [
        &[],
        &["-u", "ana:canary-7c1f"],
        &["-u", "nobody:canary-7c1f"],
        &["-u", "etl:canary-7c1f"],
        &["-H", "Authorization: Bearer canary-7c1f"],
        &["--cert", "guest.pem", "--key", "guest.key"],
    ];
    let mut said = Vec::new();
    for shown in wrong {
        let (status, told) = house.sql("https", HERE, sql, shown);
        assert_eq!(status, 401, "{shown:?}: {told}");
        assert!(
            told.to_lowercase().contains("www-authenticate: bearer"),
            "{told}"
        );
        said.push(told.lines().last().unwrap_or_default().to_owned());
    }
    assert_eq!(said[1], said[2]);
    assert_eq!(said[1], said[3]);
    assert_eq!(said[1], said[4]);
    // A certificate of somebody else's authority does not get through the handshake.
    let (status, _) = house.sql(
        "https",
        HERE,
        sql,
        &["--cert", "forged.pem", "--key", "forged.key"],
    );
    assert_eq!(status, 0);

    let failures = ["ana", "nobody", "etl"].map(|user| {
        let settings = format!("user={user} sslmode=verify-full");
        let printed = house.psql(HERE, &settings, CANARY, sql);
        let message = format!("password authentication failed for user \"{user}\"");
        assert!(printed.contains(&message), "{printed}");
        printed.replace(user, "it")
    });
    assert_eq!(failures[0], failures[1]);
    assert_eq!(failures[0], failures[2]);
    // A certificate is one user's: not another's, and not one that no user has.
    for (user, name) in [("ana", "etl"), ("etl", "guest")] {
        let (cert, key) = (
            house.file(&format!("{name}.pem")),
            house.file(&format!("{name}.key")),
        );
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let settings = format!(
            "user={user} sslmode=verify-full sslcert={} sslkey={}",
            cert.display(),
            key.display()
        );
        let printed = house.psql(HERE, &settings, CANARY, sql);
        assert!(
            printed.contains("password authentication failed"),
            "{printed}"
        );
    }
}

#[test]
fn passwords_are_bound_to_the_certificate_and_too_many_tries_wait() {
    let house = House::open(true, true);
    let sql = "SELECT current_user";
    // A client that insists on channel binding is served; without TLS there is nothing to bind to.
    let bound = "user=ana sslmode=verify-full channel_binding=require";
    assert_eq!(house.psql(HERE, bound, PASSWORD, sql), "rows ana");
    let unbound = "user=ana sslmode=verify-full channel_binding=disable";
    assert_eq!(house.psql(HERE, unbound, PASSWORD, sql), "rows ana");
    let plain = "user=ana sslmode=disable";
    assert_eq!(house.psql(HERE, plain, PASSWORD, sql), "rows ana");
    let mut last = String::new();
    for _ in 0..12 {
        last = house.psql(HERE, plain, "wrong", sql);
    }
    assert!(last.contains("too many failed attempts"), "{last}");
    assert!(
        house
            .psql(HERE, plain, PASSWORD, sql)
            .contains("too many failed attempts")
    );
    // The doors count together, and a token never waits.
    let ana = format!("ana:{PASSWORD}");
    let (status, told) = house.sql("https", HERE, "SELECT 1", &["-u", &ana]);
    assert_eq!(status, 429, "{told}");
    assert!(told.to_lowercase().contains("retry-after"), "{told}");
    let bearer = format!("Authorization: Bearer {}", house.token);
    assert_eq!(
        house.sql("https", HERE, "SELECT 1", &["-H", &bearer]).0,
        200
    );
}

/// The words of a client of Postgres with which it begins.
fn begin(user: &str) -> Vec<u8> {
    let mut said = vec![0, 3, 0, 0];
    for word in ["user", user, "database", "alluvium", ""] {
        said.extend_from_slice(word.as_bytes());
        said.push(0);
    }
    let length = u32::try_from(said.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &said].concat()
}

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

#[test]
fn what_was_said_before_tls_does_not_count_as_said_in_it() {
    let house = House::open(true, true);
    let certificates = CertificateDer::pem_file_iter(house.file("ca.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.map(Result::unwrap));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
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
    let printed = bare.psql(outside, "user=ana", PASSWORD, "SELECT 1");
    assert!(printed.contains("over TLS only"), "{printed}");
}

#[test]
fn on_this_machine_without_users_everybody_reads_everything() {
    let house = House::open(false, false);
    for (relation, allowed) in RELATIONS {
        let sql = format!("SELECT count(*) FROM {relation}");
        let expected = if allowed[2] { 200 } else { 400 };
        assert_eq!(house.sql("http", HERE, &sql, &[]).0, expected, "{relation}");
        let printed = house.psql(HERE, "user=whoever", "", &sql);
        assert_eq!(
            printed.starts_with("rows "),
            allowed[2],
            "{relation}: {printed}"
        );
    }
    for path in ["/metrics", "/v1/status", "/readyz?verbose"] {
        assert_eq!(house.curl("http", HERE, path, &[]).0, 200, "{path}");
    }
}

#[test]
fn certificates_renew_and_broken_ones_change_nothing() {
    let house = House::open(true, true);
    let tls = house.tls.as_ref().unwrap();
    let serves = || {
        let settings = "user=ana sslmode=verify-full channel_binding=require";
        let printed = house.psql(HERE, settings, PASSWORD, "SELECT 1");
        let (status, told) = house.curl("https", HERE, "/livez", &["-v"]);
        assert_eq!(status, 200, "{told}");
        assert_eq!(printed, "rows 1");
        let serial = |line: &&str| line.contains("subject:");
        told.lines().find(serial).unwrap_or_default().to_owned()
    };
    let old = serves();
    assert!(old.contains("CN=localhost"), "{old}");
    assert_eq!(tls.renew().unwrap(), Renewed::No);
    // Half of a change, as when only one of two files has been written: the new certificate does not go with the old key.
    certificate(house.folder.path(), "ca", "new", "renewed", 2);
    let (cert, key) = (house.file("server.pem"), house.file("server.key"));
    fs::copy(house.file("new.pem"), &cert).unwrap();
    let told = tls.renew().unwrap_err().to_string();
    assert!(told.contains("server.key"), "{told}");
    assert_eq!(serves(), old);
    fs::copy(house.file("new.key"), &key).unwrap();
    assert_eq!(tls.renew().unwrap(), Renewed::Yes);
    assert!(serves().contains("CN=renewed"));
    fs::write(&cert, "not a certificate").unwrap();
    assert!(tls.renew().is_err());
    assert!(serves().contains("CN=renewed"));
}

#[test]
fn certificates_that_cannot_be_used_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    authority(folder.path(), "ca");
    certificate(folder.path(), "ca", "server", "localhost", 2);
    let at = |name: &str| folder.path().join(name);
    let files = |cert: &str, key: &str, ca: Option<&str>| DoorTls {
        cert: at(cert),
        key: at(key),
        client_ca: ca.map(at),
    };
    fs::write(at("empty.pem"), "").unwrap();
    openssl(
        folder.path(),
        "pkcs8 -topk8 -in server.key -out locked.key -passout pass:canary-7c1f",
    );
    openssl(
        folder.path(),
        "x509 -in server.pem -signkey server.key -days -1 -out old.pem",
    );
    for (files, said) in [
        (
            files("none.pem", "server.key", None),
            "none.pem cannot be read",
        ),
        (
            files("empty.pem", "server.key", None),
            "empty.pem holds no certificate",
        ),
        (
            files("server.pem", "server.pem", None),
            "holds no private key",
        ),
        (
            files("server.pem", "locked.key", None),
            "locked.key holds no private key",
        ),
        (
            files("server.pem", "ca.key", None),
            "ca.key does not go with",
        ),
        (
            files("server.pem", "server.key", Some("empty.pem")),
            "empty.pem holds no certificate",
        ),
        (files("old.pem", "server.key", None), "old.pem expired at"),
    ] {
        let told = Tls::read(&files).unwrap_err().to_string();
        assert!(told.contains(said), "{told}");
    }
    assert!(Tls::read(&files("server.pem", "server.key", Some("ca.pem"))).is_ok());
}
