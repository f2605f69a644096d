//! What a statement came to, as messages to the client.
//!
//! Rows go out as they come: a client that reads slowly holds back the query, not a buffer.

use futures::{Sink, SinkExt, StreamExt};
use pgwire::{
    api::{portal::Format, results::Tag},
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        copy::{CopyData, CopyDone, CopyOutResponse},
        data::RowDescription,
        response::{CommandComplete, TransactionStatus},
        startup::ParameterStatus,
    },
};

use super::{
    connection::Outcome,
    rows::{BINARY_SIGNATURE, Manner},
    settings::Reported,
};

/// Sends what a statement came to, with its columns. Returns the transaction's new status.
pub(super) async fn send<C>(
    client: &mut C,
    outcome: Outcome,
    manner: &Manner,
    status: TransactionStatus,
) -> PgWireResult<TransactionStatus>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    match outcome {
        Outcome::Rows {
            schema,
            batches,
            tag,
        } => {
            let fields = manner.fields(&schema, &Format::UnifiedText)?;
            let description = RowDescription::new(fields.iter().map(Into::into).collect());
            client
                .feed(PgWireBackendMessage::RowDescription(description))
                .await?;
            let mut rows = manner.rows(batches, fields);
            let mut count = 0;
            while let Some(row) = rows.next().await {
                client.feed(PgWireBackendMessage::DataRow(row?)).await?;
                count += 1;
            }
            complete(client, Tag::new(tag), (tag != "SHOW").then_some(count)).await?;
            Ok(status)
        }
        other => send_rowless(client, other, manner, status).await,
    }
}

/// Sends what has no rows.
pub(super) async fn send_rowless<C>(
    client: &mut C,
    outcome: Outcome,
    manner: &Manner,
    status: TransactionStatus,
) -> PgWireResult<TransactionStatus>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let (tag, status) = match outcome {
        Outcome::Rows { .. } => unreachable!("rows are sent by themselves"),
        Outcome::Done(tag) => (tag, status),
        Outcome::Began => (Tag::new("BEGIN"), TransactionStatus::Transaction),
        Outcome::WentBack => (Tag::new("ROLLBACK"), TransactionStatus::Transaction),
        Outcome::Ended(tag) => (Tag::new(tag), TransactionStatus::Idle),
        Outcome::Set(tag, reported) => {
            for Reported { name, value } in reported {
                let status = ParameterStatus::new(name.to_owned(), value);
                client
                    .feed(PgWireBackendMessage::ParameterStatus(status))
                    .await?;
            }
            (Tag::new(tag), status)
        }
        Outcome::Copy {
            schema,
            batches,
            form,
        } => {
            let mut copied = manner.copy(&schema, batches, form)?;
            let columns = vec![copied.format; copied.columns];
            let response =
                CopyOutResponse::new(copied.format as i8, copied.columns as i16, columns);
            client
                .feed(PgWireBackendMessage::CopyOutResponse(response))
                .await?;
            if let Some(first) = copied.first {
                client.feed(PgWireBackendMessage::CopyData(first)).await?;
            }
            let mut count = 0;
            while let Some(row) = copied.rows.next().await {
                client.feed(PgWireBackendMessage::CopyData(row?)).await?;
                count += 1;
            }
            if let Some(last) = copied.last {
                let last = match count {
                    0 => CopyData::new([BINARY_SIGNATURE, &last.data].concat().into()),
                    _ => last,
                };
                client.feed(PgWireBackendMessage::CopyData(last)).await?;
            }
            client
                .feed(PgWireBackendMessage::CopyDone(CopyDone::new()))
                .await?;
            (Tag::new("COPY").with_rows(count), status)
        }
    };
    complete(client, tag, None).await?;
    Ok(status)
}

/// Says that a statement is done.
pub(super) async fn complete<C>(client: &mut C, tag: Tag, rows: Option<usize>) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let tag = match rows {
        Some(rows) => tag.with_rows(rows),
        None => tag,
    };
    let complete = CommandComplete::from(tag);
    client
        .feed(PgWireBackendMessage::CommandComplete(complete))
        .await?;
    Ok(())
}
