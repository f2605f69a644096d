//! Clients that take nothing of what is sent to them, and the last words to those that do.
//!
//! Owns how long a socket waits for such a client: the query behind an answer ends with its own time, and what is on the way would
//! stay in memory. Does not own what is sent.
//!
//! A socket that is closed while something of the client's lies unread in it is reset, and a reset takes back what the client has
//! not read yet: the reason why it was closed. So a socket is read to its end before it goes.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a client may take no byte while there is one for it.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a client may go on speaking after it has been told everything, ...
const FAREWELL: Duration = Duration::from_secs(1);
/// ... and how many bytes that may be: far more than what was on its way to us when we stopped.
const MOST_UNHEARD: usize = 1 << 20;

/// A stream whose other end has to go on reading.
pub(crate) struct Patient<S> {
    inner: S,
    longest: Duration,
    /// Since something could not be sent.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Since everything was sent, and the end of it too.
    leaving: Option<Pin<Box<Sleep>>>,
    /// Bytes that were read since.
    unheard: usize,
}

impl<S> Patient<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            longest: LONGEST,
            waiting: None,
            leaving: None,
            unheard: 0,
        }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        tried: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.waiting = None;
            return tried;
        }
        let longest = self.longest;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(longest)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(context, tried)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.inner).poll_flush(context);
        self.judge(context, tried)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.leaving.is_none() {
            let tried = Pin::new(&mut self.inner).poll_shutdown(context);
            ready!(self.judge(context, tried))?;
        }
        self.take_leave(context).map(Ok)
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Waits until the client has closed its side too, for a moment. What it still says concerns nobody.
    fn take_leave(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let leaving = self
            .leaving
            .get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
        if leaving.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut unheard = [0; 4 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut unheard);
            let read = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer));
            let bytes = buffer.filled().len();
            self.unheard += bytes;
            if read.is_err() || bytes == 0 || self.unheard > MOST_UNHEARD {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn whoever_takes_nothing_is_given_up_and_whoever_takes_little_is_not() {
        let (near, mut far) = duplex(10);
        let mut patient = Patient::new(near);
        patient.longest = Duration::from_millis(100);
        let slow = tokio::spawn(async move {
            // Longer in all than the other end waits for a single byte.
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                far.read_exact(&mut [0; 10]).await.unwrap();
            }
            far
        });
        patient.write_all(&[0; 60]).await.unwrap();
        let far = slow.await.unwrap();
        let error = patient.write_all(&[0; 60]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(far);
    }

    #[tokio::test]
    async fn last_words_arrive_though_the_client_was_speaking() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, mut patient) = (client.unwrap(), Patient::new(accepted.unwrap().0));
        client.write_all(b"nobody reads this").await.unwrap();
        patient.write_all(b"goodbye").await.unwrap();
        let closing = tokio::spawn(async move { patient.shutdown().await });
        // It was closed, or waits for the client: in both cases the words are on the way.
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.write_all(b"nor this").await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"goodbye");
        drop(client);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_never_stops_is_left_in_the_end() {
        let (near, mut far) = duplex(4 << 10);
        let mut patient = Patient::new(near);
        let speaking = tokio::spawn(async move {
            let mut said = 0;
            while far.write_all(&[0; 1 << 10]).await.is_ok() {
                said += 1 << 10;
            }
            said
        });
        patient.shutdown().await.unwrap();
        drop(patient);
        assert!(speaking.await.unwrap() <= MOST_UNHEARD + (16 << 10));
    }
}
