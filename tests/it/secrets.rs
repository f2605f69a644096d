//! Secrets of Kafka, of storage and of TLS stay where they are, in server files and in arguments: not in logs of any level, nor
//! in what a server says of itself, nor in errors, also while they are refused.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use base64::Engine as _;

use crate::{
    process::{Process, alluvium, wait_for},
    site::{Site, broker},
};

/// A secret that is found wherever it goes.
const CANARY: &str = "kanarienvogel-73-geheim";

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

/// Everything that a server and the commands beside it let out about one server file. The commands end by themselves, and soon:
/// storage that refuses is not asked again, and no table has read anything that Kafka would be asked for.
fn let_out(site: &Site) -> String {
    let mut said = Vec::new();
    let file = site.path("one.yaml");
    for arguments in [
        &["check", "-c"][..],
        // Where the storage lets it, this makes the table that those behind it look at.
        &["replay", "events", "-c"],
        &["audit", "-c"],
        &["sql", "select * from system.pipelines", "-c"],
        &["compact", "-c"],
        &["vacuum", "--dry-run", "-c"],
        &["verify", "events", "-c"],
        &["status", "-c"],
    ] {
        let output = alluvium()
            .args(arguments)
            .arg(&file)
            .env("ALLUVIUM_LOG", "trace")
            .env("CANARY", CANARY)
            .output()
            .expect("the command runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("Usage:"), "no such command line: {told}");
        said.extend(output.stdout);
        said.extend(output.stderr);
    }
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["sql", "--help"],
        &["status", "--help"],
    ] {
        let output = alluvium()
            .args(arguments)
            .env("ALLUVIUM_PASSWORD", CANARY)
            .env("ALLUVIUM_TOKEN", CANARY)
            .output()
            .expect("the command runs");
        assert!(output.status.success());
        said.extend(output.stdout);
    }
    let text = fs::read_to_string(&file).unwrap();
    let door = text.split("http: \"").nth(1);
    let door = door.and_then(|rest| rest.split('"').next());
    let url = format!("http://{}", door.expect("the server file names its door"));
    let mut server = Process::start(
        alluvium()
            .arg("run")
            .arg("-c")
            .arg(&file)
            .env("ALLUVIUM_LOG", "trace")
            .env("CANARY", CANARY),
        &site.path("one.log"),
    );
    let client = reqwest::blocking::Client::builder()
        .timeout(Duration::from_secs(2))
        .build()
        .expect("a client");
    let until = std::time::Instant::now() + Duration::from_secs(6);
    while std::time::Instant::now() < until && server.ended().is_none() {
        for path in ["/v1/status", "/readyz?verbose", "/metrics", "/v1/tables"] {
            if let Ok(answer) = client.get(format!("{}{path}", url)).send() {
                said.extend(answer.bytes().unwrap_or_default());
            }
        }
        let asked = client
            .post(format!("{}/v1/sql", url))
            .body(r#"{"sql": "select * from system.pipelines"}"#)
            .send();
        if let Ok(answer) = asked {
            said.extend(answer.bytes().unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(500));
    }
    if server.ended().is_none() {
        server.signal("TERM");
        let ended = || server.ended();
        wait_for("the server to end", Duration::from_secs(40), ended);
    }
    said.extend(server.messages().into_bytes());
    String::from_utf8_lossy(&said).into_owned()
}

/// A site whose server file has this in place of its connection's brokers, and of its storage.
fn site(brokers: &str, connection: &str, storage: Option<&str>) -> Site {
    let site = Site::of(brokers, "1s", "events");
    let file = site.path("one.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    let was = format!("      brokers: {brokers}\n");
    assert!(text.contains(&was), "{text}");
    text = text.replace(&was, &format!("{was}{connection}"));
    if let Some(storage) = storage {
        text = text.replace("storage: {root: ./data}", storage);
    }
    fs::write(&file, text).unwrap();
    site
}

/// A certificate, whose key is thrown away.
fn certificate(site: &Site) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=reader",
            "-keyout",
            "/dev/null",
            "-out",
        ])
        .arg(site.path("cert.pem"))
        .output()
        .expect("openssl makes the certificate of this test");
    assert!(made.status.success(), "{made:?}");
}

fn assert_kept(what: &str, said: &str) {
    let spelt = [
        CANARY.to_owned(),
        base64::prelude::BASE64_STANDARD.encode(CANARY),
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(CANARY),
    ];
    for secret in spelt {
        if let Some(at) = said.find(&secret) {
            let around: String = said[..at].chars().rev().take(300).collect();
            let around: String = around.chars().rev().collect();
            panic!("{what} lets its secret out after: {around}");
        }
    }
}

#[test]
fn secrets_of_kafka_are_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let part = |json: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(json);
    let token = format!(
        "{}.{}.{CANARY}",
        part(r#"{"alg":"none"}"#),
        part(r#"{"sub":"alluvium","exp":4102444800}"#)
    );
    let password = "password: {file: secret}}";
    let cases = [
        (
            "PLAIN",
            format!("sasl: {{mechanism: PLAIN, username: reader, {password}"),
            CANARY.to_owned(),
        ),
        (
            "SCRAM",
            format!("sasl: {{mechanism: SCRAM-SHA-512, username: reader, {password}"),
            CANARY.to_owned(),
        ),
        (
            "OAUTHBEARER",
            "sasl: {mechanism: OAUTHBEARER, token: {file: secret}}".to_owned(),
            token,
        ),
        (
            "OAUTHBEARER, no token at all",
            "sasl: {mechanism: OAUTHBEARER, token: {file: secret}}".to_owned(),
            CANARY.to_owned(),
        ),
        (
            "a key that is none",
            "tls: {cert: cert.pem, key: secret}".to_owned(),
            format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"),
        ),
    ];
    thread::scope(|scope| {
        for (what, connection, secret) in &cases {
            let brokers = &brokers;
            scope.spawn(move || {
                let site = site(brokers, &format!("      {connection}\n"), None);
                fs::write(site.path("secret"), secret).unwrap();
                if connection.contains("cert.pem") {
                    certificate(&site);
                }
                let said = let_out(&site);
                assert_kept(what, &said);
                // It came to where the secret is used.
                let has_tried = |line: &str| {
                    (line.contains(" ERROR ") || line.contains(" WARN ") || line.contains("error"))
                        && ["SASL", "OAUTHBEARER", "token", "secret", "SSL", "ssl"]
                            .iter()
                            .any(|word| line.contains(word))
                };
                assert!(said.lines().any(has_tried), "{what}: {said}");
            });
        }
    });
}

/// An S3 server that refuses whatever it is asked.
fn refusing_s3() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || refuse(stream));
        }
    });
    format!("http://{address}")
}

fn refuse(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>";
    let length = body.len();
    let _gone = write!(
        stream,
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}

#[test]
fn secrets_of_storage_are_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker(folder.path());
    let endpoint = refusing_s3();
    // The last is written out, which refuses the whole file.
    let cases = [
        ("{file: secret}", "403"),
        ("${CANARY}", "403"),
        (CANARY, "in the open"),
    ];
    thread::scope(|scope| {
        for (secret, told) in cases {
            let (brokers, endpoint) = (&brokers, &endpoint);
            scope.spawn(move || {
                let storage = format!(
                    "storage:\n  root: \"s3://lake/site\"\n  endpoint: \"{endpoint}\"\n  region: us-east-1\n  access_key: reader\n  secret_key: {secret}\n  allow_http: true"
                );
                let site = site(brokers, "", Some(&storage));
                fs::write(site.path("secret"), CANARY).unwrap();
                let said = let_out(&site);
                assert_kept(&format!("secret_key: {secret}"), &said);
                assert!(said.contains(told), "{secret}: {said}");
            });
        }
    });
}

/// What a command that sends says of its properties, in which each `CANARY` is the secret; it sends nothing.
fn sent_in_vain(command: &str, properties: &[&str]) -> String {
    let mut sending = alluvium();
    sending.args([command, "--brokers", NOBODY, "--topic", "events"]);
    for property in properties {
        sending.arg("-X").arg(property.replace("CANARY", CANARY));
    }
    let output = sending
        .env("ALLUVIUM_LOG", "trace")
        .output()
        .expect("the command runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!output.status.success(), "{command}: {said}");
    said
}

#[test]
fn secrets_of_those_who_send_are_shown_nowhere() {
    let cases: [(&[&str], &str); 7] = [
        // The first two are taken, and somebody to answer is waited for: ten seconds, by all at the same time.
        (
            &[
                "security.protocol=SASL_PLAINTEXT",
                "sasl.mechanism=PLAIN",
                "sasl.username=reader",
                "sasl.password=CANARY",
            ],
            "the partitions of topic",
        ),
        (
            &[
                "security.protocol=SASL_PLAINTEXT",
                "sasl.mechanism=OAUTHBEARER",
                "sasl.oauthbearer.token=CANARY",
            ],
            "the partitions of topic",
        ),
        (
            &[
                "security.protocol=SASL_PLAINTEXT",
                "sasl.mechanism=CARRIER-PIGEON",
                "sasl.password=CANARY",
            ],
            "CARRIER-PIGEON",
        ),
        (
            &[
                "security.protocol=SSL",
                "ssl.key.pem=-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----",
            ],
            "ssl.key.pem",
        ),
        (&["sasl.passwort=CANARY"], "sasl.passwort"),
        (
            &["sasl.jaas.config=PlainLoginModule required password=\"CANARY\";"],
            "sasl.jaas.config",
        ),
        (&["sasl.password:CANARY"], "NAME=VALUE"),
    ];
    thread::scope(|scope| {
        for command in ["produce", "generate"] {
            for (properties, told) in cases {
                scope.spawn(move || {
                    let what = format!("{command} {properties:?}");
                    let said = sent_in_vain(command, properties);
                    assert_kept(&what, &said);
                    assert!(said.contains(told), "{what}: {said}");
                });
            }
        }
    });
}
