//! Content of any size, addressed by its digest, and generated piece by piece.

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use bytes::Bytes;

/// The bytes of one block of [`Blob::Pseudorandom`].
const BLOCK: u64 = 1 << 20;

/// `sha256:` and the lower-case hexadecimal SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    finish(context)
}

/// The digest of the bytes that a SHA-256 `context` was updated with.
pub fn finish(context: Context) -> String {
    let hash = context.finish();
    let mut text = String::with_capacity("sha256:".len() + 2 * SHA256_OUTPUT_LEN);
    text.push_str("sha256:");
    for byte in hash.as_ref() {
        text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble"));
        text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble"));
    }
    text
}

/// The content of a config or a layer.
#[derive(Clone, Debug)]
pub enum Blob {
    /// These bytes.
    Bytes(Bytes),
    /// `length` bytes that depend only on `seed`, generated while they are read, a mebibyte at a time.
    Pseudorandom { seed: u64, length: u64 },
}

impl Blob {
    /// See [`Blob::Bytes`].
    pub fn bytes(bytes: impl Into<Bytes>) -> Blob {
        Blob::Bytes(bytes.into())
    }

    /// See [`Blob::Pseudorandom`]; `length` in bytes.
    pub fn pseudorandom(seed: u64, length: u64) -> Blob {
        Blob::Pseudorandom { seed, length }
    }

    /// Size in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Blob::Bytes(bytes) => bytes.len() as u64,
            Blob::Pseudorandom { length, .. } => *length,
        }
    }

    /// The digest, computed by each call.
    pub fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        self.chunks(0..self.length())
            .for_each(|chunk| context.update(&chunk));
        finish(context)
    }

    /// The bytes in `range`, which must lie within the blob.
    pub fn chunks(&self, range: Range<u64>) -> Box<dyn Iterator<Item = Bytes> + Send + Sync> {
        assert!(
            range.start <= range.end && range.end <= self.length(),
            "{range:?} within {} bytes",
            self.length()
        );
        match self {
            Blob::Bytes(bytes) => Box::new(std::iter::once(
                bytes.slice(range.start as usize..range.end as usize),
            )),
            Blob::Pseudorandom { .. } if range.is_empty() => Box::new(std::iter::empty()),
            Blob::Pseudorandom { seed, .. } => Box::new(pseudorandom(*seed, range)),
        }
    }
}

/// Repeats one block of noise, since copying is faster than generating, with the block's number at the start of each page of 4 KiB,
/// so that no two pages of a blob are equal.
fn pseudorandom(seed: u64, range: Range<u64>) -> impl Iterator<Item = Bytes> + Send + Sync {
    let mut state = seed;
    // SplitMix64.
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let first = range.start / BLOCK;
    let used = if first == (range.end - 1) / BLOCK {
        (range.end - first * BLOCK).next_multiple_of(8)
    } else {
        BLOCK
    };
    let noise: Vec<u8> = (0..used / 8).flat_map(|_| next().to_le_bytes()).collect();
    (first..range.end.div_ceil(BLOCK)).map(move |number| {
        let mut block = noise.clone();
        for page in block.chunks_mut(4096) {
            let head = page.len().min(8);
            page[..head].copy_from_slice(&number.to_le_bytes()[..head]);
        }
        let start = range.start.saturating_sub(number * BLOCK);
        let end = (range.end - number * BLOCK).min(BLOCK);
        Bytes::from(block).slice(start as usize..end as usize)
    })
}
