//! Certificates that change while the server runs, and those that cannot be used.

use std::fs;

use alluvium_plan::DoorTls;
use alluvium_serve::{Renewed, Tls};

use crate::house::*;

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
