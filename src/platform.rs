//! Platforms as the image specification describes them, and which of an image's platforms a destination gets.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an image runs on. Written as `os/architecture[/variant][:os.version]`. (image-spec v1.1 image-index.md, `platform`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Of `arm64` `v8` and of `arm` `v7` where none is written, since that is what builders leave out.
    variant: String,
    os_version: String,
}

/// In which form an image arrives at a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As it is, with the same digest.
    #[default]
    Whole,
    /// An image index of these platforms alone.
    Platforms(Vec<Platform>),
    /// The manifest of this platform itself, which AWS Lambda needs: it refuses an image index.
    /// (AWS Lambda developer guide, "Requirements for container images")
    Platform(Platform),
}

impl Platform {
    /// Reads `os/architecture[/variant][:os.version]`.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "platform {text:?}: expected `os/architecture`, perhaps with `/variant` and `:os.version`, as in `linux/arm64`"
            )
        };
        let (names, os_version) = match text.split_once(':') {
            Some((_, "")) => return Err(expected()),
            Some((names, os_version)) => (names, os_version),
            None => (text, ""),
        };
        let names: Vec<&str> = names.split('/').collect();
        let is_name = |name: &&str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let is_version = os_version
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !names.iter().all(is_name) || !is_version {
            return Err(expected());
        }
        match names.as_slice() {
            [os, architecture] => Ok(Platform::new(os, architecture, "", os_version)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, variant, os_version)),
            _ => Err(expected()),
        }
    }

    /// From the fields of a descriptor or of an image's configuration, of which absent ones are empty.
    pub fn new(os: &str, architecture: &str, variant: &str, os_version: &str) -> Self {
        let architecture = architecture.to_ascii_lowercase();
        let variant = match (architecture.as_str(), variant) {
            ("arm64", "" | "8") => "v8",
            ("arm", "" | "7") => "v7",
            ("arm", "6") => "v6",
            ("arm", "5") => "v5",
            ("amd64", "v1") => "",
            (_, variant) => variant,
        };
        Platform {
            os: os.to_ascii_lowercase(),
            variant: variant.to_owned(),
            os_version: os_version.to_owned(),
            architecture,
        }
    }

    /// Whether an image for the platform `offered` is one for this: of an OS version that begins with this one's, if it names one.
    pub fn is_match(&self, offered: &Platform) -> bool {
        let is_version = self.os_version.is_empty()
            || offered
                .os_version
                .strip_prefix(&self.os_version)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        is_version
            && (&self.os, &self.architecture, &self.variant)
                == (&offered.os, &offered.architecture, &offered.variant)
    }

    /// The OS version's numbers, by which versions are compared.
    pub fn os_version(&self) -> Vec<u64> {
        let numbers = self.os_version.split('.');
        numbers
            .map(|number| number.parse().unwrap_or_default())
            .collect()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Platform {
            os,
            architecture,
            variant,
            os_version,
        } = self;
        write!(formatter, "{os}/{architecture}")?;
        let is_usual = matches!(
            (architecture.as_str(), variant.as_str()),
            ("arm64", "v8") | (_, "")
        );
        if !is_usual {
            write!(formatter, "/{variant}")?;
        }
        match os_version.is_empty() {
            true => Ok(()),
            false => write!(formatter, ":{os_version}"),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Platform::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Form {
    /// The form that the fields `platform` and `platforms` of a rule, a destination or an event ask for, if they ask for any.
    ///
    /// # Errors
    /// Says that they contradict each other, or that the list is empty.
    pub fn of(
        platform: Option<Platform>,
        platforms: Option<Vec<Platform>>,
    ) -> Result<Option<Self>, String> {
        match (platform, platforms) {
            (Some(_), Some(_)) => Err(
                "`platform` is the manifest of one platform and `platforms` an index of several: name one of the two"
                    .to_owned(),
            ),
            (_, Some(platforms)) if platforms.is_empty() => {
                Err("`platforms` is empty: name at least one, or leave it out for all".to_owned())
            }
            (Some(platform), None) => Ok(Some(Form::Platform(platform))),
            (None, Some(platforms)) => Ok(Some(Form::Platforms(platforms))),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn the_usual_variants_need_not_be_written() {
        for (one, other) in [
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/amd64", "linux/amd64/v1"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(platform(one), platform(other));
        }
        assert!(!platform("linux/arm").is_match(&platform("linux/arm/v6")));
        assert!(!platform("linux/amd64").is_match(&platform("linux/amd64/v3")));
        for (written, shown) in [
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("windows/amd64:10.0.20348.1", "windows/amd64:10.0.20348.1"),
        ] {
            assert_eq!(platform(written).to_string(), shown);
        }
    }

    #[test]
    fn an_os_version_matches_those_that_it_begins() {
        let offered = platform("windows/amd64:10.0.17763.6532");
        for text in [
            "windows/amd64",
            "windows/amd64:10.0.17763",
            "windows/amd64:10.0.17763.6532",
        ] {
            assert!(platform(text).is_match(&offered), "{text}");
        }
        for text in ["windows/amd64:10.0.1776", "windows/amd64:10.0.20348"] {
            assert!(!platform(text).is_match(&offered), "{text}");
        }
        let older = platform("windows/amd64:10.0.17763.999");
        assert!(offered.os_version() > older.os_version());
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "linux/amd64:",
            "linux/am d",
            "a/b:c d",
        ] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
        let both = Form::of(Some(platform("a/b")), Some(vec![platform("a/b")]));
        assert!(both.unwrap_err().contains("name one of the two"));
        assert!(Form::of(None, Some(Vec::new())).is_err());
    }
}
