//! Servers that write the same tables by different files.
//!
//! Owns telling that they do. Tables refuse what their panes cannot hold (P38); but two servers that decode or accept events
//! differently both write what fits, and which of them counts an event depends on who reads its partition.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// Commits by other files that are this old do not matter any more: whoever made them has restarted, or reads nothing.
const LASTS: Duration = Duration::from_secs(300);

/// Whether others commit by other files.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    other: Option<Other>,
    /// Versions that the log has told of.
    told: BTreeSet<String>,
}

#[derive(Debug)]
struct Other {
    table: Arc<str>,
    version: String,
    last_met: Instant,
}

impl Definitions {
    /// Events were committed to `table` by this version of the pipeline's files; ours is another one.
    pub(crate) fn met(&mut self, table: &Arc<str>, version: String, now: Instant) {
        if self.told.insert(version.clone()) {
            tracing::warn!(%table, version, "another server commits by other files");
        }
        self.other = Some(Other {
            table: table.clone(),
            version,
            last_met: now,
        });
    }

    /// What is wrong, if anything is.
    pub(crate) fn trouble(&mut self, ours: &str, now: Instant) -> Option<String> {
        self.other
            .take_if(|other| now.duration_since(other.last_met) >= LASTS);
        let Other { table, version, .. } = self.other.as_ref()?;
        Some(format!(
            "another server commits to {table} by version {version} of the pipeline's files, this one has {ours}: give every \
             server the same pipeline and schema files"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_for_as_long_as_others_go_on() {
        let mut definitions = Definitions::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(definitions.trouble("new", at(0)), None);
        definitions.met(&"clicks".into(), "old".into(), at(0));
        definitions.met(&"clicks".into(), "old".into(), at(200));
        let text = definitions.trouble("new", at(499)).unwrap();
        assert!(text.contains("clicks by version old"), "{text}");
        assert_eq!(definitions.trouble("new", at(500)), None);
    }
}
