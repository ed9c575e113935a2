//! Finds the primary of a service through its Sentinels.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{Value, cmd, from_redis_value};

use super::CONNECT_LIMIT;
use super::connection::{Connection, Login, connector};
use crate::config::{RedisConfig, StoreHost};
use crate::store::engine::{StoreError, StoreErrorKind};

/// The timeout of one Sentinel, or of one server that it names, so that the others are tried too.
const ONE_LIMIT: Duration = Duration::from_millis(1500);

/// Asks one Sentinel after the other, and connects to the primary that it names.
pub(super) async fn connect(config: Arc<RedisConfig>, service: String) -> Result<Connection, StoreError> {
    let mut failures: Vec<StoreError> = Vec::new();
    for sentinel in &config.hosts {
        match through(&config, sentinel, &service).await {
            Ok(connection) => return Ok(connection),
            Err(gone) => failures.push(gone),
        }
    }
    // What a Sentinel or a server responds is more helpful than that another one is unreachable.
    let told =
        failures.iter().find(|gone| gone.kind != StoreErrorKind::Unreachable).or_else(|| failures.first());
    let kind = told.map_or(StoreErrorKind::Unreachable, |gone| gone.kind);
    let details: Vec<&str> = failures.iter().map(|gone| gone.detail.as_str()).collect();
    Err(StoreError::new(kind, format!("no primary of the service {service}: {}", details.join("; "))))
}

pub(super) fn silent(service: &str) -> StoreError {
    let limit = humantime::format_duration(CONNECT_LIMIT);
    StoreError::new(
        StoreErrorKind::Timeout,
        format!("no primary of the service {service} was found within {limit}"),
    )
}

async fn through(
    config: &RedisConfig,
    sentinel: &StoreHost,
    service: &str,
) -> Result<Connection, StoreError> {
    let primary = primary_of(config, sentinel, service).await?;
    let connector = connector(config, &primary, ONE_LIMIT);
    let connection = Connection::open(config, &connector, Login::Now, ONE_LIMIT).await?;
    let role = connection.ask(&cmd("ROLE")).await?;
    match role {
        Value::Array(parts) if parts.first().is_some_and(|role| text(role) == Some(&b"master"[..])) => {
            Ok(connection)
        }
        Value::Array(_) => Err(connection.explain().gone(
            StoreErrorKind::Unable,
            "is not the primary yet, although a Sentinel says so; a failover is under way",
        )),
        _ => Err(connection.explain().garbage()),
    }
}

async fn primary_of(
    config: &RedisConfig,
    sentinel: &StoreHost,
    service: &str,
) -> Result<StoreHost, StoreError> {
    let connector = connector(config, sentinel, ONE_LIMIT);
    let connection = Connection::open(config, &connector, Login::OnDemand, ONE_LIMIT).await?;
    let response = connection.ask(cmd("SENTINEL").arg("get-master-addr-by-name").arg(service)).await?;
    let address: Option<(String, u16)> =
        from_redis_value(response).map_err(|_| connection.explain().garbage())?;
    let (host, port) = address.ok_or_else(|| {
        connection.explain().gone(
            StoreErrorKind::Invalid,
            format_args!("knows no service {service}: set sentinel in [store] to a name that it monitors"),
        )
    })?;
    Ok(StoreHost::Tcp { host, port })
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(text) => Some(text),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
