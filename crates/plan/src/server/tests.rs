use std::time::Duration;

use super::*;
use crate::Color;

fn environment() -> Environment {
    [("PW", "hunter2"), ("HOST", "kafka:9092")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn load(text: &str) -> Result<(Server, Diagnostics), Diagnostics> {
    let mut read_file = |path: &Path| match path.to_str() {
        Some("etc/secret") => Ok(b"0123\n".to_vec()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    load_server(
        &SourceFile::new("etc/alluvium.yaml", text),
        &mut read_file,
        &environment(),
    )
}

const LEAST: &str = "version: 1\nstorage: {root: data}\n";

#[test]
fn what_is_left_out_has_a_default() {
    let (server, warnings) = load(LEAST).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(server.storage.root, "etc/data");
    assert_eq!(server.listen.http.to_string(), "127.0.0.1:8427");
    assert_eq!(
        server.memory,
        Memory {
            ingest: 512 << 20,
            query: 512 << 20
        }
    );
    assert_eq!((server.workers, server.instance), (None, None));
    assert!(server.kafka.is_empty());
    assert_eq!(server.query, QueryLimits::default());
    assert_eq!(server.query_disk, 2 << 30);
}

#[test]
fn queries_go_as_far_as_the_file_says() {
    let text = format!(
        "{LEAST}query: {{timeout: 5s, memory: 64MiB, disk: 1GiB, rows: 1000, bytes: 8MiB, scan: 2GiB, at_once: 4}}
disk: {{query: 3GiB}}
"
    );
    let (server, _) = load(&text).unwrap();
    let each = RoleLimits {
        timeout: Some(Duration::from_secs(5)),
        memory: Some(64 << 20),
        disk: Some(1 << 30),
        rows: Some(1000),
        bytes: Some(8 << 20),
        scan: Some(2 << 30),
    };
    let meant = QueryLimits {
        each,
        at_once: Some(4),
    };
    assert_eq!(server.query, meant);
    assert_eq!(server.query_disk, 3 << 30);
}

#[test]
fn a_connection_speaks_librdkafka() {
    let text = format!(
        "{LEAST}connections:
  kafka:
    main:
      brokers: ${{HOST}},${{OTHER:-b:1}}
      tls: {{ca: ca.pem, cert: /abs/c.pem, key: k.pem}}
      sasl:
        mechanism: SCRAM-SHA-512
        username: me
        password: {{file: secret}}
      properties: {{fetch.min.bytes: 65536}}
    plain:
      brokers: b:1
      sasl:
        mechanism: PLAIN
        username: me
        password: ${{PW}}
  registry:
    main: {{url: http://localhost:8081}}
"
    );
    let (server, _) = load(&text).unwrap();
    let main = &server.kafka["main"];
    assert_eq!(main.brokers, "kafka:9092,b:1");
    let properties: Vec<(&str, &str)> = main
        .properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        properties,
        [
            ("fetch.min.bytes", "65536"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.password", "0123"),
            ("sasl.username", "me"),
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", "etc/ca.pem"),
            ("ssl.certificate.location", "/abs/c.pem"),
            ("ssl.key.location", "etc/k.pem"),
        ]
    );
    let plain = &server.kafka["plain"].properties;
    assert_eq!(plain["security.protocol"], "SASL_PLAINTEXT");
    assert_eq!(plain["sasl.password"], "hunter2");
    let shown = format!("{server:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("0123"),
        "{shown}"
    );
}

#[test]
fn a_token_stays_in_its_file() {
    let text = |sasl: &str| {
        format!(
            "{LEAST}connections:\n  kafka:\n    m:\n      brokers: b:1\n      tls: {{}}\n      sasl:\n        mechanism: OAUTHBEARER\n{sasl}"
        )
    };
    let (server, _) = load(&text("        token: {file: secret}\n")).unwrap();
    let properties = &server.kafka["m"].properties;
    assert_eq!(properties["sasl.oauthbearer.token.file"], "etc/secret");
    assert!(!properties.values().any(|value| value == "0123"));
    let (server, _) = load(&text("        token: ${PW}\n")).unwrap();
    assert_eq!(
        server.kafka["m"].properties["sasl.oauthbearer.token"],
        "hunter2"
    );
    assert!(!format!("{server:?}").contains("hunter2"));
    for (sasl, said) in [
        ("", "token"),
        ("        token: {file: none}\n", "no secret file"),
        (
            "        token: {file: secret}\n        username: me\n",
            "does not take `username`",
        ),
    ] {
        let found = load(&text(sasl)).unwrap_err().to_string();
        assert!(found.contains(said), "{found}");
    }
}

#[test]
fn storage_in_a_bucket_has_keys_that_nobody_sees() {
    let text = "version: 1
storage:
  root: s3://bucket/prefix/
  endpoint: http://localhost:9000
  region: eu
  access_key: minio
  secret_key: {env: PW}
  allow_http: true
";
    let (server, _) = load(text).unwrap();
    assert_eq!(server.storage.root, "s3://bucket/prefix");
    assert_eq!(server.storage.allow_http, AllowHttp::Yes);
    assert_eq!(
        server.storage.secret_key.as_ref().map(Secret::reveal),
        Some("hunter2")
    );
    assert!(!format!("{server:?}").contains("hunter2"));
    let within = text.replace("//localhost", "//minio:hunter2@localhost");
    let error = load(&within).unwrap_err().render(Color::Plain);
    assert!(error.contains("no password in it"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_door_stays_on_this_machine() {
    for (http, taken) in [
        ("127.0.0.1:0", true),
        ("127.9.9.9:80", true),
        ("'[::1]:80'", true),
        ("localhost:80", true),
        ("0.0.0.0:80", false),
        ("'[::]:80'", false),
        ("10.0.0.1:80", false),
        ("example.com:80", false),
        ("80", false),
    ] {
        let loaded = load(&format!("{LEAST}listen: {{http: {http}}}\n"));
        assert_eq!(loaded.is_ok(), taken, "{http}");
    }
    for door in ["postgres", "flight"] {
        let at = |text: &str| {
            let (server, _) = load(&format!("{LEAST}listen: {{{door}: {text}}}\n")).ok()?;
            Some(match door {
                "postgres" => server.listen.postgres,
                _ => server.listen.flight,
            })
        };
        let address = "127.0.0.1:1".parse().unwrap();
        assert_eq!(at("127.0.0.1:1"), Some(DoorAt::Written(address)));
        assert_eq!(at("off"), Some(DoorAt::Off));
        assert_eq!(at("0.0.0.0:1"), None);
    }
    let (server, _) = load(LEAST).unwrap();
    let usual = "127.0.0.1:8433".parse().unwrap();
    assert_eq!(server.listen.flight, DoorAt::Usual(usual));
}

#[test]
fn a_variable_cannot_change_the_structure() {
    let environment: Environment =
        [("ROOT".to_owned(), "x\nworkers: 99\n{a: b}".to_owned())].into();
    let source = SourceFile::new("a.yaml", "version: 1\nstorage:\n  root: ${ROOT}\n");
    let (server, _) = load_server(
        &source,
        &mut |_: &Path| Err(std::io::ErrorKind::NotFound.into()),
        &environment,
    )
    .unwrap();
    assert_eq!(server.workers, None);
    assert_eq!(server.storage.root, "x\nworkers: 99\n{a: b}");
}

#[test]
fn quoted_and_block_texts_are_never_filled_in() {
    let (server, _) = load("version: 1\nstorage:\n  root: '${PW}'\n").unwrap();
    assert_eq!(server.storage.root, "etc/${PW}");
    let told = load(&format!(
        "{LEAST}connections:\n  kafka:\n    m:\n      brokers: b:1\n      sasl:\n        mechanism: PLAIN\n        username: u\n        password: '${{PW}}'\n"
    ))
    .unwrap_err();
    assert!(told.to_string().contains("in the open"), "{told}");
}
