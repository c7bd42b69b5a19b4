//! Where a registry may send a reader: only to places that are as public as it is itself.
//!
//! A redirect comes from outside. It must not make the function ask, from inside the account, what nobody outside could ask: the
//! metadata of the host, Lambda's own API, a neighbour in the VPC. (OWASP, "Server-Side Request Forgery Prevention")

use std::net::IpAddr;

use url::{Host, Url};

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// From the same host: loopback.
    Host,
    /// From the same network: RFC 1918, RFC 6598, RFC 4193.
    Network,
    /// From everywhere.
    Internet,
}

/// Whether an answer from `from` may redirect to `to`. A name is judged when it has been looked up: see [`may_answer`].
pub(super) fn may_lead(from: Option<IpAddr>, to: &Url) -> bool {
    match to.host() {
        Some(Host::Ipv4(address)) => may_answer(from, Some(address.into())),
        Some(Host::Ipv6(address)) => may_answer(from, Some(address.into())),
        Some(Host::Domain(name)) => {
            let is_local = name == "localhost" || name.ends_with(".localhost");
            !is_local || from.and_then(reach) == Some(Reach::Host)
        }
        None => false,
    }
}

/// Whether an answer from `to`, which an answer from `from` redirected to, may be read. Addresses that are not known are those of a
/// connection that is gone.
pub(super) fn may_answer(from: Option<IpAddr>, to: Option<IpAddr>) -> bool {
    let Some(to) = to else {
        return true;
    };
    match reach(to) {
        Some(Reach::Internet) => true,
        Some(inner) => from.and_then(reach) == Some(inner),
        None => false,
    }
}

/// `None` for what no registry has: link-local addresses (169.254.169.254 is the metadata of a host), multicast and the like.
fn reach(address: IpAddr) -> Option<Reach> {
    match address.to_canonical() {
        IpAddr::V4(address) => match address.octets() {
            _ if address.is_loopback() => Some(Reach::Host),
            [100, 64..=127, ..] => Some(Reach::Network),
            _ if address.is_private() => Some(Reach::Network),
            [0 | 224..=255, ..] => None,
            _ if address.is_link_local() => None,
            _ => Some(Reach::Internet),
        },
        IpAddr::V6(address) if address.is_loopback() => Some(Reach::Host),
        IpAddr::V6(address) if address.is_unique_local() => Some(Reach::Network),
        // An IPv4 address behind a translator, as subnets without IPv4 reach it. (RFC 6052, section 2.1)
        IpAddr::V6(address) if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = address.octets();
            reach(IpAddr::V4([a, b, c, d].into()))
        }
        IpAddr::V6(address) => {
            let is_of_no_host = address.is_unspecified() || address.is_multicast();
            (!is_of_no_host && !address.is_unicast_link_local()).then_some(Reach::Internet)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_internet_or_to_the_same_reach() {
        let addresses = ["140.82.121.34", "10.0.0.1", "127.0.0.1"].map(|text| text.parse().ok());
        let [internet, network, host] = addresses;
        let leads = |from, to: &str| may_lead(from, &Url::parse(to).unwrap());
        for to in [
            "https://185.199.108.154/x",
            "https://[2606:50c0::154]/",
            "https://[64:ff9b::185.199.108.154]/",
            "https://pkg.example",
        ] {
            assert!(
                [internet, network, host]
                    .iter()
                    .all(|from| leads(*from, to)),
                "{to}"
            );
        }
        for to in [
            "http://10.255.255.1",
            "https://172.16.0.1",
            "https://100.64.0.1",
            "https://[fd00::1]",
            "https://[64:ff9b::10.0.0.1]",
        ] {
            assert_eq!(
                [internet, network, host].map(|from| leads(from, to)),
                [false, true, false],
                "{to}"
            );
        }
        for to in [
            "http://127.0.0.1:9001",
            "https://localhost",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
            "http://2130706433",
        ] {
            assert_eq!(
                [internet, network, host].map(|from| leads(from, to)),
                [false, false, true],
                "{to}"
            );
        }
        for to in [
            "http://169.254.169.254/latest/meta-data",
            "http://0.0.0.0",
            "http://[fe80::1]",
            "http://[::]",
            "http://224.0.0.1",
            "http://[64:ff9b::169.254.169.254]/latest/meta-data",
        ] {
            assert!(
                ![internet, network, host]
                    .iter()
                    .any(|from| leads(*from, to)),
                "{to}"
            );
        }
    }
}
