//! In which form an image arrives: from the top manifest at the source to the one that a destination gets. This is pure.
//!
//! An index of some platforms is made of the source's own bytes, entry by entry, so that the same image always has the same digest:
//! that is how the next run knows what is up to date, without any record of its own.

use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::manifest::{Descriptor, Digest, Manifest};
use crate::platform::{Form, Platform};

/// The top manifest of a destination.
#[derive(Debug)]
pub struct Arrival {
    /// The digest that the destination is to have.
    pub digest: Digest,
    /// Where its bytes are.
    pub root: Root,
    /// What a person should know although it does not stop the copy.
    pub warning: Option<String>,
}

/// Where the bytes of a destination's top manifest are.
#[derive(Debug)]
pub enum Root {
    /// It is the source's own.
    Same,
    /// It is the source's own, which is the manifest of one image: whether that is for one of the platforms, its configuration tells.
    SameIfMatching(Descriptor),
    /// An index of some of the source's entries.
    Rewritten(Manifest),
    /// One of the manifests that the source's index refers to.
    Child(Descriptor),
}

/// An entry of an index, as it is written, and what it describes.
struct Entry<'a> {
    raw: &'a RawValue,
    descriptor: Descriptor,
    platform: Option<Platform>,
    /// The manifest that BuildKit's attestation is about. (BuildKit documentation, "Image attestation storage")
    describes: Option<Digest>,
}

/// What the destination gets of the image whose top manifest at the source is `top`.
///
/// # Errors
/// Says which platforms there are where none of them is asked for, or why the index can't be read.
pub fn arrival(top: &Manifest, form: &Form) -> Result<Arrival, String> {
    let same = |root| Arrival {
        digest: top.digest,
        root,
        warning: None,
    };
    match form {
        Form::Whole => Ok(same(Root::Same)),
        _ if !top.is_index() => Ok(same(match top.image_configuration()? {
            Some(configuration) => Root::SameIfMatching(configuration),
            // A Helm chart or another artifact is for no platform, so there is nothing to choose.
            None => Root::Same,
        })),
        Form::Platforms(platforms) => some(top, platforms),
        Form::Platform(platform) => one(top, platform),
    }
}

/// Whether an image whose configuration says that it is for `offered` arrives in this form.
///
/// # Errors
/// Says for what it is.
pub fn expect_match(offered: &Platform, form: &Form) -> Result<(), String> {
    let asked = asked_for(form);
    match asked.iter().any(|asked| asked.is_match(offered)) {
        true => Ok(()),
        false => Err(no_match(asked, &[offered])),
    }
}

fn asked_for(form: &Form) -> &[Platform] {
    match form {
        Form::Whole => &[],
        Form::Platforms(platforms) => platforms,
        Form::Platform(platform) => std::slice::from_ref(platform),
    }
}

/// The one manifest: of several OS versions the highest, and otherwise the first.
fn one(top: &Manifest, asked: &Platform) -> Result<Arrival, String> {
    let index = read(top)?;
    let mut best: Option<(&Entry<'_>, &Platform)> = None;
    for (entry, offered) in offers(&index) {
        let is_better = best.is_none_or(|(_, best)| offered.os_version() > best.os_version());
        if asked.is_match(offered) && is_better {
            best = Some((entry, offered));
        }
    }
    let Some((entry, _)) = best else {
        return Err(no_match(std::slice::from_ref(asked), &platforms(&index)));
    };
    Ok(Arrival {
        digest: entry.descriptor.digest,
        root: Root::Child(entry.descriptor),
        warning: None,
    })
}

/// An index of the platforms that are asked for, each with its attestations.
fn some(top: &Manifest, asked: &[Platform]) -> Result<Arrival, String> {
    let index = read(top)?;
    let is_asked = |offered: &Platform| asked.iter().any(|asked| asked.is_match(offered));
    let images: Vec<Digest> = offers(&index)
        .filter(|(_, offered)| is_asked(offered))
        .map(|(entry, _)| entry.descriptor.digest)
        .collect();
    if images.is_empty() {
        return Err(no_match(asked, &platforms(&index)));
    }
    let missing: Vec<String> = asked
        .iter()
        .filter(|asked| !offers(&index).any(|(_, offered)| asked.is_match(offered)))
        .map(Platform::to_string)
        .collect();
    let is_kept = |entry: &&Entry<'_>| match (&entry.describes, &entry.platform) {
        (Some(image), _) => images.contains(image),
        (None, Some(offered)) => is_asked(offered),
        (None, None) => false,
    };
    let kept: Vec<&Entry<'_>> = index.iter().filter(is_kept).collect();
    let root = match kept.len() == index.len() {
        true => Root::Same,
        false => Root::Rewritten(rewritten(top, &kept)?),
    };
    let digest = match &root {
        Root::Rewritten(manifest) => manifest.digest,
        _ => top.digest,
    };
    let warning = (!missing.is_empty()).then(|| {
        format!(
            "the image is not built for {}, only for {}",
            missing.join(", "),
            listed(&platforms(&index))
        )
    });
    Ok(Arrival {
        digest,
        root,
        warning,
    })
}

/// The images of an index that say for what platform they are.
fn offers<'a>(index: &'a [Entry<'a>]) -> impl Iterator<Item = (&'a Entry<'a>, &'a Platform)> {
    let images = index.iter().filter(|entry| entry.describes.is_none());
    images.filter_map(|entry| Some((entry, entry.platform.as_ref()?)))
}

fn platforms<'a>(index: &'a [Entry<'a>]) -> Vec<&'a Platform> {
    offers(index).map(|(_, offered)| offered).collect()
}

fn no_match(asked: &[Platform], offered: &[&Platform]) -> String {
    let asked: Vec<&Platform> = asked.iter().collect();
    format!(
        "there is no image for {} in it, only for {}: build one, or name another platform",
        listed(&asked),
        listed(offered)
    )
}

fn listed(platforms: &[&Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    match names.is_empty() {
        true => "no platform that it names".to_owned(),
        false => names.join(", "),
    }
}

/// The entries of an index.
fn read(top: &Manifest) -> Result<Vec<Entry<'_>>, String> {
    #[derive(Deserialize)]
    struct Index<'a> {
        #[serde(borrow, default)]
        manifests: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct EntryFields {
        digest: String,
        size: u64,
        platform: Option<PlatformFields>,
        annotations: Option<Annotations>,
    }
    #[derive(Deserialize)]
    struct Annotations {
        #[serde(rename = "vnd.docker.reference.digest")]
        describes: Option<String>,
    }
    let not_an_index = |error: serde_json::Error| format!("not an image index: {error}");
    let index: Index<'_> = serde_json::from_slice(&top.bytes).map_err(not_an_index)?;
    let mut entries = Vec::with_capacity(index.manifests.len());
    for raw in index.manifests {
        let fields: EntryFields = serde_json::from_str(raw.get()).map_err(not_an_index)?;
        let annotations = fields.annotations;
        let describes = annotations.and_then(|annotations| annotations.describes);
        entries.push(Entry {
            raw,
            descriptor: Descriptor {
                digest: Digest::parse(&fields.digest)?,
                size: fields.size,
            },
            platform: fields.platform.map(Platform::from),
            describes: describes.map(|text| Digest::parse(&text)).transpose()?,
        });
    }
    Ok(entries)
}

/// The fields of a platform, in a descriptor and in an image's configuration. (image-spec v1.1 image-index.md and config.md)
#[derive(Deserialize)]
pub struct PlatformFields {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
}

impl From<PlatformFields> for Platform {
    fn from(fields: PlatformFields) -> Self {
        Platform::new(
            &fields.os,
            &fields.architecture,
            fields.variant.as_deref().unwrap_or_default(),
            fields.os_version.as_deref().unwrap_or_default(),
        )
    }
}

/// The fields of an object in their order, each value as it is written.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The same index with some of its entries. All that is kept is kept byte for byte, in its order.
fn rewritten(top: &Manifest, kept: &[&Entry<'_>]) -> Result<Manifest, String> {
    let fields: Fields<'_> = serde_json::from_slice(&top.bytes)
        .map_err(|error| format!("not an image index: {error}"))?;
    let entries: Vec<&str> = kept.iter().map(|entry| entry.raw.get()).collect();
    let entries = format!("[{}]", entries.join(","));
    let fields = fields.0.into_iter().map(|(name, value)| {
        let value = match name.as_str() {
            "manifests" => entries.as_str(),
            _ => value.get(),
        };
        // As a value, a text is quoted again.
        format!("{}:{value}", Value::from(name))
    });
    let fields: Vec<String> = fields.collect();
    let bytes = Bytes::from(format!("{{{}}}", fields.join(",")));
    Ok(Manifest {
        media_type: top.media_type,
        digest: Digest::of(&bytes),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn entry(name: &str, platform: &str) -> Value {
        let (names, os_version) = platform.split_once(':').unwrap_or((platform, ""));
        let names: Vec<&str> = names.split('/').collect();
        let mut platform = json!({"os": names[0], "architecture": names[1]});
        if let Some(variant) = names.get(2) {
            platform["variant"] = json!(variant);
        }
        if !os_version.is_empty() {
            platform["os.version"] = json!(os_version);
        }
        json!({"digest": digest(name), "size": 7, "platform": platform})
    }

    /// BuildKit's attestation of what `name` stands for.
    fn attestation(name: &str) -> Value {
        let mut entry = entry(&format!("attestation of {name}"), "unknown/unknown");
        entry["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest(name),
        });
        entry
    }

    fn index(entries: &[Value]) -> Manifest {
        let text = format!(
            r#"{{ "schemaVersion": 2, "manifests": {}, "x": {{"b": 1, "a": 1.50}} }}"#,
            Value::from(entries)
        );
        Manifest::new(Bytes::from(text), None).unwrap()
    }

    fn usual() -> Manifest {
        index(&[
            entry("amd64", "linux/amd64"),
            entry("arm64", "linux/arm64/v8"),
            entry("armv7", "linux/arm/v7"),
            attestation("amd64"),
            attestation("arm64"),
        ])
    }

    fn form(platforms: &[&str]) -> Form {
        let platforms = platforms.iter().map(|text| Platform::parse(text).unwrap());
        Form::Platforms(platforms.collect())
    }

    fn one_of(platform: &str) -> Form {
        Form::Platform(Platform::parse(platform).unwrap())
    }

    #[test]
    fn attestations_follow_the_platform_that_they_describe() {
        let arrival = arrival(&usual(), &form(&["linux/arm64"])).unwrap();
        let Root::Rewritten(manifest) = &arrival.root else {
            unreachable!("{arrival:?}")
        };
        assert_eq!(arrival.digest, manifest.digest);
        let kept: Vec<Digest> = manifest
            .references()
            .unwrap()
            .manifests
            .iter()
            .map(|child| child.digest)
            .collect();
        assert_eq!(kept, [digest("arm64"), digest("attestation of arm64")]);
        let text = std::str::from_utf8(&manifest.bytes).unwrap();
        assert!(
            text.starts_with(r#"{"schemaVersion":2,"manifests":[{"digest""#),
            "{text}"
        );
        assert!(
            text.ends_with(r#","x":{"b": 1, "a": 1.50}}"#),
            "bytes are kept: {text}"
        );
    }

    #[test]
    fn where_all_is_kept_nothing_is_rewritten() {
        let all = form(&["linux/amd64", "linux/arm64", "linux/arm"]);
        for form in [all, Form::Whole] {
            let arrival = arrival(&usual(), &form).unwrap();
            assert!(matches!(arrival.root, Root::Same), "{arrival:?}");
            assert_eq!((arrival.digest, arrival.warning), (usual().digest, None));
        }
    }

    #[test]
    fn what_is_missing_is_a_warning_and_nothing_at_all_an_error() {
        let arrived = arrival(&usual(), &form(&["linux/arm64", "linux/s390x"])).unwrap();
        let warning = arrived.warning.unwrap();
        assert!(
            warning.contains(
                "not built for linux/s390x, only for linux/amd64, linux/arm64, linux/arm/v7"
            ),
            "{warning}"
        );
        for form in [form(&["linux/s390x"]), one_of("linux/s390x")] {
            let error = arrival(&usual(), &form).unwrap_err();
            assert!(
                error.contains("only for linux/amd64, linux/arm64, linux/arm/v7"),
                "{error}"
            );
        }
    }

    #[test]
    fn one_platform_is_its_own_manifest_and_of_the_highest_os_version() {
        let arrived = arrival(&usual(), &one_of("linux/arm64")).unwrap();
        assert!(matches!(arrived.root, Root::Child(_)), "{arrived:?}");
        assert_eq!(arrived.digest, digest("arm64"));
        let windows = index(&[
            entry("9", "windows/amd64:10.0.17763.999"),
            entry("6532", "windows/amd64:10.0.17763.6532"),
            entry("20348", "windows/amd64:10.0.20348.1"),
        ]);
        for (platform, expected) in [
            ("windows/amd64", "20348"),
            ("windows/amd64:10.0.17763", "6532"),
            ("windows/amd64:10.0.17763.999", "9"),
        ] {
            let arrived = arrival(&windows, &one_of(platform)).unwrap();
            assert_eq!(arrived.digest, digest(expected), "{platform}");
        }
        let all = arrival(&windows, &form(&["windows/amd64"])).unwrap();
        assert!(matches!(all.root, Root::Same));
    }

    #[test]
    fn a_single_manifest_is_judged_by_its_configuration_if_it_is_an_image() {
        let manifest = |media_type: &str| {
            let text = json!({"config": {"mediaType": media_type, "digest": digest("c"), "size": 1}, "layers": []});
            Manifest::new(Bytes::from(text.to_string()), None).unwrap()
        };
        let image = manifest("application/vnd.oci.image.config.v1+json");
        let arrived = arrival(&image, &one_of("linux/arm64")).unwrap();
        assert!(matches!(arrived.root, Root::SameIfMatching(_)));
        let chart = manifest("application/vnd.cncf.helm.config.v1+json");
        let arrived = arrival(&chart, &one_of("linux/arm64")).unwrap();
        assert!(matches!(arrived.root, Root::Same));
        let offered = Platform::parse("linux/amd64").unwrap();
        assert!(expect_match(&offered, &form(&["linux/arm64", "linux/amd64"])).is_ok());
        let error = expect_match(&offered, &one_of("linux/arm64")).unwrap_err();
        assert!(error.contains("only for linux/amd64"), "{error}");
    }
}
