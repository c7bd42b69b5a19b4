//! A payload of GitHub's with some of its fields fuzzed: random bytes alone would rarely get past the first field.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use serde_json::{Map, Value, json};

/// What a field holds.
#[derive(Arbitrary, Debug)]
pub enum Field {
    /// What it holds in an ordinary event.
    Usual,
    /// The field is not there.
    Absent,
    /// The field is there, and empty.
    Null,
    /// Another type than the usual one.
    Number(i64),
    /// Any text.
    Text(String),
}

/// The fields that are read. All others are left out.
#[derive(Arbitrary, Debug)]
pub struct Payload {
    /// The object is called `registry_package`.
    is_registry_package: bool,
    action: Field,
    name: Field,
    namespace: Field,
    login: Field,
    package_type: Field,
    ecosystem: Field,
    tag: Field,
    digest: Field,
    version: Field,
}

impl Field {
    /// Sets `name` in `object` to what this field holds.
    pub fn put(&self, object: &mut Map<String, Value>, name: &str, usual: &str) {
        let value = match self {
            Field::Usual => json!(usual),
            Field::Absent => return,
            Field::Null => Value::Null,
            Field::Number(number) => json!(number),
            Field::Text(text) => json!(text),
        };
        object.insert(name.to_owned(), value);
    }
}

impl Payload {
    /// The name that GitHub gives the event, which is also that of the object.
    pub fn event_name(&self) -> &'static str {
        match self.is_registry_package {
            true => "registry_package",
            false => "package",
        }
    }

    /// The payload as GitHub would write it.
    pub fn json(&self) -> Value {
        let digest = format!("sha256:{}", "4".repeat(64));
        let mut tag = Map::new();
        self.tag.put(&mut tag, "name", "1.2.3");
        self.digest.put(&mut tag, "digest", &digest);
        let mut owner = Map::new();
        self.login.put(&mut owner, "login", "Acme");
        let mut version = Map::new();
        self.version.put(&mut version, "version", &digest);
        version.insert("container_metadata".to_owned(), json!({"tag": tag}));
        let mut package = Map::new();
        self.name.put(&mut package, "name", "api");
        self.namespace.put(&mut package, "namespace", "acme");
        self.package_type
            .put(&mut package, "package_type", "CONTAINER");
        self.ecosystem.put(&mut package, "ecosystem", "CONTAINER");
        package.insert("owner".to_owned(), owner.into());
        package.insert("package_version".to_owned(), version.into());
        let mut payload = Map::new();
        self.action.put(&mut payload, "action", "published");
        payload.insert(self.event_name().to_owned(), package.into());
        payload.into()
    }
}
