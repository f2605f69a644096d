//! The lines of a Delta log entry that we write and understand.
//!
//! Owns their JSON, as the Delta transaction log protocol (github.com/delta-io/delta, PROTOCOL.md) spells it. Does
//! not own what they add up to: that is the [`Snapshot`](crate::snapshot::Snapshot).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize, de::Error as _};
use serde_json::{Map, Value, json};

use crate::checksum::{CHECKSUM, parse_tag, tag_of};

/// One line: exactly one of these is there. What we do not know is passed over.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commit_info: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meta_data: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) add: Option<Add>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remove: Option<Remove>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) txn: Option<Txn>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub(crate) min_reader_version: i32,
    pub(crate) min_writer_version: i32,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) reader_features: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) writer_features: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    pub(crate) format: Format,
    pub(crate) schema_string: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) partition_columns: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) configuration: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created_time: Option<i64>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub(crate) struct Format {
    pub(crate) provider: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    /// URL-encoded, from the table's folder.
    pub(crate) path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) partition_values: BTreeMap<String, Option<String>>,
    pub(crate) size: i64,
    pub(crate) modification_time: i64,
    pub(crate) data_change: bool,
    /// JSON in JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_vector: Option<Value>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) tags: BTreeMap<String, Option<String>>,
}

/// The tag of a file of panes in which each window and group is once at most (P34).
const UNIQUE_KEYS: &str = "alluvium.unique_keys";

impl Add {
    pub(crate) fn has_unique_keys(&self) -> bool {
        let tag = self.tags.get(UNIQUE_KEYS);
        tag.is_some_and(|value| value.as_deref() == Some("true"))
    }

    pub(crate) fn tag_unique_keys(&mut self) {
        self.tags.insert(UNIQUE_KEYS.into(), Some("true".into()));
    }

    /// The checksum of its bytes, where its writer has made one.
    pub(crate) fn checksum(&self) -> Option<u64> {
        parse_tag(self.tags.get(CHECKSUM)?.as_deref()?)
    }

    pub(crate) fn tag_checksum(&mut self, sum: u64) {
        self.tags.insert(CHECKSUM.into(), Some(tag_of(sum)));
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub(crate) data_change: bool,
}

/// A recorded number of an application. `lastUpdated` is left out on purpose: such a one never expires (S13).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Txn {
    pub(crate) app_id: String,
    pub(crate) version: i64,
}

/// What the statistics of a file say, as far as it is asked here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Stats {
    #[serde(deserialize_with = "or_default")]
    pub(crate) num_records: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) min_values: HashMap<String, Value>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) max_values: HashMap<String, Value>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) null_count: HashMap<String, Value>,
}

/// An explicit null means what a missing key means.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// One version's worth of lines.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) version: i64,
    pub(crate) lines: Vec<Line>,
}

/// What is wrong with an entry of another table, the one with this id.
pub(crate) fn stray(id: &str) -> serde_json::Error {
    serde_json::Error::custom(format!("it is an entry of another table, with the id {id}"))
}

impl Entry {
    /// Reads an entry. One of ours is refused when a single byte is another than was written, or when it stands in the
    /// place of another version; of whoever makes no such promise, it must be lines of JSON, at least one (S9).
    pub(crate) fn parse(version: i64, json: &[u8]) -> Result<Self, serde_json::Error> {
        refuse_damaged(json)?;
        let lines = serde_json::Deserializer::from_slice(json)
            .into_iter::<Line>()
            .collect::<Result<Vec<_>, _>>()?;
        if lines.is_empty() {
            return Err(serde_json::Error::custom("it is empty"));
        }
        let entry = Self { version, lines };
        match entry.our_info().and_then(|ours| ours.get("version")) {
            Some(said) if said.as_i64() != Some(version) => Err(serde_json::Error::custom(
                format!("it is the entry of version {said}"),
            )),
            _ => Ok(entry),
        }
    }

    /// The id of the table that it was written for, where its writer said so.
    pub(crate) fn table_id(&self) -> Option<&str> {
        self.our_info()?.get("table_id")?.as_str()
    }

    /// Refuses an entry that was written for another table than the one of this id.
    pub(crate) fn refuse_stray(&self, table_id: &str) -> Result<(), serde_json::Error> {
        match self.table_id() {
            Some(id) if id != table_id => Err(stray(id)),
            _ => Ok(()),
        }
    }

    /// The `commitInfo` of this version.
    pub(crate) fn commit_info(&self) -> Option<&Value> {
        self.lines.iter().find_map(|line| line.commit_info.as_ref())
    }

    /// What our writers put into `commitInfo`.
    pub(crate) fn our_info(&self) -> Option<&Value> {
        self.commit_info()?.get(OUR_KEY)
    }

    /// The id that one of our writers gave to this commit.
    pub(crate) fn commit_id(&self) -> Option<&str> {
        self.our_info()?.get("commit_id")?.as_str()
    }

    /// By which files of the pipeline events were committed here, if any were.
    pub(crate) fn committed_by(&self) -> Option<Definition> {
        let ours = self.our_info()?;
        if ours.get("kind")?.as_str()? != "commit" {
            return None;
        }
        let settings = ours.get("settings").and_then(Value::as_object);
        let settings = settings.into_iter().flatten();
        Some(Definition {
            version: ours.get("pipeline_version")?.as_str()?.to_owned(),
            settings: settings
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        })
    }

    /// Whether schema, properties or protocol change here.
    pub(crate) fn changes_table(&self) -> bool {
        self.lines
            .iter()
            .any(|line| line.meta_data.is_some() || line.protocol.is_some())
    }
}

/// By which files of a pipeline a server commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Definition {
    /// The version of what decides about events.
    pub version: String,
    /// What else its servers have to have in common, by key; empty: an older server does not say.
    pub settings: BTreeMap<String, String>,
}

/// The key of `commitInfo` below which everything is ours.
pub(crate) const OUR_KEY: &str = "alluvium";

/// What stands under our key in every commit.
pub(crate) fn our_info(kind: &str, pipeline: &str) -> Map<String, Value> {
    Map::from_iter([
        ("kind".to_owned(), json!(kind)),
        ("pipeline".to_owned(), json!(pipeline)),
    ])
}

/// What a new version will say, before it has a number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// Delta's name for the kind of operation.
    pub(crate) operation: &'static str,
    /// What stands under our key in `commitInfo`; the commit id is added.
    pub(crate) info: Map<String, Value>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) adds: Vec<Add>,
    /// URL-encoded paths of files whose rows leave the table.
    pub(crate) removes: Vec<String>,
    /// When they leave, in milliseconds by the storage's clock, which sweeps go by (S11).
    pub(crate) removed_at: i64,
    pub(crate) txns: Vec<Txn>,
    /// What it does to the table's rows.
    pub(crate) effect: Effect,
}

/// What a version does to the rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Rows come or go.
    #[default]
    ChangesRows,
    /// The same events lie in other files (P36).
    LaysOutAnew,
}

impl Draft {
    /// The entry's bytes: JSON lines, `commitInfo` first, and in it a checksum of everything.
    pub(crate) fn encode(&self, place: Place<'_>, commit_id: &str, millis: i64) -> Vec<u8> {
        let mut info = self.info.clone();
        info.insert("format".into(), FORMAT.into());
        info.insert("commit_id".into(), commit_id.into());
        info.insert("table_id".into(), place.table_id.into());
        info.insert("version".into(), place.version.into());
        if let Some(id) = place.follows {
            info.insert("follows".into(), id.into());
        }
        let commit_info = json!({
            "timestamp": millis,
            "operation": self.operation,
            "operationParameters": {},
            "isBlindAppend": false,
            "engineInfo": concat!("alluvium/", env!("CARGO_PKG_VERSION")),
            OUR_KEY: info,
        });
        let mut lines = Vec::new();
        lines.extend(self.protocol.iter().map(|protocol| Line {
            protocol: Some(protocol.clone()),
            ..Line::default()
        }));
        lines.extend(self.metadata.iter().map(|metadata| Line {
            meta_data: Some(metadata.clone()),
            ..Line::default()
        }));
        lines.extend(self.txns.iter().map(|txn| Line {
            txn: Some(txn.clone()),
            ..Line::default()
        }));
        let data_change = self.effect == Effect::ChangesRows;
        lines.extend(self.adds.iter().map(|add| Line {
            add: Some(Add {
                data_change,
                ..add.clone()
            }),
            ..Line::default()
        }));
        lines.extend(self.removes.iter().map(|path| Line {
            remove: Some(Remove {
                path: path.clone(),
                deletion_timestamp: Some(self.removed_at),
                data_change,
            }),
            ..Line::default()
        }));
        // The checksum stands first, at a fixed place, so that it is found in damaged bytes too.
        let rest = commit_info.to_string();
        let rest = rest.strip_prefix('{').unwrap_or_default();
        let mut bytes = format!("{{\"commitInfo\":{{{SUM_KEY}{NO_SUM}\",{rest}}}\n").into_bytes();
        for line in &lines {
            serde_json::to_writer(&mut bytes, line).expect("log lines are plain values");
            bytes.push(b'\n');
        }
        let (digits, sum) = sum(&bytes).expect("the key was just written");
        bytes[digits].copy_from_slice(sum.as_bytes());
        bytes
    }
}

/// Where an entry belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'t> {
    /// The id in the table's metadata.
    pub(crate) table_id: &'t str,
    pub(crate) version: i64,
    /// The commit that is the version before, where its id is known.
    pub(crate) follows: Option<&'t str>,
}

/// The key in `commitInfo` of the CRC-32C of all bytes of the entry, with zeros in its own place (S9).
const SUM_KEY: &str = "\"alluvium_crc32c\":\"";
const NO_SUM: &str = "00000000";
/// The key begins before this byte.
const SUM_WITHIN: usize = 40;

/// Where the checksum stands in the bytes of an entry, and what it has to be; `None` where there is none.
fn sum(json: &[u8]) -> Option<(std::ops::Range<usize>, String)> {
    let key = json
        .windows(SUM_KEY.len())
        .take(SUM_WITHIN)
        .position(|window| window == SUM_KEY.as_bytes())?;
    let digits = key + SUM_KEY.len()..key + SUM_KEY.len() + NO_SUM.len();
    let mut blank = json.to_vec();
    blank
        .get_mut(digits.clone())?
        .copy_from_slice(NO_SUM.as_bytes());
    Some((digits, format!("{:08x}", crc_fast::crc32_iscsi(&blank))))
}

fn refuse_damaged(json: &[u8]) -> Result<(), serde_json::Error> {
    match sum(json) {
        Some((digits, sum)) if &json[digits.clone()] != sum.as_bytes() => {
            Err(serde_json::Error::custom(
                "it is damaged: its bytes do not have the checksum that they were written with",
            ))
        }
        _ => Ok(()),
    }
}

/// The version of what stands under our key (R7).
pub(crate) const FORMAT: i64 = 1;
