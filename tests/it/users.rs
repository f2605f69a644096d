//! A server with users, from `alluvium user add` to psql and curl over TLS.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use base64::Engine as _;

use crate::{
    process::{Process, alluvium, oracle_required, python, wait_for},
    site::{Site, broker_with, free_port},
};

const PASSWORD: &str = "canary-pässword-51";

/// Runs a command to its end with something to read.
fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A command that wants nothing may have ended already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the command ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines below `users:` that `alluvium user add` prints, and what it says beside them.
fn user_add(arguments: &[&str], input: &str) -> (String, String) {
    let output = run(alluvium().args(["user", "add"]).args(arguments), input);
    let (lines, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    let lines = lines.strip_prefix("users:\n").expect("the lines of a user");
    (lines.to_owned(), said)
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl makes the certificates of this test");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256";

/// An authority, `ca.pem`.
fn authority(folder: &Path) {
    let config = "[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN=authority\n\
                  [ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
    fs::write(folder.join("ca.cnf"), config).unwrap();
    openssl(
        folder,
        &format!("req -x509 {KEY} -config ca.cnf -days 2 -keyout ca.key -out ca.pem"),
    );
}

/// A certificate for loopback under a name, with its key in `server.pem` and `server.key`.
fn certificate(folder: &Path, common_name: &str) {
    let config = format!("[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN={common_name}\n");
    fs::write(folder.join("leaf.cnf"), config).unwrap();
    fs::write(folder.join("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        &format!("req {KEY} -config leaf.cnf -keyout server.key -out leaf.csr"),
    );
    openssl(
        folder,
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days 2 -extfile leaf.ext -out server.pem",
    );
}

#[test]
fn a_server_with_users_is_reached_by_them_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, brokers) = broker_with(folder.path(), "events:1");
    let site = Site::of(&brokers, "1s", "events");
    let home = site.path("");
    authority(&home);
    certificate(&home, "first");
    let (ana, said) = user_add(&["ana", "--role", "analyst"], &format!("{PASSWORD}\n"));
    assert!(!format!("{ana}{said}").contains(PASSWORD));
    let (dash, said) = user_add(&["dash", "--role", "watching", "--token"], "");
    let token = said
        .split_whitespace()
        .find(|word| word.starts_with("alv_"));
    let token = token.expect("the token is said").to_owned();
    assert!(!dash.contains(&token));
    for (arguments, input) in [
        (["ana", "--role", "analyst"], "short\n"),
        (["a:b", "--role", "analyst"], "long enough\n"),
    ] {
        let refused = run(alluvium().args(["user", "add"]).args(arguments), input);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    }
    let (http, postgres, flight) = (free_port(), free_port(), free_port());
    let open = format!(
        "listen: {{http: \"0.0.0.0:{http}\", postgres: \"0.0.0.0:{postgres}\", flight: \"0.0.0.0:{flight}\"}}\n"
    );
    let users = format!(
        "users:\n{ana}{dash}roles:\n  analyst: {{tables: [per_key]}}\n  watching: {{tables: [\"system.*\", \"panes.*\"]}}\n"
    );
    let tls = "tls: {cert: server.pem, key: server.key}\n";
    let storage = format!(
        "version: 1\nstorage: {{root: ./data}}\nconnections: {{kafka: {{main: {{brokers: \"{brokers}\"}}}}}}\n"
    );
    let write = |text: String| {
        let file = site.path("open.yaml");
        fs::write(&file, text).unwrap();
        file
    };
    for (incomplete, lacks) in [
        (format!("{storage}{open}"), "neither TLS nor users"),
        (format!("{storage}{open}{users}"), "no TLS"),
        (format!("{storage}{open}{tls}"), "no users"),
        (
            format!("{storage}{open}{users}tls: {{cert: none.pem, key: server.key}}\n"),
            "none.pem",
        ),
    ] {
        let refused = run(alluvium().arg("run").arg("-c").arg(write(incomplete)), "");
        let told = text(&refused.stderr).replace(['\n', '│'], " ");
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains(lacks), "{told}");
    }
    let file = write(format!("{storage}{open}{users}{tls}"));
    let server = Process::start(
        alluvium()
            .arg("run")
            .arg("-c")
            .arg(&file)
            .env("ALLUVIUM_LOG", "trace"),
        &site.path("server.log"),
    );
    let url = format!("https://127.0.0.1:{http}");
    let authority = site.path("ca.pem");
    let curl = |path: &str, more: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "-v", "-w", "\n%{http_code}", "--cacert"])
            .arg(&authority)
            .args(more)
            .arg(format!("{url}{path}"))
            .output()
            .expect("curl is a client of this test");
        (text(&output.stdout), text(&output.stderr))
    };
    wait_for("the server", Duration::from_secs(60), || {
        curl("/readyz", &[]).0.ends_with("200").then_some(())
    });

    let psql = |user: &str, password: &str, sql: &str| {
        let settings = format!(
            "host=127.0.0.1 port={postgres} user={user} dbname=alluvium sslmode=verify-full sslrootcert={} channel_binding=require",
            authority.display()
        );
        let output = Command::new("psql")
            .args(["-X", "-A", "-t", "-w", "-c", sql, &settings])
            .env("PGPASSWORD", password)
            .output()
            .expect("psql is a client of this test");
        text(&output.stdout) + &text(&output.stderr)
    };
    assert_eq!(
        psql(
            "ana",
            PASSWORD,
            "SELECT current_user, count(*) FROM per_key"
        ),
        "ana|0\n"
    );
    let listed = psql("ana", PASSWORD, "\\dt *.*");
    assert!(
        listed.contains("per_key") && !listed.contains("panes"),
        "{listed}"
    );
    let denied = psql("ana", PASSWORD, "SELECT * FROM panes.per_key");
    assert!(
        denied.contains("permission denied for table per_key"),
        "{denied}"
    );
    let wrong = psql("ana", "canary-wrong", "SELECT 1");
    assert!(wrong.contains("password authentication failed"), "{wrong}");

    let bearer = format!("Authorization: Bearer {token}");
    assert!(
        curl("/metrics", &["-H", &bearer])
            .0
            .contains("alluvium_denied_total")
    );
    assert!(curl("/metrics", &[]).0.ends_with("401"));
    let asked = [
        "-H",
        &bearer,
        "-d",
        "{\"sql\": \"SELECT count(*) FROM per_key\"}",
    ];
    assert!(curl("/v1/sql", &asked).0.ends_with("403"));
    let basic = format!("ana:{PASSWORD}");
    let asked = [
        "-u",
        &basic,
        "-d",
        "{\"sql\": \"SELECT count(*) AS n FROM per_key\"}",
    ];
    let (answer, _) = curl("/v1/sql", &asked);
    assert!(
        answer.contains("\"n\":0") && answer.ends_with("200"),
        "{answer}"
    );
    if oracle_required() {
        let mut adbc = python("flight_users.py");
        adbc.arg(format!("grpc+tls://127.0.0.1:{flight}"))
            .arg(&authority)
            .args(["ana", &token]);
        let said = run(&mut adbc, &format!("{PASSWORD}\n"));
        assert!(said.status.success(), "{}", text(&said.stderr));
    }
    // Our own command shows a token too, and does not take a server that it cannot trust for none.
    let status = |authority: &Path| {
        let mut command = alluvium();
        command.args(["status", "--url", &url, "--format", "json"]);
        command.env("ALLUVIUM_TOKEN", &token);
        run(command.env("SSL_CERT_FILE", authority), "")
    };
    let shown = status(&authority);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(
        text(&shown.stdout).contains("\"pipelines\""),
        "{}",
        text(&shown.stdout)
    );
    let refused = status(&site.path("server.pem"));
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
    assert!(
        text(&refused.stderr).contains("SSL_CERT_FILE"),
        "{}",
        text(&refused.stderr)
    );

    // The prompt's command comes in by any door, as the user whom the address names.
    let sql = |url: &str, query: &str, authority: &Path| {
        let mut command = alluvium();
        command
            .args(["sql", "--format", "csv", "--url", url, query])
            .env("ALLUVIUM_PASSWORD", PASSWORD)
            .env("SSL_CERT_FILE", authority);
        let output = run(&mut command, "");
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code(), said)
    };
    for url in [
        format!("https://ana@127.0.0.1:{http}"),
        format!("postgres://ana@127.0.0.1:{postgres}?sslmode=require"),
        format!("grpc+tls://ana@127.0.0.1:{flight}"),
    ] {
        let counted = sql(&url, "SELECT count(*) AS n FROM per_key", &authority);
        assert_eq!(counted, (Some(0), "n\r\n0\r\n".to_owned()), "{url}");
        let (_, denied) = sql(&url, "SELECT * FROM panes.per_key", &authority);
        assert!(denied.contains("permission denied"), "{url}: {denied}");
        let (code, told) = sql(&url, "SELECT 1", &site.path("server.pem"));
        assert_eq!(code, Some(1), "{url}");
        assert!(told.contains("SSL_CERT_FILE"), "{url}: {told}");
        let stranger = url.replace("ana@", "ana:canary-wrong@");
        let (code, told) = sql(&stranger, "SELECT 1", &authority);
        assert_eq!(code, Some(1), "{url}");
        assert!(!told.contains("canary-wrong"), "{url}: {told}");
    }

    // A new certificate counts without a restart, a broken one never does.
    fs::write(site.path("server.key"), "broken").unwrap();
    wait_for("the broken key to be told", Duration::from_secs(30), || {
        server
            .messages()
            .contains("keep their old certificates")
            .then_some(())
    });
    assert!(curl("/livez", &[]).1.contains("CN=first"));
    certificate(&home, "second");
    wait_for("the new certificate", Duration::from_secs(30), || {
        curl("/livez", &[]).1.contains("CN=second").then_some(())
    });
    assert_eq!(psql("ana", PASSWORD, "SELECT 1"), "1\n");

    let log = server.messages();
    assert!(log.contains(" TRACE "), "{log}");
    let hashes = ana.lines().chain(dash.lines());
    let secrets = hashes.filter_map(|line| line.split('\'').nth(1).filter(|text| text.len() > 40));
    let as_sent = base64::prelude::BASE64_STANDARD.encode(&basic);
    for secret in secrets.chain([PASSWORD, &token, "canary-wrong", &as_sent]) {
        assert!(!log.contains(secret), "{log}");
    }
}
