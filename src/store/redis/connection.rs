//! A connection to one server: opened by our own connector, with a password that is read anew each time, and bounded in
//! what it may receive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, RedisResult, Value, cmd, pipe};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::explain::{self, Explain};
use crate::config::{Egress, RedisConfig, Source, StoreHost};
use crate::net::{Connector, Offer, Stream, Target};
use crate::secret::Secret;
use crate::store::engine::{StoreError, StoreErrorKind};

/// How many requests on one connection may wait for responses. Further requests wait for these.
const AT_ONCE: usize = 256;
/// The most bytes that a server may send before a response is complete: a page of names, `INFO`, the slots of a cluster.
const RESPONSE_LIMIT: u64 = 1024 * 1024;
/// And for each waiting request: more than the size of an entry.
const ENTRY_LIMIT: u64 = 128 * 1024;

/// Why there is no response.
pub(super) enum Failure {
    /// The command was not sent, because there is no connection.
    Unsent(StoreError),
    Failed(StoreError),
    Redirect(Redirect),
}

impl Failure {
    /// Only servers of a cluster redirect.
    pub(super) fn into_gone(self) -> StoreError {
        match self {
            Self::Unsent(gone) | Self::Failed(gone) => gone,
            Self::Redirect(redirect) => {
                StoreError::new(StoreErrorKind::Unable, format!("the server redirects: {redirect:?}"))
            }
        }
    }
}

/// What a server of a cluster says about a key that it does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Another server has it.
    Moved(StoreHost),
    /// Another server has it, and needs `ASKING` before the command.
    Ask(StoreHost),
    /// It is moving to another server.
    TryAgain,
}

pub(super) struct Connection {
    redis: MultiplexedConnection,
    quota: Arc<Quota>,
    explain: Explain,
    driver: AbortOnDropHandle<()>,
}

/// Whether a server gets the user name and the password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    Now,
    /// Only if it requires one. A Sentinel usually has none, even if its servers have one.
    OnDemand,
}

/// The connector to a server of the store.
pub(super) fn connector(config: &RedisConfig, host: &StoreHost, limit: Duration) -> Connector {
    let target = match host {
        StoreHost::Tcp { host, port } => {
            Target::Tcp { host: host.clone(), port: *port, tls: config.tls.is_some() }
        }
        StoreHost::Unix(path) => Target::Unix(path.clone()),
    };
    Connector::new(
        target,
        config.tls.clone().unwrap_or_default(),
        Egress::Direct,
        Offer::Nothing,
        Some(limit),
    )
}

impl Connection {
    /// Connects within `limit`.
    pub(super) async fn open(
        config: &RedisConfig,
        connector: &Connector,
        login: Login,
        limit: Duration,
    ) -> Result<Self, StoreError> {
        let started = Instant::now();
        let connected = connector.connect().await;
        let stream =
            connected.map_err(|error| StoreError::new(StoreErrorKind::Unreachable, error.message))?.stream;
        let explain = Explain::new(connector.who(), config, stream.tls_failure());
        let slow = explain.silent(limit);
        let entered = timeout(limit.saturating_sub(started.elapsed()), async {
            let connection = Self::on(stream, explain).await?;
            connection.enter(config, login).await?;
            Ok(connection)
        });
        entered.await.unwrap_or(Err(slow))
    }

    async fn on(stream: Stream, explain: Explain) -> Result<Self, StoreError> {
        let quota = Arc::new(Quota::default());
        let stream = Bounded { stream, quota: Arc::clone(&quota) };
        // Sends nothing: the password follows as a command of its own, whose error says why it was refused.
        let silent = RedisConnectionInfo::default().set_skip_set_lib_name();
        let bounds = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_concurrency_limit(AT_ONCE);
        let opened = MultiplexedConnection::new_with_config(&silent, stream, bounds).await;
        let (redis, driver) = opened.map_err(|error| explain.error(&error))?;
        Ok(Self { redis, quota, explain, driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }

    async fn enter(&self, config: &RedisConfig, login: Login) -> Result<(), StoreError> {
        let wanted = config.password.is_some() || config.username.is_some();
        if wanted && (login == Login::Now || self.requires_login().await?) {
            self.log_in(config).await?;
        }
        if config.database != 0 && login == Login::Now {
            self.query(cmd("SELECT").arg(config.database))
                .await
                .map_err(|error| self.explain.error(&error))?;
        }
        Ok(())
    }

    async fn requires_login(&self) -> Result<bool, StoreError> {
        match self.query(&cmd("PING")).await {
            Ok(_) => Ok(false),
            Err(error) if error.code() == Some("NOAUTH") => Ok(true),
            Err(error) => Err(self.explain.error(&error)),
        }
    }

    async fn log_in(&self, config: &RedisConfig) -> Result<(), StoreError> {
        let mut auth = cmd("AUTH");
        if let Some(username) = &config.username {
            auth.arg(read(username, "username").await?.expose());
        }
        match &config.password {
            Some(password) => auth.arg(read(password, "password").await?.expose()),
            None => auth.arg(""),
        };
        self.query(&auth).await.map(drop).map_err(|error| self.explain.login(&error))
    }

    pub(super) async fn exchange(&self, command: &Cmd) -> Result<Value, Failure> {
        self.query(command).await.map_err(|error| self.failure(&error))
    }

    /// After a [`Redirect::Ask`].
    pub(super) async fn exchange_asking(&self, command: &Cmd) -> Result<Value, Failure> {
        let _waiting = self.quota.wait();
        let mut both = pipe();
        both.cmd("ASKING").ignore().add_command(command.clone());
        let outcome: RedisResult<(Value,)> = both.query_async(&mut self.redis.clone()).await;
        outcome.map(|(value,)| value).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &RedisError) -> Failure {
        match self.explain.redirect(error) {
            Some(redirect) => Failure::Redirect(redirect),
            None => Failure::Failed(self.explain.error(error)),
        }
    }

    /// Sends a command for the connection itself.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.query(command).await.map_err(|error| self.explain.error(&error))
    }

    async fn query(&self, command: &Cmd) -> RedisResult<Value> {
        let _waiting = self.quota.wait();
        command.query_async(&mut self.redis.clone()).await
    }

    /// `false`: one side has closed it.
    pub(super) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    pub(super) fn explain(&self) -> &Explain {
        &self.explain
    }
}

/// Reads a user name or a password now, so that a new one is used without a restart.
async fn read(source: &Source, key: &str) -> Result<Arc<Secret>, StoreError> {
    let read = source.to_send_aside().await;
    let (secret, _stale) = read.map_err(|error| {
        StoreError::new(StoreErrorKind::Refused, format!("{key} in [store] cannot be read: {error}"))
    })?;
    Ok(secret)
}

/// What a server may still send.
#[derive(Default)]
struct Quota {
    /// Bytes since a response was complete.
    received: AtomicU64,
    waiting: AtomicU64,
}

impl Quota {
    /// Allows one more response, until the guard is dropped.
    fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    fn is_exceeded(&self) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        self.received.load(Ordering::Relaxed) > RESPONSE_LIMIT + ENTRY_LIMIT * waiting.min(AT_ONCE as u64)
    }
}

struct Waiting<'a>(&'a Quota);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.received.store(0, Ordering::Relaxed);
    }
}

/// A stream that breaks off if the server sends too much, because the decoder keeps what is not complete.
struct Bounded {
    stream: Stream,
    quota: Arc<Quota>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.quota.is_exceeded() {
            // A kind that makes the driver end.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, explain::TooMuch)));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        this.quota.received.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
