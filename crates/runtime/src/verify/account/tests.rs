//! The fate of events, and what is told of commits that came to something else.

use alluvium_types::{Balance, Generation, RawBatchBuilder, Stage, Timestamp};

use super::*;

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(start, end).unwrap()
}

fn record(version: i64, kind: CommitKind, definition: &str) -> CommitRecord {
    CommitRecord {
        table: "tables/t".into(),
        table_id: None,
        version,
        timestamp: None,
        commit_id: None,
        follows: None,
        kind,
        pipeline: None,
        pipeline_version: Some(definition.into()),
        ranges: BTreeMap::new(),
        starts: BTreeMap::new(),
        recorded: BTreeMap::new(),
        balance: None,
        watermarks: BTreeMap::new(),
        rows_added: 0,
        files_added: 0,
        files_removed: 0,
        seeks: BTreeMap::new(),
        changes_rows: true,
        replayed: None,
    }
}

/// A commit of ten offsets, of which so many were refused.
fn commit(version: i64, definition: &str, rejected: u64) -> CommitRecord {
    let balance = Balance {
        events_in: 10,
        counted: 10 - rejected,
        rejected,
        ..Balance::default()
    };
    let stretch = range(10 * (version - 1), 10 * version);
    CommitRecord {
        ranges: BTreeMap::from([(partition(), stretch)]),
        balance: Some(balance),
        ..record(version, CommitKind::Commit, definition)
    }
}

fn replay(version: i64, after: Option<i64>, up_to: i64, letters: u64) -> CommitRecord {
    let replayed = Replayed {
        after,
        up_to,
        letters,
        counted: letters,
        filtered: 0,
        refused: 0,
    };
    CommitRecord {
        replayed: Some(replayed),
        ..record(version, CommitKind::Replay, "new")
    }
}

fn letter(version: i64, offset: i64, definition: &str) -> LetterPlace {
    LetterPlace {
        version,
        partition: partition(),
        offset,
        definition: definition.into(),
    }
}

/// The account by the definition `new` of a table that has read 20 offsets.
fn account(history: &[CommitRecord], letters: &[LetterPlace]) -> Account {
    let stretches = BTreeMap::from([(partition(), range(0, 20))]);
    let mut account = Account::of(&"new".into(), history, stretches, &[]);
    if account.needs_letters() {
        account.judge(letters, false);
    }
    account
}

fn batch(start: i64, end: i64) -> RawBatch {
    let mut builder = RawBatchBuilder::default();
    for offset in start..end {
        builder.push(offset, None, None, Some(b"{}"), []);
    }
    builder.finish(
        partition(),
        range(start, end),
        Generation::default(),
        Timestamp::default(),
        None,
    )
}

/// Reads all that the table has read, of which these offsets are refused today.
fn read(account: &mut Account, refused: &[i64]) -> Vec<Doubt> {
    for start in (0..20).step_by(4) {
        account.read(&batch(start, start + 4));
    }
    for &offset in refused {
        account.refused(&Reject {
            partition: partition(),
            offset,
            timestamp: None,
            key: None,
            headers: Vec::new(),
            payload: None,
            error: "no".into(),
            column: None,
            stage: Stage::Decode,
            table: None,
        });
    }
    account.doubts()
}

fn fates(account: &Account) -> Vec<(i64, Fate)> {
    let all = (0..20).map(|offset| (offset, account.fate(&partition(), offset)));
    all.filter(|(_, fate)| *fate != Fate::Counts).collect()
}

#[test]
fn what_todays_definition_refused_it_refuses_again() {
    let history = [commit(1, "new", 2), commit(2, "new", 0)];
    let mut account = account(&history, &[]);
    assert!(!account.needs_letters());
    assert_eq!(account.share_of(&batch(0, 20)), Share::All);
    assert_eq!(read(&mut account, &[3, 4]), []);
    assert_eq!(account.events(), 20);
}

#[test]
fn what_another_definition_refused_is_left_out_until_it_is_replayed() {
    let letters = [
        letter(1, 3, "old"),
        letter(2, 4, "old"),
        letter(2, 15, "new"),
    ];
    let history = [commit(1, "old", 2), commit(2, "new", 1)];
    let mut one = account(&history, &letters);
    assert_eq!(fates(&one), [(3, Fate::LeftOut), (4, Fate::LeftOut)]);
    assert_eq!(one.share_of(&batch(0, 4)), Share::Part);
    assert_eq!(one.share_of(&batch(5, 20)), Share::All);
    assert_eq!(read(&mut one, &[15]), []);

    // One letter was replayed.
    let history = [history.to_vec(), vec![replay(3, None, 1, 1)]].concat();
    let mut two = account(&history, &letters);
    assert_eq!(fates(&two), [(3, Fate::Replayed), (4, Fate::LeftOut)]);
    assert_eq!(read(&mut two, &[15]), []);
    let mut three = account(&history, &letters);
    assert_eq!(
        read(&mut three, &[3, 15]),
        [Doubt::ReplayedThen { events: 1 }]
    );
}

#[test]
fn an_event_with_two_letters_is_one_event() {
    let history = [
        commit(1, "old", 1),
        commit(2, "new", 0),
        replay(3, None, 1, 1),
    ];
    let letters = [letter(1, 3, "old"), letter(5, 3, "older")];
    let mut account = account(&history, &letters);
    assert_eq!(fates(&account), [(3, Fate::Replayed)]);
    assert_eq!(read(&mut account, &[]), []);
}

#[test]
fn where_there_are_more_letters_than_refusals_it_is_not_decided() {
    let history = [commit(1, "old", 1), commit(2, "old", 0)];
    let letters = [
        letter(1, 3, "old"),
        letter(1, 4, "old"),
        // The commit of this one refused nothing, so the letter is of another reading.
        letter(1, 15, "old"),
    ];
    let mut account = account(&history, &letters);
    assert_eq!(
        fates(&account),
        [(3, Fate::Undecided), (4, Fate::Undecided)]
    );
    assert_eq!(
        read(&mut account, &[]),
        [Doubt::Undecided {
            events: 2,
            version: 1
        }]
    );
}

#[test]
fn what_todays_definition_decides_otherwise_is_told() {
    let history = [commit(1, "old", 3), commit(2, "old", 0)];
    // Two of the letters were taken out when they were old.
    let mut one = account(&history, &[letter(1, 3, "old")]);
    assert_eq!(fates(&one), [(3, Fate::LeftOut)]);
    assert_eq!(
        read(&mut one, &[]),
        [Doubt::RefusedThen {
            events: 2,
            version: 1
        }]
    );
    let mut two = account(&history, &[letter(1, 3, "old")]);
    let taken = Doubt::TakenThen {
        events: 1,
        version: 2,
        partition: partition(),
        offset: 12,
        error: "no".into(),
    };
    assert_eq!(read(&mut two, &[5, 6, 12]), [taken]);
}

#[test]
fn events_that_the_log_has_lost_are_told() {
    let history = [commit(1, "new", 0), commit(2, "new", 0)];
    let mut account = account(&history, &[]);
    account.read(&batch(0, 10));
    account.read(&batch(10, 17));
    assert_eq!(
        account.doubts(),
        [Doubt::Events {
            counted: 20,
            found: 17,
            version: 2
        }]
    );
    assert_eq!(account.share_of(&batch(16, 24)), Share::Part);
    assert_eq!(account.share_of(&batch(20, 24)), Share::Nothing);
    assert_eq!(account.fate(&partition(), 20), Fate::LeftOut);
}

#[test]
fn an_event_with_two_letters_was_refused_once_and_is_replayed_once() {
    // One by a server that died before its commit, and one by the server that committed.
    let letters = [letter(5, 3, "older"), letter(6, 3, "old")];
    let mut history = vec![commit(1, "old", 1), commit(2, "new", 0)];
    let mut left_out = account(&history, &letters);
    assert_eq!(fates(&left_out), [(3, Fate::LeftOut)]);
    assert_eq!(read(&mut left_out, &[]), []);
    history.push(replay(3, None, 6, 1));
    let mut replayed = account(&history, &letters);
    assert_eq!(fates(&replayed), [(3, Fate::Replayed)]);
    assert_eq!(read(&mut replayed, &[]), []);
}

#[test]
fn what_was_passed_over_by_hand_is_not_folded() {
    let history = [commit(1, "new", 0), commit(3, "new", 0)];
    let gap = Gap {
        partition: partition(),
        offsets: range(10, 20),
        version: 2,
        commit_id: None,
    };
    let stretches = BTreeMap::from([(partition(), range(0, 30))]);
    let account = Account::of(&"new".into(), &history, stretches, &[gap]);
    let shares = [(0, 10), (8, 12), (10, 20), (18, 22), (20, 30)];
    let shares = shares.map(|(start, end)| account.share_of(&batch(start, end)));
    assert_eq!(
        shares,
        [
            Share::All,
            Share::Part,
            Share::Nothing,
            Share::Part,
            Share::All
        ]
    );
    let read = account.read_of(&partition());
    assert_eq!(read, [range(0, 10), range(20, 30)]);
    let fates = [9, 10, 19, 20].map(|offset| account.fate(&partition(), offset));
    assert_eq!(
        fates,
        [Fate::Counts, Fate::LeftOut, Fate::LeftOut, Fate::Counts]
    );
}
