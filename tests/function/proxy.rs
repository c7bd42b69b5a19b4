//! The proxy of a governed network, which everything goes through but what `NO_PROXY` names and Lambda's own runtime API.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::http::{Server, reply};

use crate::scenario::{REPOSITORY, Scenario, small_image};

/// A proxy that lets nobody through. It keeps who was asked for.
async fn strict_proxy() -> Server {
    Server::start(|_| async { reply(403, &[], "not by this proxy") }).await
}

/// The hosts that a proxy was asked for.
fn asked_for(proxy: &Server) -> BTreeSet<String> {
    let requests = proxy.requests().into_iter();
    requests
        .map(|mut request| request.headers.remove("host").unwrap_or_default())
        .collect()
}

/// Invokes the function, and gives the hosts that it asked the proxy for; nothing reaches any of the servers.
async fn hosts_behind_a_proxy(
    settings: &[(&str, &str)],
    event: &Value,
) -> (Scenario, BTreeSet<String>) {
    let proxy = strict_proxy().await;
    let url = proxy.url();
    let network = [("HTTP_PROXY", url.as_str()), ("HTTPS_PROXY", url.as_str())];
    let scenario = Scenario::start_with(&[settings, &network].concat()).await;
    scenario.push(REPOSITORY, "1", &small_image());
    // That there is an outcome at all shows that Lambda's runtime API was reached without the proxy.
    let outcome = scenario.function.invoke(event).await;
    assert!(format!("{outcome:?}").contains("403"), "{outcome:?}");
    let servers = [
        &scenario.ghcr.server,
        &scenario.github.server,
        &scenario.ecr.server,
        &scenario.aws.server,
    ];
    for server in servers {
        assert_eq!(server.requests().len(), 0, "{}", server.url());
    }
    (scenario, asked_for(&proxy))
}

const ANONYMOUS: (&str, &str) = ("GHCR_TOKEN_SECRET_ID", "");

#[tokio::test]
async fn registries_are_reached_through_the_proxy() {
    let event = json!({"source": format!("ghcr.io/{REPOSITORY}:1")});
    let (scenario, hosts) = hosts_behind_a_proxy(&[ANONYMOUS], &event).await;
    assert!(hosts.contains(&scenario.ghcr.server.host()), "{hosts:?}");
}

#[tokio::test]
async fn aws_is_reached_through_the_proxy() {
    let event = json!({"source": format!("ghcr.io/{REPOSITORY}:1")});
    let (scenario, hosts) = hosts_behind_a_proxy(&[], &event).await;
    assert!(hosts.contains(&scenario.aws.server.host()), "{hosts:?}");
}

#[tokio::test]
async fn github_is_reached_through_the_proxy() {
    let event = json!({"reconcile": ["acme/*"]});
    let (scenario, hosts) = hosts_behind_a_proxy(&[ANONYMOUS], &event).await;
    assert_eq!(hosts, BTreeSet::from([scenario.github.server.host()]));
}

#[tokio::test]
async fn what_no_proxy_names_is_reached_without_it() {
    let proxy = strict_proxy().await;
    let url = proxy.url();
    let scenario =
        Scenario::start_with(&[("HTTP_PROXY", &url), ("NO_PROXY", "localhost,127.0.0.1")]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    assert_eq!(asked_for(&proxy), BTreeSet::new());
}
