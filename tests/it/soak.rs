//! `bench/soak`, for a few seconds: it works, and nothing that it finds is ours.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

#[tokio::test]
#[ignore = "needs openssl and python3"]
async fn a_short_soak_loses_nothing() {
    let soak = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/soak");
    let mut command = Command::new("python3");
    command.arg(soak).args(["--bearerd", env!("CARGO_BIN_EXE_bearerd")]).kill_on_drop(true);
    // A debug build beside other tests: less load, and patience with what takes long.
    command.args(["--minutes", "0.2", "--rate", "40", "--every", "0.4", "--slack", "8", "--seed", "7"]);
    let output =
        tokio::time::timeout(Duration::from_secs(90), command.output()).await.expect("the soak ends");
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}: install python3"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("nothing is ours"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let requests: u32 = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("sent"))
        .and_then(|count| count.trim().parse().ok())
        .expect("how many requests were sent");
    assert!(requests > 300, "{said}");
}
