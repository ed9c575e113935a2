//! `bearerd run`.

use std::sync::Arc;

use super::args::Common;
use super::{Exit, Failure, load, start_log};
use crate::app::{self, Ended, NotifySocket, Options, Running, StartError};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::listener::Passed;

pub(super) fn run(common: &Common, refused: &[String]) -> Result<Exit, Failure> {
    // Before any thread is started, and before other files take the numbers that were not passed after all.
    let passed = Passed::take().map_err(|message| Failure::new(Exit::Config, message))?;
    let config = load(common)?;
    let log = start_log(common, &config.log)?;
    let notify = std::env::var_os("NOTIFY_SOCKET").map(NotifySocket::new);
    let running = serve(config, Options { log: Some(log), notify, passed, ..Options::default() }, refused)?;
    Ok(exit(&running.join()))
}

/// Starts the proxy as a process of its own. `refused` is what the kernel did not grant.
pub(super) fn serve(config: Config, options: Options, refused: &[String]) -> Result<Running, Failure> {
    app::install_panic_hook();
    for refused in refused {
        tracing::warn!(event = "process.not_hardened", "{refused}");
    }
    let options = Options { signals: true, watch: true, ..options };
    app::start(config, Arc::new(SystemClock), options)
        .map_err(|error| Failure::new(start_exit(&error), error.to_string()))
}

fn start_exit(error: &StartError) -> Exit {
    match error {
        StartError::Address(_) => Exit::Address,
        StartError::Settings(_) => Exit::Config,
        StartError::System(_) => Exit::No,
    }
}

/// Requests that were cut off are no failure: the operator set the time they had, or asked twice.
pub(super) fn exit(ended: &Ended) -> Exit {
    match ended {
        Ended::Drained | Ended::Cut => Exit::Fine,
        Ended::Failed(_) => Exit::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_code_of_what_happened() {
        assert_eq!(exit(&Ended::Drained), Exit::Fine);
        assert_eq!(exit(&Ended::Cut), Exit::Fine);
        assert_eq!(exit(&Ended::Failed("worker-0 is gone".to_owned())), Exit::No);
        assert_eq!(start_exit(&StartError::Address(Vec::new())), Exit::Address);
        assert_eq!(start_exit(&StartError::Settings(Vec::new())), Exit::Config);
        assert_eq!(start_exit(&StartError::System(String::new())), Exit::No);
    }
}
