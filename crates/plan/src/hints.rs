//! What somebody probably meant: nearest names, words of other products.

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

pub(crate) fn synonym(key: &str) -> Option<&'static str> {
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
