//! Names and typed values of all settings, read once from a lookup that `main` passes in.

use secrecy::SecretString;
use url::Url;

use crate::endpoint::{Endpoint, Hosts};
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::verification;

/// The id under which a token that the process was given itself is known. No secret in Secrets Manager can have it.
pub const GHCR_TOKEN: &str = "$GHCR_TOKEN";

/// Settings of the function's triggers, which the laptop's command has not: there, what is asked for is done at once.
const OF_TRIGGERS: [&str; 4] = [
    "WEBHOOK_SECRET_ID",
    "JOB_QUEUE_URL",
    "DEAD_LETTER_QUEUE_URL",
    "EVENT_SOURCES",
];

/// The settings, checked.
#[derive(Debug)]
pub struct Settings {
    /// `RULES`: what may be copied, and where to.
    pub rules: RulesSetting,
    /// The registry hosts that may be written in rules and events.
    pub hosts: Hosts,
    /// `GHCR_TOKEN_SECRET_ID`: without it GHCR is read anonymously.
    pub ghcr_token_secret_id: Option<String>,
    /// `GHCR_TOKEN`: the token itself, which only the laptop's command takes. Then `ghcr_token_secret_id` is [`GHCR_TOKEN`].
    pub ghcr_token: Option<SecretString>,
    /// `WEBHOOK_SECRET_ID`: without it every HTTP request is refused.
    pub webhook_secret_id: Option<String>,
    /// `SOURCE_REGISTRY`: where `ghcr.io` is reached.
    pub source_registry: Endpoint,
    /// `DESTINATION_REGISTRY`: without it the caller's own ECR.
    pub destination_registry: Option<Endpoint>,
    /// `JOB_QUEUE_URL`: the FIFO queue for the jobs of webhooks, buses and schedules; without it they are copied at once.
    pub job_queue_url: Option<String>,
    /// `DEAD_LETTER_QUEUE_URL`: where a job that can never succeed is moved at once.
    pub dead_letter_queue_url: Option<String>,
    /// `GITHUB_API_URL`: where packages are listed.
    pub github_api_url: Url,
    /// `EVENT_SOURCES`: the `source` values of EventBridge events that are accepted as GitHub's.
    pub event_sources: Vec<String>,
    /// `BLOB_CONCURRENCY`: blobs in flight in one invocation.
    pub blob_concurrency: usize,
    /// `EVENT_BUS`: the EventBridge bus, by name or ARN, that gets an event for each image that was copied or failed; without it no
    /// event is sent.
    pub event_bus: Option<String>,
    /// `TRUSTED_ROOT`: whose attestations are believed.
    pub trusted_root: RootsSetting,
}

/// Where Sigstore's trusted roots are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootsSetting {
    /// In the binary.
    BuiltIn,
    /// In the setting itself, one JSON document a line. They are public.
    Written(String),
    /// In the secret with this id, as one has some thousands of bytes.
    Secret(String),
}

/// Where the rules are.
#[derive(Debug)]
pub enum RulesSetting {
    /// In the setting itself.
    Written(Rules),
    /// In the secret with this id, as Lambda allows 4 KB of environment in all, and a secret may have 64.
    Secret(String),
}

impl Settings {
    /// Reads all settings. An empty value counts as absent, as templates can't leave a variable out.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first one that is missing or malformed.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Settings::read_with(lookup, rules)
    }

    /// Reads the settings of the laptop's command, none of which is required: without `RULES` there are no rules, `GHCR_TOKEN` may
    /// hold the token itself, which beats the secret that `GHCR_TOKEN_SECRET_ID` names, and those of the triggers are left out.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first one that is malformed.
    pub fn read_for_command(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let token = lookup("GHCR_TOKEN").map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        // Two lines, a word too many, or the secret's JSON: no registry would say what is wrong with it.
        let is_token = |token: &String| {
            !token.starts_with('{') && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if token.as_ref().is_some_and(|token| !is_token(token)) {
            return Err(Error::Setting {
                name: "GHCR_TOKEN",
                value: "…".to_owned(),
                reason: "expected the token itself, such as `gh auth token` prints it: one word without spaces".to_owned(),
            });
        }
        let lookup = |name: &str| lookup(name).filter(|_| !OF_TRIGGERS.contains(&name));
        let mut settings = Settings::read_with(lookup, |value, hosts| match value {
            Some(_) => rules(value, hosts),
            None => Ok(RulesSetting::Written(Rules::none())),
        })?;
        if let Some(token) = token {
            settings.ghcr_token = Some(SecretString::from(token));
            settings.ghcr_token_secret_id = Some(GHCR_TOKEN.to_owned());
        }
        Ok(settings)
    }

    fn read_with(
        lookup: impl Fn(&str) -> Option<String>,
        rules: impl FnOnce(Option<String>, &Hosts) -> Result<RulesSetting>,
    ) -> Result<Self> {
        expect_endpoints(&lookup)?;
        let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let endpoint = |name: &'static str| match lookup(name) {
            Some(value) => Endpoint::parse(&value)
                .map(Some)
                .map_err(|reason| Error::Setting {
                    name,
                    value: without_user(&value),
                    reason,
                }),
            None => Ok(None),
        };
        let source_registry = match endpoint("SOURCE_REGISTRY")? {
            Some(endpoint) => endpoint,
            None => Endpoint::parse("https://ghcr.io").map_err(Error::Internal)?,
        };
        let destination_registry = endpoint("DESTINATION_REGISTRY")?;
        let hosts = Hosts {
            source: source_registry.host(),
            destination: destination_registry.as_ref().map(Endpoint::host),
        };
        let job_queue_url = queue_url("JOB_QUEUE_URL", lookup("JOB_QUEUE_URL"))?;
        let dead_letter_queue_url =
            queue_url("DEAD_LETTER_QUEUE_URL", lookup("DEAD_LETTER_QUEUE_URL"))?;
        if let Some(url) = &dead_letter_queue_url {
            // What is given up would come back from the job queue for ever; and without one, the other is never used.
            let reason = match &job_queue_url {
                Some(jobs) if jobs == url => "expected another queue than JOB_QUEUE_URL",
                Some(_) => "",
                None => "it is used along with JOB_QUEUE_URL, which is not set",
            };
            if !reason.is_empty() {
                return Err(Error::Setting {
                    name: "DEAD_LETTER_QUEUE_URL",
                    value: url.clone(),
                    reason: reason.to_owned(),
                });
            }
        }
        Ok(Settings {
            rules: rules(lookup("RULES"), &hosts)?,
            hosts,
            ghcr_token_secret_id: secret_id(
                "GHCR_TOKEN_SECRET_ID",
                lookup("GHCR_TOKEN_SECRET_ID"),
            )?,
            ghcr_token: None,
            webhook_secret_id: lookup("WEBHOOK_SECRET_ID"),
            source_registry,
            destination_registry,
            job_queue_url,
            dead_letter_queue_url,
            github_api_url: github_api_url(lookup("GITHUB_API_URL"))?,
            event_sources: event_sources(lookup("EVENT_SOURCES")),
            blob_concurrency: blob_concurrency(lookup("BLOB_CONCURRENCY"))?,
            event_bus: event_bus(lookup("EVENT_BUS"))?,
            trusted_root: trusted_root(lookup("TRUSTED_ROOT"))?,
        })
    }
}

/// The AWS SDK takes an empty address for one, and panics at the first call; of another that it can't use it says so with the whole
/// request.
fn expect_endpoints(lookup: impl Fn(&str) -> Option<String>) -> Result<()> {
    const NAMES: [&str; 5] = [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_ECR",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        "AWS_ENDPOINT_URL_SQS",
        "AWS_ENDPOINT_URL_EVENTBRIDGE",
    ];
    for name in NAMES {
        let Some(value) = lookup(name) else {
            continue;
        };
        if !Url::parse(&value).is_ok_and(|url| is_address(&url)) {
            return Err(Error::Setting {
                name,
                value: without_user(&value),
                reason: "expected a URL such as http://localhost:4566, or no such variable at all: the AWS SDK does not take an empty one for none".to_owned(),
            });
        }
    }
    Ok(())
}

fn rules(value: Option<String>, hosts: &Hosts) -> Result<RulesSetting> {
    let setting = |value: &str, reason: String| Error::Setting {
        name: "RULES",
        // Somebody may have taken the wrong half of a pair of keys for `cosign_key`.
        value: match value.contains("PRIVATE KEY") {
            true => "…".to_owned(),
            false => value.to_owned(),
        },
        reason,
    };
    let value = value.ok_or_else(|| {
        setting(
            "",
            r#"a JSON array of rules is required, such as [{"source":"acme/*","destination":"{name}"}]"#
                .to_owned(),
        )
    })?;
    match value.trim().strip_prefix("secret:").map(str::trim) {
        Some("") => Err(setting(
            &value,
            "expected the id of a secret after `secret:`".to_owned(),
        )),
        Some(id) => Ok(RulesSetting::Secret(id.to_owned())),
        None => Rules::parse(&value, hosts)
            .map(RulesSetting::Written)
            .map_err(|reason| setting(&value, reason)),
    }
}

/// Written ones are looked at here, so that a mistake stops the start.
fn trusted_root(value: Option<String>) -> Result<RootsSetting> {
    let wrong = |value: &str, reason: String| Error::Setting {
        name: "TRUSTED_ROOT",
        value: value.to_owned(),
        reason,
    };
    let Some(value) = value else {
        return Ok(RootsSetting::BuiltIn);
    };
    match value.trim().strip_prefix("secret:").map(str::trim) {
        Some("") => {
            let reason = "expected the id of a secret after `secret:`";
            Err(wrong(&value, reason.to_owned()))
        }
        Some(id) => Ok(RootsSetting::Secret(id.to_owned())),
        None => match verification::check_roots(&value) {
            Ok(()) => Ok(RootsSetting::Written(value)),
            Err(reason) => Err(wrong("…", reason)),
        },
    }
}

/// The id of a secret is in errors, in the log and in CloudTrail. So the token itself, which is easily written in its place, must never
/// be taken for one. (GitHub documentation, "About authentication to GitHub", GitHub's token formats)
fn secret_id(name: &'static str, value: Option<String>) -> Result<Option<String>> {
    const TOKENS: [&str; 6] = ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"];
    let is_token = |value: &String| TOKENS.iter().any(|start| value.trim().starts_with(start));
    match value {
        Some(value) if is_token(&value) => Err(Error::Setting {
            name,
            value: "…".to_owned(),
            reason: "expected the id or ARN of a secret in Secrets Manager, not the token itself"
                .to_owned(),
        }),
        value => Ok(value),
    }
}

/// SQS is called by a queue's URL, and answers nothing useful to its ARN. Groups and de-duplication are for FIFO queues alone, whose
/// names end in `.fifo`; a standard one would refuse every message. (Amazon SQS API reference, `CreateQueue`)
fn queue_url(name: &'static str, value: Option<String>) -> Result<Option<String>> {
    let Some(value) = value else {
        return Ok(None);
    };
    let url = Url::parse(value.trim()).ok();
    let is_queue = |url: &Url| is_address(url) && url.path().ends_with(".fifo");
    match url.filter(is_queue) {
        Some(_) => Ok(Some(value.trim().to_owned())),
        None => Err(Error::Setting {
            name,
            value: without_user(&value),
            reason: "expected the URL of a FIFO queue, such as https://sqs.eu-west-3.amazonaws.com/123456789012/jobs.fifo".to_owned(),
        }),
    }
}

/// The token goes there, so only https will do, or what a person wrote as http.
fn github_api_url(value: Option<String>) -> Result<Url> {
    let value = value.unwrap_or_else(|| "https://api.github.com".to_owned());
    let url = Url::parse(&value).ok();
    url.filter(is_address).ok_or_else(|| Error::Setting {
        name: "GITHUB_API_URL",
        value: without_user(&value),
        reason: "expected a URL such as https://api.github.com".to_owned(),
    })
}

/// Whether it is an address on the web without a user or password, which would be sent beside the credential that belongs there.
fn is_address(url: &Url) -> bool {
    let is_anonymous = url.username().is_empty() && url.password().is_none();
    matches!(url.scheme(), "https" | "http") && url.has_host() && is_anonymous
}

/// The value of a setting for a message: no setting takes a user or a password, but people write them into addresses.
fn without_user(value: &str) -> String {
    let host = value.rfind('@').unwrap_or_default();
    let user = value.find("://").map_or(0, |at| at + "://".len());
    match user < host {
        true => format!("{}…{}", &value[..user], &value[host..]),
        false => value.to_owned(),
    }
}

/// What the senders call themselves that put GitHub's webhooks on an event bus: AWS's own quick start, and
/// terraform-aws-github-runner.
fn event_sources(value: Option<String>) -> Vec<String> {
    let value = value.unwrap_or_else(|| "github.com,github".to_owned());
    value
        .split(',')
        .map(|source| source.trim().to_owned())
        .collect()
}

/// A name, or the ARN of a bus of another Region or account. `PutEvents` answers success for a bus that does not exist, so at least
/// what can't be one is refused here. (Amazon EventBridge API reference, `PutEvents`, `EventBusName`)
fn event_bus(value: Option<String>) -> Result<Option<String>> {
    let Some(value) = value.map(|value| value.trim().to_owned()) else {
        return Ok(None);
    };
    let name = match value.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", _, "events", _, _, resource] => resource.strip_prefix("event-bus/"),
        [name] => Some(*name),
        _ => None,
    };
    let is_name = |name: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte);
        !name.is_empty() && name.len() <= 256 && name.bytes().all(is_allowed)
    };
    match name.is_some_and(is_name) {
        true => Ok(Some(value)),
        false => Err(Error::Setting {
            name: "EVENT_BUS",
            value,
            reason: "expected the name or ARN of an event bus, such as default or arn:aws:events:eu-west-3:123456789012:event-bus/images".to_owned(),
        }),
    }
}

/// The upper bound keeps memory and the file descriptors of a Lambda environment (1,024) far away.
fn blob_concurrency(value: Option<String>) -> Result<usize> {
    let Some(value) = value else {
        return Ok(6);
    };
    match value.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err(Error::Setting {
            name: "BLOB_CONCURRENCY",
            value,
            reason: "expected a whole number from 1 to 64".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"[{"source":"acme/*","destination":"{name}"}]"#;

    fn read(settings: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| {
            settings
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_rules_are_required() {
        let settings = read(&[("RULES", RULES), ("WEBHOOK_SECRET_ID", " ")]).unwrap();
        assert_eq!(settings.source_registry.to_string(), "https://ghcr.io");
        assert_eq!(settings.blob_concurrency, 6);
        assert!(settings.webhook_secret_id.is_none() && settings.destination_registry.is_none());
    }

    #[test]
    fn the_command_requires_nothing_takes_the_token_itself_and_leaves_the_triggers_out() {
        let read = |settings: &[(&str, &str)]| {
            Settings::read_for_command(|name| {
                let found = settings.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let settings = read(&[]).unwrap();
        assert!(
            matches!(&settings.rules, RulesSetting::Written(rules) if rules.iter().next().is_none())
        );
        assert!(settings.ghcr_token.is_none() && settings.ghcr_token_secret_id.is_none());
        let settings = read(&[
            ("GHCR_TOKEN", " ghp_secret\n"),
            ("GHCR_TOKEN_SECRET_ID", "ghcr"),
            ("JOB_QUEUE_URL", "not even a URL"),
            ("WEBHOOK_SECRET_ID", "webhook"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.ghcr_token_secret_id.as_deref(), Some(GHCR_TOKEN));
        assert!(settings.job_queue_url.is_none() && settings.webhook_secret_id.is_none());
        assert!(!format!("{settings:?}").contains("ghp_secret"));
    }

    #[test]
    fn a_malformed_setting_is_named_with_its_value() {
        let cases = [
            ("RULES", "[{]"),
            ("SOURCE_REGISTRY", "ftp://ghcr.io"),
            ("DESTINATION_REGISTRY", "https://host/path"),
            ("BLOB_CONCURRENCY", "0"),
            ("BLOB_CONCURRENCY", "six"),
            ("GITHUB_API_URL", "api.github.com"),
            (
                "JOB_QUEUE_URL",
                "arn:aws:sqs:eu-west-3:123456789012:jobs.fifo",
            ),
            ("DEAD_LETTER_QUEUE_URL", "jobs.fifo"),
            ("EVENT_BUS", "https://events.eu-west-3.amazonaws.com"),
            ("EVENT_BUS", "arn:aws:sqs:eu-west-3:123456789012:jobs"),
            ("RULES", "secret:"),
        ];
        for (name, value) in cases {
            let mut settings = vec![(name, value)];
            if name != "RULES" {
                settings.push(("RULES", RULES));
            }
            let error = read(&settings).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains(&format!("{value:?}")),
                "{error}"
            );
        }
        assert!(read(&[]).unwrap_err().to_string().contains("RULES"));
    }
}
