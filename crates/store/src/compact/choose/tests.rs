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
    let large: Vec<CommittedFile> = (0..20).map(|number| file(number, 20 << 20)).collect();
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
