//! Manifests made from descriptors alone, whether these are true or not.

use super::{Descriptor, Image, document, text};

impl Image {
    /// An image manifest of these descriptors, without what they describe; see [`Image::with_blob`].
    pub fn manifest_of(media_type: &str, config: &Descriptor, layers: &[Descriptor]) -> Image {
        described(
            media_type,
            &[("config", config.json()), ("layers", list(layers))],
        )
    }

    /// An index of these descriptors, without what they describe; see [`Image::with`].
    pub fn index_of(media_type: &str, children: &[Descriptor]) -> Image {
        described(media_type, &[("manifests", list(children))])
    }
}

fn described(media_type: &str, fields: &[(&'static str, String)]) -> Image {
    let head = [
        ("schemaVersion", "2".to_owned()),
        ("mediaType", text(media_type)),
    ];
    Image::raw(media_type, document(&[&head, fields].concat()))
}

fn list(descriptors: &[Descriptor]) -> String {
    let entries: Vec<_> = descriptors.iter().map(Descriptor::json).collect();
    format!("[\n      {}\n   ]", entries.join(",\n      "))
}
