//! Where a registry is reached, and which hosts are registries of Amazon ECR.

use std::fmt;

use url::Url;

/// Where a registry is reached: a host, by https unless a setting says `http://`.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: Url,
}

impl Endpoint {
    /// Accepts `host`, `host:port`, `https://host` or `http://host`, without a path, a query or a user.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected a registry as `host`, `https://host` or `http://host`".to_owned();
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = Url::parse(&with_scheme).map_err(|_| wrong())?;
        let bare = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if bare {
            Ok(Endpoint { url })
        } else {
            Err(wrong())
        }
    }

    /// The host, with its port where that is not the scheme's own.
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Whether the registry was configured as `http://…`: then its realm and its redirects may be http too.
    pub fn is_plain_http(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The URL of the registry's root, which ends in `/`.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The Region of an ECR registry's host: `<account>.dkr.ecr[-fips].<region>.<domain>`, or `dkr-ecr` where it is dual-stack.
/// (ECR user guide, "Private registry"; amazon-ecr-credential-helper, `api/client.go`)
pub fn ecr_region(host: &str) -> Option<&str> {
    let (account, rest) = host.split_once('.')?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest
        .strip_prefix("dkr.ecr")
        .or_else(|| rest.strip_prefix("dkr-ecr"))?;
    let rest = rest.strip_prefix("-fips").unwrap_or(rest);
    let (region, domain) = rest.strip_prefix('.')?.split_once('.')?;
    const DOMAINS: [&str; 9] = [
        "amazonaws.com",
        "amazonaws.com.cn",
        "amazonaws.eu",
        "on.aws",
        "on.amazonwebservices.com.cn",
        "c2s.ic.gov",
        "sc2s.sgov.gov",
        "cloud.adc-e.uk",
        "csp.hci.ic.gov",
    ];
    (is_account && !region.is_empty() && DOMAINS.contains(&domain)).then_some(region)
}

/// The account of an ECR registry's host, which begins with it.
pub fn ecr_account(host: &str) -> Option<&str> {
    ecr_region(host).and_then(|_| host.split('.').next())
}

/// The hosts that are written in front of a repository or a package, and what they stand for.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// The host at which `ghcr.io` is reached.
    pub source: String,
    /// The host of `DESTINATION_REGISTRY`, if that is set.
    pub destination: Option<String>,
}

impl Hosts {
    /// Splits `[<registry host>/]<repository>`. A host is the one of `DESTINATION_REGISTRY`, or one of ECR's: that is how it is
    /// told from the first component of a repository name, which may hold dots too.
    pub fn split_destination<'a>(&self, text: &'a str) -> (Option<&'a str>, &'a str) {
        match text.split_once('/') {
            Some((host, repository))
                if self.destination.as_deref() == Some(host) || ecr_region(host).is_some() =>
            {
                (Some(host), repository)
            }
            _ => (None, text),
        }
    }

    /// Whether `host` is where sources are read: `ghcr.io`, or the host that stands for it here.
    pub fn is_source(&self, host: &str) -> bool {
        host == "ghcr.io" || host == self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_bare_host() {
        let cases = [
            ("https://ghcr.io", "https://ghcr.io", "ghcr.io"),
            ("ghcr.io", "https://ghcr.io", "ghcr.io"),
            (
                "http://127.0.0.1:5000/",
                "http://127.0.0.1:5000",
                "127.0.0.1:5000",
            ),
        ];
        for (text, shown, host) in cases {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(
                (endpoint.to_string().as_str(), endpoint.host().as_str()),
                (shown, host)
            );
        }
        for text in [
            "",
            "ftp://ghcr.io",
            "https://ghcr.io/v2",
            "https://user@ghcr.io",
            "https://",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_registry_host_is_told_from_a_repository_with_dots() {
        let hosts = Hosts {
            source: "ghcr.io".to_owned(),
            destination: Some("localhost:5000".to_owned()),
        };
        let ecr = "123456789012.dkr.ecr.eu-west-3.amazonaws.com";
        for (text, expected) in [
            ("my.team/api", (None, "my.team/api")),
            ("localhost:5000/api", (Some("localhost:5000"), "api")),
            (&format!("{ecr}/x/api"), (Some(ecr), "x/api")),
        ] {
            assert_eq!(hosts.split_destination(text), expected);
        }
        for (host, region) in [
            (
                "123456789012.dkr-ecr-fips.us-east-1.on.aws",
                Some("us-east-1"),
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                Some("cn-north-1"),
            ),
            (
                "123456789012.dkr.ecr.eu-west-3.amazonaws.com.evil.org",
                None,
            ),
            ("1.dkr.ecr.x.amazonaws.com", None),
            ("ghcr.io", None),
        ] {
            assert_eq!(ecr_region(host), region, "{host}");
        }
    }
}
