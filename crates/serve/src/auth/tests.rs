use std::net::SocketAddr;

use alluvium_plan::{Grant, RoleLimits};

use super::*;

fn user(password: Option<&str>, token: Option<&TokenHash>, certificate: Option<&str>) -> User {
    User {
        password: password.map(verifier_of),
        token: token.cloned(),
        certificate: certificate.map(str::to_owned),
        grants: [Grant::Everything].into(),
        limits: RoleLimits::default(),
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{name}:{password}")))
}

fn near() -> Peer {
    Peer::plain(SocketAddr::from(([127, 0, 0, 1], 40_000)))
}

async fn admitted(users: &Users, shown: &str) -> Result<String, Denied> {
    let access = users.admit(Some(shown.as_bytes()), &near()).await?;
    Ok(access.user().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn every_proof_lets_its_user_in_and_no_other() {
    let (token, hash) = new_token();
    let users = Users::new(&BTreeMap::from([
        ("ana".into(), user(Some("correct horse"), None, None)),
        ("dash".into(), user(None, Some(&hash), None)),
    ]));
    assert_eq!(
        admitted(&users, &basic("ana", "correct horse")).await,
        Ok("ana".into())
    );
    // Known again without working through the rounds.
    assert_eq!(users.proven().len(), 1);
    assert_eq!(
        admitted(&users, &basic("ana", "correct horse")).await,
        Ok("ana".into())
    );
    assert_eq!(
        admitted(&users, &format!("bearer  {token}")).await,
        Ok("dash".into())
    );
    for wrong in [
        basic("ana", "correct horse "),
        basic("ana", ""),
        basic("nobody", "correct horse"),
        basic("dash", &token),
        format!("Bearer {token}0"),
        "Bearer ".into(),
        "Negotiate abc".into(),
        "Basic ###".into(),
    ] {
        assert_eq!(
            admitted(&users, &wrong).await,
            Err(Denied::Wrong),
            "{wrong}"
        );
    }
    let nothing = users.admit(None, &near()).await;
    assert_eq!(nothing, Err(Denied::Unproven));
    let shown = format!("{users:?}");
    assert!(!shown.contains("horse") && !shown.contains(&token));
}

#[tokio::test]
async fn guessing_has_to_wait_and_tokens_have_not() {
    let (token, hash) = new_token();
    let users = Users::new(&BTreeMap::from([
        ("ana".into(), user(Some("correct horse"), None, None)),
        ("dash".into(), user(None, Some(&hash), None)),
    ]));
    let mut waits = 0;
    for guess in 0..12 {
        let outcome = admitted(&users, &basic("ana", &format!("guess {guess}"))).await;
        waits += usize::from(matches!(outcome, Err(Denied::TooOften { .. })));
    }
    assert!(waits >= 1, "{waits}");
    assert!(matches!(
        admitted(&users, &basic("ana", "correct horse")).await,
        Err(Denied::TooOften { .. })
    ));
    assert_eq!(
        admitted(&users, &format!("Bearer {token}")).await,
        Ok("dash".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guesses_at_once_are_no_more_than_one_after_another() {
    let users = Users::new(&BTreeMap::from([(
        "ana".into(),
        user(Some("correct horse"), None, None),
    )]));
    let guesses: Vec<_> = (0..100)
        .map(|guess| {
            let users = users.clone();
            tokio::spawn(async move { admitted(&users, &basic("ana", &guess.to_string())).await })
        })
        .collect();
    let mut looked_at = 0;
    for guess in guesses {
        looked_at += usize::from(guess.await.unwrap() == Err(Denied::Wrong));
    }
    // Some are forgiven while a slow machine works.
    assert!((10..=30).contains(&looked_at), "{looked_at}");
}

#[tokio::test]
async fn without_tls_nobody_comes_from_another_machine() {
    let far = Peer::plain(SocketAddr::from(([192, 0, 2, 7], 40_000)));
    let mapped = Peer::plain("[::ffff:127.0.0.1]:1".parse().unwrap());
    let users = Users::new(&BTreeMap::from([(
        "ana".into(),
        user(Some("correct horse"), None, None),
    )]));
    let shown = basic("ana", "correct horse");
    assert_eq!(
        users.admit(Some(shown.as_bytes()), &far).await,
        Err(Denied::NeedsTls)
    );
    assert!(users.admit(Some(shown.as_bytes()), &mapped).await.is_ok());
    let nobody = Users::new(&BTreeMap::new());
    assert_eq!(nobody.admit(None, &far).await, Err(Denied::NeedsTls));
    assert_eq!(
        nobody.admit(None, &near()).await,
        Ok(Access::unrestricted())
    );
}

#[test]
fn a_stranger_is_asked_like_a_user() {
    let users = Users::new(&BTreeMap::from([
        ("ana".into(), user(Some("correct horse"), None, None)),
        ("dash".into(), user(None, Some(&new_token().1), None)),
    ]));
    let ana = users.verifier("ana");
    for stranger in ["nobody", "dash"] {
        let one = users.verifier(stranger);
        assert_eq!((one.rounds, one.salt.len()), (ana.rounds, ana.salt.len()));
        assert!(one == users.verifier(stranger) && one != ana);
    }
}
