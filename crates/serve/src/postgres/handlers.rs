//! The messages of a client who was let in, one by one: the simple protocol, the extended protocol.
//!
//! Owns what is done at each message. Does not own the start-up, nor what a statement comes to.

use std::{fmt::Debug, sync::Arc};

use alluvium_query::date_without_zone;
use arrow_pg::datatypes::{df::deserialize_parameters_with_server_types, into_pg_type};
use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::{DataType, Schema, SchemaRef},
    common::{ParamValues, ScalarValue},
};
use futures::{Sink, SinkExt};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type,
        portal::{Format, Portal, PortalExecutionState},
        query::{
            ExtendedQueryHandler, SimpleQueryHandler, send_describe_response,
            send_partial_query_response, send_ready_for_query,
        },
        results::{
            DescribePortalResponse, DescribeStatementResponse, FieldFormat, FieldInfo,
            QueryResponse, Response, Tag,
        },
        stmt::QueryParser,
        store::{Entry, PortalStore},
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        data::ParameterDescription,
        extendedquery::{Describe, Execute, TARGET_TYPE_BYTE_PORTAL},
        response::{EmptyQueryResponse, TransactionStatus},
        simplequery::Query,
    },
};

use crate::outcomes;

use super::{
    connection::{Connection, DOOR, Outcome, texts},
    refusal,
    send::{complete, send, send_rowless},
    statement::{self, Statement},
};

/// A statement of the extended protocol.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    sql: String,
    sorted: Statement,
    /// The types that values of its parameters become, where it says it.
    parameters: Vec<Option<DataType>>,
    /// Its columns, unless they are a cursor's.
    schema: SchemaRef,
}

impl Default for Prepared {
    fn default() -> Self {
        Self {
            sql: String::new(),
            sorted: Statement::default(),
            parameters: Vec::new(),
            schema: Arc::new(Schema::empty()),
        }
    }
}

/// A connection is each of the handlers of its socket.
#[derive(Clone)]
pub(super) struct Handlers(pub(super) Arc<Connection>);

#[async_trait]
impl SimpleQueryHandler for Handlers {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        client.set_state(PgWireConnectionState::QueryInProgress);
        let text = query.query;
        let statements = statement::split(&text);
        if statements.is_empty() {
            client
                .feed(PgWireBackendMessage::EmptyQueryResponse(
                    EmptyQueryResponse::new(),
                ))
                .await?;
        }
        for range in statements {
            let before = text[..range.start].chars().count();
            let sql = &text[range];
            let status = client.transaction_status();
            let outcome = self
                .0
                .run(sql, statement::sort(sql), before, Vec::new(), status)
                .await?;
            let status = send(client, outcome, &self.0.manner(), status).await?;
            client.set_transaction_status(status);
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, _: &mut C, _: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        unreachable!("statements are run one by one by on_query")
    }
}

#[async_trait]
impl QueryParser for Handlers {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        // What stands before the statement's first word counts for places in it, so it stays.
        let sorted = statement::sort(sql);
        let declared: Vec<_> = types.iter().map(|known| declared(known.as_ref())).collect();
        let failed = matches!(client.transaction_status(), TransactionStatus::Error);
        let (parameters, schema) = match &sorted {
            _ if failed => (Vec::new(), Arc::new(Schema::empty())),
            Statement::Question => self.describe(sql, declared).await?,
            Statement::Declare { query, .. } | Statement::CopyOut { query, .. } => {
                let (parameters, _) = self.describe(query, declared).await?;
                (parameters, Arc::new(Schema::empty()))
            }
            Statement::Show(Some(name)) => {
                let name = name.to_ascii_lowercase();
                (Vec::new(), texts(&[&name], vec![Vec::new()]).schema())
            }
            Statement::Show(None) => {
                let columns = vec![Vec::new(), Vec::new()];
                (Vec::new(), texts(&["name", "setting"], columns).schema())
            }
            _ => (Vec::new(), Arc::new(Schema::empty())),
        };
        Ok(Some(Prepared {
            sql: sql.to_owned(),
            sorted,
            parameters,
            schema,
        }))
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        wire_types(prepared)
    }

    fn get_result_schema(
        &self,
        prepared: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let columns = self.columns(prepared)?;
        let format = format.unwrap_or(&Format::UnifiedText);
        let fields = self.0.manner().fields(&columns, format)?;
        Ok(fields.to_vec())
    }
}

impl Handlers {
    /// The columns of what a statement will answer, before it runs.
    fn columns(&self, prepared: &Prepared) -> PgWireResult<SchemaRef> {
        match &prepared.sorted {
            Statement::Fetch {
                cursor,
                moves_only: false,
                ..
            } => self.0.cursor_columns(cursor),
            _ => Ok(prepared.schema.clone()),
        }
    }

    async fn describe(
        &self,
        sql: &str,
        declared: Vec<Option<DataType>>,
    ) -> PgWireResult<(Vec<Option<DataType>>, SchemaRef)> {
        let mut cancelled = self.0.place.begin();
        let described = tokio::select! {
            biased;
            () = cancelled.ordered() => {
                outcomes::count(DOOR, "57014");
                return Err(PgWireError::QueryCanceled);
            }
            described = self.0.session()?.describe(sql, declared) => described,
        };
        let described = described.map_err(|failed| {
            outcomes::count(DOOR, failed.code());
            refusal::of_query(&failed, sql, 0)
        })?;
        Ok((described.parameters, described.schema))
    }
}

/// The type that a client gave a parameter.
fn declared(known: Option<&Type>) -> Option<DataType> {
    use datafusion::arrow::datatypes::{Field, TimeUnit::Microsecond};
    let list = |element| DataType::List(Arc::new(Field::new_list_field(element, true)));
    Some(match *known? {
        Type::BOOL_ARRAY => list(DataType::Boolean),
        Type::INT2_ARRAY => list(DataType::Int16),
        Type::INT4_ARRAY => list(DataType::Int32),
        Type::INT8_ARRAY => list(DataType::Int64),
        Type::FLOAT4_ARRAY => list(DataType::Float32),
        Type::FLOAT8_ARRAY => list(DataType::Float64),
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY => list(DataType::Utf8),
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => DataType::Utf8,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIMESTAMP => DataType::Timestamp(Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(Microsecond, Some("UTC".into())),
        _ => return None,
    })
}

/// The types of parameters as the wire names them.
fn wire_types(prepared: &Prepared) -> PgWireResult<Vec<Type>> {
    prepared
        .parameters
        .iter()
        .map(|known| known.as_ref().map_or(Ok(Type::TEXT), into_pg_type))
        .collect()
}

/// Values of a portal's parameters.
fn values(portal: &Portal<Prepared>) -> PgWireResult<Vec<ScalarValue>> {
    let prepared = &portal.statement.statement;
    if portal.parameters.len() != prepared.parameters.len() {
        let message = format!(
            "bind message supplies {} parameters, but the prepared statement requires {}",
            portal.parameters.len(),
            prepared.parameters.len()
        );
        return Err(refusal::error("08P01", message));
    }
    let wanted: Vec<Option<&DataType>> = prepared.parameters.iter().map(Option::as_ref).collect();
    let wire = wire_types(prepared)?;
    let wire: Vec<Option<&Type>> = wire.iter().map(Some).collect();
    let mut bound = Portal::<Prepared>::default();
    bound.statement = portal.statement.clone();
    bound.parameter_format = portal.parameter_format.clone();
    bound.parameters = portal.parameters.clone();
    for (place, (value, wire)) in bound.parameters.iter_mut().zip(&wire).enumerate() {
        let is_text = matches!(portal.parameter_format.format_for(place), FieldFormat::Text);
        if let (true, Some(&Type::DATE), Some(bytes)) = (is_text, *wire, value.as_ref())
            && let Ok(text) = std::str::from_utf8(bytes)
            && let Some(date) = date_without_zone(text)
        {
            *value = Some(bytes.slice(..date.len()));
        }
    }
    match deserialize_parameters_with_server_types(&bound, &wanted, &wire)? {
        ParamValues::List(values) => Ok(values.into_iter().map(|value| value.value).collect()),
        ParamValues::Map(_) => Err(refusal::error(
            "0A000",
            "parameters have numbers, not names",
        )),
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handlers {
    type Statement = Prepared;
    type QueryParser = Self;

    fn query_parser(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }

    async fn on_describe<C>(&self, client: &mut C, message: Describe) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        if message.target_type != TARGET_TYPE_BYTE_PORTAL {
            let described = match client.portal_store().get_statement(name) {
                Some(Entry::Value(statement)) => {
                    let prepared = &statement.statement;
                    let mut parameters = self.get_parameter_types(prepared)?;
                    for (known, given) in parameters.iter_mut().zip(&statement.parameter_types) {
                        if let Some(given) = given {
                            *known = given.clone();
                        }
                    }
                    let fields = self.get_result_schema(prepared, None)?;
                    DescribeStatementResponse::new(parameters, fields)
                }
                Some(Entry::Empty) => DescribeStatementResponse::new(Vec::new(), Vec::new()),
                None => return Err(PgWireError::StatementNotFound(name.to_owned())),
            };
            let types = described.parameters.iter().map(Type::oid).collect();
            client
                .feed(PgWireBackendMessage::ParameterDescription(
                    ParameterDescription::new(types),
                ))
                .await?;
            // Without columns this says so.
            let columns = DescribePortalResponse::new(described.fields);
            return send_describe_response(client, &columns).await;
        }
        let fields = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => self.get_result_schema(
                &portal.statement.statement,
                Some(&portal.result_column_format),
            )?,
            Some(Entry::Empty) => Vec::new(),
            // A cursor that was declared in SQL is a portal too.
            None => match self.0.cursor_columns(name) {
                Ok(columns) => {
                    let manner = self.0.manner();
                    manner.fields(&columns, &Format::UnifiedText)?.to_vec()
                }
                Err(_) => return Err(PgWireError::PortalNotFound(name.to_owned())),
            },
        };
        send_describe_response(client, &DescribePortalResponse::new(fields)).await
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                client
                    .feed(PgWireBackendMessage::EmptyQueryResponse(
                        EmptyQueryResponse::new(),
                    ))
                    .await?;
                return Ok(());
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        client.set_state(PgWireConnectionState::QueryInProgress);
        let state = portal.state();
        let mut state = state.lock().await;
        if let PortalExecutionState::Initial = *state {
            let prepared = &portal.statement.statement;
            let status = client.transaction_status();
            let sorted = prepared.sorted.clone();
            let outcome = self
                .0
                .run(&prepared.sql, sorted, 0, values(&portal)?, status)
                .await?;
            let manner = self.0.manner();
            match outcome {
                Outcome::Rows {
                    schema,
                    batches,
                    tag,
                } => {
                    let fields = manner.fields(&schema, &portal.result_column_format)?;
                    let rows = manner.rows(batches, fields.clone());
                    let mut response = QueryResponse::new(fields, rows);
                    response.set_command_tag(tag);
                    *state = PortalExecutionState::Suspended(response);
                }
                other => {
                    let status = send_rowless(client, other, &manner, status).await?;
                    client.set_transaction_status(status);
                    client.set_state(PgWireConnectionState::ReadyForQuery);
                    return Ok(());
                }
            }
        }
        match &mut *state {
            PortalExecutionState::Suspended(response) => {
                let most = usize::try_from(message.max_rows).unwrap_or(0);
                if !send_partial_query_response(client, response, most).await? {
                    *state = PortalExecutionState::Finished;
                }
            }
            _ => complete(client, Tag::new("SELECT"), Some(0)).await?,
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    async fn do_query<C>(&self, _: &mut C, _: &Portal<Prepared>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        unreachable!("portals are run by on_execute")
    }
}
