//! Globs over packages and tags, with the meaning that `.gitignore` gives them.
//!
//! `*` matches anything within one path segment and `?` one character of it; `**` between slashes matches any number of segments;
//! `[…]` and `[!…]` match one character, but no `/`; `\` makes the next character an ordinary one. As in a shell, `{a,b}` matches
//! either alternative, of which one may be empty. A tag has no segments, so there `*` matches anything.
//! (git's documentation, "gitignore", PATTERN FORMAT)
//!
//! `globset` does the matching. It reads some globs in another way, overflows the stack on some and panics on others: this file
//! rewrites what it can and refuses the rest, so that no rule means something else than what it says.

use std::ops::RangeInclusive;

use globset::{ErrorKind, GlobBuilder, GlobSetBuilder};

/// The longest glob, in bytes, and the most groups in one. A list of many packages is far from either.
const LENGTH_LIMIT: usize = 4096;
const GROUPS_LIMIT: usize = 32;

/// As much of a glob as an error quotes.
const QUOTED_LIMIT: usize = 100;

/// A glob over packages, which are written as `owner/name`.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    matcher: globset::GlobSet,
}

/// Globs over tags. An empty set matches nothing.
#[derive(Clone, Debug, Default)]
pub struct GlobSet(globset::GlobSet);

/// Reads a glob over packages.
///
/// # Errors
/// One line that begins with the quoted glob and says what is wrong with it.
pub fn packages(text: &str) -> Result<Glob, String> {
    Ok(Glob {
        text: text.to_owned(),
        matcher: matcher(&[text], Subject::Package)?,
    })
}

/// Reads globs over tags, of which one has to match.
///
/// # Errors
/// As [`packages`], for the first glob with something wrong.
pub fn tags(texts: &[String]) -> Result<GlobSet, String> {
    matcher(texts, Subject::Tag).map(GlobSet)
}

/// Whether `text` stands for other names than itself, if it is valid at all.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '\\'])
}

impl Glob {
    /// Whether the package `owner/name` is one of those that the glob stands for.
    pub fn is_match(&self, package: &str) -> bool {
        self.matcher.is_match(package)
    }

    /// The glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl GlobSet {
    /// Whether one of the globs stands for `tag`.
    pub fn is_match(&self, tag: &str) -> bool {
        self.0.is_match(tag)
    }
}

/// What a glob is matched with.
#[derive(Clone, Copy, PartialEq)]
enum Subject {
    Package,
    Tag,
}

fn matcher(texts: &[impl AsRef<str>], subject: Subject) -> Result<globset::GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for text in texts.iter().map(AsRef::as_ref) {
        let wrong = |reason: String| format!("{}: {reason}", quoted(text));
        let glob = GlobBuilder::new(&rewritten(text, subject).map_err(wrong)?)
            .literal_separator(subject == Subject::Package)
            .empty_alternates(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| wrong(reason(error.kind())))?;
        set.add(glob);
    }
    // A glob's own regular expression is only compiled here.
    set.build()
        .map_err(|_| "the globs are too large together".to_owned())
}

/// What an error shows of a glob or of a part of one: its beginning, on one line.
fn quoted(text: &str) -> String {
    let begin: String = text.chars().take(QUOTED_LIMIT).collect();
    let rest = if begin.len() < text.len() { "…" } else { "" };
    format!("{begin:?}{rest}")
}

fn reason(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::UnclosedAlternates => "a `{` has no `}`".to_owned(),
        ErrorKind::UnopenedAlternates => "a `}` has no `{`".to_owned(),
        ErrorKind::DanglingEscape => "nothing follows the `\\`".to_owned(),
        kind => kind.to_string(),
    }
}

/// The glob as `globset` has to be given it.
fn rewritten(text: &str, subject: Subject) -> Result<String, String> {
    if text.len() > LENGTH_LIMIT || text.matches('{').count() > GROUPS_LIMIT {
        return Err(format!(
            "a glob has at most {LENGTH_LIMIT} bytes and {GROUPS_LIMIT} braces that open"
        ));
    }
    if !text.is_ascii() {
        return Err("names and tags consist of ASCII characters alone".to_owned());
    }
    // `globset` would take `**/` for `**`.
    if subject == Subject::Package && text.ends_with('/') {
        return Err("no package ends with a `/`".to_owned());
    }
    let mut glob = String::new();
    let mut open_braces = 0_usize;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '[' => {
                let (members, length) = class(rest)?;
                glob.push_str(&format!("[{members}]"));
                rest = &rest[length..];
                continue;
            }
            '*' => {
                let stars = rest.len() - rest.trim_start_matches('*').len();
                let is_segment = stars == 2
                    && open_braces == 0
                    && (glob.is_empty() || glob.ends_with('/'))
                    && matches!(rest.as_bytes().get(stars), None | Some(b'/'));
                if stars > 1 && !is_segment && subject == Subject::Package {
                    return Err(
                        "`**` stands for whole path segments, so it has a `/` or an end of the glob on each side and is not in braces; `*` matches within a segment"
                            .to_owned(),
                    );
                }
                stars
            }
            '\\' => rest.len().min(2),
            _ => 1,
        };
        match first {
            '{' => open_braces += 1,
            '}' => open_braces = open_braces.saturating_sub(1),
            _ => {}
        }
        glob.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Ok(glob)
}

/// The characters that the class at the beginning of `text` stands for, and the length of the class. Of all characters only those
/// of names and tags count: then the class can be written without `!` and without ranges, which might match a `/`.
fn class(text: &str) -> Result<(String, usize), String> {
    let inner = text.strip_prefix('[').unwrap_or(text);
    let (is_negated, inner) = match inner.strip_prefix(['!', '^']) {
        Some(inner) => (true, inner),
        None => (false, inner),
    };
    // A `]` that comes first is a member of the class.
    let (end, _) = inner
        .match_indices(']')
        .find(|(position, _)| *position > 0)
        .ok_or("a `[` has no `]`")?;
    let length = text.len() - inner.len() + end + 1;
    let class = quoted(&text[..length]);
    let members = &inner[..end];
    if members.contains('\\') || ["[:", "[.", "[="].iter().any(|it| members.contains(it)) {
        return Err(format!(
            "in {class}, neither `\\` nor named classes are supported"
        ));
    }
    let ranges = ranges(members.as_bytes())
        .ok_or_else(|| format!("in {class}, a range ends before it begins"))?;
    let is_member = |byte: &u8| ranges.iter().any(|range| range.contains(byte)) != is_negated;
    // In the order of ASCII the hyphen comes first, where it makes no range.
    let members: String = (b'-'..=b'z')
        .filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        .filter(is_member)
        .map(char::from)
        .collect();
    match members.is_empty() {
        true => Err(format!("{class} matches no character of a name or a tag")),
        false => Ok((members, length)),
    }
}

/// The members of a class: ranges, and single characters as ranges of one.
fn ranges(mut members: &[u8]) -> Option<Vec<RangeInclusive<u8>>> {
    let mut ranges = Vec::new();
    while let [first, rest @ ..] = members {
        let (last, rest) = match rest {
            [b'-', last, rest @ ..] => (last, rest),
            _ => (first, rest),
        };
        if first > last {
            return None;
        }
        ranges.push(*first..=*last);
        members = rest;
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag_set(globs: &[&str]) -> Result<GlobSet, String> {
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        tags(&globs)
    }

    #[test]
    fn a_package_glob_matches_as_in_gitignore() {
        let cases: [(&str, &[&str], &[&str]); 22] = [
            ("acme/api", &["acme/api"], &["acme/api/x", "acme/apis"]),
            ("acme/*", &["acme/api"], &["acme/team/api", "acmeevil/api"]),
            ("acme/?", &["acme/a"], &["acme/ab", "acme//"]),
            ("acme/**", &["acme/api", "acme/a/b/c"], &["acme", "acm/e"]),
            ("acme/**/api", &["acme/api", "acme/a/b/api"], &["acme/rapi"]),
            ("acme/team/**", &["acme/team/a/b"], &["acme/team", "acme/a"]),
            ("**/api", &["acme/api", "acme/team/api"], &["acme/rapi"]),
            ("**", &["acme/api", "acme/a/b"], &[]),
            ("acme/*/**", &["acme/a/b", "acme/a/b/c"], &["acme/a"]),
            ("acme/{a,b}/**", &["acme/a/x/y", "acme/b/x"], &["acme/c/x"]),
            ("acme/{a/b,c}", &["acme/a/b", "acme/c"], &["acme/a"]),
            ("acme/{a,{b,c}d}", &["acme/a", "acme/cd"], &["acme/c"]),
            // An empty alternative is one too.
            (
                "acme/{,team-}api",
                &["acme/api", "acme/team-api"],
                &["acme/-api"],
            ),
            ("acme/api{-x,}", &["acme/api", "acme/api-x"], &["acme/api-"]),
            ("acme/api{}", &["acme/api"], &["acme/api{}"]),
            // No class matches a slash.
            (
                "acme/a[!x]i",
                &["acme/api", "acme/a-i"],
                &["acme/axi", "acme/a/i"],
            ),
            ("acme/a[^x]i", &["acme/api"], &["acme/axi", "acme/a/i"]),
            ("acme/a[--z]i", &["acme/a.i", "acme/a0i"], &["acme/a/i"]),
            ("acme/a[/p]i", &["acme/api"], &["acme/a/i"]),
            (
                "acme/[]a-c-][-b]",
                &["acme/a-", "acme/-b"],
                &["acme/d-", "acme/ac"],
            ),
            ("acme/[!]a-]", &["acme/b"], &["acme/a", "acme/-"]),
            (r"acme/\a\*", &["acme/a*"], &["acme/ab"]),
        ];
        for (text, matched, others) in cases {
            let glob = packages(text).unwrap();
            assert_eq!(glob.as_str(), text);
            for package in matched {
                assert!(glob.is_match(package), "{text} does not match {package}");
            }
            for package in others {
                assert!(!glob.is_match(package), "{text} matches {package}");
            }
        }
    }

    #[test]
    fn a_tag_glob_matches_as_in_gitignore() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            ("*", &["latest", "1.2.3", ".", ".."], &[]),
            ("{,v}1.*", &["1.2", "v1.2.3"], &["1", "2.1", "vv1.2"]),
            ("v{1,2}.?", &["v1.0", "v2.9"], &["v1.10", "v3.0"]),
            ("te**", &["te", "test", "te.st"], &["atest"]),
            ("**-rc**", &["1-rc", "1-rc.2"], &["1"]),
            ("[!x]", &["y", "-", "Z"], &["x", "yy", "/"]),
            ("[0-9]*.[0-9]*", &["1.2", "10.3x", "1.2.3"], &["v1.2", "1."]),
            ("PR-*", &["PR-1"], &["pr-1"]),
            ("*.1", &["0.1", ".1", "1.1.1"], &["1.1.", "11"]),
        ];
        for (text, matched, others) in cases {
            let globs = tag_set(&[text]).unwrap();
            for tag in matched {
                assert!(globs.is_match(tag), "{text} does not match {tag}");
            }
            for tag in others {
                assert!(!globs.is_match(tag), "{text} matches {tag}");
            }
        }
        let globs = tag_set(&["v*", "{,x}1"]).unwrap();
        assert!(globs.is_match("v2") && globs.is_match("x1") && !globs.is_match("2"));
        assert!(!tag_set(&[]).unwrap().is_match("1"));
        assert!(!GlobSet::default().is_match("1"));
    }

    #[test]
    fn what_can_t_be_honoured_is_refused_by_name() {
        let cases = [
            ("acme/te**", "whole path segments"),
            ("acme/**te", "whole path segments"),
            ("acme/***", "whole path segments"),
            ("acme/{**,api}", "whole path segments"),
            ("acme/{team/**,api}", "whole path segments"),
            ("acme/{a,b}**", "whole path segments"),
            ("acme/**/", "no package ends with"),
            ("acme/[a", "a `[` has no `]`"),
            ("acme/[]", "a `[` has no `]`"),
            ("acme/[!]", "a `[` has no `]`"),
            ("acme/[b-a]", "in \"[b-a]\", a range ends before it begins"),
            ("acme/[\u{2}-\u{1}]", "in \"[\\u{2}-\\u{1}]\""),
            ("acme/[/]", "matches no character"),
            ("acme/[!!-~]", "matches no character"),
            (r"acme/[\]]", "named classes"),
            ("acme/[[:alpha:]]", "named classes"),
            ("acme/{a", "a `{` has no `}`"),
            ("acme/a}", "a `}` has no `{`"),
            ("acme/a\\", "nothing follows"),
            ("acme/ä", "ASCII"),
            ("acme/[ä]", "ASCII"),
        ];
        for (text, expected) in cases {
            let error = packages(text).unwrap_err();
            assert!(error.starts_with(&format!("{text:?}: ")), "{error}");
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = tag_set(&["v*", "[b-a]"]).unwrap_err();
        assert!(error.starts_with("\"[b-a]\": "), "{error}");
    }

    /// Such globs made `globset` overflow the stack or panic.
    #[test]
    fn a_glob_too_long_or_nested_too_deep_is_refused_and_not_quoted_whole() {
        let nested = |depth| format!("acme/{}{}", "{a,a".repeat(depth), "}".repeat(depth));
        for text in [nested(33), nested(100_000), "?".repeat(4097)] {
            for error in [packages(&text).unwrap_err(), tag_set(&[&text]).unwrap_err()] {
                assert!(error.contains("at most") && error.len() < 300, "{error}");
            }
        }
        let list = format!("acme/{{{}b}}", "a,".repeat(2000));
        for text in [nested(32), list, "[!x]".repeat(1024), "*?".repeat(2048)] {
            assert!(packages(&text).is_ok());
        }
    }

    #[test]
    fn a_plain_name_is_no_glob() {
        assert!(!is_glob("acme/api-1_2.3"));
        for text in ["*", "a?", "[a]", "{a,b}", r"\a"] {
            assert!(is_glob(text), "{text}");
        }
    }

    /// The meaning of a glob that is not refused, spelled out: braces are expanded, and each way to match is tried.
    fn is_meant(glob: &str, name: &str) -> bool {
        expanded(glob)
            .iter()
            .any(|glob| is_meant_bytes(glob.as_bytes(), name.as_bytes()))
    }

    /// The globs without braces that a glob whose groups are not nested stands for. A zero keeps stars apart that were not together.
    fn expanded(glob: &str) -> Vec<String> {
        let Some((before, rest)) = glob.split_once('{') else {
            return vec![glob.to_owned()];
        };
        let (group, after) = rest.split_once('}').unwrap();
        let after = expanded(after);
        let with = |alternative| {
            let join = move |after: &String| format!("{before}\0{alternative}\0{after}");
            after.iter().map(join).collect::<Vec<_>>()
        };
        group.split(',').flat_map(with).collect()
    }

    fn is_meant_bytes(glob: &[u8], name: &[u8]) -> bool {
        let segment = name.iter().take_while(|byte| **byte != b'/').count();
        match (glob, name) {
            ([], _) => name.is_empty(),
            ([0, rest @ ..], _) => is_meant_bytes(rest, name),
            ([b'*', b'*'], _) => true,
            ([b'*', b'*', b'/', rest @ ..], _) => (0..=name.len())
                .filter(|start| *start == 0 || name[start - 1] == b'/')
                .any(|start| is_meant_bytes(rest, &name[start..])),
            ([b'*', rest @ ..], _) => {
                (0..=segment).any(|length| is_meant_bytes(rest, &name[length..]))
            }
            ([b'?', rest @ ..], [_, tail @ ..]) => segment > 0 && is_meant_bytes(rest, tail),
            ([b'[', b'!', excluded, b']', rest @ ..], [first, tail @ ..]) => {
                segment > 0 && first != excluded && is_meant_bytes(rest, tail)
            }
            ([literal, rest @ ..], [first, tail @ ..]) => {
                literal == first && is_meant_bytes(rest, tail)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in prop_oneof![any::<String>(), r"[ab/*?\[\]{},!^\\.\x01-]{0,60}"],
            name in any::<String>(),
        ) {
            for globs in [packages(&text).map(|glob| glob.matcher), tag_set(&[&text]).map(|globs| globs.0)] {
                match globs {
                    Ok(globs) => _ = globs.is_match(&name),
                    Err(error) => prop_assert!(!error.contains(char::is_control)),
                }
            }
        }

        #[test]
        fn a_glob_matches_what_it_means(
            parts in prop::collection::vec(
                prop::sample::select(vec!["a", "b", "/", "/", "*", "?", "[!a]", "/**/", "**/", "/**", "{a,b}", "{,a/}", "{a,b?}"]),
                1..8,
            ),
            name in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let text = parts.concat();
            if let Ok(glob) = packages(&text) {
                prop_assert_eq!(glob.is_match(&name), is_meant(&text, &name), "{} and {}", text, name);
            }
        }
    }
}
