//! Least privilege: each role in `template.yaml` allows what is called, and nothing else, and the README's table says the same.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test reads its own repository"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Actions = BTreeSet<String>;

/// The modules that call the SDK, each with the prefix of its service in IAM.
const SERVICES: [(&str, &str); 8] = [
    ("src/aws/ecr.rs", "ecr"),
    ("src/aws/events.rs", "events"),
    ("src/aws/images.rs", "ecr"),
    ("src/aws/pull_through_cache.rs", "ecr"),
    ("src/aws/queue.rs", "sqs"),
    ("src/aws/queue/attributes.rs", "sqs"),
    ("src/aws/repositories.rs", "ecr"),
    ("src/aws/secrets.rs", "secretsmanager"),
];

/// Operations whose right has another name.
const OTHER_NAMES: [(&str, &str); 1] = [("sqs:SendMessageBatch", "sqs:SendMessage")];

/// What goes to a registry by HTTP: the module, how the request begins there, and what it takes in ECR. (ECR user guide, "Required
/// IAM permissions for pushing an image", "Blob mounting"; ECR API reference, `ListImageReferrers`)
const REQUESTS: [(&str, &str, &[&str]); 9] = [
    // ECR has no operation for it, and what it answers does not matter.
    ("src/registry/blobs.rs", "self.http.delete(", &[]),
    (
        "src/registry/blobs.rs",
        "self.http.head(",
        &["ecr:BatchCheckLayerAvailability"],
    ),
    // Blobs are read at the source alone.
    ("src/registry/blobs.rs", "self.http.get(", &[]),
    (
        "src/registry/blobs.rs",
        "self.http.post(",
        &["ecr:InitiateLayerUpload", "ecr:GetDownloadUrlForLayer"],
    ),
    (
        "src/registry/blobs.rs",
        "self.http.put(",
        &["ecr:UploadLayerPart", "ecr:CompleteLayerUpload"],
    ),
    (
        "src/registry/manifests.rs",
        "self.http.head(",
        &["ecr:BatchGetImage"],
    ),
    (
        "src/registry/manifests.rs",
        "self.http.get(",
        &["ecr:BatchGetImage"],
    ),
    (
        "src/registry/manifests.rs",
        "self.http.put(",
        &["ecr:PutImage"],
    ),
    (
        "src/registry/referrers.rs",
        "self.http.get(",
        &["ecr:BatchGetImage"],
    ),
];

/// What the webhook function calls of all that the code can call: it reads its secrets, and hands jobs over.
const WEBHOOK: [&str; 2] = ["secretsmanager:GetSecretValue", "sqs:SendMessage"];

/// What AWS does in a role's name, beside the code's calls: who does it, the roles, and the rights.
const SERVICES_OF_AWS: [(&str, &[&str], &[&str]); 7] = [
    (
        "Lambda polls the queue",
        &["CopyRole"],
        &[
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
        ],
    ),
    (
        "Lambda writes the log",
        &["CopyRole", "WebhookRole"],
        &["logs:CreateLogStream", "logs:PutLogEvents"],
    ),
    (
        "Lambda records traces",
        &["CopyRole", "WebhookRole"],
        &["xray:PutTelemetryRecords", "xray:PutTraceSegments"],
    ),
    (
        "Lambda attaches functions to a VPC",
        &["CopyRole", "WebhookRole"],
        &[
            "ec2:AssignPrivateIpAddresses",
            "ec2:CreateNetworkInterface",
            "ec2:DeleteNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:UnassignPrivateIpAddresses",
        ],
    ),
    (
        "Secrets Manager and SQS decrypt and encrypt",
        &["CopyRole", "WebhookRole"],
        &["kms:Decrypt", "kms:GenerateDataKey"],
    ),
    (
        "ECR encrypts a new repository",
        &["CopyRole"],
        &["kms:CreateGrant", "kms:DescribeKey", "kms:RetireGrant"],
    ),
    (
        "EventBridge Scheduler runs the function",
        &["ScheduleRole"],
        &["lambda:InvokeFunction"],
    ),
];

/// What the README's table calls the resources of the template.
const RESOURCES: [(&str, &[&str]); 12] = [
    ("`*`", &["*"]),
    ("the repositories", &["DestinationRepositories"]),
    ("`RepositoryKeyArn`", &["RepositoryKeyArn"]),
    ("the secrets'", &["SecretsKeyArn"]),
    (
        "the secrets",
        &[
            "GhcrTokenSecretArn",
            "RuleTokenSecretArns",
            "RulesSecretArn",
            "TrustedRootSecretArn",
            "WebhookSecretArn",
        ],
    ),
    ("the job queue", &["JobQueue.Arn"]),
    (
        "the dead-letter queue, the failure queue",
        &["DeadLetterQueue.Arn", "FailureQueue.Arn"],
    ),
    ("the bus that `ReportBus` names", &["ReportBus"]),
    ("the dead-letter queue", &["DeadLetterQueue.Arn"]),
    ("`QueueKeyArn`", &["QueueKeyArn"]),
    ("the copy function", &["CopyFunction.Arn"]),
    (
        "each function's own log group",
        &["CopyLogGroup", "WebhookLogGroup"],
    ),
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A source file without comments, unit tests and white space.
fn code(path: &str) -> String {
    let text = read(path);
    let code = text.split("#[cfg(test)]").next().unwrap().lines();
    let code = code.filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(str::split_whitespace).collect()
}

/// The paths of all source files below a folder, those in deeper folders too.
fn sources(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let below = |entry: fs::DirEntry| {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        match entry.path().is_dir() {
            true => sources(&path),
            false => vec![path],
        }
    };
    entries.flat_map(|entry| below(entry.unwrap())).collect()
}

fn is_name(character: char) -> bool {
    character.is_ascii_lowercase() || character == '_'
}

/// The operations that a source file calls: `client.put_image()` and `self.client(at).put_image()` give `PutImage`.
fn operations(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (position, client) in code.match_indices("client") {
        let rest = &code[position + client.len()..];
        let rest = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((_, rest)) => rest,
            None => rest,
        };
        let Some(rest) = rest.strip_prefix('.') else {
            continue;
        };
        let name: String = rest
            .chars()
            .take_while(|character| is_name(*character))
            .collect();
        if rest[name.len()..].starts_with("()") && name != "clone" {
            let word = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
            found.insert(name.split('_').map(word).collect());
        }
    }
    found
}

/// The rights that the code's calls of the SDK take.
fn called() -> Actions {
    let mut actions = Actions::new();
    for path in sources("src") {
        let service = SERVICES.iter().find(|(module, _)| *module == path);
        for operation in operations(&code(&path)) {
            let (_, service) =
                service.unwrap_or_else(|| panic!("{path} calls {operation}: say whose it is"));
            let action = format!("{service}:{operation}");
            let other = OTHER_NAMES.iter().find(|(name, _)| *name == action);
            actions.insert(other.map_or(action, |(_, right)| (*right).to_owned()));
        }
    }
    actions
}

/// The rights that the requests to registries take.
fn requested() -> Actions {
    let actions = REQUESTS.iter().flat_map(|(_, _, actions)| *actions);
    actions.map(|action| (*action).to_owned()).collect()
}

/// A statement of a role: what it allows or denies, and on what, by the names of parameters and resources.
struct Statement {
    is_allowed: bool,
    actions: Actions,
    resources: Vec<String>,
}

/// The values of a YAML line such as `Action: [a, b]`, or of the list in the lines that follow it.
fn values<'a>(value: &'a str, following: &[&'a str]) -> Vec<&'a str> {
    let listed = following.iter().map(|line| line.trim());
    match value.is_empty() {
        true => listed.map_while(|line| line.strip_prefix("- ")).collect(),
        false => value.trim_matches(['[', ']']).split(", ").collect(),
    }
}

/// `!Ref Name`, `!GetAtt Name.Arn` and the ARN of a log group by the name in them.
fn resource(value: &str) -> String {
    let of_log_group = value.split("log-group:${").nth(1);
    let name = match of_log_group {
        Some(rest) => rest.split('}').next(),
        None => value.split(' ').next_back(),
    };
    name.unwrap().trim_matches('"').to_owned()
}

/// The statements of each role in the template.
fn roles() -> BTreeMap<String, Vec<Statement>> {
    let template = read("template.yaml");
    let lines: Vec<&str> = template.lines().collect();
    let is_heading =
        |line: &str| line.starts_with("  ") && line[2..].starts_with(char::is_alphanumeric);
    let mut roles = BTreeMap::new();
    let mut role = None;
    for (position, line) in lines.iter().enumerate() {
        if is_heading(line) {
            let is_role = lines[position + 1].trim() == "Type: AWS::IAM::Role";
            role = is_role.then(|| line.trim().trim_end_matches(':').to_owned());
        }
        let Some(role) = &role else { continue };
        if !line.trim().starts_with("- Sid: ") {
            continue;
        }
        let fields = &lines[position + 1..];
        let field = |name: &str| {
            let at = fields
                .iter()
                .position(|line| line.trim().starts_with(name))
                .unwrap();
            values(
                fields[at].trim().strip_prefix(name).unwrap().trim(),
                &fields[at + 1..],
            )
        };
        roles
            .entry(role.clone())
            .or_insert_with(Vec::new)
            .push(Statement {
                is_allowed: field("Effect:") == ["Allow"],
                actions: field("Action:").into_iter().map(str::to_owned).collect(),
                resources: field("Resource:").into_iter().map(resource).collect(),
            });
    }
    roles
}

fn allowed(statements: &[Statement]) -> Actions {
    let allowed = statements.iter().filter(|statement| statement.is_allowed);
    allowed
        .flat_map(|statement| statement.actions.clone())
        .collect()
}

/// What each role needs: by the code's calls, its requests, and what AWS does in its name.
fn needed(role: &str) -> Actions {
    let by_code: Actions = match role {
        "CopyRole" => called().into_iter().chain(requested()).collect(),
        "WebhookRole" => WEBHOOK.map(str::to_owned).into(),
        _ => Actions::new(),
    };
    let by_aws = SERVICES_OF_AWS
        .iter()
        .filter(|(_, roles, _)| roles.contains(&role));
    let by_aws = by_aws
        .flat_map(|(_, _, actions)| *actions)
        .map(|action| (*action).to_owned());
    by_code.into_iter().chain(by_aws).collect()
}

#[test]
fn each_role_allows_what_is_called_and_nothing_else() {
    let roles = roles();
    let names: Vec<&str> = roles.keys().map(String::as_str).collect();
    assert_eq!(names, ["CopyRole", "ScheduleRole", "WebhookRole"]);
    for (role, statements) in &roles {
        let (allowed, needed) = (allowed(statements), needed(role));
        let missing: Vec<_> = needed.difference(&allowed).collect();
        let unused: Vec<_> = allowed.difference(&needed).collect();
        assert!(missing.is_empty(), "{role} lacks {missing:?}");
        assert!(
            unused.is_empty(),
            "{role} has {unused:?}, which nothing uses"
        );
    }
}

#[test]
fn the_calls_of_the_code_are_found() {
    let called = called();
    assert!(called.len() >= 18, "{called:?}");
    for action in WEBHOOK {
        assert!(called.contains(action), "nothing calls {action}");
    }
    let code = "letclient=self.client(at);client.put_image_tag_mutability().send();self.client.clone();client(x).tag()";
    let operations: Vec<String> = operations(code).into_iter().collect();
    assert_eq!(operations, ["PutImageTagMutability", "Tag"]);
}

/// A request of another kind to a registry needs another right, so each kind is in the table, and each in the table is sent.
#[test]
fn every_request_to_a_registry_is_in_the_table() {
    for path in [
        "src/registry/blobs.rs",
        "src/registry/manifests.rs",
        "src/registry/referrers.rs",
    ] {
        let code = code(path);
        let verbs = ["delete", "get", "head", "patch", "post", "put", "request"];
        for request in verbs.map(|verb| format!("self.http.{verb}(")) {
            let is_listed = REQUESTS
                .iter()
                .any(|(module, begin, _)| *module == path && *begin == request);
            assert_eq!(code.contains(&request), is_listed, "{path}: {request}");
        }
    }
    // ECR asks for the right to read layers only where one is mounted.
    assert!(code("src/registry/blobs.rs").contains("append_pair(\"mount\""));
}

/// Each pair of an action and a resource that a row of the README's table stands for.
fn rows(readme: &str) -> BTreeSet<(String, String)> {
    let table = readme.split("\n## Permissions\n").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let mut pairs = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (mut service, mut actions) = ("", Vec::new());
        for name in cells[0].split('`').skip(1).step_by(2) {
            let (prefix, action) = name.split_once(':').unwrap_or((service, name));
            service = prefix;
            actions.push(format!("{service}:{action}"));
        }
        let resources = RESOURCES
            .iter()
            .find(|(phrase, _)| cells[1].starts_with(phrase));
        let (_, resources) = resources.unwrap_or_else(|| panic!("which resource is {}?", cells[1]));
        for action in actions {
            pairs.extend(
                resources
                    .iter()
                    .map(|resource| (action.clone(), (*resource).to_owned())),
            );
        }
    }
    pairs
}

#[test]
fn the_readme_lists_exactly_what_the_roles_allow() {
    let roles = roles();
    let allowed = roles
        .values()
        .flatten()
        .filter(|statement| statement.is_allowed);
    let in_template: BTreeSet<(String, String)> = allowed
        .flat_map(|statement| {
            let pairs = |action: &String| {
                let action = action.clone();
                let resources = statement.resources.iter().cloned();
                resources
                    .map(move |resource| (action.clone(), resource))
                    .collect::<Vec<_>>()
            };
            statement.actions.iter().flat_map(pairs).collect::<Vec<_>>()
        })
        .collect();
    let in_readme = rows(&read("README.md"));
    let missing: Vec<_> = in_template.difference(&in_readme).collect();
    let unfounded: Vec<_> = in_readme.difference(&in_template).collect();
    assert!(missing.is_empty(), "the README lacks {missing:?}");
    assert!(unfounded.is_empty(), "the README has {unfounded:?}");
}

/// What a role has on everything is what AWS allows on nothing less. (Service authorization reference)
#[test]
fn only_actions_that_know_no_resources_are_allowed_on_everything() {
    let without_resources = [
        "ecr:DescribePullThroughCacheRules",
        "ecr:DescribeRepositoryCreationTemplates",
        "ecr:GetAuthorizationToken",
        "xray:PutTelemetryRecords",
        "xray:PutTraceSegments",
    ];
    for (role, statements) in roles() {
        let wide = statements
            .iter()
            .filter(|statement| statement.is_allowed && statement.resources == ["*"]);
        for action in wide.flat_map(|statement| &statement.actions) {
            let is_known =
                without_resources.contains(&action.as_str()) || action.starts_with("ec2:");
            assert!(is_known, "{role} has {action} on *");
        }
        for statement in statements.iter().filter(|statement| statement.is_allowed) {
            let wide = statement.actions.iter().find(|action| action.contains('*'));
            assert_eq!(wide, None, "{role}");
        }
    }
}
