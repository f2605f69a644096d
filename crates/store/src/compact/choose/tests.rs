//! The rule over tables that grow for long.

use alluvium_types::Timestamp;

use super::*;

const MEMORY: u64 = 64 << 20;

fn file(number: u64, size: u64) -> CommittedFile {
    CommittedFile {
        path: format!("tables/t/{number:08}.zstd.parquet"),
        size,
        rows: Some(size / 30),
        window_start: Some((
            Timestamp::from_micros(number as i64),
            Timestamp::from_micros(number as i64),
        )),
        bounds: Arc::default(),
        partition_values: BTreeMap::new(),
        missing_states: Vec::new(),
        has_unique_keys: true,
        checksum: None,
    }
}

fn of_day(mut file: CommittedFile, day: &str) -> CommittedFile {
    file.partition_values
        .insert("_day".into(), Some(day.into()));
    file
}

/// A table as it grows: `sizes` are commits; what of a merge's bytes is left is `shrink`.
struct Growing {
    files: Vec<CommittedFile>,
    written: u64,
    rewritten: u64,
    most: usize,
    next: u64,
}

impl Growing {
    fn new() -> Self {
        Self {
            files: Vec::new(),
            written: 0,
            rewritten: 0,
            most: 0,
            next: 0,
        }
    }

    fn put(&mut self, size: u64, day: Option<&str>) {
        let new = file(self.next, size);
        self.next += 1;
        self.files.push(match day {
            Some(day) => of_day(new, day),
            None => new,
        });
    }

    fn commit(&mut self, size: u64, day: Option<&str>, shrink: f64) {
        self.put(size, day);
        self.written += size;
        while let Some(choice) = choose(&self.files, Effort::AsItGrows, MEMORY, &BTreeSet::new()) {
            let gone: BTreeSet<&str> = choice
                .files()
                .iter()
                .map(|file| file.path.as_str())
                .collect();
            assert!(gone.len() >= 2);
            self.files.retain(|file| !gone.contains(file.path.as_str()));
            let largest = choice.files().iter().map(|file| file.size).max().unwrap();
            let size = ((choice.bytes() as f64 * shrink) as u64).max(largest);
            let day = choice.files()[0].partition_values.get("_day").cloned();
            self.rewritten += size;
            self.put(size, day.flatten().as_deref());
        }
        self.most = self.most.max(self.files.len());
    }
}

#[test]
fn a_table_of_many_commits_has_few_files_and_is_not_rewritten_often() {
    for (name, size, shrink) in [
        ("keys repeat in all windows", 30_000, 0.15),
        ("most keys are new", 30_000, 0.9),
        ("every key is new", 400_000, 1.0),
        ("large commits", 9 << 20, 0.95),
    ] {
        let mut table = Growing::new();
        for commit in 0..5000_u64 {
            table.commit(size + commit % 7 * size / 10, None, shrink);
        }
        let full = table.files.iter().filter(|file| file.size >= FULL).count();
        assert!(
            table.most - full.min(table.most) < 100 && table.files.len() - full < 30,
            "{name}: {} files at most, {} now, {full} of them full",
            table.most,
            table.files.len(),
        );
        let times = table.rewritten as f64 / table.written as f64;
        assert!(times < 12.0, "{name}: bytes are rewritten {times} times");
    }
}

#[test]
fn late_rows_of_many_days_do_not_rewrite_those_days() {
    let days: Vec<String> = (1..=28).map(|day| format!("2026-05-{day:02}")).collect();
    let mut table = Growing::new();
    for day in &days {
        table.commit(30 << 20, Some(day), 1.0);
    }
    let (written, rewritten) = (table.written, table.rewritten);
    for commit in 0..2000 {
        table.commit(5_000, Some(&days[commit % 27]), 1.0);
    }
    assert!(table.files.len() < 28 * 6, "{} files", table.files.len());
    let times = (table.rewritten - rewritten) as f64 / (table.written - written) as f64;
    assert!(times < 30.0, "late rows are rewritten {times} times");
}

#[test]
fn only_files_of_one_day_that_lack_the_same_states_meet() {
    let mut files: Vec<CommittedFile> = (0..40).map(|number| file(number, 1000)).collect();
    for (number, file) in files.iter_mut().enumerate() {
        let day = if number % 2 == 0 {
            "2026-05-01"
        } else {
            "2026-05-02"
        };
        *file = of_day(file.clone(), day);
        if number % 4 < 2 {
            file.missing_states = vec!["mean_ms".into()];
        }
    }
    let choice = choose(&files, Effort::AsItGrows, MEMORY, &BTreeSet::new()).unwrap();
    assert_eq!(choice.files().len(), 10);
    let first = &choice.files()[0];
    for file in choice.files() {
        assert_eq!(file.partition_values, first.partition_values);
        assert_eq!(file.missing_states, first.missing_states);
    }
}

#[test]
fn memory_and_size_bound_what_is_read_at_once() {
    // Rows so wide that a row group of them is as large as it may be.
    let wide = |number| CommittedFile {
        rows: Some(20_000),
        ..file(number, 20 << 20)
    };
    let large: Vec<CommittedFile> = (0..20).map(wide).collect();
    let choice = choose(&large, Effort::Everything, MEMORY, &BTreeSet::new()).unwrap();
    assert_eq!(choice.files().len(), 4, "a row group of each, 16 MiB");
    let choice = choose(&large, Effort::Everything, 1 << 30, &BTreeSet::new()).unwrap();
    assert_eq!(choice.files().len(), 6, "128 MiB in all");
    assert_eq!(
        choose(&large, Effort::Everything, 20 << 20, &BTreeSet::new()),
        None
    );
    let many: Vec<CommittedFile> = (0..1000).map(|number| file(number, 1000)).collect();
    let choice = choose(&many, Effort::AsItGrows, MEMORY, &BTreeSet::new()).unwrap();
    assert_eq!(choice.files().len(), MOST_FILES);
}

#[test]
fn full_files_foreign_names_and_those_passed_over_are_left_alone() {
    let full: Vec<CommittedFile> = (0..20).map(|number| file(number, FULL)).collect();
    assert_eq!(
        choose(&full, Effort::Everything, MEMORY, &BTreeSet::new()),
        None
    );
    let mut files: Vec<CommittedFile> = (0..3).map(|number| file(number, 10)).collect();
    files[0].path = "tables/t/part 1.parquet".into();
    let choice = choose(&files, Effort::Everything, MEMORY, &BTreeSet::new()).unwrap();
    assert_eq!(choice.files(), &files[1..]);
    let passed_over = BTreeSet::from([files[2].path.clone()]);
    assert_eq!(
        choose(&files, Effort::Everything, MEMORY, &passed_over),
        None
    );
}

/// A file of windows from `first` to `last`, in milliseconds.
fn spanning(number: u64, size: u64, first: i64, last: i64) -> CommittedFile {
    let [first, last] = [first, last].map(|millis| Timestamp::from_micros(millis * 1000));
    CommittedFile {
        window_start: Some((first, last)),
        ..file(number, size)
    }
}

fn names(choice: &Choice) -> Vec<&str> {
    let paths = choice.files().iter().map(|file| file.path.as_str());
    paths
        .map(|path| {
            path["tables/t/".len()..]
                .trim_start_matches('0')
                .trim_end_matches(".zstd.parquet")
        })
        .collect()
}

#[test]
fn full_files_that_hold_the_same_windows_are_put_one_after_the_other() {
    let mut files = vec![
        spanning(1, FULL, 0, 100),
        spanning(2, FULL, 20, 60),
        spanning(3, FULL, 40, 90),
        spanning(4, FULL, 90, 200),
        spanning(5, FULL, 100, 101),
    ];
    // At no moment are there four; neighbours that share a window are none too many.
    assert_eq!(
        choose(&files, Effort::AsItGrows, MEMORY, &BTreeSet::new()),
        None
    );
    files.push(spanning(6, FULL, 50, 55));
    let choice = choose(&files, Effort::AsItGrows, MEMORY, &BTreeSet::new()).unwrap();
    assert_eq!(names(&choice), ["1", "2", "3", "6"]);
    assert_eq!(choice.bytes_of_a_file(), Some(2 * FULL));
    // Small ones meet by size; they make no full file be rewritten.
    files.pop();
    files.push(spanning(7, FULL - 1, 50, 55));
    assert_eq!(
        choose(&files, Effort::AsItGrows, MEMORY, &BTreeSet::new()),
        None
    );
    // By hand two are enough, ...
    let choice = choose(&files, Effort::InOrder, MEMORY, &BTreeSet::new()).unwrap();
    assert_eq!(names(&choice), ["1", "2", "3", "7"]);
    // ... as many as can be held.
    let one = held(&files[0]);
    let choice = choose(&files, Effort::InOrder, 3 * one, &BTreeSet::new()).unwrap();
    assert_eq!(choice.files().len(), 3);
    assert_eq!(choose(&files, Effort::InOrder, one, &BTreeSet::new()), None);
    // Bounds from the log end a millisecond late at most.
    let (mut ends_late, next) = (spanning(8, FULL, 0, 10), spanning(9, FULL, 10, 20));
    ends_late.window_start = ends_late
        .window_start
        .map(|(first, last)| (first, Timestamp::from_micros(last.micros() + 999)));
    let neighbours = [ends_late, next];
    assert_eq!(
        choose(&neighbours, Effort::InOrder, MEMORY, &BTreeSet::new()),
        None
    );
}

#[test]
fn of_a_file_with_few_bytes_a_row_little_is_held() {
    let rows = ROW_GROUP_ROWS as u64 * 40;
    let mut of_many_rows = file(1, 40 << 20);
    of_many_rows.rows = Some(rows);
    assert_eq!(held(&of_many_rows), 3 << 19);
    of_many_rows.rows = None;
    assert_eq!(held(&of_many_rows), MOST_HELD);
    assert_eq!(held(&file(1, 1000)), 1000);
}

proptest::proptest! {
    /// By hand a table is first joined, then put in order; both come to an end, and then no two files hold the same windows.
    #[test]
    fn a_table_comes_in_order(
        spans in proptest::collection::vec((0_i64..1000, 1_i64..400, 1_u64..200), 2..40),
    ) {
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        let mut files: Vec<CommittedFile> = spans
            .iter()
            .map(|(first, length, mebibytes)| spanning(next(), mebibytes << 20, *first, first + length))
            .collect();
        let mut effort = Effort::Everything;
        let mut merges = 0;
        loop {
            let Some(choice) = choose(&files, effort, 1 << 40, &BTreeSet::new()) else {
                if effort == Effort::InOrder {
                    break;
                }
                effort = Effort::InOrder;
                continue;
            };
            merges += 1;
            proptest::prop_assert!(merges < 500, "it does not end");
            let gone: BTreeSet<&str> = choice.files().iter().map(|file| file.path.as_str()).collect();
            files.retain(|file| !gone.contains(file.path.as_str()));
            // What becomes of them: files one after the other, here each with as many windows.
            let millis = |moment: Timestamp| moment.micros() / 1000;
            let bounds = choice.files().iter().filter_map(|file| file.window_start);
            let first = bounds.clone().map(|(first, _)| millis(first)).min().unwrap();
            let last = bounds.map(|(_, last)| millis(last)).max().unwrap();
            let parts = choice.bytes_of_a_file().map_or(1, |bytes| choice.bytes().div_ceil(bytes));
            let at = |part: u64| first + (last - first) * part as i64 / parts as i64;
            for part in 0..parts {
                let size = choice.bytes() / parts;
                files.push(spanning(next(), size, at(part), at(part + 1)));
            }
        }
        let mut bounds: Vec<(i64, i64)> = files
            .iter()
            .filter_map(|file| file.window_start)
            .map(|(first, last)| (first.micros(), last.micros()))
            .collect();
        bounds.sort_unstable();
        let mut reached = i64::MIN;
        for (first, last) in bounds {
            proptest::prop_assert!(first >= reached || first == last);
            reached = reached.max(last);
        }
    }
}
