//! Clocks that jump, and what takes too long to wait for: rows T54 and T60 to T62.

use std::time::Duration;

use crate::support::in_process::InProcess;
use crate::support::{RawResponse, Setup, stays};

const HOUR_MS: i64 = 3_600_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn t54_token_is_not_sent_in_its_last_seconds() {
    for (life, last_good, first_bad) in [(1000, 990, 996), (40, 30, 39)] {
        let proxy = InProcess::granting(life, "refresh_at = 1.0").await;
        proxy.clock.advance(seconds(last_good));
        assert_eq!(proxy.token().await, "token-1", "{life}");
        proxy.clock.advance(seconds(first_bad - last_good));
        assert_eq!(proxy.token().await, "token-2", "{life}");
    }
}

#[tokio::test]
async fn t54_expired_token_is_not_sent_while_the_issuer_is_down() {
    let proxy = InProcess::granting(3600, "").await;
    proxy.issuer().always_this(RawResponse::status(503));
    proxy.clock.advance(seconds(3599));
    proxy.get().await.expect_problem(503, "token_unavailable");
    assert_eq!(proxy.upstream().count(), 1);
}

#[tokio::test]
async fn t60_wall_clock_forward_means_one_new_token() {
    let proxy = InProcess::granting(3600, "").await;
    proxy.clock.jump_wall(2 * HOUR_MS);
    assert_eq!(proxy.token().await, "token-2");
    for _ in 0..10 {
        assert_eq!(proxy.token().await, "token-2");
    }
    assert_eq!(proxy.issuer().count(), 2);
}

#[tokio::test]
async fn t61_wall_clock_backward_makes_no_token_immortal() {
    let proxy = InProcess::granting(3600, "").await;
    proxy.clock.jump_wall(-2 * HOUR_MS);
    proxy.get().await.expect_status(200);
    let before = proxy.issuer().count();
    assert!(before <= 2, "{before} token requests");
    proxy.clock.advance(seconds(3600));
    let token = proxy.token().await;
    assert_eq!(token, format!("token-{}", before + 1));
}

#[tokio::test]
async fn t62_suspend_is_noticed_before_the_first_use() {
    let proxy = InProcess::granting(60, "").await;
    // Both clocks go on in suspend; no timer of the program did.
    proxy.clock.advance(seconds(90));
    assert_eq!(proxy.token().await, "token-2");
    assert_eq!(proxy.issuer().count(), 2);
}

#[tokio::test]
async fn token_of_more_than_a_day_lives_a_day() {
    let proxy = InProcess::granting(30 * 24 * 3600, "refresh_at = 1.0").await;
    proxy.clock.advance(seconds(24 * 3600 - 60));
    assert_eq!(proxy.token().await, "token-1");
    proxy.clock.advance(seconds(60));
    assert_eq!(proxy.token().await, "token-2");
}

#[tokio::test]
async fn renewal_begins_at_refresh_at_and_not_before_its_jitter() {
    let proxy = InProcess::granting(1000, "refresh_at = 0.8").await;
    proxy.clock.advance(seconds(690));
    for _ in 0..5 {
        assert_eq!(proxy.token().await, "token-1");
    }
    stays(Duration::from_millis(300), || proxy.issuer().count()).await;
    proxy.clock.advance(seconds(115));
    proxy.asked(2).await;
}

#[tokio::test]
async fn t34_refused_client_is_asked_again_after_a_minute() {
    for error in ["invalid_client", "unauthorized_client", "invalid_scope", "invalid_request"] {
        let setup = Setup::new().await;
        setup.issuer.always_this(RawResponse::oauth_error(400, error));
        let proxy = InProcess::start(setup).await;
        proxy.get().await.expect_problem(502, "token_refused");
        proxy.clock.advance(seconds(50));
        proxy.get().await.expect_problem(502, "token_refused");
        assert_eq!(proxy.issuer().count(), 1, "{error}");
        proxy.clock.advance(seconds(15));
        proxy.asked(2).await;
    }
}

#[tokio::test]
async fn t71_another_401_drops_the_token_after_ten_seconds() {
    let setup = Setup::new().await;
    setup.upstream.always_this(RawResponse::unauthorized());
    let proxy = InProcess::start(setup).await;
    proxy.get().await.expect_status(401);
    assert_eq!((proxy.issuer().count(), proxy.upstream().count()), (2, 2));
    proxy.clock.advance(seconds(2));
    proxy.get().await.expect_status(401);
    assert_eq!((proxy.issuer().count(), proxy.upstream().count()), (2, 3));
    proxy.clock.advance(seconds(9));
    proxy.get().await.expect_status(401);
    assert_eq!((proxy.issuer().count(), proxy.upstream().count()), (3, 5));
}

#[tokio::test]
async fn t31_retry_after_ends_when_it_says() {
    let setup = Setup::new().await;
    setup.issuer.next(RawResponse::status(429).header("retry-after", "200"));
    let proxy = InProcess::start(setup).await;
    let response = proxy.get().await;
    response.expect_problem(503, "token_unavailable");
    proxy.clock.advance(seconds(150));
    let left: u64 = proxy.get().await.header("retry-after").unwrap().parse().unwrap();
    assert!((40..=50).contains(&left), "{left}");
    assert_eq!(proxy.issuer().count(), 1);
    proxy.clock.advance(seconds(55));
    proxy.asked(2).await;
}
