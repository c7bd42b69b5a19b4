//! HTTPS on both sides: who is trusted, and what never goes in the clear.

use support::http::{Certificate, Server, reply};

use crate::scenario::{Image, REPOSITORY, Scenario, layers, small_image};

/// Both registries over HTTPS with a certificate that the function trusts, and a small image under `1`.
async fn trusted() -> (Scenario, Certificate) {
    let certificate = Certificate::generate();
    let scenario = Scenario::start_tls(&certificate, &certificate, &certificate).await;
    scenario.push(REPOSITORY, "1", &small_image());
    (scenario, certificate)
}

#[tokio::test]
async fn a_copy_goes_over_https_on_both_sides() {
    let (scenario, _certificate) = trusted().await;
    for server in [
        &scenario.ghcr.server,
        &scenario.ghcr.storage,
        &scenario.ecr.server,
    ] {
        assert!(server.url().starts_with("https://"), "{}", server.url());
    }
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    scenario.assert_stored("over https", "1", &small_image());
    assert!(!scenario.ghcr.storage.requests().is_empty());
}

/// A handshake costs two round trips, and more processor time than a whole look at an image that is up to date.
#[tokio::test]
async fn connections_and_sessions_are_used_again() {
    let (scenario, _certificate) = trusted().await;
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    let ecr = &scenario.ecr.server;
    assert!(ecr.connections() > 1 && ecr.resumed_sessions() > 0);
    let servers = [&scenario.ghcr.server, &scenario.ghcr.storage, ecr];
    let connections = || servers.map(Server::connections);
    let before = connections();
    assert_eq!(scenario.copy("1").await["outcome"], "current");
    assert_eq!(connections(), before);
    scenario.push(REPOSITORY, "2", &Image::single(&layers()));
    assert_eq!(scenario.copy("2").await["outcome"], "copied");
    assert_eq!(connections(), before, "nor does another image need one");
}

#[tokio::test]
async fn no_blob_is_read_in_the_clear() {
    let (scenario, _certificate) = trusted().await;
    let plain = Server::start(|_| async { reply(200, &[], "bytes") }).await;
    scenario
        .ghcr
        .set_redirect(&format!("{}/blob?sig=signature", plain.url()));
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Invalid", "{message}");
    assert!(
        message.starts_with("source ") && !message.contains("sig="),
        "{message}"
    );
    assert_eq!(plain.requests().len(), 0);
    scenario.assert_untouched("redirected", "1");
}

/// The realm has the registry's own host and port, so that nothing but the scheme is wrong with it.
#[tokio::test]
async fn no_credential_is_sent_in_the_clear() {
    let (scenario, _certificate) = trusted().await;
    let realm = format!("http://{}/token", scenario.ghcr.host());
    scenario.ghcr.set_realm(&realm);
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Denied", "{message}");
    assert!(
        message.starts_with("source ") && message.contains("which is refused"),
        "{message}"
    );
    assert_eq!(scenario.ghcr.server.count("GET", "/token"), 0);
}

/// The error of a copy between registries with these certificates, of which the function trusts `good` alone.
async fn distrust(source: &Certificate, destination: &Certificate, good: &Certificate) -> String {
    let scenario = Scenario::start_tls(source, destination, good).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let (_, message) = scenario.fail("1").await;
    scenario.assert_untouched("distrusted", "1");
    message
}

#[tokio::test]
async fn a_source_that_is_not_trusted_is_named_with_the_reason() {
    let (good, bad) = (Certificate::generate(), Certificate::generate());
    let message = distrust(&bad, &good, &good).await;
    let parts = message.starts_with("source ") && message.contains("invalid peer certificate");
    assert!(parts, "{message}");
}

#[tokio::test]
async fn a_destination_that_is_not_trusted_is_named_with_the_reason() {
    let (good, bad) = (Certificate::generate(), Certificate::generate());
    let message = distrust(&good, &bad, &good).await;
    let parts = message.starts_with("destination ") && message.contains("invalid peer certificate");
    assert!(parts, "{message}");
}
