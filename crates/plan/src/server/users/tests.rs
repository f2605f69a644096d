use super::*;
use crate::{Diagnostics, Environment, Server, SourceFile, load_server};

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const TOKEN: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn load(text: &str) -> Result<(Server, Diagnostics), Diagnostics> {
    let environment: Environment = [("VERIFIER".to_owned(), VERIFIER.to_owned())].into();
    let mut read_file = |path: &std::path::Path| match path.to_str() {
        Some("etc/hash") => Ok(format!("{TOKEN}\n").into_bytes()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let text = format!("version: 1\nstorage: {{root: data}}\n{text}");
    load_server(
        &SourceFile::new("etc/alluvium.yaml", &text),
        &mut read_file,
        &environment,
    )
}

#[test]
fn users_have_what_their_roles_have_together() {
    let (server, _) = load(&format!(
        "tls: {{cert: c.pem, key: k.pem, client_ca: ca.pem}}
users:
  ana:
    password: {VERIFIER}
    roles: [small, large]
  dash: {{token: {{file: hash}}, roles: [small]}}
  etl: {{certificate: etl.internal, roles: [all]}}
roles:
  small: {{tables: [clicks, \"panes.*\"], query: {{timeout: 30s, memory: 64MiB, disk: 1GiB, rows: 1000, bytes: 1MiB, scan: 1GiB}}}}
  large: {{tables: [dead_letters.clicks], query: {{timeout: 10s, memory: 128MiB, bytes: 2MiB, scan: 2GiB}}}}
  all: {{tables: [\"*\"]}}
"
    ))
    .unwrap();
    let ana = &server.users["ana"];
    assert_eq!(ana.password.as_ref().unwrap().to_text(), VERIFIER);
    let relation = |schema: &str, name: &str| Grant::Relation(schema.into(), name.into());
    let grants: Vec<Grant> = ana.grants.iter().cloned().collect();
    assert_eq!(
        grants,
        [
            Grant::Schema("panes".into()),
            relation("dead_letters", "clicks"),
            relation("public", "clicks"),
        ]
    );
    assert_eq!(
        ana.limits,
        RoleLimits {
            timeout: Some(Duration::from_secs(30)),
            memory: Some(128 << 20),
            disk: None,
            rows: None,
            bytes: Some(2 << 20),
            scan: Some(2 << 30),
        }
    );
    let token = server.users["dash"].token.as_ref().unwrap();
    assert_eq!(token.to_text(), TOKEN);
    assert_eq!(
        server.users["etl"].grants.iter().next(),
        Some(&Grant::Everything)
    );
    assert_eq!(server.users["etl"].limits, RoleLimits::default());
    let tls = server.tls.as_ref().unwrap();
    assert_eq!(tls.client_ca.as_deref(), Some("etc/ca.pem".as_ref()));
    let shown = format!("{server:?}");
    for secret in ["AQEB", "c2FsdA", "00112233", "[0, 17"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_verifier_may_come_from_the_environment() {
    let (server, _) = load(
        "users:\n  ana:\n    password: ${VERIFIER}\n    roles: [r]\nroles: {r: {tables: [t]}}\n",
    )
    .unwrap();
    let verifier = server.users["ana"].password.as_ref().unwrap();
    assert_eq!(verifier.to_text(), VERIFIER);
}

#[test]
fn what_is_wrong_with_a_user_is_said_without_its_secret() {
    let role = "roles: {r: {tables: [t]}}";
    for (text, said) in [
        (
            "users: {a: {password: CANARY, roles: [r]}}",
            "not the verifier",
        ),
        (
            "users: {a: {token: CANARY, roles: [r]}}",
            "not the hash of a token",
        ),
        ("users: {a: {roles: [r]}}", "nothing to prove itself by"),
        (&format!("users: {{a: {{token: {TOKEN}}}}}"), "has no role"),
        (
            &format!("users: {{a: {{token: {TOKEN}, roles: [s]}}}}"),
            "no role `s`",
        ),
        ("users: {a: {certificate: n, roles: [r]}}", "no door asks"),
        (
            &format!("users: {{'a:b': {{token: {TOKEN}, roles: [r]}}}}"),
            "may not name a user",
        ),
        (
            &format!(
                "users: {{a: {{token: {TOKEN}, roles: [r]}}, b: {{token: {TOKEN}, roles: [r]}}}}"
            ),
            "of another user",
        ),
        (
            &format!(
                "users: {{a: {{password: '{}', roles: [r]}}}}",
                VERIFIER.replace("4096", "10")
            ),
            "10 rounds",
        ),
        ("tls: {cert: c.pem}", "`key`"),
    ] {
        let told = load(&format!("{text}\n{role}\n")).unwrap_err();
        let told: Vec<String> = told
            .0
            .iter()
            .map(|found| format!("{} {:?} {}", found.message, found.help, found.file.text))
            .collect();
        let told = told.join("\n");
        assert!(told.contains(said), "{text}: {told}");
        assert!(
            !told.contains("CANARY") && !told.contains("00112233"),
            "{told}"
        );
        assert!(!told.contains("AQEBAQ"), "{told}");
    }
}

#[test]
fn a_grant_names_relations_that_can_be() {
    for (grant, taken) in [
        ("clicks", true),
        ("public.clicks", true),
        ("panes.*", true),
        ("system.*", true),
        ("*", true),
        ("click*", false),
        ("*.clicks", false),
        ("pains.*", false),
        ("a.b.c", false),
        ("''", false),
    ] {
        let loaded = load(&format!(
            "roles: {{r: {{tables: ['{}']}}}}\n",
            grant.trim_matches('\'')
        ));
        assert_eq!(loaded.is_ok(), taken, "{grant}");
    }
}

#[test]
fn a_door_for_other_machines_needs_tls_and_users() {
    let tls = "tls: {cert: c.pem, key: k.pem}\n";
    let users =
        format!("users: {{a: {{token: {TOKEN}, roles: [r]}}}}\nroles: {{r: {{tables: [t]}}}}\n");
    let open = "listen: {http: \"0.0.0.0:1\", postgres: \"[::]:2\"}\n";
    for (text, lacks) in [
        (open.to_owned(), "neither TLS nor users"),
        (format!("{tls}{open}"), "no users"),
        (format!("{users}{open}"), "no TLS"),
        (format!("users: {{}}\n{tls}{open}"), "no users"),
    ] {
        let told = load(&text).unwrap_err();
        assert_eq!(told.0.len(), 2, "{told}");
        assert!(told.to_string().contains(lacks), "{told}");
    }
    let (server, _) = load(&format!("{tls}{users}{open}")).unwrap();
    assert!(!server.listen.http.ip().is_loopback());
}
