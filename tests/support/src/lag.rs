//! Eventual consistency: for a moment after a tag was written, reads of it get the old answer.

use std::collections::BTreeMap;

/// The tags of one repository whose next write becomes visible late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lags(BTreeMap<String, Lag>);

#[derive(Clone, Debug)]
struct Lag {
    /// Reads that will still get the old answer.
    reads: usize,
    /// The digest before the write, if the tag existed. The outer option is `None` until the write comes.
    before: Option<Option<String>>,
}

impl Lags {
    /// After the next write of `tag`, the next `reads` reads of it are answered as before the write.
    pub(crate) fn set(&mut self, tag: &str, reads: usize) {
        let lag = Lag {
            reads,
            before: None,
        };
        self.0.insert(tag.to_owned(), lag);
    }

    /// Notes that `tag` is written; `before` is what it stood for, if it existed.
    pub(crate) fn note_write(&mut self, tag: &str, before: Option<&String>) {
        if let Some(lag) = self.0.get_mut(tag) {
            lag.before.get_or_insert_with(|| before.cloned());
        }
    }

    /// What a read of `tag` answers, where `now` is what the tag stands for.
    pub(crate) fn read(&mut self, tag: &str, now: Option<&String>) -> Option<String> {
        if let Some(lag) = self.0.get_mut(tag)
            && let Some(before) = &lag.before
            && lag.reads > 0
        {
            lag.reads -= 1;
            return before.clone();
        }
        now.cloned()
    }
}
