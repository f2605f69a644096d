//! Logs damaged in every way that came to mind (S9, S10): whoever opens, reads, follows or continues such a table gets
//! exactly what was committed, or an error that names the file and does not ask to be tried again in vain.

use std::sync::{
    Once,
    atomic::{AtomicUsize, Ordering},
};

use alluvium_types::{ErrorClass, is_panic_expected, survived};
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path};

use super::*;
use crate::{
    Checkpoint, CommitRecord, StoreError, audit,
    log::{SUM_TAG, sum_of},
};

const TABLE: &str = "clicks_per_minute";
const LOG: &str = "tables/clicks_per_minute/_delta_log";
/// Commits of the tables that are damaged. With creation and start these are versions 0 to 46.
const COMMITS: i64 = 45;
const NEWEST: i64 = COMMITS + 1;

/// Everything on storage, by path.
type Objects = BTreeMap<String, Bytes>;

/// A table with two log checkpoints, and where it stood some commits before.
struct Table {
    /// Five commits ago.
    earlier: Objects,
    /// Now.
    now: Objects,
    /// The newest log checkpoint.
    checkpoint: i64,
    truth: Truth,
}

/// What a table says, all of which must be true.
#[derive(Clone, Debug, PartialEq)]
struct Truth {
    version: i64,
    files: Vec<String>,
    recorded: Checkpoint,
    totals: (i64, i128),
}

async fn objects_of(store: &Store) -> Objects {
    let objects = store.object_store();
    let listed: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut all = Objects::new();
    for meta in listed {
        let bytes = objects.get(&meta.location).await.unwrap();
        all.insert(meta.location.to_string(), bytes.bytes().await.unwrap());
    }
    all
}

async fn store_of(objects: &Objects) -> Store {
    let store = in_memory();
    put_all(&store, objects).await;
    store
}

async fn put_all(store: &Store, objects: &Objects) {
    for (path, bytes) in objects {
        let path = Path::from(path.as_str());
        let payload = bytes.clone().into();
        store.object_store().put(&path, payload).await.unwrap();
    }
}

async fn table() -> Table {
    let store = in_memory();
    let mut writer = opened(&store, &[(0, 0), (1, 0)]).await;
    let mut upkeep = store.upkeep(TABLE);
    let mut earlier = Objects::new();
    let mut checkpoint = 0;
    for at in 0..COMMITS {
        if at == COMMITS - 5 {
            earlier = objects_of(&store).await;
        }
        let (partition, at) = ((at % 2) as i32, at / 2 * 3);
        commit_ranges(&mut writer, &[(partition, at, at + 3)]).await;
        let done = upkeep.run().await.unwrap();
        checkpoint = done.checkpoint.unwrap_or(checkpoint);
    }
    let now = objects_of(&store).await;
    assert!((21..NEWEST - 1).contains(&checkpoint), "{checkpoint}");
    let truth = read(&store).await.unwrap();
    assert_eq!(truth.version, NEWEST);
    Table {
        earlier,
        now,
        checkpoint,
        truth,
    }
}

/// Opens the table for reading and for writing. Both must say the same.
async fn read(store: &Store) -> Result<Truth, StoreError> {
    let by_reader = store.read_table(TABLE).await;
    let by_writer = store.table(&spec()).await;
    let (table, writer) = match (by_reader, by_writer) {
        (Ok(table), Ok(writer)) => (table, writer),
        (Err(error), Err(_)) => return Err(error),
        (Ok(_), Err(error)) => panic!("a reader takes what a writer refuses: {error}"),
        (Err(error), Ok(_)) => panic!("a writer takes what a reader refuses: {error}"),
    };
    let mut files: Vec<String> = table.files.iter().map(|file| format!("{file:?}")).collect();
    files.sort();
    assert_eq!(table.version, writer.version());
    assert_eq!(*table.offsets, writer.checkpoint().offsets);
    Ok(Truth {
        version: table.version,
        files,
        recorded: writer.checkpoint().clone(),
        totals: totals(store).await,
    })
}

/// The next commit of whoever opens the table, and what is true then.
async fn commit_one_more(store: &Store, truth: &Truth) {
    let mut writer = store.table(&spec()).await.unwrap();
    let at = truth.recorded.offsets[&tp(1)];
    let ending = commit_ranges(&mut writer, &[(1, at, at + 2)]).await;
    let version = truth.version + 1;
    assert_eq!(ending, crate::Ending::Committed { version });
    let after = read(store).await.unwrap();
    assert_eq!(after.version, version);
    assert_eq!(after.files.len(), truth.files.len() + 1);
    assert_eq!(after.recorded.offsets[&tp(1)], at + 2);
    let (clicks, bytes) = truth.totals;
    let more = i128::from(at) + i128::from(at + 1);
    assert_eq!(after.totals, (clicks + 2, bytes + more));
}

fn assert_is_clear(error: &StoreError, case: &str) {
    let text = error.to_string();
    assert_eq!(error.class(), ErrorClass::Config, "{case}: {text}");
    let names_its_place = text.contains("tables/clicks_per_minute")
        && (text.contains("version ") || text.contains(".json") || text.contains(".parquet"));
    assert!(names_its_place, "{case}: {text}");
}

/// What has to come of damage.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Comes {
    /// It changes nothing for anybody.
    Truth,
    /// The table is refused.
    Refusal,
    /// The one or the other.
    Either,
}

fn entry(version: i64) -> String {
    format!("{LOG}/{version:020}.json")
}

fn checkpoint(version: i64) -> String {
    format!("{LOG}/{version:020}.checkpoint.parquet")
}

fn hint() -> String {
    format!("{LOG}/_last_checkpoint")
}

/// SplitMix64, so that a failure can be repeated.
fn draw(seed: u64) -> usize {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize
}

fn flipped(bytes: &Bytes, seed: u64) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = draw(seed) % bytes.len();
    bytes[at] ^= 1 << (draw(seed + 1_000_000) % 8);
    bytes.into()
}

fn zeroed(bytes: &Bytes, part: std::ops::Range<usize>) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[part].fill(0);
    bytes.into()
}

fn replaced(bytes: &Bytes, from: &str, to: &str) -> Bytes {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into()
}

/// Counts panics of the threads that decode files: a server ends at any.
fn panics_of_decoders() -> &'static AtomicUsize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let is_decoder = thread.name().is_some_and(|name| name.starts_with("tokio"));
            if is_decoder && !is_panic_expected() {
                COUNT.fetch_add(1, Ordering::Relaxed);
            }
            print(panic);
        }));
    });
    &COUNT
}

/// Damages a table while one writer has it open where it stood five commits ago and another as it is.
async fn suffer(
    table: &Table,
    case: &str,
    damage: impl FnOnce(&mut Objects),
    comes: Comes,
) -> Result<Store, StoreError> {
    let panics = panics_of_decoders().load(Ordering::Relaxed);
    let store = store_of(&table.earlier).await;
    let mut behind = store.table(&spec()).await.unwrap();
    put_all(&store, &table.now).await;
    let mut at_the_end = store.table(&spec()).await.unwrap();
    let mut damaged = table.now.clone();
    damage(&mut damaged);
    for path in table.now.keys().filter(|path| !damaged.contains_key(*path)) {
        let path = Path::from(path.as_str());
        store.object_store().delete(&path).await.unwrap();
    }
    put_all(&store, &damaged).await;

    // Whoever follows has read some entries already; he sees the truth, or does not pass the damage.
    for writer in [&mut behind, &mut at_the_end] {
        let had = writer.checkpoint().clone();
        match writer.refresh().await {
            // Whoever stands before a hole of more than one version sees it when he reads the log whole.
            Ok(()) if case == "a wide hole" && writer.version() < NEWEST => {}
            Ok(()) => {
                assert_eq!(writer.version(), NEWEST, "{case}");
                assert_eq!(*writer.checkpoint(), table.truth.recorded, "{case}");
                assert_eq!(writer.committed().files.len(), table.truth.files.len());
            }
            Err(error) => {
                assert_is_clear(&error, case);
                for (partition, offset) in &had.offsets {
                    assert!(writer.checkpoint().offsets[partition] >= *offset, "{case}");
                }
            }
        }
    }
    // A history is the truth, lacks a version so that no audit passes, or is refused.
    match store.history(TABLE).await {
        Ok(history) => assert_is_history(table, &history, case).await,
        Err(error) => assert_is_clear(&error, case),
    }
    let opened = read(&store).await;
    match &opened {
        Ok(found) => {
            assert_ne!(comes, Comes::Refusal, "{case} was taken");
            assert_eq!(*found, table.truth, "{case}");
            commit_one_more(&store, &table.truth).await;
        }
        Err(error) => {
            assert_ne!(comes, Comes::Truth, "{case}: {error}");
            assert_is_clear(error, case);
        }
    }
    let now = panics_of_decoders().load(Ordering::Relaxed);
    assert_eq!(now, panics, "{case}: a panic");
    opened.map(|_| store)
}

async fn assert_is_history(table: &Table, history: &[CommitRecord], case: &str) {
    let whole = store_of(&table.now).await.history(TABLE).await.unwrap();
    if audit(history).is_proven() {
        assert_eq!(history, whole, "{case}");
    } else {
        assert!(
            history.iter().all(|record| whole.contains(record)),
            "{case}"
        );
    }
}

#[tokio::test]
async fn a_damaged_hint_is_no_hint() {
    let table = table().await;
    let good = table.now[&hint()].clone();
    let said = |version: &str| {
        let version_was = format!("\"version\":{}", table.checkpoint);
        replaced(&good, &version_was, &format!("\"version\":{version}"))
    };
    let mut cases: Vec<(String, Option<Bytes>)> = [
        ("no hint", None),
        ("an empty hint", Some("".into())),
        ("a hint of zeros", Some(zeroed(&good, 0..good.len()))),
        ("a hint that is a list", Some("[1, 2]".into())),
        ("a hint that is a number", Some("17".into())),
        ("a hint without a version", Some("{\"size\":3}".into())),
        ("a hint that is no JSON", Some("version: 3".into())),
        ("a hint that is not UTF-8", Some(vec![0xff; 40].into())),
        ("a version that is text", Some(said("\"40\""))),
        ("a negative version", Some(said("-3"))),
        ("version 0", Some(said("0"))),
        ("the version after the newest", Some(said("47"))),
        ("a version without a checkpoint", Some(said("43"))),
        ("the largest version", Some(said(&i64::MAX.to_string()))),
        (
            "a version that no number holds",
            Some(said("18446744073709551616")),
        ),
        ("a version of many digits", Some(said(&"9".repeat(400)))),
        ("a version that is a fraction", Some(said("40.5"))),
        (
            "tags that are a number",
            Some(replaced(&good, "\"tags\":{", "\"tags\":1,\"x\":{")),
        ),
        (
            "a hint with a BOM",
            Some([b"\xef\xbb\xbf", &good[..]].concat().into()),
        ),
        ("two hints", Some([&good[..], &good[..]].concat().into())),
    ]
    .into_iter()
    .map(|(case, hint)| (case.to_owned(), hint))
    .collect();
    for length in [1, 10, good.len() / 2, good.len() - 1] {
        let cut = format!("a hint cut off at {length}");
        cases.push((cut, Some(good.slice(..length))));
    }
    for seed in 0..40 {
        cases.push((
            format!("a hint with a flipped bit, seed {seed}"),
            Some(flipped(&good, seed)),
        ));
    }
    for (case, bytes) in cases {
        let damage = |objects: &mut Objects| match bytes {
            Some(bytes) => drop(objects.insert(hint(), bytes)),
            None => drop(objects.remove(&hint())),
        };
        let store = suffer(&table, &case, damage, Comes::Truth).await.unwrap();
        let newest = read(&store).await.unwrap();
        let (written, _) = kept_up(&store, &case).await;
        assert!(
            written == Some(newest.version) || written.is_none(),
            "{case}"
        );
        assert_eq!(read(&store).await.unwrap(), newest, "{case}");
    }
}

/// What the upkeep of a server that finds any new version worth a log checkpoint writes, and what it says of damage. It must
/// not fail.
async fn kept_up(store: &Store, case: &str) -> (Option<i64>, Vec<String>) {
    let mut upkeep = Store::over(store.object_store(), unhurried()).upkeep(TABLE);
    let written = match upkeep.run().await {
        Ok(done) => done.checkpoint,
        // The library also asks for columns that nobody here reads: a bit of their names is one of a hundred. Commits and
        // readers go on, and the log says what the library stumbles over.
        Err(StoreError::Delta { .. }) if case.starts_with("a flipped bit") => None,
        Err(error) => panic!("{case}: {error}"),
    };
    (written, upkeep.take_damaged())
}

/// Ways to damage a log checkpoint.
fn damaged_checkpoints(good: &Bytes, stranger: &Bytes) -> Vec<(String, Option<Bytes>)> {
    let length = good.len();
    let mut cases = vec![
        ("deleted".to_owned(), None),
        ("empty".to_owned(), Some(Bytes::new())),
        ("text".to_owned(), Some("no Parquet".into())),
        ("another table's".to_owned(), Some(stranger.clone())),
        (
            "twice".to_owned(),
            Some([&good[..], &good[..]].concat().into()),
        ),
        (
            "with a tail".to_owned(),
            Some([&good[..], b"tail"].concat().into()),
        ),
        ("all zeros".to_owned(), Some(zeroed(good, 0..length))),
    ];
    for cut in [
        1,
        4,
        length / 4,
        length / 2,
        length - 100,
        length - 8,
        length - 1,
    ] {
        cases.push((format!("cut off at {cut}"), Some(good.slice(..cut))));
    }
    for part in 0..8 {
        let part = part * length / 8..(part + 1) * length / 8;
        cases.push((format!("zeroed at {part:?}"), Some(zeroed(good, part))));
    }
    let seeds = std::env::var("DAMAGE_SEEDS").map_or(60, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        cases.push((
            format!("a flipped bit, seed {seed}"),
            Some(flipped(good, seed)),
        ));
    }
    cases
}

/// The same as `table`, of another id and with other events.
async fn stranger() -> Table {
    let mut stranger = table().await;
    let store = store_of(&stranger.earlier).await;
    let mut writer = store.table(&spec()).await.unwrap();
    for _ in 0..6 {
        let at = writer.checkpoint().offsets[&tp(0)];
        commit_ranges(&mut writer, &[(0, at, at + 7)]).await;
    }
    stranger.now = objects_of(&store).await;
    stranger
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over_while_entries_say_the_same() {
    let (table, stranger) = (table().await, stranger().await);
    let path = checkpoint(table.checkpoint);
    for (case, bytes) in damaged_checkpoints(&table.now[&path], &stranger.now[&path]) {
        let removed = bytes.is_none();
        let damage = |objects: &mut Objects| match bytes {
            Some(bytes) => drop(objects.insert(path.clone(), bytes)),
            None => drop(objects.remove(&path)),
        };
        let store = suffer(&table, &case, damage, Comes::Truth).await.unwrap();
        // It neither ends all later ones (S10), nor lets clean-up take what says the same.
        let newest = read(&store).await.unwrap();
        let (written, told) = kept_up(&store, &case).await;
        assert!(
            written == Some(newest.version)
                || written.is_none() && case.starts_with("a flipped bit"),
            "{case}"
        );
        assert_eq!(read(&store).await.unwrap(), newest, "{case}");
        let kept = objects_of(&store).await;
        if removed {
            continue;
        }
        // What Parquet reads past is as good as whole.
        let may_be_whole = ["a flipped bit", "zeroed", "twice", "with a tail"];
        let is_kept = kept.contains_key(&path);
        // It was passed over when it is gone, and then that is told.
        assert!(is_kept || told.len() == 1, "{case}: {told:?}");
        assert!(
            !is_kept || may_be_whole.iter().any(|start| case.starts_with(start)),
            "{case}"
        );
    }
}
#[tokio::test]
async fn a_damaged_checkpoint_alone_is_refused() {
    let (mut table, stranger) = (table().await, stranger().await);
    let path = checkpoint(table.checkpoint);
    // Clean-up has taken what lies before.
    for objects in [&mut table.earlier, &mut table.now] {
        let is_old = |name: &String| {
            let digits = name.strip_prefix(LOG).and_then(|name| name.get(1..21));
            digits.is_some_and(|digits| digits.parse::<i64>().is_ok_and(|v| v < table.checkpoint))
        };
        objects.retain(|name, _| !is_old(name));
    }
    if !table.earlier.contains_key(&path) {
        table.earlier = table.now.clone();
    }
    let (mut taken, mut refused) = (0, 0);
    for (case, bytes) in damaged_checkpoints(&table.now[&path], &stranger.now[&path]) {
        // A bit that nobody asks for; and Parquet is read from its end, so a second copy leads to the first.
        let may_be_whole = ["a flipped bit", "zeroed", "twice"];
        let comes = match may_be_whole.iter().any(|start| case.starts_with(start)) {
            true => Comes::Either,
            false => Comes::Refusal,
        };
        let damage = |objects: &mut Objects| match bytes {
            Some(bytes) => drop(objects.insert(path.clone(), bytes)),
            None => drop(objects.remove(&path)),
        };
        match suffer(&table, &case, damage, comes).await {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused >= 20, "{taken} were taken, {refused} refused");
}

#[tokio::test]
async fn damaged_entries_are_refused_or_not_needed() {
    let (table, stranger) = (table().await, stranger().await);
    let last = entry(NEWEST);
    let good = table.now[&last].clone();
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    let bom = [b"\xef\xbb\xbf", &good[..]].concat();
    let crlf = String::from_utf8(good.to_vec())
        .unwrap()
        .replace('\n', "\r\n");
    let mut cases: Vec<(String, Bytes, Comes)> = [
        ("empty", Bytes::new(), Comes::Refusal),
        ("a line feed", "\n".into(), Comes::Refusal),
        ("null", "null\n".into(), Comes::Refusal),
        ("zeros", zeroed(&good, 0..good.len()), Comes::Refusal),
        (
            "zeros at the end",
            zeroed(&good, good.len() - 20..good.len()),
            Comes::Refusal,
        ),
        (
            "without its last line",
            lines[..lines.len() - 1].concat().into(),
            Comes::Refusal,
        ),
        (
            "its first line alone",
            lines[0].to_vec().into(),
            Comes::Refusal,
        ),
        (
            "its lines in another order",
            [lines[1..].concat(), lines[0].to_vec()].concat().into(),
            Comes::Either,
        ),
        (
            "twice",
            [&good[..], &good[..]].concat().into(),
            Comes::Refusal,
        ),
        ("with a BOM", bom.into(), Comes::Refusal),
        ("with CRLF", crlf.into(), Comes::Refusal),
        (
            "with a tail",
            [&good[..], b"tail"].concat().into(),
            Comes::Refusal,
        ),
        (
            "an unknown action",
            [&good[..], b"{\"paint\":{}}\n"].concat().into(),
            Comes::Refusal,
        ),
        (
            "a duplicate key",
            replaced(&good, "\"appId\":", "\"appId\":\"x\",\"appId\":"),
            Comes::Refusal,
        ),
        (
            "other offsets",
            replaced(&good, "\"version\":6", "\"version\":3"),
            Comes::Refusal,
        ),
        (
            "an older entry",
            table.now[&entry(NEWEST - 2)].clone(),
            Comes::Refusal,
        ),
        (
            "another table's entry",
            stranger.now[&last].clone(),
            Comes::Refusal,
        ),
    ]
    .into_iter()
    .map(|(case, bytes, comes)| (case.to_owned(), bytes, comes))
    .collect();
    for length in [
        1,
        lines[0].len() / 2,
        lines[0].len() - 1,
        good.len() / 2,
        good.len() - 2,
    ] {
        cases.push((
            format!("cut off at {length}"),
            good.slice(..length),
            Comes::Refusal,
        ));
    }
    for seed in 0..150 {
        // A bit of the key of the checksum is the only one that does no harm.
        cases.push((
            format!("a flipped bit, seed {seed}"),
            flipped(&good, seed),
            Comes::Either,
        ));
    }
    let mut taken = 0;
    for (case, bytes, comes) in &cases {
        // The newest, one that an open writer still has to read, and one that a log checkpoint stands for.
        let damage = |objects: &mut Objects| drop(objects.insert(last.clone(), bytes.clone()));
        taken += usize::from(suffer(&table, case, damage, *comes).await.is_ok());
    }
    assert!(taken < 10, "{taken} were taken");
    for (case, bytes, comes) in cases
        .iter()
        .filter(|(_, _, comes)| *comes == Comes::Refusal)
    {
        let case = format!("in the middle: {case}");
        let middle = entry(NEWEST - 2);
        if *bytes == table.now[&middle] {
            continue;
        }
        let damage = |objects: &mut Objects| drop(objects.insert(middle, bytes.clone()));
        let _ = suffer(&table, &case, damage, *comes).await;
        let old = entry(table.checkpoint - 3);
        let damage = |objects: &mut Objects| drop(objects.insert(old, bytes.clone()));
        let _ = suffer(
            &table,
            &format!("before the checkpoint: {case}"),
            damage,
            Comes::Truth,
        )
        .await;
    }
}

/// Behind the log checkpoint another table's commit ends a history; before it, it may be what came late into a place that clean-up
/// had freed, and is passed over.
#[tokio::test]
async fn another_tables_commit_is_no_part_of_a_history() {
    let (table, stranger) = (table().await, stranger().await);
    for version in [NEWEST - 1, NEWEST] {
        let mut objects = table.now.clone();
        let theirs = stranger.now[&entry(version)].clone();
        objects.insert(entry(version), theirs);
        let refused = store_of(&objects).await.history(TABLE).await;
        let refused = refused.unwrap_err().to_string();
        let words = format!("version {version} of");
        assert!(refused.contains(&words), "{refused}");
    }
    let mut objects = table.now.clone();
    let old = entry(table.checkpoint - 3);
    let theirs = stranger.now[&old].clone();
    assert_ne!(table.now[&old], theirs);
    objects.insert(old, theirs);
    let history = store_of(&objects).await.history(TABLE).await.unwrap();
    assert_is_history(&table, &history, "a late put").await;
    assert_eq!(history.len() as i64, NEWEST);
}

#[tokio::test]
async fn a_hole_in_the_log_is_told() {
    let table = table().await;
    for version in [NEWEST - 1, NEWEST - 2, NEWEST - 4] {
        let damage = |objects: &mut Objects| drop(objects.remove(&entry(version)));
        let error = suffer(&table, "a hole", damage, Comes::Refusal)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&entry(version)), "{error}");
    }
    let damage = |objects: &mut Objects| {
        for version in NEWEST - 3..NEWEST {
            objects.remove(&entry(version));
        }
    };
    let error = suffer(&table, "a wide hole", damage, Comes::Refusal)
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&entry(NEWEST - 3)), "{error}");
    // The log checkpoint says what lies before it.
    let damage = |objects: &mut Objects| drop(objects.remove(&entry(table.checkpoint - 2)));
    suffer(&table, "a hole before the checkpoint", damage, Comes::Truth)
        .await
        .unwrap();
    let damage = |objects: &mut Objects| drop(objects.remove(&entry(0)));
    suffer(&table, "no first entry", damage, Comes::Truth)
        .await
        .unwrap();
}
/// That the newest entry is missing cannot be seen from the log: it looks as it did before that commit. Held is what somebody
/// remembers: a writer that has the version counts nothing twice and says what is gone, and so does a log checkpoint. Where
/// nobody does, the events are counted again, and the rows of the lost entry are not: its files are orphans.
#[tokio::test]
async fn a_lost_newest_entry_is_noticed_by_whoever_remembers_it() {
    let table = table().await;
    let store = store_of(&table.now).await;
    let mut writer = store.table(&spec()).await.unwrap();
    let mut asleep = store.table(&spec()).await.unwrap();
    store
        .object_store()
        .delete(&Path::from(entry(NEWEST)))
        .await
        .unwrap();
    // The one that sleeps loads the table anew and does not go back.
    asleep
        .snapshot_mut()
        .read_at
        .make_older(super::AN_HOUR * 24);
    let error = asleep.refresh().await.unwrap_err();
    assert_is_clear(&error, "asleep");
    assert!(error.to_string().contains(&entry(NEWEST)), "{error}");
    assert_eq!(*asleep.checkpoint(), table.truth.recorded);
    let lost = [(0, 66, 69)];
    let staged = asleep
        .stage(once(panes_of(&spec(), &lost)), None)
        .await
        .unwrap();
    assert_is_clear(
        &asleep.commit(&staged, &facts(&lost)).await.unwrap_err(),
        "asleep",
    );
    // The one awake knows that those events are counted, and goes on behind the lost version, which is then a hole.
    writer.refresh().await.unwrap();
    assert_eq!(*writer.checkpoint(), table.truth.recorded);
    let staged = writer
        .stage(once(panes_of(&spec(), &lost)), None)
        .await
        .unwrap();
    let ending = writer.commit(&staged, &facts(&lost)).await.unwrap();
    assert_eq!(ending, crate::Ending::AlreadyDone);
    let at = writer.checkpoint().offsets[&tp(1)];
    commit_ranges(&mut writer, &[(1, at, at + 1)]).await;
    let error = read(&store).await.unwrap_err();
    assert_is_clear(&error, "the hole");
    assert!(error.to_string().contains(&entry(NEWEST)), "{error}");
    assert!(!audit(&store.history(TABLE).await.unwrap()).is_proven());
    // Put back, it is as if nothing had been.
    put_all(&store, &table.now).await;
    assert_eq!(
        read(&store).await.unwrap().totals.0,
        table.truth.totals.0 + 1
    );
    // Nobody remembers: counted again, and once.
    let store = store_of(&table.now).await;
    store
        .object_store()
        .delete(&Path::from(entry(NEWEST)))
        .await
        .unwrap();
    let mut writer = store.table(&spec()).await.unwrap();
    assert_eq!(writer.version(), NEWEST - 1);
    assert_eq!(writer.checkpoint().offsets[&tp(0)], 66);
    commit_ranges(&mut writer, &lost).await;
    assert_eq!(read(&store).await.unwrap().totals, table.truth.totals);
    // A log checkpoint remembers it too.
    let store = store_of(&table.now).await;
    checkpointed(
        &Store::over(store.object_store(), unhurried()),
        &store.table_log(TABLE),
    )
    .await;
    store
        .object_store()
        .delete(&Path::from(entry(NEWEST)))
        .await
        .unwrap();
    assert_eq!(read(&store).await.unwrap(), table.truth);
    commit_one_more(&store, &table.truth).await;
}
#[tokio::test]
async fn strange_names_in_the_folder_change_nothing() {
    let (table, stranger) = (table().await, stranger().await);
    let (other_entry, other_checkpoint) = (
        stranger.now[&entry(NEWEST)].clone(),
        stranger.now[&checkpoint(table.checkpoint)].clone(),
    );
    let next = NEWEST + 1;
    let strange: Vec<(String, &Bytes)> = vec![
        (format!("{next:020}.json.tmp"), &other_entry),
        (format!("{next:020}.json#17"), &other_entry),
        (format!(".{next:020}.json.swp"), &other_entry),
        (format!(".{next:020}.json.crc"), &other_entry),
        (format!("{next:020}.crc"), &other_entry),
        (format!("{NEWEST:020}.crc"), &other_entry),
        (format!("{next:020}.json.gz"), &other_entry),
        (format!("{next:020}.JSON"), &other_entry),
        (format!("{next}.json"), &other_entry),
        (format!("{next:019}.json"), &other_entry),
        (format!("{next:021}.json"), &other_entry),
        (format!("+{next:019}.json"), &other_entry),
        (format!("-{next:019}.json"), &other_entry),
        ("99999999999999999999.json".to_owned(), &other_entry),
        (format!("{next:020}"), &other_entry),
        (
            format!("{next:020}.{:020}.compacted.json", next + 3),
            &other_entry,
        ),
        (format!("backup/{:020}.json", next + 4), &other_entry),
        (format!("_staged_commits/{next:020}.json"), &other_entry),
        (
            format!("_staged_commits/{next:020}.0190.json"),
            &other_entry,
        ),
        (
            format!("backup/{NEWEST:020}.checkpoint.parquet"),
            &other_checkpoint,
        ),
        (
            format!("{NEWEST:020}.checkpoint.parquet.tmp"),
            &other_checkpoint,
        ),
        (
            format!("{NEWEST:020}.checkpoint.0190.parquet"),
            &other_checkpoint,
        ),
        (
            format!("{NEWEST:020}.checkpoint.0000000001.0000000002.parquet"),
            &other_checkpoint,
        ),
        (
            format!("{NEWEST:020}.checkpoint.0000000003.0000000002.parquet"),
            &other_checkpoint,
        ),
        (
            format!("{NEWEST:020}.checkpoint.0000000000.0000000001.parquet"),
            &other_checkpoint,
        ),
        (
            format!("{NEWEST:020}.checkpoint.0000000001.0000000000.parquet"),
            &other_checkpoint,
        ),
        ("_sidecars/0190.parquet".to_owned(), &other_checkpoint),
        ("_last_checkpoint.tmp".to_owned(), &other_entry),
        ("README".to_owned(), &other_entry),
        ("ünïcode 100%.json".to_owned(), &other_entry),
    ];
    for (name, bytes) in &strange {
        let damage =
            |objects: &mut Objects| drop(objects.insert(format!("{LOG}/{name}"), (*bytes).clone()));
        suffer(&table, name, damage, Comes::Truth).await.unwrap();
    }
    let damage = |objects: &mut Objects| {
        for (name, bytes) in strange {
            objects.insert(format!("{LOG}/{name}"), bytes.clone());
        }
    };
    suffer(&table, "all of them", damage, Comes::Truth)
        .await
        .unwrap();
}
#[tokio::test]
async fn parts_of_a_checkpoint_count_when_all_are_there() {
    let table = table().await;
    let whole = checkpoint(table.checkpoint);
    let part = |part: u32, count: u32| {
        let version = table.checkpoint;
        format!("{LOG}/{version:020}.checkpoint.{part:010}.{count:010}.parquet")
    };
    // Halves of the rows, as a writer of another make leaves them.
    let bytes = table.now[&whole].clone();
    let halves = halves(bytes);
    let cases = vec![
        ("both parts", vec![(1, 2, 0), (2, 2, 1)]),
        ("the second part is missing", vec![(1, 2, 0)]),
        ("the first part is missing", vec![(2, 2, 1)]),
        ("parts of two divisions", vec![(1, 2, 0), (2, 3, 1)]),
        (
            "parts of two divisions, the other way",
            vec![(1, 3, 0), (2, 2, 1)],
        ),
        ("a part beyond the last", vec![(1, 2, 0), (3, 2, 1)]),
    ];
    for (case, parts) in cases {
        let damage = |objects: &mut Objects| {
            objects.remove(&whole);
            for (number, count, half) in parts {
                objects.insert(part(number, count), halves[half].clone());
            }
        };
        suffer(&table, case, damage, Comes::Truth).await.unwrap();
    }
}
fn halves(checkpoint: Bytes) -> [Bytes; 2] {
    use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
    let reader = ParquetRecordBatchReaderBuilder::try_new(checkpoint).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let rows = datafusion::arrow::compute::concat_batches(&schema, &batches).unwrap();
    let middle = rows.num_rows() / 2;
    let write = |part: RecordBatch| {
        let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).unwrap();
        writer.write(&part).unwrap();
        Bytes::from(writer.into_inner().unwrap())
    };
    [
        write(rows.slice(0, middle)),
        write(rows.slice(middle, rows.num_rows() - middle)),
    ]
}
/// What stands in storage is read by later versions: the sum of the same lines stays the same.
#[test]
fn the_sum_of_a_checkpoint_is_pinned() {
    let json = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}
        {"metaData":{"id":"a","format":{"provider":"parquet"},"schemaString":"{}","partitionColumns":["_day"]}}
        {"txn":{"appId":"alluvium/clicks/clicks/0","version":17}}
        {"add":{"path":"a.parquet","partitionValues":{"_day":"1970-01-01"},"size":3,"modificationTime":1,"dataChange":true,"stats":"{}","tags":{"b":"c"}}}
        {"remove":{"path":"b.parquet","deletionTimestamp":1,"dataChange":true}}"#;
    let entry = crate::action::Entry::parse(7, json.as_bytes()).unwrap();
    assert_eq!(SUM_TAG, "alluvium.lines");
    assert_eq!(sum_of(&entry.lines), "1:4:179621f0c");
}

/// Some flipped bits make Parquet's decoder panic, which must not end a server again and again.
#[test]
fn a_decoder_that_panics_is_survived() {
    let seen = panics_of_decoders().load(Ordering::Relaxed);
    assert_eq!(survived(|| 17), Some(17));
    let decode = || -> usize { panic!("expected 1 child values but got 4") };
    let thread = std::thread::Builder::new().name("tokio-of-a-test".into());
    let decoded = thread.spawn(move || {
        let decoded = survived(decode);
        (decoded, is_panic_expected())
    });
    assert_eq!(decoded.unwrap().join().unwrap(), (None, false));
    assert_eq!(panics_of_decoders().load(Ordering::Relaxed), seen);
}

/// A sum that is damaged itself, or of a kind that only a later version knows, says nothing about the checkpoint.
#[tokio::test]
async fn a_sum_that_cannot_be_relied_upon_is_none() {
    let table = table().await;
    let good = String::from_utf8(table.now[&hint()].to_vec()).unwrap();
    let tag = good.split(SUM_TAG).nth(1).unwrap()[3..]
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let mut alone = table.now.clone();
    alone.retain(|path, _| {
        let of_log = path.strip_prefix(LOG).and_then(|name| name.get(1..21));
        let version = of_log.and_then(|digits| digits.parse::<i64>().ok());
        version.is_none_or(|version| version >= table.checkpoint)
    });
    for (place, digit) in tag.char_indices().filter(|(_, digit)| *digit != ':') {
        let mut other = tag.clone();
        let changed = if digit == '5' { "6" } else { "5" };
        other.replace_range(place..=place, changed);
        let changed = Bytes::from(good.replace(&tag, &other));
        alone.insert(hint(), changed);
        let store = store_of(&alone).await;
        assert_eq!(read(&store).await.unwrap(), table.truth, "{other}");
    }
    for other in ["2:anything", "", "1:1:1", "null"] {
        let changed = match other {
            "null" => good.replace(&format!("\"{tag}\""), "null"),
            other => good.replace(&tag, other),
        };
        alone.insert(hint(), changed.into());
        let store = store_of(&alone).await;
        assert_eq!(read(&store).await.unwrap(), table.truth, "{other}");
    }
}

/// An old entry that nobody needs any more keeps the log from being cleaned up, as what it says would be lost. Everything else
/// goes on.
#[tokio::test]
async fn a_damaged_old_entry_stops_neither_sweeps_nor_checkpoints() {
    let table = table().await;
    let objects = super::faulty::FaultyStore::new(3, super::faulty::Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    put_all(&store, &table.now).await;
    let damaged = flipped(&table.now[&entry(7)], 5);
    let orphan = Path::from(format!("tables/{TABLE}/orphan.zstd.parquet"));
    store
        .object_store()
        .put(&Path::from(entry(7)), damaged.into())
        .await
        .unwrap();
    store
        .object_store()
        .put(&orphan, "nobody's".into())
        .await
        .unwrap();
    objects
        .age
        .store(30 * 24 * 3600, std::sync::atomic::Ordering::Relaxed);
    let mut upkeep = store.upkeep(TABLE);
    let done = upkeep.run().await.unwrap();
    assert_eq!(done.checkpoint, Some(NEWEST));
    assert_eq!((done.log_files_removed, done.orphans_removed), (0, 1));
    assert!(done.ledger_entries >= 7, "{done:?}");
    let told = upkeep.take_damaged();
    assert!(
        told.len() == 1 && told[0].contains("version 7 of"),
        "{told:?}"
    );
    let after = read(&store).await.unwrap();
    assert_eq!(after.totals, table.truth.totals);
}

/// A log checkpoint that could not be read is removed when it cannot be read again, and not when storage does not answer: the log
/// may have been cleaned up by it since.
#[tokio::test]
async fn a_checkpoint_that_is_out_of_reach_is_not_removed() {
    let table = table().await;
    let objects = super::faulty::FaultyStore::new(3, super::faulty::Faults::default());
    let store = Store::over(Arc::new(objects.clone()), unhurried());
    put_all(&store, &table.now).await;
    let name = checkpoint(table.checkpoint);
    let path = Path::from(name.as_str());
    let whole = table.now[&name].clone();
    let half = whole.slice(..whole.len() / 2);
    store.object_store().put(&path, half.into()).await.unwrap();
    let log = store.table_log(TABLE);
    let mut snapshot = log.load().await.unwrap().unwrap();
    assert_eq!(snapshot.passed_over.len(), 1);
    store.object_store().put(&path, whole.into()).await.unwrap();
    *objects.withheld.lock().unwrap() = Some((path, 0));
    let refused = crate::log_checkpoint::write_checkpoint(&store, &log, &mut snapshot).await;
    let error = refused.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    *objects.withheld.lock().unwrap() = None;
    assert!(objects_of(&store).await.contains_key(&name));
}

/// A hint may name a version that does not exist: of a log that was restored from a copy, say.
#[tokio::test]
async fn a_hint_that_is_ahead_of_the_log_is_healed() {
    let table = table().await;
    let mut objects = table.now.clone();
    let named = format!("\"version\":{}", table.checkpoint);
    let ahead = replaced(&table.now[&hint()], &named, "\"version\":4711");
    objects.insert(hint(), ahead);
    let store = store_of(&objects).await;
    let (written, told) = kept_up(&store, "ahead").await;
    assert_eq!((written, told), (Some(NEWEST), Vec::new()));
    let healed = store.object_store().get(&Path::from(hint())).await.unwrap();
    let healed: serde_json::Value = serde_json::from_slice(&healed.bytes().await.unwrap()).unwrap();
    assert_eq!(healed["version"], NEWEST);
    assert!(healed["tags"][SUM_TAG].is_string(), "{healed}");
    assert_eq!(read(&store).await.unwrap(), table.truth);
}

/// Files of panes too may be damaged so that a decoder panics over them. Whoever reads one gets an error that names it, or rows.
#[tokio::test]
async fn a_damaged_file_of_panes_ends_no_process() {
    let table = table().await;
    let store = store_of(&table.now).await;
    let file = store.read_table(TABLE).await.unwrap().files[0].clone();
    let good = table.now[&file.path].clone();
    let (mut refused, mut panicked) = (0, 0);
    for seed in 0..400 {
        let mut bytes = flipped(&good, 2 * seed);
        if seed % 3 == 0 {
            bytes = flipped(&bytes, 2 * seed + 1);
        }
        let path = Path::from(file.path.as_str());
        store.object_store().put(&path, bytes.into()).await.unwrap();
        let columns = ["window_start", "clicks", "bytes"];
        let read = read_columns(store.object_store(), &file.path, file.size, &columns).await;
        if let Err(error) = read {
            let text = format!("{error:?}");
            assert!(text.contains(&file.path), "{text}");
            panicked += usize::from(text.contains("no decoder gets through"));
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    eprintln!("{refused} of 400 are refused, of which decoders panicked over {panicked}");
}
