//! What an index lists, as far as that can be understood: one entry that can't does not hide the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Digest, IMAGE_MANIFEST_LIST_MEDIA_TYPE, Manifest, OCI_IMAGE_INDEX_MEDIA_TYPE, read};

/// The entries of an index, in its own order.
#[derive(Debug, Default)]
pub struct Entries {
    /// Those that have a digest.
    pub listed: Vec<IndexEntry>,
    /// How many have none that can be used.
    pub unreadable: usize,
}

/// An entry of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// What is listed.
    pub digest: Digest,
    /// Whether it is said to be an index itself.
    pub is_index: bool,
}

impl Manifest {
    /// What an index lists.
    ///
    /// # Errors
    /// Says why it is no index.
    pub fn entries(&self) -> Result<Entries, String> {
        match self.is_index() {
            true => Entries::read(&self.bytes),
            false => Err("not an image index".to_owned()),
        }
    }
}

impl Entries {
    /// What the bytes of an index list.
    ///
    /// # Errors
    /// Says why they are no index.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Fields {
            manifests: Entries,
        }
        read(bytes).map(|fields: Fields| fields.manifests)
    }
}

/// Entries are read one by one, so that nothing is held of those that are left out, however many there are.
impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry<'a> {
            #[serde(borrow, default)]
            media_type: Cow<'a, str>,
            #[serde(borrow, default)]
            digest: Cow<'a, str>,
        }
        struct OneByOne;
        impl<'de> Visitor<'de> for OneByOne {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of descriptors")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(entry) = list.next_element::<Entry<'de>>()? {
                    match Digest::parse(&entry.digest) {
                        Ok(digest) => entries.listed.push(IndexEntry {
                            digest,
                            is_index: [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE]
                                .contains(&&*entry.media_type),
                        }),
                        Err(_) => entries.unreadable += 1,
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_seq(OneByOne)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_digest_does_not_hide_the_others() {
        let digest = Digest::of(b"{}");
        let text = format!(
            r#"{{"manifests":[{{}},{{"digest":"sha512:00"}},{{"digest":"{digest}","mediaType":"{OCI_IMAGE_INDEX_MEDIA_TYPE}"}},{{"digest":"{digest}","x":1}}]}}"#
        );
        let entries = Entries::read(text.as_bytes()).unwrap();
        assert_eq!(entries.unreadable, 2);
        let nested: Vec<bool> = entries.listed.iter().map(|entry| entry.is_index).collect();
        assert_eq!(nested, [true, false]);
        for text in ["", "{}", r#"{"manifests":null}"#, r#"{"manifests":[7]}"#] {
            assert!(Entries::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
