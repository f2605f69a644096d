//! Servers that write the same tables by different files.
//!
//! Owns telling that they do. Tables refuse what their panes cannot hold (P38); but two servers that decode or accept events
//! differently both write what fits, and which of them counts an event depends on who reads its partition. And files may agree about
//! events and differ in what servers have to have in common all the same, as the consumer group ([`Plan::settings`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_plan::Plan;
use alluvium_store::Definition;

/// Whether another server commits by other files: 1 or 0, by pipeline.
pub(crate) const CONFLICT: &str = "alluvium_pipeline_version_conflict";

/// Commits by other files that are this old do not matter any more: whoever made them has restarted, or reads nothing.
const LASTS: Duration = Duration::from_secs(600);
/// Commits that may pass before a server that still goes on counts as gone.
const MISSED: u32 = 3;

/// Whether others commit by other files.
#[derive(Debug)]
pub(crate) struct Definitions {
    version: Arc<str>,
    settings: Arc<BTreeMap<String, String>>,
    lasts: Duration,
    other: Option<Other>,
    /// What the log has told.
    told: BTreeSet<String>,
}

#[derive(Debug)]
struct Other {
    differs: String,
    last_met: Instant,
}

impl Definitions {
    /// This server's; others are taken to commit as often as it does.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self::of(
            plan.version.clone(),
            plan.settings().into(),
            plan.commit_every,
        )
    }

    fn of(
        version: Arc<str>,
        settings: Arc<BTreeMap<String, String>>,
        commit_every: Duration,
    ) -> Self {
        Self {
            version,
            settings,
            lasts: LASTS.max(commit_every.saturating_mul(MISSED)),
            other: None,
            told: BTreeSet::new(),
        }
    }

    /// What this server's commits say beside their version.
    pub(crate) fn settings(&self) -> &Arc<BTreeMap<String, String>> {
        &self.settings
    }

    /// Events were committed to `table` by these files: this server's, or another's.
    pub(crate) fn met(&mut self, table: &str, by: &Definition, now: Instant) {
        let Some(differs) = self.difference(table, by) else {
            return;
        };
        if self.told.insert(differs.clone()) {
            tracing::warn!("{differs}");
        }
        self.other = Some(Other {
            differs,
            last_met: now,
        });
    }

    fn difference(&self, table: &str, by: &Definition) -> Option<String> {
        if by.version != *self.version {
            return Some(format!(
                "another server commits to {table} by version {} of the pipeline's files, this one has {}: give every server the \
                 same pipeline and schema files",
                by.version, self.version
            ));
        }
        // A version that does not know a setting says nothing about it.
        let differing: Vec<String> = by
            .settings
            .iter()
            .filter_map(|(key, theirs)| {
                let ours = self.settings.get(key).filter(|ours| *ours != theirs)?;
                Some(format!("`{key}` is {theirs} there and {ours} here"))
            })
            .collect();
        (!differing.is_empty()).then(|| {
            format!(
                "another server commits to {table} by other settings, {}: give every server the same pipeline files",
                differing.join(", ")
            )
        })
    }

    /// What is wrong, if anything is.
    pub(crate) fn trouble(&mut self, now: Instant) -> Option<String> {
        let lasts = self.lasts;
        self.other
            .take_if(|other| now.duration_since(other.last_met) >= lasts);
        Some(self.other.as_ref()?.differs.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn it_is_told_for_as_long_as_others_go_on() {
        let old = Definition {
            version: "old".into(),
            ..Definition::default()
        };
        for (commit_every, lasts) in [(1, 600), (1800, 5400)] {
            let every = Duration::from_secs(commit_every);
            let mut definitions = Definitions::of("new".into(), Arc::default(), every);
            let begun = Instant::now();
            let at = |seconds| begun + Duration::from_secs(seconds);
            assert_eq!(definitions.trouble(at(0)), None);
            definitions.met("clicks", &old, at(0));
            definitions.met("clicks", &old, at(200));
            let text = definitions.trouble(at(199 + lasts)).unwrap();
            assert!(text.contains("clicks by version old"), "{text}");
            assert_eq!(definitions.trouble(at(200 + lasts)), None);
        }
    }

    #[test]
    fn what_differs_is_named() {
        let ours = settings(&[
            ("group", "one"),
            ("idle_after", "1m"),
            ("topics", "a, b"),
            ("young", "1"),
        ]);
        let mut definitions = Definitions::of("v".into(), ours.into(), Duration::from_secs(1));
        let now = Instant::now();
        let mut met = |list: &[(&str, &str)]| {
            let by = Definition {
                version: "v".into(),
                settings: settings(list),
            };
            definitions.met("clicks", &by, now);
            definitions.trouble(now)
        };
        // Ours; an older server's that says nothing; a newer one's that says more.
        assert_eq!(met(&[("group", "one"), ("topics", "a, b")]), None);
        assert_eq!(met(&[]), None);
        assert_eq!(met(&[("later", "1"), ("group", "one")]), None);
        let text = met(&[("group", "two"), ("idle_after", "1m"), ("topics", "a")]).unwrap();
        assert!(
            text.contains("`group` is two there and one here, `topics` is a there and a, b here"),
            "{text}"
        );
    }
}
