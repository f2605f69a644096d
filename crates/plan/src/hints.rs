//! What somebody probably meant: nearest names, words of other products, keys at the wrong level.

use crate::{
    reader::Keys,
    written::{pipeline, schema, server},
};

/// Every map of fixed keys and where it stands.
const PLACES: &[(&str, &[&str])] = &[
    (pipeline::Pipeline::PLACE, pipeline::Pipeline::KEYS),
    (pipeline::Source::PLACE, pipeline::Source::KEYS),
    (pipeline::Kafka::PLACE, pipeline::Kafka::KEYS),
    (pipeline::Decode::PLACE, pipeline::Decode::KEYS),
    (pipeline::JsonDecode::PLACE, pipeline::JsonDecode::KEYS),
    (pipeline::EventTime::PLACE, pipeline::EventTime::KEYS),
    (pipeline::Accept::PLACE, pipeline::Accept::KEYS),
    (pipeline::Table::PLACE, pipeline::Table::KEYS),
    (pipeline::Window::PLACE, pipeline::Window::KEYS),
    (pipeline::DeadLetters::PLACE, pipeline::DeadLetters::KEYS),
    (pipeline::Test::PLACE, pipeline::Test::KEYS),
    (schema::EventSchema::PLACE, schema::EventSchema::KEYS),
    (server::ServerFile::PLACE, server::ServerFile::KEYS),
    (server::Storage::PLACE, server::Storage::KEYS),
    (server::Connections::PLACE, server::Connections::KEYS),
    (server::Kafka::PLACE, server::Kafka::KEYS),
    (server::Tls::PLACE, server::Tls::KEYS),
    (server::Sasl::PLACE, server::Sasl::KEYS),
    (server::Listen::PLACE, server::Listen::KEYS),
    (server::Memory::PLACE, server::Memory::KEYS),
];

/// Words of other products (in lower case, without `_`, `-`, `.` and spaces) and ours for them.
const SYNONYMS: &[(&str, &str)] = &[
    ("allowedlateness", "max_delay"),
    ("lateness", "max_delay"),
    ("grace", "max_delay"),
    ("graceperiod", "max_delay"),
    ("watermark", "max_delay"),
    ("watermarkdelay", "max_delay"),
    ("maxoutoforderness", "max_delay"),
    ("idleness", "idle_after"),
    ("idletimeout", "idle_after"),
    ("autooffsetreset", "start"),
    ("offset", "start"),
    ("offsets", "start"),
    ("startingoffsets", "start"),
    ("scanstartupmode", "start"),
    ("topic", "topics"),
    ("groupid", "group"),
    ("consumergroup", "group"),
    ("bootstrapservers", "brokers"),
    ("bootstrap", "brokers"),
    ("servers", "brokers"),
    ("filter", "where"),
    ("having", "where"),
    ("groupby", "group_by"),
    ("dimensions", "group_by"),
    ("keys", "group_by"),
    ("keyby", "group_by"),
    ("aggregates", "measures"),
    ("aggregations", "measures"),
    ("metrics", "measures"),
    ("partition", "partition_by"),
    ("partitionedby", "partition_by"),
    ("retention", "keep"),
    ("ttl", "keep"),
    ("fields", "columns"),
    ("properties", "columns"),
    ("timestamp", "event_time"),
    ("time", "event_time"),
    ("eventtimecolumn", "column"),
    ("field", "column"),
    ("format", "decode"),
    ("dlq", "dead_letters"),
    ("deadletter", "dead_letters"),
    ("flushinterval", "commit_every"),
    ("checkpointinterval", "commit_every"),
    ("interval", "commit_every"),
    ("tumble", "tumbling"),
    ("hop", "hopping"),
    ("sliding", "hopping"),
    ("kafka", "connections"),
    ("ssl", "tls"),
    ("cafile", "ca"),
    ("path", "root"),
    ("bucket", "root"),
    ("accesskeyid", "access_key"),
    ("secretaccesskey", "secret_key"),
    ("user", "username"),
    ("threads", "workers"),
    ("parallelism", "workers"),
    ("port", "http"),
];

fn folded(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '_' | '-' | '.' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// The name among `known` that `name` is a slip of.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let name = folded(name);
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&name, &folded(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            let length = name.chars().count().max(candidate.chars().count());
            *distance <= length.div_ceil(4).min(3) && *distance < length
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn synonym(key: &str) -> Option<&'static str> {
    let plain = folded(key);
    SYNONYMS
        .iter()
        .find(|(word, _)| *word == plain)
        .map(|(_, ours)| *ours)
}

/// The key among `known` that was meant by `key`.
pub(crate) fn meant_key<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let synonym = synonym(key);
    known
        .iter()
        .copied()
        .find(|known| Some(*known) == synonym)
        .or_else(|| nearest(key, known.iter().copied()))
}

/// What to do about a key that is not one of `known`.
pub(crate) fn for_key(key: &str, place: &str, known: &[&str]) -> String {
    let synonym = synonym(key);
    match meant_key(key, known) {
        Some(meant) if Some(meant) == synonym => return format!("here it is called `{meant}`"),
        Some(meant) => return format!("did you mean `{meant}`?"),
        None => {}
    }
    // Only places of the same file can be meant.
    let file = PLACES
        .iter()
        .position(|(name, _)| *name == place)
        .map_or(0, file_of);
    let elsewhere = |key: &str| {
        PLACES
            .iter()
            .enumerate()
            .find(|(at, (name, keys))| {
                file_of(*at) == file && *name != place && keys.contains(&key)
            })
            .map(|(_, (name, _))| *name)
    };
    if let Some(where_) = elsewhere(key) {
        return format!("`{key}` belongs {where_}: look at the indentation");
    }
    if let Some((ours, where_)) = synonym.and_then(|ours| Some((ours, elsewhere(ours)?))) {
        return format!("it is called `{ours}` and belongs {where_}");
    }
    match known {
        [] => String::new(),
        known => format!("known keys are {}", known.join(", ")),
    }
}

/// Which file a place belongs to: pipeline, schema or server.
fn file_of(position: usize) -> usize {
    match position {
        0..=10 => 1,
        11 => 2,
        _ => 3,
    }
}

/// Help for a name that is none of `known`.
pub(crate) fn for_name<'k>(
    name: &str,
    what: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("{what} {}", known.join(", ")),
    }
}
