//! What Flight SQL's requests come to: questions for the engine, tickets, and refusals.
//!
//! A ticket holds the statement, so that one which is never fetched costs nothing. It opens nothing: whoever shows it could have
//! asked the same. Sessions there are none, each request says in its metadata how it reads.

use std::{pin::Pin, sync::Arc, time::Instant};

use alluvium_query::{Access, QueryEngine, QueryError, ReadMode};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightData,
    FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    SchemaAsIpc, Ticket,
    decode::FlightRecordBatchStream,
    error::FlightError,
    flight_service_server::FlightService,
    sql::{
        ActionBeginSavepointRequest, ActionBeginSavepointResult, ActionBeginTransactionRequest,
        ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
        ActionCreatePreparedStatementResult, ActionCreatePreparedSubstraitPlanRequest,
        ActionEndSavepointRequest, ActionEndTransactionRequest, Any, Command, CommandGetCatalogs,
        CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
        CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
        CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
        CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
        CommandStatementSubstraitPlan, CommandStatementUpdate, DoPutPreparedStatementResult,
        ProstMessageExt, SqlInfo, TicketStatementQuery,
        server::{FlightSqlService, PeekableFlightDataStream},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    arrow::{
        compute::cast,
        datatypes::{DataType, Field, Schema, SchemaRef},
        ipc::writer::IpcWriteOptions,
        record_batch::RecordBatch,
    },
    scalar::ScalarValue,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    catalog,
    entry::Tokens,
    features,
    granted::Granted,
    placeholders,
    prepared::{Prepared, Statements},
    refusal::{self, broken, reads_only},
    rows,
    running::Running,
};
use crate::{auth::Users, outcomes};

const DOOR: &str = "flight";
/// The header of a request that says how it reads: `fresh` or `committed`.
const READ: &str = "alluvium-read";
/// What a Handshake gives back where there are no users: it says nothing, and nobody asks for it.
const NO_TOKEN: &str = "none";

type Rows = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;

/// The door's one service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Service {
    engine: QueryEngine,
    /// Tokens to give; none where there are no users.
    tokens: Option<Tokens>,
    statements: Arc<Statements>,
    running: Running,
}

/// What a client hands in to fetch rows.
#[derive(Serialize, Deserialize)]
struct Fetch {
    /// Names it, for cancelling.
    id: String,
    read: Read,
    what: Source,
}

#[derive(Serialize, Deserialize)]
enum Source {
    Sql(String),
    Prepared(String),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Read {
    Fresh,
    Committed,
}

impl Service {
    pub(super) fn new(engine: QueryEngine, users: &Users, tokens: Tokens) -> Self {
        Self {
            engine,
            tokens: (!users.is_empty()).then_some(tokens),
            statements: Arc::default(),
            running: Running::default(),
        }
    }

    /// The queries that run, to end them with the door.
    pub(super) fn running(&self) -> Running {
        self.running.clone()
    }

    /// The engine as whoever sent this request has it.
    fn granted<T>(&self, request: &Request<T>) -> Result<Granted, Status> {
        let access = request.extensions().get::<Access>().cloned();
        Ok(Granted {
            engine: self.engine.clone(),
            access: access.ok_or_else(|| Status::unauthenticated("nobody was let in"))?,
        })
    }

    /// Plans a statement.
    async fn describe(
        &self,
        granted: &Granted,
        sql: &str,
        declared: Vec<Option<DataType>>,
    ) -> Result<(SchemaRef, Vec<Option<DataType>>), Status> {
        let described = granted.session().describe(sql, declared).await;
        let described = described.map_err(|failed| {
            outcomes::count(DOOR, failed.code());
            refusal::of_query(&failed)
        })?;
        if described.schema.fields().is_empty() {
            return Err(Status::unimplemented(format!(
                "there are no sessions in Flight SQL, so SET changes nothing; send the header {READ}: committed with each request"
            )));
        }
        if described.schema.field(0).name() == "alluvium.as_of" {
            return Err(Status::unimplemented(
                "there are no sessions in Flight SQL, so there is no last answer; what an answer includes is in the app_metadata of its first and last message",
            ));
        }
        Ok((rows::plain(&described.schema), described.parameters))
    }

    /// Runs a statement and sends its rows as they are asked for.
    async fn fetch(&self, granted: &Granted, fetch: Fetch) -> Result<Response<Rows>, Status> {
        let (sql, parameters) = match fetch.what {
            Source::Sql(sql) => (sql, Vec::new()),
            Source::Prepared(handle) => {
                let prepared = self.statements.get(&handle)?;
                (prepared.sql.as_ref().to_owned(), prepared.parameters)
            }
        };
        let begun = Instant::now();
        let entry = self.running.enter(fetch.id);
        let session = granted.session();
        session.set_read_mode(match fetch.read {
            Read::Fresh => ReadMode::Fresh,
            Read::Committed => ReadMode::Committed,
        });
        let answer = entry.answer(session.query(&sql, parameters)).await;
        let answer = answer.inspect_err(|_| outcomes::count(DOOR, "57014"))?;
        let failure = answer.as_ref().err().map(QueryError::code);
        outcomes::answered(DOOR, begun.elapsed(), failure);
        let result = answer.map_err(|failed| refusal::of_query(&failed))?;
        Ok(Response::new(Box::pin(entry.send(result)?)))
    }

    /// Binds one row of values.
    async fn bind(
        &self,
        granted: &Granted,
        handle: &str,
        row: Option<RecordBatch>,
    ) -> Result<(), Status> {
        let prepared = self.statements.get(handle)?;
        let mut values = Vec::new();
        for column in row.iter().flat_map(RecordBatch::columns) {
            let data_type = rows::plain_type(column.data_type());
            let column = cast(column, &data_type).map_err(broken)?;
            values.push(ScalarValue::try_from_array(&column, 0).map_err(broken)?);
        }
        let declared = values.iter().map(|value| match value.data_type() {
            DataType::Null => None,
            given => Some(given),
        });
        let (schema, wanted) = self
            .describe(granted, &prepared.sql, declared.collect())
            .await?;
        let parameters = values.into_iter().enumerate().map(|(position, value)| {
            let Some(Some(wanted)) = wanted.get(position) else {
                return Ok(value);
            };
            value.cast_to(wanted).map_err(|failed| {
                let text = failed.strip_backtrace();
                Status::invalid_argument(format!(
                    "parameter ${} cannot become {wanted}: {text}",
                    position + 1
                ))
            })
        });
        let parameters = parameters.collect::<Result<_, _>>()?;
        let prepared = Prepared {
            schema,
            parameters,
            ..prepared
        };
        self.statements.keep(handle.to_owned(), prepared);
        Ok(())
    }

    /// Says where the answer is to be fetched: here, with a ticket.
    fn info(
        schema: &Schema,
        ticket: &impl ProstMessageExt,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = Ticket::new(ticket.as_any().encode_to_vec());
        let info = FlightInfo::new()
            .try_with_schema(schema)
            .map_err(broken)?
            .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
            .with_descriptor(request.into_inner());
        Ok(Response::new(info))
    }
}

/// How a request reads.
fn read(metadata: &MetadataMap) -> Result<Read, Status> {
    match metadata.get(READ).map(|value| value.as_bytes()) {
        None | Some(b"fresh") => Ok(Read::Fresh),
        Some(b"committed") => Ok(Read::Committed),
        Some(_) => Err(Status::invalid_argument(format!(
            "the header {READ} is fresh or committed"
        ))),
    }
}

/// A name that nobody guesses.
fn name() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}

fn ticket(what: Source, metadata: &MetadataMap) -> Result<TicketStatementQuery, Status> {
    let fetch = Fetch {
        id: name(),
        read: read(metadata)?,
        what,
    };
    Ok(TicketStatementQuery {
        statement_handle: serde_json::to_vec(&fetch).map_err(broken)?.into(),
    })
}

/// What a ticket of ours asks for.
fn opened(ticket: &TicketStatementQuery) -> Result<Fetch, Status> {
    serde_json::from_slice(&ticket.statement_handle)
        .map_err(|_| Status::invalid_argument("this is no ticket of this server"))
}

fn handle(bytes: &Bytes) -> Result<&str, Status> {
    std::str::from_utf8(bytes)
        .map_err(|_| Status::invalid_argument("this is no handle of this server"))
}

/// A schema as it stands in an answer of bytes.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(broken)?;
    Ok(bytes)
}

fn one_batch(batch: RecordBatch) -> Response<Rows> {
    Response::new(Box::pin(rows::of_batch(batch)))
}

/// Whether the query behind a `FlightInfo` was running, and is cancelled.
fn cancel(running: &Running, info: &FlightInfo) -> bool {
    let mut tickets = info
        .endpoint
        .iter()
        .filter_map(|endpoint| endpoint.ticket.as_ref());
    tickets.any(|ticket| {
        let command = Any::decode(&*ticket.ticket).ok().map(Command::try_from);
        let Some(Ok(Command::TicketStatementQuery(ticket))) = command else {
            return false;
        };
        opened(&ticket).is_ok_and(|fetch| running.cancel(&fetch.id))
    })
}

/// Metadata whose answers are made at once, or from the catalogue: announced, and sent.
macro_rules! metadata {
    ($announce:ident, $send:ident, $command:ty, $schema:expr, $rows:expr) => {
        fn $announce<'s, 'f>(
            &'s self,
            command: $command,
            request: Request<FlightDescriptor>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<FlightInfo>, Status>> + Send + 'f>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let columns = $schema;
                let schema: SchemaRef = columns(&command);
                Self::info(&schema, &command, request)
            })
        }

        fn $send<'s, 'f>(
            &'s self,
            command: $command,
            request: Request<Ticket>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<Rows>, Status>> + Send + 'f>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let granted = self.granted(&request)?;
                Ok(one_batch($rows(&granted, command).await?))
            })
        }
    };
}

#[async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    /// Clients with a name and a password begin with this, and want a token. Where there are no users everybody is let in, and
    /// neither is looked at.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        let token = match &self.tokens {
            Some(tokens) => tokens.give(self.granted(&request)?.access),
            None => NO_TOKEN.to_owned(),
        };
        let answer = HandshakeResponse {
            protocol_version: 0,
            payload: token.clone().into(),
        };
        let mut response = Response::new(stream::iter([Ok(answer)]).boxed() as _);
        let token = format!("Bearer {token}").parse().map_err(broken)?;
        response.metadata_mut().insert("authorization", token);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let sql = placeholders::numbered(&query.query);
        let granted = self.granted(&request)?;
        let (schema, _) = self.describe(&granted, &sql, Vec::new()).await?;
        let ticket = ticket(Source::Sql(sql.into_owned()), request.metadata())?;
        Self::info(&schema, &ticket, request)
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        let granted = self.granted(&request)?;
        self.fetch(&granted, opened(&ticket)?).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let sql = placeholders::numbered(&query.query);
        let granted = self.granted(&request)?;
        let (schema, parameters) = self.describe(&granted, &sql, Vec::new()).await?;
        let parameters = parameters
            .into_iter()
            .enumerate()
            .map(|(position, wanted)| {
                let wanted = wanted.map_or(DataType::Utf8, |wanted| rows::plain_type(&wanted));
                Field::new(format!("${}", position + 1), wanted, true)
            });
        let parameters = Schema::new(parameters.collect::<Vec<_>>());
        let handle = name();
        let result = ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.clone().into(),
            dataset_schema: schema_bytes(&schema)?,
            parameter_schema: schema_bytes(&parameters)?,
        };
        let statement = Prepared {
            sql: sql.into(),
            schema,
            parameters: Vec::new(),
        };
        self.statements.keep(handle, statement);
        Ok(result)
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        self.statements
            .close(handle(&query.prepared_statement_handle)?);
        Ok(())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let granted = self.granted(&request)?;
        let sent = request.into_inner().map_err(FlightError::from);
        let mut batches = FlightRecordBatchStream::new_from_flight_data(sent);
        let mut row = None;
        while let Some(batch) = batches.try_next().await? {
            if batch.num_rows() > 1 || batch.num_rows() == 1 && row.is_some() {
                return Err(Status::unimplemented(
                    "a query takes one row of parameters; run it once for each row",
                ));
            }
            if batch.num_rows() == 1 {
                row = Some(batch);
            }
        }
        let handle = handle(&query.prepared_statement_handle)?;
        self.bind(&granted, handle, row).await?;
        Ok(DoPutPreparedStatementResult {
            prepared_statement_handle: Some(query.prepared_statement_handle),
        })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let handle = handle(&query.prepared_statement_handle)?;
        let prepared = self.statements.get(handle)?;
        let ticket = ticket(Source::Prepared(handle.to_owned()), request.metadata())?;
        Self::info(&prepared.schema, &ticket, request)
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        let handle = handle(&query.prepared_statement_handle)?;
        let fetch = Fetch {
            id: name(),
            read: read(request.metadata())?,
            what: Source::Prepared(handle.to_owned()),
        };
        self.fetch(&self.granted(&request)?, fetch).await
    }

    metadata!(
        get_flight_info_catalogs,
        do_get_catalogs,
        CommandGetCatalogs,
        |command: &CommandGetCatalogs| command.into_builder().schema(),
        catalog::catalogs
    );
    metadata!(
        get_flight_info_schemas,
        do_get_schemas,
        CommandGetDbSchemas,
        |command: &CommandGetDbSchemas| command.clone().into_builder().schema(),
        catalog::schemas
    );
    metadata!(
        get_flight_info_tables,
        do_get_tables,
        CommandGetTables,
        |command: &CommandGetTables| command.clone().into_builder().schema(),
        catalog::tables
    );
    metadata!(
        get_flight_info_table_types,
        do_get_table_types,
        CommandGetTableTypes,
        |command: &CommandGetTableTypes| command.into_builder().schema(),
        catalog::table_types
    );
    metadata!(
        get_flight_info_primary_keys,
        do_get_primary_keys,
        CommandGetPrimaryKeys,
        |_: &CommandGetPrimaryKeys| catalog::primary_key_columns(),
        catalog::primary_keys
    );
    metadata!(
        get_flight_info_exported_keys,
        do_get_exported_keys,
        CommandGetExportedKeys,
        |_: &CommandGetExportedKeys| catalog::foreign_key_columns(),
        catalog::no_foreign_keys
    );
    metadata!(
        get_flight_info_imported_keys,
        do_get_imported_keys,
        CommandGetImportedKeys,
        |_: &CommandGetImportedKeys| catalog::foreign_key_columns(),
        catalog::no_foreign_keys
    );
    metadata!(
        get_flight_info_cross_reference,
        do_get_cross_reference,
        CommandGetCrossReference,
        |_: &CommandGetCrossReference| catalog::foreign_key_columns(),
        catalog::no_foreign_keys
    );
    metadata!(
        get_flight_info_sql_info,
        do_get_sql_info,
        CommandGetSqlInfo,
        |command: &CommandGetSqlInfo| command.clone().into_builder(features::offered()).schema(),
        features::sql_info
    );
    metadata!(
        get_flight_info_xdbc_type_info,
        do_get_xdbc_type_info,
        CommandGetXdbcTypeInfo,
        |command: &CommandGetXdbcTypeInfo| command.into_builder(features::types()).schema(),
        features::type_info
    );

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info)
            .map_err(|_| Status::invalid_argument("this is no FlightInfo"))?;
        // The protocol's numbers for "cancelled" and "not cancellable".
        let result = if cancel(&self.running, &info) { 1 } else { 3 };
        Ok(ActionCancelQueryResult { result })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let action = request.into_inner();
        match action.r#type.as_str() {
            "CancelFlightInfo" => {
                let asked = CancelFlightInfoRequest::decode(action.body)
                    .map_err(|_| Status::invalid_argument("this is no CancelFlightInfoRequest"))?;
                let is_cancelled = asked.info.is_some_and(|info| cancel(&self.running, &info));
                let status = match is_cancelled {
                    true => CancelStatus::Cancelled,
                    false => CancelStatus::NotCancellable,
                };
                let result = CancelFlightInfoResult::new(status);
                let body = result.encode_to_vec().into();
                let answer = stream::iter([Ok(arrow_flight::Result { body })]);
                Ok(Response::new(answer.boxed()))
            }
            "SetSessionOptions" | "GetSessionOptions" => Err(Status::unimplemented(format!(
                "there are no sessions in Flight SQL; send the header {READ}: committed with each request"
            ))),
            // There is none, so it is closed: the protocol's number for that, as the one field of the answer.
            "CloseSession" => {
                let body = Bytes::from_static(&[0x08, 0x01]);
                let answer = stream::iter([Ok(arrow_flight::Result { body })]);
                Ok(Response::new(answer.boxed()))
            }
            other => Err(Status::unimplemented(format!(
                "the action {other} is not offered"
            ))),
        }
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<arrow_flight::ActionType, Status>>> {
        Some(vec![Ok(arrow_flight::ActionType {
            r#type: "CancelFlightInfo".into(),
            description: "Cancels a query. Takes a CancelFlightInfoRequest.".into(),
        })])
    }

    async fn get_flight_info_substrait_plan(
        &self,
        _: CommandStatementSubstraitPlan,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Err(no_substrait())
    }

    async fn do_put_substrait_plan(
        &self,
        _: CommandStatementSubstraitPlan,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(no_substrait())
    }

    async fn do_action_create_prepared_substrait_plan(
        &self,
        _: ActionCreatePreparedSubstraitPlanRequest,
        _: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        Err(no_substrait())
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        // The engine says best what is wrong with it.
        let granted = self.granted(&request)?;
        self.describe(&granted, &command.query, Vec::new()).await?;
        Err(Status::invalid_argument(
            "this statement is a query: execute it as one, to read its rows",
        ))
    }

    async fn do_put_prepared_statement_update(
        &self,
        _: CommandPreparedStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(Status::invalid_argument(
            "this statement is a query: execute it as one, to read its rows",
        ))
    }

    async fn do_put_statement_ingest(
        &self,
        _: CommandStatementIngest,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(reads_only("bulk ingestion"))
    }

    async fn do_action_begin_transaction(
        &self,
        _: ActionBeginTransactionRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_transaction(
        &self,
        _: ActionEndTransactionRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_begin_savepoint(
        &self,
        _: ActionBeginSavepointRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginSavepointResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_savepoint(
        &self,
        _: ActionEndSavepointRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    /// They are made in [`features`], all at once.
    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}

fn no_substrait() -> Status {
    Status::unimplemented("Substrait plans are not offered: send SQL")
}

fn no_transactions() -> Status {
    reads_only("a transaction")
}
