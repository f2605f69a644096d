//! Who may read what through which door, and what is said to the others.

use std::fs;

use tonic::Code;

use crate::{flight::Proof, house::*};

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
    let over_flight = [
        Proof::Handshake("ana", PASSWORD),
        Proof::Header(format!("Bearer {}", house.token)),
        Proof::Certificate("etl"),
    ];
    for (relation, allowed) in RELATIONS {
        let sql = format!("SELECT count(*) FROM {relation}");
        for (place, may) in allowed.into_iter().enumerate() {
            let (status, told) = house.sql("https", HERE, &sql, over_http[place]);
            let settings = format!("{} sslmode=verify-full", over_postgres[place]);
            let printed = house.psql(HERE, &settings, PASSWORD, &sql);
            let fetched = house.flight_sql("https", HERE, &sql, &over_flight[place]);
            let everything = place == 2;
            match (may, everything) {
                (true, _) => {
                    assert_eq!(status, 200, "{relation} {place}: {told}");
                    assert!(
                        printed.starts_with("rows "),
                        "{relation} {place}: {printed}"
                    );
                    assert_eq!(fetched.unwrap(), 1, "{relation} {place}");
                }
                // Who may read everything is told that there is nothing.
                (false, true) => {
                    assert_eq!(status, 400, "{told}");
                    assert!(
                        told.contains("42P01") && printed.contains("42P01"),
                        "{told} {printed}"
                    );
                    let said = fetched.unwrap_err();
                    assert_eq!(said.code, Code::NotFound, "{said:?}");
                    assert_eq!(said.sqlstate, "42P01", "{said:?}");
                }
                (false, false) => {
                    assert_eq!(status, 403, "{relation} {place}: {told}");
                    assert!(told.contains("42501"), "{told}");
                    assert!(
                        printed.contains("42501: permission denied for table"),
                        "{printed}"
                    );
                    let said = fetched.unwrap_err();
                    assert_eq!(said.code, Code::PermissionDenied, "{said:?}");
                    assert_eq!(said.sqlstate, "42501", "{said:?}");
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

    // Over Flight SQL the same: whoever is wrong, by header or by handshake, hears the same words. The tries until here do not
    // count at another server.
    let postgres = house;
    let house = House::open(true, true);
    let wrong = [
        Proof::Handshake("ana", CANARY),
        Proof::Handshake("nobody", CANARY),
        Proof::Handshake("etl", CANARY),
        Proof::Header(format!("Bearer {CANARY}")),
    ];
    let mut said = Vec::new();
    for proof in wrong {
        let told = house.flight_sql("https", HERE, sql, &proof).unwrap_err();
        assert_eq!(told.code, Code::Unauthenticated, "{proof:?}: {told:?}");
        assert!(!told.message.contains(CANARY), "{told:?}");
        said.push(told.message);
    }
    assert!(said.iter().all(|words| words == &said[0]), "{said:?}");
    for unproven in [Proof::Nothing, Proof::Certificate("guest")] {
        let told = house.flight_sql("https", HERE, sql, &unproven).unwrap_err();
        assert_eq!(told.code, Code::Unauthenticated, "{unproven:?}: {told:?}");
    }
    let forged = Proof::Certificate("forged");
    let told = house.flight_sql("https", HERE, sql, &forged).unwrap_err();
    assert_ne!(told.code, Code::Unauthenticated, "{told:?}");

    let house = postgres;
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
    let waiting = Proof::Handshake("ana", PASSWORD);
    let told = house
        .flight_sql("https", HERE, "SELECT 1", &waiting)
        .unwrap_err();
    assert_eq!(told.code, Code::ResourceExhausted, "{told:?}");
    let bearer = format!("Authorization: Bearer {}", house.token);
    assert_eq!(
        house.sql("https", HERE, "SELECT 1", &["-H", &bearer]).0,
        200
    );
    let token = Proof::Header(format!("Bearer {}", house.token));
    assert_eq!(
        house.flight_sql("https", HERE, "SELECT 1", &token).unwrap(),
        1
    );
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
        let fetched = house.flight_sql("http", HERE, &sql, &Proof::Nothing);
        assert_eq!(fetched.is_ok(), allowed[2], "{relation}: {fetched:?}");
    }
    for path in ["/metrics", "/v1/status", "/readyz?verbose"] {
        assert_eq!(house.curl("http", HERE, path, &[]).0, 200, "{path}");
    }
}
