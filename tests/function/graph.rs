//! Random image graphs, as nobody would write them by hand: with parts that are shared, nested, listed twice, foreign or wrong.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use support::image::{self, Blob, Descriptor, Image};

/// How deep indexes nest.
const DEPTH: usize = 4;

/// A graph in which each node refers to earlier nodes only. The last is the top; the others need not be below it.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    /// Lengths in bytes.
    blobs: Vec<u64>,
    nodes: Vec<Node>,
}

/// A manifest, whose first reference is its config, or an index.
#[derive(Clone, Debug)]
struct Node {
    is_index: bool,
    form: Form,
    references: Vec<Reference>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Oci,
    Docker,
    /// OCI, and listed by an index as the attestation of another manifest.
    Attestation,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reference {
    Node(usize),
    Blob(usize),
    /// A layer with a URL of its own, and in no registry.
    Foreign,
}

/// Where a node refers to another, or to a blob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Edge {
    node: usize,
    position: usize,
}

/// What is wrong with a graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Damage {
    TooLong(Edge),
    TooShort(Edge),
    SizeZero(Edge),
    /// What is described is described once more beside it, with another size.
    TwoSizes(Edge),
    MissingManifest(usize),
    MissingBlob(usize),
    /// The blob has no bytes, and its descriptors say so.
    EmptyBlob(usize),
    NoLayers(usize),
    UnknownMediaType(usize),
}

/// Any graph that ECR takes.
pub(crate) fn graphs() -> impl Strategy<Value = Graph> {
    let length = prop_oneof![3 => 1..100_u64, 2 => 100..20_000_u64, 1 => 20_000..=200_000_u64];
    let layer = prop_oneof![6 => any::<Index>().prop_map(Some), 1 => Just(None)];
    let manifest = (form(), any::<Index>(), vec(layer, 1..6))
        .prop_map(|(form, config, layers)| Draft::Manifest(form, config, layers));
    let index = |children| {
        (form(), vec(any::<Index>(), children))
            .prop_map(|(form, children)| Draft::Index(form, children))
    };
    let top = proptest::option::weighted(0.8, index(1..9));
    let nodes = vec(prop_oneof![3 => manifest, 2 => index(0..5)], 1..14);
    (vec(length, 1..12), nodes, top)
        .prop_map(|(blobs, nodes, top)| Graph::new(blobs, nodes.into_iter().chain(top)))
}

/// A graph that would be one of [`graphs`], were there not one thing wrong with it.
pub(crate) fn broken_graphs() -> impl Strategy<Value = (Graph, Damage)> {
    (graphs(), 0..9_usize, any::<Index>()).prop_map(|(graph, kind, place)| {
        let damage = graph.damage(kind, place);
        (graph, damage)
    })
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        2 => Just(Form::Oci),
        2 => Just(Form::Docker),
        1 => Just(Form::Attestation)
    ]
}

/// A node whose references are lots still, since what there is to refer to is not known yet.
#[derive(Clone, Debug)]
enum Draft {
    /// The config and the layers; `None` is a foreign one.
    Manifest(Form, Index, Vec<Option<Index>>),
    Index(Form, Vec<Index>),
}

impl Graph {
    fn new(blobs: Vec<u64>, drafts: impl Iterator<Item = Draft>) -> Graph {
        let mut nodes: Vec<Node> = Vec::new();
        let mut depths: Vec<usize> = Vec::new();
        for draft in drafts {
            let shallow: Vec<usize> = (0..nodes.len()).filter(|it| depths[*it] < DEPTH).collect();
            let node = match draft {
                Draft::Manifest(form, config, layers) => {
                    let blob = |lot: Index| Reference::Blob(lot.index(blobs.len()));
                    let layers = layers
                        .into_iter()
                        .map(|lot| lot.map_or(Reference::Foreign, blob));
                    Node {
                        is_index: false,
                        form,
                        references: std::iter::once(blob(config)).chain(layers).collect(),
                    }
                }
                Draft::Index(form, children) => Node {
                    is_index: true,
                    form,
                    references: children
                        .iter()
                        .filter(|_| !shallow.is_empty())
                        .map(|lot| Reference::Node(*lot.get(&shallow)))
                        .collect(),
                },
            };
            let below = node.references.iter().map(|reference| match reference {
                Reference::Node(child) => depths[*child],
                _ => 0,
            });
            depths.push(below.max().unwrap_or(0) + usize::from(node.is_index));
            nodes.push(node);
        }
        Graph { blobs, nodes }
    }

    /// The content of the blobs. Two short ones may have the same.
    pub(crate) fn blobs(&self) -> Vec<Blob> {
        let content = |(seed, length): (u64, &u64)| {
            let bytes: Vec<u8> = Blob::pseudorandom(seed, *length)
                .chunks(0..*length)
                .flatten()
                .collect();
            Blob::bytes(bytes)
        };
        (0..).zip(&self.blobs).map(content).collect()
    }

    /// The image of each node, with all that is below it. The last is the whole graph.
    pub(crate) fn images(&self) -> Vec<Image> {
        self.build(&self.blobs(), None)
    }

    /// The whole graph with this damage, and the digest of what is damaged.
    pub(crate) fn damaged(&self, damage: Damage) -> (Image, String) {
        let mut blobs = self.blobs();
        if let Damage::EmptyBlob(blob) = damage {
            blobs[blob] = Blob::bytes("");
        }
        let images = self.build(&blobs, Some(damage));
        let top = images[images.len() - 1].clone();
        let described = |edge: Edge| match self.nodes[edge.node].references[edge.position] {
            Reference::Node(node) => images[node].top.clone(),
            Reference::Blob(blob) => blobs[blob].digest(),
            Reference::Foreign => String::new(),
        };
        let digest = match damage {
            Damage::TooLong(edge)
            | Damage::TooShort(edge)
            | Damage::SizeZero(edge)
            | Damage::TwoSizes(edge) => described(edge),
            Damage::MissingBlob(blob) | Damage::EmptyBlob(blob) => blobs[blob].digest(),
            Damage::MissingManifest(node)
            | Damage::NoLayers(node)
            | Damage::UnknownMediaType(node) => images[node].top.clone(),
        };
        match damage {
            Damage::MissingBlob(_) | Damage::MissingManifest(_) => (top.without(&digest), digest),
            _ => (top, digest),
        }
    }

    fn build(&self, blobs: &[Blob], damage: Option<Damage>) -> Vec<Image> {
        let mut images: Vec<Image> = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let references = match damage == Some(Damage::NoLayers(number)) {
                true => &node.references[..1],
                false => &node.references,
            };
            let mut descriptors = Vec::new();
            for (position, reference) in references.iter().enumerate() {
                let described = match *reference {
                    Reference::Node(child) => self.nodes[child].described(&images[child]),
                    Reference::Blob(blob) => {
                        Descriptor::of_blob(node.blob_media_type(position), &blobs[blob])
                    }
                    Reference::Foreign => foreign_layer(number),
                };
                let edge = Edge {
                    node: number,
                    position,
                };
                descriptors.extend(with_damage(described, edge, damage));
            }
            let media_type = match damage == Some(Damage::UnknownMediaType(number)) {
                true => "application/vnd.example.unknown+json",
                false => node.media_type(),
            };
            let image = match node.is_index {
                true => Image::index_of(media_type, &descriptors),
                false => Image::manifest_of(media_type, &descriptors[0], &descriptors[1..]),
            };
            let add = |image: Image, reference: &Reference| match *reference {
                Reference::Node(child) => image.with(&images[child]),
                Reference::Blob(blob) => {
                    image.with_blob(&blobs[blob].digest(), blobs[blob].clone())
                }
                Reference::Foreign => image,
            };
            images.push(references.iter().fold(image, add));
        }
        images
    }

    /// One of the things that can be wrong with this graph. Where there is no place for it, the top is missing.
    fn damage(&self, kind: usize, place: Index) -> Damage {
        let top = self.nodes.len() - 1;
        let nodes = self.nodes_below(top);
        let edges: Vec<(Edge, Reference)> = nodes
            .iter()
            .flat_map(|node| {
                let references = self.nodes[*node].references.iter().enumerate();
                let edge = |position| Edge {
                    node: *node,
                    position,
                };
                references.map(move |(position, reference)| (edge(position), *reference))
            })
            .filter(|(_, reference)| *reference != Reference::Foreign)
            .collect();
        let blobs: Vec<usize> = edges
            .iter()
            .filter_map(|(_, reference)| match reference {
                Reference::Blob(blob) => Some(*blob),
                _ => None,
            })
            .collect();
        let manifests: Vec<usize> = nodes
            .iter()
            .copied()
            .filter(|node| !self.nodes[*node].is_index)
            .collect();
        let pick = |from: &[usize]| (!from.is_empty()).then(|| *place.get(from));
        let edge = (!edges.is_empty()).then(|| place.get(&edges).0);
        let damage = match kind {
            0 => edge.map(Damage::TooLong),
            1 => edge.map(Damage::TooShort),
            2 => edge.map(Damage::SizeZero),
            3 => edge.map(Damage::TwoSizes),
            4 => pick(&nodes).map(Damage::MissingManifest),
            5 => pick(&blobs).map(Damage::MissingBlob),
            6 => pick(&blobs).map(Damage::EmptyBlob),
            7 => pick(&manifests).map(Damage::NoLayers),
            _ => pick(&nodes).map(Damage::UnknownMediaType),
        };
        damage.unwrap_or(Damage::MissingManifest(top))
    }

    /// A node and all that it reaches, in order.
    fn nodes_below(&self, top: usize) -> Vec<usize> {
        let mut is_below = vec![false; self.nodes.len()];
        is_below[top] = true;
        // Whatever refers to a node comes after it.
        for node in (0..=top).rev() {
            for reference in &self.nodes[node].references {
                if let Reference::Node(child) = reference {
                    is_below[*child] |= is_below[node];
                }
            }
        }
        (0..=top).filter(|node| is_below[*node]).collect()
    }
}

impl Node {
    fn media_type(&self) -> &'static str {
        match (self.is_index, self.form) {
            (true, Form::Docker) => image::DOCKER_LIST,
            (true, _) => image::OCI_INDEX,
            (false, Form::Docker) => image::DOCKER_MANIFEST,
            (false, _) => image::OCI_MANIFEST,
        }
    }

    fn blob_media_type(&self, position: usize) -> &'static str {
        match (self.form, position) {
            (Form::Docker, 0) => image::DOCKER_CONFIG,
            (Form::Docker, _) => image::DOCKER_LAYER_GZIP,
            (_, 0) => image::OCI_CONFIG,
            (Form::Oci, _) => image::OCI_LAYER_ZSTD,
            (Form::Attestation, _) => image::IN_TOTO,
        }
    }

    /// How an index lists this node.
    fn described(&self, image: &Image) -> Descriptor {
        let (platform, annotations) = match self.form {
            Form::Attestation => {
                let kind = ("vnd.docker.reference.type", "attestation-manifest");
                (
                    "unknown/unknown",
                    vec![(kind.0.to_owned(), kind.1.to_owned())],
                )
            }
            _ => ("linux/arm64/v8", Vec::new()),
        };
        Descriptor {
            platform: Some(platform.to_owned()),
            annotations,
            ..Descriptor::of_manifest(image.top_manifest())
        }
    }
}

fn foreign_layer(node: usize) -> Descriptor {
    let elsewhere = Blob::bytes(format!("foreign layer {node}"));
    Descriptor {
        urls: vec![format!("https://example.com/{node}.tar.gz")],
        ..Descriptor::of_blob(image::DOCKER_FOREIGN_LAYER, &elsewhere)
    }
}

/// What stands in a manifest for one reference.
fn with_damage(described: Descriptor, edge: Edge, damage: Option<Damage>) -> Vec<Descriptor> {
    let sized = |size: u64| Descriptor {
        size,
        ..described.clone()
    };
    match damage {
        Some(Damage::TooLong(at)) if at == edge => vec![sized(described.size + 1)],
        Some(Damage::TooShort(at)) if at == edge => vec![sized(described.size - 1)],
        Some(Damage::SizeZero(at)) if at == edge => vec![sized(0)],
        Some(Damage::TwoSizes(at)) if at == edge => {
            let other = sized(described.size + 1);
            vec![described, other]
        }
        _ => vec![described],
    }
}
