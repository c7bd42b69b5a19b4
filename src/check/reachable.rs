//! What the rules say of themselves.

use super::{Line, named};
use crate::rules::{Rule, Rules};

/// How many rules there are, and which of them no package can reach.
pub(super) fn rules(place: &str, rules: &Rules) -> Vec<Line> {
    let all: Vec<&Rule> = rules.iter().collect();
    // Only on a laptop can there be none.
    if all.is_empty() {
        return vec![Line::warning(
            "rules",
            format!("{place} is not set: packages and destinations are not tested"),
            "set RULES to the rules that are to be tested",
        )];
    }
    let count = match all.len() {
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    };
    let sources: Vec<String> = all.iter().map(|rule| rule.source().to_owned()).collect();
    let detail = format!("{place}: {count}, for {}", named(&sources));
    let mut lines = vec![Line::ok("rules", detail)];
    for (position, rule) in all.iter().enumerate() {
        let before = all[..position].iter().find(|before| covers(before, rule));
        if let Some(before) = before {
            lines.push(Line::warning(
                format!("rule {position}"),
                format!(
                    "no package can reach the rule for {}: the one before it for {} has them all",
                    rule.source(),
                    before.source()
                ),
                "put the more exact rule first, or remove this one",
            ));
        }
    }
    lines
}

/// Whether every package of `rule` is one of `before`, as far as that can be told from how they are written.
fn covers(before: &Rule, rule: &Rule) -> bool {
    let (owner, name) = rule.owner_and_name();
    match name {
        Some(_) => before.admits(rule.source()),
        None => before.source() == rule.source() || before.source() == format!("{owner}/**"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::endpoint::Hosts;

    #[test]
    fn a_rule_behind_one_that_has_all_its_packages_is_told() {
        let unreachable = |sources: &[&str]| {
            let written: Vec<_> = sources
                .iter()
                .map(|source| serde_json::json!({"source": source, "destination": "{name}"}))
                .collect();
            let hosts = Hosts {
                source: "ghcr.io".to_owned(),
                destination: None,
            };
            let parsed = Rules::parse(&serde_json::json!(written).to_string(), &hosts).unwrap();
            let lines = rules("RULES", &parsed);
            assert_eq!(lines[0].status, Status::Ok);
            lines.len() - 1
        };
        assert_eq!(unreachable(&["acme/api", "acme/*", "other/**"]), 0);
        assert_eq!(unreachable(&["acme/*", "acme/api"]), 1);
        assert_eq!(unreachable(&["acme/*", "acme/a/b"]), 0);
        assert_eq!(unreachable(&["acme/**", "acme/a*", "acme/**"]), 2);
    }
}
