//! A server with three doors, its certificates, its users, and clients of two of the doors.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use alluvium_plan::{
    DoorTls, Grant, PublishedTable, Publisher, RoleLimits, StatusBoard, TokenHash, User,
};
use alluvium_query::{Limits, QueryEngine};
use alluvium_serve::{Tls, Users, flight, http, new_token, postgres, verifier_of};
use alluvium_store::{Store, StoreRules};
use object_store::memory::InMemory;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::common::clicks;

pub(crate) const PASSWORD: &str = "correct horse";
/// Must never be seen in an answer.
pub(crate) const CANARY: &str = "canary-7c1f";

/// A table without rows.
fn empty() -> PublishedTable {
    PublishedTable {
        memory: Vec::new(),
        ..clicks()
    }
}

/// Runs openssl in a folder.
pub(crate) fn openssl(folder: &Path, arguments: &str) {
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

pub(crate) const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256";

/// An authority `name.pem`, `name.key`.
pub(crate) fn authority(folder: &Path, name: &str) {
    let config = "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN=authority\n\
                  [ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
    fs::write(folder.join("ca.cnf"), config).unwrap();
    openssl(
        folder,
        &format!("req -x509 {KEY} -config ca.cnf -days 2 -keyout {name}.key -out {name}.pem"),
    );
}

/// A certificate `name.pem` with its `name.key`, signed by `by`.
pub(crate) fn certificate(folder: &Path, by: &str, name: &str, common_name: &str, days: i32) {
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
pub(crate) fn outside() -> IpAddr {
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Nothing is sent: it only chooses a way.
        socket.connect("203.0.113.1:9")?;
        socket.local_addr()
    });
    asked.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// The three doors.
pub(crate) struct House {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) http: SocketAddr,
    pub(crate) postgres: SocketAddr,
    pub(crate) flight: SocketAddr,
    pub(crate) tls: Option<Tls>,
    pub(crate) token: String,
    pub(crate) runtime: Runtime,
}

impl House {
    pub(crate) fn open(has_users: bool, has_tls: bool) -> Self {
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
        publisher.publish(&"clicks".into(), empty());
        publisher.publish(&"orders".into(), empty());
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
        let flight_door = flight::Door {
            engine: engine.clone(),
            users: users.clone(),
            tls: tls.clone(),
            clients: 20,
        };
        let postgres_door = postgres::Door {
            engine: engine.clone(),
            users,
            tls: tls.clone(),
            clients: 20,
        };
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let (http, postgres, flight) = runtime.block_on(async {
            let http = TcpListener::bind(any).await.unwrap();
            let postgres = TcpListener::bind(any).await.unwrap();
            let flight = TcpListener::bind(any).await.unwrap();
            let sockets = [&http, &postgres, &flight];
            let [at_http, at_postgres, at_flight] =
                sockets.map(|socket| socket.local_addr().unwrap());
            tokio::spawn(http::serve(http, http_door, std::future::pending()));
            tokio::spawn(flight::serve(flight, flight_door, std::future::pending()));
            tokio::spawn(postgres::serve(
                postgres,
                postgres_door,
                std::future::pending(),
            ));
            (at_http, at_postgres, at_flight)
        });
        Self {
            folder,
            http,
            postgres,
            flight,
            tls,
            token,
            runtime,
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What psql says to a statement, or why it was not let in.
    pub(crate) fn psql(&self, host: IpAddr, settings: &str, password: &str, sql: &str) -> String {
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
    pub(crate) fn curl(
        &self,
        scheme: &str,
        host: IpAddr,
        path: &str,
        more: &[&str],
    ) -> (u16, String) {
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

    pub(crate) fn sql(
        &self,
        scheme: &str,
        host: IpAddr,
        sql: &str,
        more: &[&str],
    ) -> (u16, String) {
        let body = serde_json::json!({ "sql": sql }).to_string();
        let more: Vec<&str> = more.iter().copied().chain(["-d", &body]).collect();
        self.curl(scheme, host, "/v1/sql", &more)
    }
}

pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn users(token: &TokenHash) -> BTreeMap<String, User> {
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
pub(crate) const RELATIONS: [(&str, [bool; 3]); 6] = [
    // ana, ops, etl
    ("clicks", [true, false, true]),
    ("orders", [false, false, true]),
    ("panes.clicks", [false, true, true]),
    ("panes.orders", [false, true, true]),
    ("system.pipelines", [false, true, true]),
    ("dead_letters.clicks", [false, false, false]),
];

/// The words of a client of Postgres with which it begins.
pub(crate) fn begin(user: &str) -> Vec<u8> {
    let mut said = vec![0, 3, 0, 0];
    for word in ["user", user, "database", "alluvium", ""] {
        said.extend_from_slice(word.as_bytes());
        said.push(0);
    }
    let length = u32::try_from(said.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &said].concat()
}
