//! Decoding of files that may be damaged.
//!
//! Owns that a decoder which panics over a file is an error of that file. Does not own what is then done. Parquet's decoders
//! are functions of their bytes, so nothing is left half done when one unwinds.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use alluvium_types::survived;
use futures::{Stream, StreamExt as _};
use parquet::errors::{ParquetError, Result};

/// What a decoder made of a file, or an error of the file when there is nothing.
pub(crate) fn or_astray<T>(decoded: Option<Result<T>>) -> Result<T> {
    decoded.unwrap_or_else(|| {
        let text = "it is damaged: no decoder gets through it";
        Err(ParquetError::General(text.into()))
    })
}

/// The outcome of a future that decodes.
pub(crate) async fn survived_by<T>(decode: impl Future<Output = Result<T>>) -> Result<T> {
    let mut decode = pin!(decode);
    poll_fn(|context| match survived(|| decode.as_mut().poll(context)) {
        Some(polled) => polled,
        None => Poll::Ready(or_astray(None)),
    })
    .await
}

/// What a stream decodes; it ends with an error where the decoder panics.
pub(crate) struct Surviving<S>(Option<S>);

impl<S> Surviving<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Some(stream))
    }
}

impl<T, S: Stream<Item = Result<T>> + Unpin> Stream for Surviving<S> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let Some(stream) = &mut self.0 else {
            return Poll::Ready(None);
        };
        match survived(|| stream.poll_next_unpin(context)) {
            Some(polled) => polled,
            None => {
                self.0 = None;
                Poll::Ready(Some(or_astray(None)))
            }
        }
    }
}
