//! From pipeline files to plans: the one way between files as written and files as meant.
//!
//! Collects every mistake of every file instead of stopping at the first. Reads no file itself: the
//! caller hands in how.

mod table;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use alluvium_types::{TableSet, TopicId};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::{
    advice,
    definition::{self, EventDefinition},
    diagnostic::{Code, Diagnostic, Diagnostics, SourceFile},
    event_schema,
    expression::{self, Expressions, Typed},
    hints,
    inline_test::{self, InlineTest},
    plan::{Accept, Drain, EventColumn, EventTime, KafkaSource, Plan, Start, UnknownFields},
    properties,
    reader::{FromNode, Keys as _, Reader},
    stars,
    tree::Scalar,
    values::{self, Zero},
    written::pipeline::{self as written, Pipeline},
    yaml::{self, Environment},
};

const MAX_DELAY: Duration = Duration::from_secs(30);
const IDLE_AFTER: Duration = Duration::from_secs(60);
const FUTURE: Duration = Duration::from_secs(5 * 60);
const COMMIT_EVERY: Duration = Duration::from_secs(10);
const REFRESH_EVERY: Duration = Duration::from_secs(1);
const KEEP_DEAD_LETTERS: Duration = Duration::from_secs(90 * 86_400);

/// How files that others name are read: `&mut |path| std::fs::read(path)`.
pub type ReadFile<'a> = &'a mut dyn FnMut(&Path) -> std::io::Result<Vec<u8>>;

/// The Kafka connections that a server has, for pipelines that name one.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Their names.
    pub known: Vec<String>,
    /// The file in which they stand.
    pub file: String,
}

impl Connections {
    fn refuse_unknown(&self, name: &Scalar, reader: &mut Reader<'_>) {
        if self.known.contains(&name.text) {
            return;
        }
        let message = format!("the connection `{}` is not in {}", name.shown, self.file);
        let help = match self.known.is_empty() {
            true => "add it there under `connections: kafka:`".to_owned(),
            false => format!(
                "there are: {}; or add it under `connections: kafka:`",
                self.known.join(", ")
            ),
        };
        reader.error(Code::Name, name.span.clone(), message, help);
    }
}

/// Reads one pipeline file and the schema that it names.
///
/// # Errors
/// Every mistake in the two files.
pub fn load_pipeline(
    source: &SourceFile,
    read_file: ReadFile<'_>,
    environment: &Environment,
) -> Result<(Plan, Vec<InlineTest>), Diagnostics> {
    let mut found = Diagnostics::default();
    let file = Arc::new(source.clone());
    let mut context = Context {
        read_file,
        environment,
        connections: None,
    };
    let (_, loaded) = load(&file, &mut context, &mut found);
    stars::hide(&[], stars::IN_PIPELINE_FILES, &file, &mut found);
    match loaded {
        Some(loaded) if !found.has_errors() => Ok((loaded.plan, loaded.tests)),
        _ => Err(found.finish()),
    }
}

/// Reads all pipeline files of a server; two that claim one table, or have one name, are refused, and one that names a connection which is
/// not among `connections`, where these are known.
///
/// # Errors
/// Every mistake in all files.
pub fn load_pipelines(
    sources: &[SourceFile],
    read_file: ReadFile<'_>,
    environment: &Environment,
    connections: Option<&Connections>,
) -> Result<Vec<(Plan, Vec<InlineTest>)>, Diagnostics> {
    let mut context = Context {
        read_file,
        environment,
        connections,
    };
    let mut found = Diagnostics::default();
    let mut loaded = Vec::new();
    let mut owners: HashMap<String, String> = HashMap::new();
    let mut names: HashMap<String, String> = HashMap::new();
    let files: Vec<Arc<SourceFile>> = sources.iter().cloned().map(Arc::new).collect();
    for file in &files {
        if let Some(before) = names.insert(stem(&file.path), file.path.clone()) {
            let message = format!("{before} is a pipeline of the same name");
            let help = "give one of the two another name";
            reader(file, &mut found).error(Code::Name, 0..0, message, help);
        }
        let (table_names, pipeline) = load(file, &mut context, &mut found);
        for name in &table_names {
            if let Some(owner) = owners.get(&name.text) {
                reader(file, &mut found).error(
                    Code::Name,
                    name.span.clone(),
                    format!("the table `{}` is already written by {owner}", name.shown),
                    "a table is written by one pipeline: give one of the two another name",
                );
            } else {
                owners.insert(name.text.clone(), file.path.clone());
            }
        }
        loaded.extend(pipeline.map(|pipeline| (pipeline.plan, pipeline.tests)));
    }
    for file in &files {
        stars::hide(&[], stars::IN_PIPELINE_FILES, file, &mut found);
    }
    if found.has_errors() {
        return Err(found.finish());
    }
    Ok(loaded)
}

/// Reads an event schema by itself, as pipelines do that name it. Returns every mistake in it.
pub fn check_schema(source: &SourceFile, environment: &Environment) -> Diagnostics {
    let mut found = Diagnostics::default();
    let file = Arc::new(source.clone());
    event_schema::read(&mut reader(&file, &mut found), environment);
    stars::hide(&[], stars::IN_PIPELINE_FILES, &file, &mut found);
    found.finish()
}

/// Whether a file has what an event schema has and a pipeline has not.
pub fn is_schema(source: &SourceFile) -> bool {
    has_any(source, &["columns:"]) && !has_any(source, OF_PIPELINES)
}

/// Whether a file has what a server file has and a pipeline has not.
pub fn is_server(source: &SourceFile) -> bool {
    has_any(source, &["storage:", "connections:"]) && !has_any(source, OF_PIPELINES)
}

/// What only a pipeline file has at its top level.
const OF_PIPELINES: &[&str] = &["source:", "tables:"];

/// Whether a file has one of these keys at its top level, however it is written otherwise.
fn has_any(source: &SourceFile, keys: &[&str]) -> bool {
    let has = |line: &str| keys.iter().any(|key| line.starts_with(key));
    source.text.lines().any(has)
}

struct Loaded {
    plan: Plan,
    tests: Vec<InlineTest>,
}

/// What is there to read files by.
struct Context<'a> {
    read_file: ReadFile<'a>,
    environment: &'a Environment,
    connections: Option<&'a Connections>,
}

fn reader<'a>(file: &'a Arc<SourceFile>, found: &'a mut Diagnostics) -> Reader<'a> {
    Reader {
        file,
        found,
        advise: advice::for_key,
    }
}

fn stem(path: &str) -> String {
    Path::new(path)
        .file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// Reads a pipeline file: the tables that it names, however wrong it is otherwise, and what it comes to when nothing is wrong.
fn load(
    file: &Arc<SourceFile>,
    context: &mut Context<'_>,
    found: &mut Diagnostics,
) -> (Vec<Scalar>, Option<Loaded>) {
    let reader = &mut reader(file, found);
    let name = stem(&file.path);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if !is_name {
        let message = format!("`{name}` cannot name a pipeline");
        let help = "a pipeline is called like its file: letters, digits, `_` and `-`";
        reader.error(Code::Name, 0..0, message, help);
    }
    let root = yaml::parse(reader, context.environment);
    let written = root.and_then(|root| Pipeline::from_node(&root, &Scalar::root(), reader));
    let Some(written) = written else {
        return (Vec::new(), None);
    };
    let tables = written.tables.iter().flat_map(|tables| &tables.0);
    let table_names = tables.map(|(name, _)| name.clone()).collect();
    (table_names, plan(&name, written, context, reader))
}

fn plan(
    name: &str,
    written: Pipeline,
    context: &mut Context<'_>,
    reader: &mut Reader<'_>,
) -> Option<Loaded> {
    let file = reader.file;
    values::version(written.version.as_deref(), &written, reader);

    let source = source(&written, context.connections, reader);
    let decode = decode(&written, reader);
    let columns = decode.as_ref().and_then(|(schema, _)| {
        let schema = schema.as_ref()?;
        read_schema(file, schema, context.read_file, context.environment, reader)
    });
    let event_time = event_time(&written, columns.as_deref(), reader);
    unsupported(&written, reader);
    let every = |span: &Option<crate::reader::Span>, default, reader: &mut Reader<'_>| {
        span.as_ref().map_or(Some(default), |span| {
            values::duration(span, Zero::Refused, reader)
        })
    };
    let commit_every = every(&written.commit_every, COMMIT_EVERY, reader);
    let refresh_every = every(&written.refresh_every, REFRESH_EVERY, reader);
    let dead_letters = written.dead_letters.clone().unwrap_or_default();
    let keep_dead_letters = every(&dead_letters.keep, KEEP_DEAD_LETTERS, reader);
    let stop_if = match &dead_letters.stop_if {
        Some(text) => values::stop_if(text, reader).map(Some),
        None => Some(None),
    };

    let expressions = columns.as_deref().map(Expressions::new);
    let filter = written.where_.as_ref().map(|sql| match &expressions {
        Some(expressions) => expressions.condition(sql, reader),
        None => Expressions::parse(sql, reader).and(None),
    });
    let written_tables: &[(Scalar, written::Table)] =
        written.tables.as_ref().map_or(&[], |tables| &tables.0);
    if written_tables.is_empty() && (written.lacks("tables") || written.tables.is_some()) {
        let help = "name a table, its window and its measures";
        values::missing(reader, &written.span, "tables", help);
    }
    if written_tables.len() > TableSet::CAPACITY {
        let message = format!("a pipeline has at most {} tables", TableSet::CAPACITY);
        let help = "put the others into a second pipeline file";
        reader.error(
            Code::Structure,
            written_tables[TableSet::CAPACITY].0.span.clone(),
            message,
            help,
        );
    }
    let tables: Vec<_> = written_tables
        .iter()
        .map(|(name, written)| table::read(name, written, expressions.as_ref(), reader))
        .collect();
    let tests = inline_test::read(
        written.tests.as_deref().unwrap_or(&[]),
        written_tables,
        reader,
    );
    if reader.found.has_errors() && reader.found.0.iter().any(|found| is_of(found, file)) {
        return None;
    }

    let columns = columns?;
    let expressions = expressions?;
    let event_time = event_time?;
    let filter = match filter {
        Some(filter) => Some(filter?),
        None => None,
    };
    let tables: Vec<table::Typed> = tables.into_iter().collect::<Option<_>>()?;
    let unknown_fields = decode?.1?;
    let decoded = decoded(&columns, &event_time.column, filter.as_ref(), &tables);
    let binding = table::Binding {
        expressions: &expressions,
        decoded: &decoded,
        event_time: &event_time.column,
        pipeline_where: filter.as_ref().map(|filter| filter.text.as_str()),
    };
    let bound: Result<Vec<_>, _> = tables.iter().map(|table| binding.table(table)).collect();
    let bound_filter = filter
        .as_ref()
        .map(|filter| expressions.bind(&filter.expr, &decoded))
        .transpose();
    let (tables, bound_filter) = match bound.and_then(|tables| Ok((tables, bound_filter?))) {
        Ok(bound) => bound,
        Err(error) => {
            let message = format!("an expression cannot be run: {}", error.strip_backtrace());
            reader.error(Code::Expression, 0..0, message, "");
            return None;
        }
    };
    let definitions: Vec<(&str, &str)> = tables
        .iter()
        .map(|table| (table.name.as_ref(), table.definition.as_str()))
        .collect();
    let version = definition::version(
        &EventDefinition {
            columns: &columns,
            unknown_fields,
            max_delay: event_time.max_delay,
            accept: event_time.accept,
        },
        &definitions,
    );
    let column = decoded
        .index_of(&event_time.column)
        .expect("the event-time column is always decoded");
    Some(Loaded {
        plan: Plan {
            name: name.into(),
            description: written.description.map(|text| text.0.text),
            owner: written.owner.map(|text| text.0.text),
            version: version.into(),
            source: source?,
            unknown_fields,
            filter: bound_filter,
            event_time: EventTime {
                column,
                max_delay: event_time.max_delay,
                idle_after: event_time.idle_after,
                accept: event_time.accept,
            },
            commit_every: commit_every?,
            refresh_every: refresh_every?,
            tables,
            stop_if: stop_if?,
            keep_dead_letters: keep_dead_letters?,
            columns,
            decoded,
        },
        tests,
    })
}

fn is_of(found: &Diagnostic, file: &Arc<SourceFile>) -> bool {
    Arc::ptr_eq(&found.file, file)
}

fn source(
    written: &Pipeline,
    connections: Option<&Connections>,
    reader: &mut Reader<'_>,
) -> Option<KafkaSource> {
    let Some(source) = &written.source else {
        if written.lacks("source") {
            let help =
                "write `source: {kafka: {connection: main, topics: [name], start: earliest}}`";
            values::missing(reader, &written.span, "source", help);
        }
        return None;
    };
    let Some(kafka) = &source.kafka else {
        if source.lacks("kafka") {
            let help = "write `kafka: {connection: main, topics: [name], start: earliest}`";
            values::missing(reader, &source.span, "kafka", help);
        }
        return None;
    };
    if kafka.lacks("connection") {
        let help = "name a connection of alluvium.yaml: `connection: main`";
        values::missing(reader, &kafka.span, "connection", help);
    }
    if let Some((connections, name)) = connections.zip(kafka.connection.as_ref()) {
        connections.refuse_unknown(name, reader);
    }
    let topics = topics(kafka, reader);
    let continued_by = continued_by(kafka, topics.as_deref().unwrap_or_default(), reader);
    let start = match &kafka.start {
        Some(text) => start(text, reader),
        None => {
            if kafka.lacks("start") {
                let help = "say where the tables begin on their very first run: earliest (all that Kafka still has), latest (only what comes now), a time like 2026-03-01T00:00:00Z, or fail (only with recorded offsets). There is no default, because to skip or to replay by accident is costly";
                values::missing(reader, &kafka.span, "start", help);
            }
            None
        }
    };
    let drain = match &kafka.drain {
        Some(text) => {
            let choices = [("direct", Drain::Direct), ("portable", Drain::Portable)];
            values::choice(text, &choices, reader)
        }
        None => Some(Drain::Automatic),
    };
    let mut properties = BTreeMap::new();
    for (name, value) in kafka.properties.iter().flat_map(|named| &named.0) {
        if properties::check(name, reader) {
            properties.insert(name.text.clone(), value.text.clone());
        }
    }
    Some(KafkaSource {
        connection: kafka.connection.as_ref()?.text.clone(),
        topics: topics?,
        start: start?,
        continued_by,
        group: kafka.group.as_ref().map(|group| group.text.clone()),
        drain: drain?,
        properties,
    })
}

fn topics(kafka: &written::Kafka, reader: &mut Reader<'_>) -> Option<Vec<Arc<str>>> {
    let Some(topics) = &kafka.topics else {
        if kafka.lacks("topics") {
            let help = "list at least one: `topics: [clicks]`";
            values::missing(reader, &kafka.span, "topics", help);
        }
        return None;
    };
    if topics.is_empty() {
        let help = "name at least one: `topics: [clicks]`";
        reader.error(
            Code::Structure,
            kafka.span.clone(),
            "`topics` names no topic",
            help,
        );
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for topic in topics {
        let name = topic.text.as_str();
        let is_name = (1..=249).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && name != "."
            && name != "..";
        if !is_name {
            let message = format!("`{}` cannot be the name of a Kafka topic", topic.shown);
            let help = "topics are letters, digits, `.`, `_` and `-`; patterns are not taken";
            reader.error(Code::Name, topic.span.clone(), message, help);
        } else if names.iter().any(|known| **known == *name) {
            let message = format!("the topic `{}` stands here twice", topic.shown);
            reader.error(
                Code::Name,
                topic.span.clone(),
                message,
                "keep one of the two",
            );
        }
        names.push(name.into());
    }
    Some(names)
}

/// Topics of which an operator says that they go on where the recorded ones ended.
fn continued_by(
    kafka: &written::Kafka,
    topics: &[Arc<str>],
    reader: &mut Reader<'_>,
) -> BTreeMap<Arc<str>, TopicId> {
    let mut continued = BTreeMap::new();
    for (topic, id) in kafka.continued_by.iter().flat_map(|named| &named.0) {
        let known = topics.iter().find(|known| ***known == *topic.text);
        if known.is_none() {
            let message = format!("`{}` is not one of `topics`", topic.shown);
            let help = match hints::nearest(&topic.text, topics.iter().map(|topic| &**topic)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a topic of this pipeline".to_owned(),
            };
            reader.error(Code::Name, topic.span.clone(), message, help);
        }
        let number = id.text.parse().ok().filter(|number: &i64| *number >= 0);
        if number.is_none() {
            let message = format!("`{}` is not the id of a topic", id.shown);
            let help = "write the number that the halted partition names in `alluvium status`";
            reader.error(Code::Value, id.span.clone(), message, help);
        }
        if let (Some(topic), Some(number)) = (known, number) {
            continued.insert(topic.clone(), TopicId::from_number(number));
        }
    }
    continued
}

fn start(text: &Scalar, reader: &mut Reader<'_>) -> Option<Start> {
    match text.text.as_str() {
        "earliest" => return Some(Start::Earliest),
        "latest" => return Some(Start::Latest),
        "fail" => return Some(Start::Fail),
        _ => {}
    }
    if let Some(time) = values::moment(&text.text) {
        return Some(Start::At(time));
    }
    let help = match text.text.to_lowercase().as_str() {
        "beginning" | "begin" | "oldest" | "smallest" | "first" | "low" | "start" => {
            "here it is called `earliest`".to_owned()
        }
        "end" | "newest" | "largest" | "last" | "now" | "high" => {
            "here it is called `latest`".to_owned()
        }
        "none" | "error" => "here it is called `fail`".to_owned(),
        lower => match hints::nearest(lower, ["earliest", "latest", "fail"]) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write earliest, latest, fail, or a time with its zone: 2026-03-01T00:00:00Z"
                .to_owned(),
        },
    };
    let message = format!("`{}` is not a start", text.shown);
    reader.error(Code::Value, text.span.clone(), message, help);
    None
}

/// The schema's path and what happens to unknown fields.
fn decode(
    written: &Pipeline,
    reader: &mut Reader<'_>,
) -> Option<(Option<Scalar>, Option<UnknownFields>)> {
    let Some(decode) = &written.decode else {
        if written.lacks("decode") {
            let help = "write `decode: {json: {schema: ../schemas/NAME.yaml}}`";
            values::missing(reader, &written.span, "decode", help);
        }
        return None;
    };
    if let Some(avro) = &decode.avro {
        let help = "this release decodes JSON: `decode: {json: {schema: …}}`";
        reader.not_supported(avro.0.clone(), "Avro", help);
    }
    let Some(json) = &decode.json else {
        if decode.lacks("json") && decode.lacks("avro") {
            let help = "write `json: {schema: ../schemas/NAME.yaml}`";
            values::missing(reader, &decode.span, "json", help);
        }
        return None;
    };
    if json.lacks("schema") {
        let help = "name the schema file, seen from this file: `schema: ../schemas/NAME.yaml`";
        values::missing(reader, &json.span, "schema", help);
    }
    let unknown_fields = match &json.unknown_fields {
        Some(text) => {
            let choices = [
                ("ignore", UnknownFields::Ignore),
                ("reject", UnknownFields::Reject),
            ];
            values::choice(text, &choices, reader)
        }
        None => Some(UnknownFields::Ignore),
    };
    Some((
        json.schema.as_ref().map(|text| text.0.clone()),
        unknown_fields,
    ))
}

fn read_schema(
    file: &Arc<SourceFile>,
    schema: &Scalar,
    read_file: ReadFile<'_>,
    environment: &Environment,
    reader: &mut Reader<'_>,
) -> Option<Vec<EventColumn>> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let path = folder.join(&schema.text);
    let bytes = match read_file(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let shown = folder.join(&schema.shown);
            let message = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    format!("there is no schema file {}", shown.display())
                }
                _ => format!(
                    "the schema file {} cannot be read: {error}",
                    shown.display()
                ),
            };
            let help = "the path is seen from the folder of this pipeline file";
            reader.error(Code::File, schema.span.clone(), message, help);
            return None;
        }
    };
    let shown = folder.join(&schema.shown).display().to_string();
    match SourceFile::from_bytes(shown, bytes) {
        Ok(source) => {
            let source = Arc::new(source);
            let mut reader = Reader {
                file: &source,
                found: reader.found,
                advise: advice::for_key,
            };
            event_schema::read(&mut reader, environment)
        }
        Err(diagnostics) => {
            reader.found.extend(diagnostics);
            None
        }
    }
}

struct MeantEventTime {
    column: String,
    max_delay: Duration,
    idle_after: Duration,
    accept: Accept,
}

fn event_time(
    written: &Pipeline,
    columns: Option<&[EventColumn]>,
    reader: &mut Reader<'_>,
) -> Option<MeantEventTime> {
    let Some(event_time) = &written.event_time else {
        if written.lacks("event_time") {
            let help =
                "name the column that says when an event happened: `event_time: {column: ts}`";
            values::missing(reader, &written.span, "event_time", help);
        }
        return None;
    };
    let column = event_time.column.as_ref().map(|column| column.0.clone());
    match (&column, columns) {
        (None, _) if event_time.lacks("column") => {
            let help = "name a timestamp column of the schema: `column: ts`";
            values::missing(reader, &event_time.span, "column", help);
        }
        (Some(column), Some(columns)) => event_time_column(column, columns, reader),
        _ => {}
    }
    let or = |span: &Option<crate::reader::Span>, zero, default, reader: &mut Reader<'_>| {
        span.as_ref()
            .map_or(Some(default), |span| values::duration(span, zero, reader))
    };
    let max_delay = or(&event_time.max_delay, Zero::Taken, MAX_DELAY, reader);
    let idle_after = or(&event_time.idle_after, Zero::Refused, IDLE_AFTER, reader);
    let accept = event_time.accept.clone().unwrap_or_default();
    let past = match &accept.past {
        Some(past) => values::duration(past, Zero::Taken, reader).map(Some),
        None => Some(None),
    };
    let future = or(&accept.future, Zero::Taken, FUTURE, reader);
    Some(MeantEventTime {
        column: column?.text,
        max_delay: max_delay?,
        idle_after: idle_after?,
        accept: Accept {
            past: past?,
            future: future?,
        },
    })
}

fn event_time_column(column: &Scalar, columns: &[EventColumn], reader: &mut Reader<'_>) {
    let times = || {
        columns
            .iter()
            .filter(|column| matches!(column.data_type, DataType::Timestamp(..)))
            .map(|column| column.name.as_ref())
    };
    match columns.iter().find(|known| *known.name == *column.text) {
        None => {
            let help = hints::for_name(&column.text, "the schema's timestamps are", times());
            let help = if help.is_empty() {
                "give the schema a column of type timestamp".to_owned()
            } else {
                help
            };
            let message = format!("the schema has no column `{}`", column.shown);
            reader.error(Code::Value, column.span.clone(), message, help);
        }
        Some(known) if !matches!(known.data_type, DataType::Timestamp(..)) => {
            let message = format!(
                "`{}` is {}, not a timestamp",
                column.shown,
                expression::type_name(&known.data_type)
            );
            let help = match times().next() {
                Some(other) => format!("take a timestamp column: `{other}`"),
                None => "declare it in the schema as {type: timestamp, unit: ms}".to_owned(),
            };
            reader.error(Code::Value, column.span.clone(), message, help);
        }
        Some(_) => {}
    }
}

fn unsupported(written: &Pipeline, reader: &mut Reader<'_>) {
    let help = "leave it out for now";
    for (later, what) in [
        (&written.lookups, "lookups"),
        (&written.unnest, "unnest"),
        (&written.join, "joins with lookups"),
    ] {
        if let Some(later) = later {
            reader.not_supported(later.0.clone(), what, help);
        }
    }
}

/// The columns that anything reads, in the order of the schema.
fn decoded(
    columns: &[EventColumn],
    event_time: &str,
    filter: Option<&Typed>,
    tables: &[table::Typed],
) -> SchemaRef {
    let mut used: Vec<String> = vec![event_time.to_owned()];
    for typed in filter
        .into_iter()
        .chain(tables.iter().flat_map(table::Typed::expressions))
    {
        used.extend(Expressions::used(&typed.expr));
    }
    let fields: Vec<_> = columns
        .iter()
        .filter(|column| used.iter().any(|name| **name == *column.name))
        .map(expression::field)
        .collect();
    Arc::new(Schema::new(fields))
}
