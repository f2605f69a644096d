//! Reads a pipeline file and its schema and returns a [`Plan`] that needs no further checking.
//!
//! Says for each measure how it is folded, merged and finished, so that engine, runtime and query
//! agree ([`TableShape`]), and holds the type of the snapshot that the runtime publishes and the
//! query layer reads ([`Published`]). Files come in as text ([`load_pipeline`], [`load_server`]);
//! what is wrong with them comes out as [`Diagnostics`], all at once.

mod advice;
mod definition;
mod diagnostic;
mod event_schema;
mod expression;
mod hints;
mod inline_test;
mod json_schema;
mod load;
mod measure;
mod plan;
mod properties;
mod published;
mod reader;
mod rounding;
mod server;
mod shape;
mod stars;
mod status;
mod tree;
mod values;
mod written;
mod yaml;

pub use definition::{shown, window_of};
pub use diagnostic::{Code, Color, Diagnostic, Diagnostics, Severity, SourceFile};
pub use inline_test::InlineTest;
pub use json_schema::json_schemas;
pub use load::{
    Connections, ReadFile, check_schema, is_schema, is_server, load_pipeline, load_pipelines,
};
pub use plan::{
    Accept, Drain, EpochUnit, EventColumn, EventTime, GroupColumn, KafkaSource, PartitionBy, Plan,
    Start, StateFold, StopIf, TablePlan, UnknownFields,
};
pub use published::{
    ColumnBounds, CommittedFile, CommittedTable, MemoryEpoch, Published, PublishedTable, Publisher,
};
pub use rounding::Rounding;
pub use server::{
    AllowHttp, DoorAt, DoorTls, Grant, KafkaConnection, Listen, Memory, QueryLimits, RoleLimits,
    ScramVerifier, Secret, Server, Storage, TokenHash, User, load_server,
};
pub use shape::{Finish, MeasureShape, ShapeError, StateKind, StateShape, TableShape};
pub use status::{
    PartitionStatus, PipelineState, PipelineStatus, StatusBoard, TableStatus, Trouble,
};
pub use yaml::Environment;
